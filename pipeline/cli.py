"""`ie`: one command per stage, with the same name as the stage in dvc.yaml. Everything else comes from params.yaml."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from pipeline.errors import PipelineError, from_os_error
from pipeline.utils.progress import say

if TYPE_CHECKING:  # `ie --help` needs none of what checks params
    from pipeline.config.params import Params


class Commands(TyperGroup):
    """Adds to the error of an unknown option, which may be a parameter, where parameters are set."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            option = getattr(error, "option_name", None)
            # Of an option that is nearly one of the command's, that one is named already.
            if isinstance(option, str) and not getattr(error, "possibilities", True):
                from pipeline.config.option_hint import option_hint

                hint = option_hint(option, ctx.invoked_subcommand or "", sys.argv)
                error.message = f"{error.message}; {hint}"
            raise


app = typer.Typer(
    cls=Commands,
    help="Invariant-equivariant representation learning, from raw files to tables. Stages run in this order: fetch, "
    "shard, train, sweep, evaluate, report; `dvc repro` runs those that are out of date.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

shards_app = typer.Typer(help="Look at a folder of shards.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(shards_app, name="shards", short_help="Verify and show shards.")


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        say(f"ie {version('ie-pipeline')}")
        raise typer.Exit


_Version = Annotated[
    bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
]


@app.callback(help=app.info.help)
def options(version: _Version = False) -> None:
    pass


ParamsOption = Annotated[
    Path, typer.Option("--params", help="Parameters; results go into the folders data and results beside this file.")
]
_PARAMS = Path("params.yaml")
_INTERRUPTED = 130  # exit code of Ctrl-C, 128 + SIGINT


@app.command(short_help="Raw files, checked, into data/raw.")
def fetch(params: ParamsOption = _PARAMS) -> None:
    """Bring the raw files of data.source into data/raw, checked against their checksums."""
    with stage(params, "ie shard") as (loaded, project):
        from pipeline.stages.fetch import fetch as run

        run(loaded, project, say)


@app.command(short_help="Webdataset tars and manifest, into data/shards.")
def shard(params: ParamsOption = _PARAMS) -> None:
    """Pack the raw files into webdataset tars with a manifest, in data/shards."""
    with stage(params, "ie shards show for a look at it, or ie train") as (loaded, project):
        from pipeline.stages.shard import shard as run

        run(loaded, project, say)


@app.command(short_help="One model with Ray Train, into results/train.")
def train(params: ParamsOption = _PARAMS) -> None:
    """Train one model with Ray Train, into results/train. Run again after an interruption, it resumes."""
    with stage(params, "ie evaluate for its measures, or ie sweep for methods and label counts side by side") as (
        loaded,
        project,
    ):
        from pipeline.stages.train import train as run

        run(loaded, project, say)


@app.command(short_help="Labels x methods x seeds with Ray Tune.")
def sweep(
    params: ParamsOption = _PARAMS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished trials again.")] = False,
) -> None:
    """Train label counts x methods x seeds with Ray Tune, into results/sweep. Finished trials are kept."""
    with stage(params, "ie results, or the summary in results/sweep/summary.md") as (loaded, project):
        from pipeline.stages.sweep import sweep as run

        run(loaded, project, say, fresh=fresh)


@app.command(short_help="Optuna and ASHA on val; prints what it found.")
def search(params: ParamsOption = _PARAMS) -> None:
    """Search parameters of objective and optimizer on val, into results/search. The test split is not read."""
    with stage(params) as (loaded, project):
        from pipeline.tuning.search import search as run

        run(loaded, project, say)


@app.command(short_help="Named values over params.yaml.")
def preset(
    name: Annotated[
        str | None, typer.Argument(help="A preset, or a YAML file such as results/search/best.yaml; none: lists them.")
    ] = None,
    write: Annotated[bool, typer.Option("--apply", help="Write the values into params.yaml instead.")] = False,
    params: ParamsOption = _PARAMS,
) -> None:
    """Print a preset as arguments, for `dvc exp run $(ie preset NAME)`, or apply it to params.yaml."""
    with user_errors():
        from pipeline.config.overrides import apply_overlay, check_overlay, preset_names, read_overlay, set_params

        project = params.resolve().parent
        if name is None:
            for known, about in preset_names(project).items():
                say(f"{known:<12} {about}")
            return
        changes = read_overlay(name, project)
        check_overlay(changes, params, name)
        if write:
            apply_overlay(changes, params)
            say(f"preset: {name} is in {params.name} now")
        else:
            say(set_params(changes))


@app.command(short_help="A sweep's summary, made again.")
def summary(
    folder: Annotated[Path, typer.Argument(help="Folder with results.parquet.")] = Path("results/sweep"),
    baseline: Annotated[str | None, typer.Option("--baseline", help="Method to compare with.")] = None,
) -> None:
    """Make summary.md and summary.tex from a sweep's results.parquet again, and print the former."""
    with user_errors():
        from pipeline.results.sweep_summary import renew_summary

        renew_summary(folder, baseline)
        say((folder / "summary.md").read_text().rstrip())


@app.command(short_help="Latents, metrics and figures of the model.")
def evaluate(params: ParamsOption = _PARAMS) -> None:
    """Measure the trained model on every split: latents, metrics and figures in results/evaluate."""
    with stage(params, "ie results, or the figures in results/evaluate/figures") as (loaded, project):
        from pipeline.stages.evaluate import evaluate as run

        run(loaded, project, say)


@app.command(short_help="One HTML page and a model card of the results.")
def report(
    params: ParamsOption = _PARAMS,
    without_sweep: Annotated[
        bool, typer.Option("--without-sweep", help="Leave out what a sweep measured, where none was run.")
    ] = False,
) -> None:
    """Make one HTML page, which opens from disk, and a model card in results/report, from saved results alone."""
    with stage(params) as (loaded, project):
        from pipeline.stages.report import report as run

        run(loaded, project, say, with_sweep=not without_sweep)


@app.command(short_help="Check this machine or a cluster before a run.")
def doctor(
    params: ParamsOption = _PARAMS,
    launch: Annotated[
        Path | None, typer.Option("--launch", metavar="FILE", help="Check this launch file and its hosts instead.")
    ] = None,
) -> None:
    """Check that this machine, or every host of the cluster at RAY_ADDRESS, is fit for a run; with --launch, that
    `ray up FILE` will find its keys and hosts fit. What is not fit is named, with what to do."""
    if launch is not None:
        with user_errors():
            from pipeline.cluster.launch_check import check_launch

            check_launch(launch, say)
        return
    with stage(params) as (loaded, project):
        from pipeline.cluster.preflight import doctor as run

        run(loaded, project, say)


@app.command(short_help="Print headline numbers and where files are.")
def results(
    params: ParamsOption = _PARAMS,
    published: Annotated[
        bool, typer.Option("--published", help="Print the published run of MNIST instead, which was made elsewhere.")
    ] = False,
) -> None:
    """Print the headline numbers of the run of params.yaml's data, what was left out, and where the files are."""
    with stage(params) as (loaded, project):
        from pipeline.commands.show_results import show_published, show_results

        if published:
            show_published(project, say)
        else:
            show_results(loaded, project, say)


@app.command(short_help="Runs side by side: metrics, params, curves.")
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="EXP EXP...", help="DVC experiments, revisions or `workspace`; first the base."),
    ],
    out: Annotated[Path, typer.Option("--out", help="HTML file to write.")] = Path("results/compare.html"),
    params: ParamsOption = _PARAMS,
) -> None:
    """Print two or more finished runs side by side, and write a page with their curves, sweeps and swaps."""
    with user_errors():
        from pipeline.commands.compare import compare as run

        run(names, params.resolve().parent, out, say)


