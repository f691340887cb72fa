"""`python -m pipeline`: the `ie` command with the code of the current folder, as dvc.yaml runs it."""

from pipeline.cli import main

if __name__ == "__main__":
    main()
