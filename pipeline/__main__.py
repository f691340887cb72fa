"""`python -m pipeline`: the `ie` command with the code of the current folder, as dvc.yaml runs it."""

import sys


def main() -> None:
    """Entry point of the `ie` command. Ctrl-C ends it with one line even while its modules are imported."""
    try:
        try:
            from pipeline.cli import main as run
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("ie_model", "pipeline"):
                raise
            print(f"error: {error.name} is not installed: pip install 'ie-pipeline[pipeline]'", file=sys.stderr)
            sys.exit(1)
        run()
    except KeyboardInterrupt:
        print("interrupted; the same command resumes", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