@app.command(short_help="An experiment's params and results, into the workspace.")
def apply(
    name: Annotated[str, typer.Argument(metavar="EXP", help="A DVC experiment; `dvc exp show` lists them.")],
    params: ParamsOption = _PARAMS,
) -> None:
    """Bring an experiment's params, lock file, data and results into the workspace, also where it left stages out."""
    with user_errors():
        from pipeline.report.experiments import apply_experiment as run

        run(name, params.resolve().parent, say)


@app.command(short_help="Apply a trained model to new files.")
def embed(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model, as results/train/model.")],
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT", help="Images, a table of them, texts, vectors, tars, .npy, .ts, shards; also s3://."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write, .csv or .parquet.")],
    resize: Annotated[bool, typer.Option("--resize", help="Scale images of another size to the model's.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 500,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device")] = "cpu",
    faults: Annotated[
        Literal["skip", "fatal"], typer.Option("--faults", help="Leave a damaged example out, or end there.")
    ] = "skip",
) -> None:
    """Apply a trained model to new files: class, r, v and bound of each, as Parquet or CSV.

    Raw series, texts and vectors are taken as the model's own were; shards of other words or scales are refused."""
    with user_errors():
        from pipeline.commands.embed import embed as run

        run(model, source, out, say, resize=resize, batch_size=batch_size, device=device, faults=faults)


