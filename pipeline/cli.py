"""`ie`: one command per stage, with the same name as the stage in dvc.yaml. Everything else comes from params.yaml."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.errors import PipelineError, from_os_error
from pipeline.params import Params, load_params
from pipeline.progress import say

app = typer.Typer(
    help="Invariant-equivariant representation learning, from raw files to tables. Stages run in this order: fetch, "
    "shard, train, sweep, evaluate, report; `dvc repro` runs those that are out of date.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

shards_app = typer.Typer(help="Look at a folder of shards.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(shards_app, name="shards", short_help="Verify and show shards.")

ParamsOption = Annotated[
    Path, typer.Option("--params", help="Parameters; results go into the folders data and results beside this file.")
]
_PARAMS = Path("params.yaml")


@app.command(short_help="Raw files, checked, into data/raw.")
def fetch(params: ParamsOption = _PARAMS) -> None:
    """Bring the raw files of data.source into data/raw, checked against their checksums."""
    with stage(params, "ie shard") as (loaded, project):
        from pipeline.fetch import fetch as run

        run(loaded, project, say)


@app.command(short_help="Webdataset tars and manifest, into data/shards.")
def shard(params: ParamsOption = _PARAMS) -> None:
    """Pack the raw files into webdataset tars with a manifest, in data/shards."""
    with stage(params, "ie shards show for a look at it, or ie train") as (loaded, project):
        from pipeline.shard import shard as run

        run(loaded, project, say)


@app.command(short_help="One model with Ray Train, into results/train.")
def train(params: ParamsOption = _PARAMS) -> None:
    """Train one model with Ray Train, into results/train. Interrupted, it goes on from its last checkpoint."""
    with stage(params, "ie evaluate for its measures, or ie sweep for methods and label counts side by side") as (
        loaded,
        project,
    ):
        from pipeline.train import train as run

        run(loaded, project, say)


@app.command(short_help="Labels x methods x seeds with Ray Tune.")
def sweep(
    params: ParamsOption = _PARAMS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Run finished trials again.")] = False,
) -> None:
    """Train label counts x methods x seeds with Ray Tune, into results/sweep. Finished trials are kept."""
    with stage(params, "ie results, or the summary in results/sweep/summary.md") as (loaded, project):
        from pipeline.sweep import sweep as run

        run(loaded, project, say, fresh=fresh)


@app.command(short_help="Optuna and ASHA on val; prints what it found.")
def search(params: ParamsOption = _PARAMS) -> None:
    """Search parameters of objective and optimizer on val, into results/search. The test split is not read."""
    with stage(params) as (loaded, project):
        from pipeline.search import search as run

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
        from pipeline.overlay import apply_overlay, check_overlay, preset_names, read_overlay, set_params

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
        from pipeline.summary import write_summary

        write_summary(folder, baseline)
        say((folder / "summary.md").read_text().rstrip())


@app.command(short_help="Latents, metrics and figures of the model.")
def evaluate(params: ParamsOption = _PARAMS) -> None:
    """Measure the trained model on every split: latents, metrics and figures in results/evaluate."""
    with stage(params, "ie results, or the figures in results/evaluate/figures") as (loaded, project):
        from pipeline.evaluate import evaluate as run

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
        from pipeline.report import report as run

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
            from pipeline.launch import check_launch

            check_launch(launch, say)
        return
    with stage(params) as (loaded, project):
        from pipeline.doctor import doctor as run

        run(loaded, project, say)


@app.command(short_help="Print headline numbers and where files are.")
def results(params: ParamsOption = _PARAMS) -> None:
    """Print the headline numbers of the last run and where its files are."""
    with stage(params) as (loaded, project):
        from pipeline.results import show_results as run

        run(loaded, project, say)


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
        from pipeline.compare import compare as run

        run(names, params.resolve().parent, out, say)


@app.command(short_help="Apply a trained model to new files.")
def embed(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model, as results/train/model.")],
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="An image, a folder of images, a .npy array, or a folder of shards.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    resize: Annotated[bool, typer.Option("--resize", help="Scale images of another size to the model's.")] = False,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1)] = 500,
    device: Annotated[Literal["cpu", "cuda"], typer.Option("--device")] = "cpu",
) -> None:
    """Apply a trained model to new files: class, r, v and bound of each, as Parquet."""
    with user_errors():
        from pipeline.embed import embed as run

        run(model, source, out, say, resize=resize, batch_size=batch_size, device=device)


_FOLDER = Annotated[
    Path | None, typer.Argument(help="Folder with a manifest.json; without it, that of data.source in params.yaml.")
]


@shards_app.command(short_help="Check every byte and decode every example.")
def verify(folder: _FOLDER = None, params: ParamsOption = _PARAMS) -> None:
    """Read every byte of every shard, decode every example, and name all that does not fit the manifest."""
    with user_errors():
        from pipeline.inspection import verify as run

        run(_shards(folder, params), say)


@shards_app.command(short_help="Print counts, draw examples.")
def show(
    folder: _FOLDER = None,
    params: ParamsOption = _PARAMS,
    out: Annotated[Path, typer.Option("--out", help="PNG of examples to write.")] = Path("shards.png"),
) -> None:
    """Print classes, counts and sizes of each split, and draw some training examples of each class."""
    with user_errors():
        from pipeline.inspection import show as run

        run(_shards(folder, params), out, say)


def _shards(folder: Path | None, params: Path) -> Path:
    if folder is not None:
        return folder
    from pipeline.jobs import shards_folder

    return shards_folder(load_params(params), params.resolve().parent)


@contextlib.contextmanager
def stage(params: Path, then: str = "") -> Iterator[tuple[Params, Path]]:
    """Params, checked as a whole before any work, and the project's folder.

    Args:
        then: what one does next, said at the end. Not under DVC, which does it.
    """
    with user_errors():
        yield load_params(params), params.resolve().parent
    if then and "DVC_STAGE" not in os.environ:
        say(f"next: {then}")


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """A user's mistake prints one line and exits with its code; a bug goes on and prints its traceback."""
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
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _fail(error: PipelineError) -> None:
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    raise SystemExit(error.exit_code) from error


def main() -> None:
    """Entry point of the `ie` command."""
    app()