@app.command(short_help="A trained model for other programs.")
def export(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model, as results/train/model.")],
    to: Annotated[Literal["onnx", "torch", "huggingface"], typer.Option("--to", help="Form to write.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; must not exist.")],
) -> None:
    """Write a trained model as ONNX, for torch.export.load, or as a folder of the Hugging Face hub.

    The graphs take raw values and hold preprocessing and class names; ONNX is checked against PyTorch."""
    with user_errors():
        from pipeline.commands.export import export as run

        run(model, to, out, say)


_FOLDER = Annotated[
    Path | None, typer.Argument(help="Folder with a manifest.json; without it, that of data.source in params.yaml.")
]


@shards_app.command(short_help="Check every byte and decode every example.")
def verify(folder: _FOLDER = None, params: ParamsOption = _PARAMS) -> None:
    """Read every byte of every shard, decode every example, and name all that does not fit the manifest."""
    with user_errors():
        from pipeline.commands.inspect_shards import verify as run

        run(_shards(folder, params), say)


@shards_app.command(short_help="Print counts, draw examples.")
def show(
    folder: _FOLDER = None,
    params: ParamsOption = _PARAMS,
    out: Annotated[Path, typer.Option("--out", help="PNG of examples to write.")] = Path("shards.png"),
) -> None:
    """Print classes, counts and sizes of each split, and draw some training examples of each class."""
    with user_errors():
        from pipeline.commands.inspect_shards import show as run

        run(_shards(folder, params), out, say)


def _shards(folder: Path | None, params: Path) -> Path:
    if folder is not None:
        return folder
    from pipeline.config.params import load_params
    from pipeline.config.paths import shards_folder

    return shards_folder(load_params(params), params.resolve().parent)


@contextlib.contextmanager
def stage(params: Path, then: str = "") -> Iterator[tuple[Params, Path]]:
    """Params, checked as a whole before any work, and the project's folder.

    Args:
        then: what one does next, said at the end. Not under DVC, which does it.
    """
    with user_errors():
        from pipeline.config.params import load_params

        yield load_params(params), params.resolve().parent
    if then and "DVC_STAGE" not in os.environ:
        say(f"next: {then}")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake prints one line and exits with its code; a bug propagates and prints its traceback."""
    try:
        yield
    except PipelineError as error:
        _fail(error)
    except OSError as error:
        known = from_os_error(error)
        if known is None:
            raise
        _fail(known)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None  # `main` prints the line


def _fail(error: PipelineError) -> None:
    # Blanks stay: two names may differ in them alone.
    print(f"error: {' '.join(line.strip() for line in str(error).splitlines())}", file=sys.stderr)
    raise SystemExit(error.exit_code) from error


def main() -> None:
    """Entry point of the `ie` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A class or file name that the terminal's encoding lacks is shown by its code.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except SystemExit as end:
        # Also typer's own, of Ctrl-C while it reads the arguments.
        if end.code == _INTERRUPTED:
            print("interrupted; the same command resumes", file=sys.stderr)
        raise
