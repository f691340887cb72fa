"""`ie results`: headline numbers of the run in a few lines, and where its files are."""

from __future__ import annotations

import csv
from pathlib import Path

from ie_model.metrics.measures import mean_and_std
from pipeline.config.methods import METHODS
from pipeline.config.params import Params
from pipeline.errors import DataError
from pipeline.results.metric_catalog import about
from pipeline.results.origin import belonging, data_of
from pipeline.results.verdict import verdict
from pipeline.utils.checksums import check_results
from pipeline.utils.files import read_json
from pipeline.utils.progress import Log
from pipeline.utils.rounding import percent

_SHOWN = (
    "test_error_generative_pct",
    "test_error_prototype_pct",
    "probe_class_from_r_linear_pct",
    "probe_class_from_v_redrawn_mlp_pct",
    "r2_rotation_sin_from_v_mlp",
    "swap_oracle_pct",
    "bound_nats",
    "iw_bound_nats",
)
_FILES = (
    ("page", "results/report/index.html", "opens from disk; model_card.md beside it"),
    ("latents", "results/evaluate/latents", "a folder of Parquet files"),
    ("figures", "results/evaluate/figures", ""),
    ("tables", "results/sweep/summary.md", "summary.tex and results.parquet beside it"),
    ("curves", "results/train/curves.png", "error_against_labels.png in results/sweep"),
    ("model", "results/train/model", ""),
)
PUBLISHED = Path("docs/results/mnist-run")
"""The small tables of a run of MNIST, kept in git (docs/publish_run.py)."""


def show_results(params: Params, project: Path, log: Log) -> None:
    """Prints the run of params' data beside its sweep, what was left out and why, and the paths of its files.

    Raises:
        DataError: a file is damaged or of another version; the message names it.
    """
    results, found = project / "results", belonging(params, project)
    data = data_of(params)
    if not found.origins:
        _say_nothing(data, project, log)
    if "evaluate" in found.origins:
        check_results(results / "evaluate", ["metrics.json"], "ie evaluate")
        log("")
        log(verdict(_metrics(results / "evaluate")).text)
    if "train" in found.origins:
        check_results(results / "train", ["metrics.json"], "ie train")
    if "sweep" in found.origins:
        check_results(results / "sweep", ["table.csv"], "ie sweep")
    if found.origins:
        _show(results, set(found.origins), data, log)
    log("")
    for line in found.left_out:
        log(f"  left out: {line}")
    for line in found.notes:
        log(f"  note: {line}; `dvc repro` runs what that changes")
    if not found.origins:
        return
    for what, path, more in _FILES:
        stage = path.split("/")[1]
        if (project / path).exists() and (stage in found.origins or stage == "report"):
            log(f"  {what:<8} {path}{f', {more}' if more else ''}")
        elif stage in found.origins:
            log(f"  {what:<8} {path} is missing; `dvc checkout`, or `ie {stage}` again")
    log("  metrics  dvc metrics show")
    log("  git      params.yaml and dvc.lock are this run; results/ is in DVC's cache: git add params.yaml dvc.lock")
    log("")
    log("  next     dvc exp run evaluate -S train.seed=1, then dvc metrics diff; or step by step: docs/tutorial.md")


def show_published(project: Path, log: Log) -> None:
    """Prints the published run of MNIST, which was made elsewhere.

    Raises:
        DataError: the project is no clone of the repository, or a table is damaged.
    """
    folder = project / PUBLISHED
    made = read_json(folder / "made_at.json", "the published run's record (only in a clone of the repository)")
    log(
        f"Published, not run here: mnist by `{made['command']}` at {made['commit']}, {made['date']}, {made['hardware']}"
    )
    _show(folder, {"train", "sweep", "evaluate"}, "mnist", log)


def _say_nothing(data: str, project: Path, log: Log) -> None:
    log(f"nothing of {data} was run here yet: `dvc repro` runs what params.yaml asks for; own data: docs/data.md")
    if (project / PUBLISHED).is_dir():
        log("published results of MNIST, made elsewhere: `ie results --published`")


def _metrics(folder: Path) -> dict[str, float]:
    metrics: dict[str, float] = read_json(folder / "metrics.json", f"metrics (run `ie {folder.name}`)")
    return metrics


def _show(results: Path, stages: set[str], data: str, log: Log) -> None:
    """The headline numbers of those stages."""
    log("")
    log(f"Test error, %          labels  epochs  {data}")
    trained = _metrics(results / "train") if "train" in stages else {}
    measured = _metrics(results / "evaluate") if "evaluate" in stages else {}
    if measured:
        main = percent(measured["test_error_classifier_pct"], unit="")
        log(f"  {main:>14} {measured['labels']:>12} {trained['epochs']:>7}  the main run (results/train/model)")
    elif trained:
        val = f"; val error {percent(trained['val_error_pct'])}" if "val_error_pct" in trained else ""
        main = f"{'-':>14} {trained['labels']:>12} {trained['epochs']:>7}"
        log(f"  {main}  the main run, not evaluated yet (`ie evaluate`){val}")
    methods: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    rows = _sweep_rows(results / "sweep" / "table.csv") if "sweep" in stages else {}
    for (method, labels, epochs), errors in rows.items():
        mean, std, n = mean_and_std(errors)
        value = f"{mean:.2f}" + (f" ± {std:.2f}" if n > 1 else "")
        log(f"  {value:>14} {labels:>12} {epochs:>7}  {methods.get(method, method)} (sweep, n={n})")
    if "sweep" not in stages:
        log(f"  {'-':>14} {'-':>12} {'-':>7}  no sweep (`ie sweep` sets methods and label counts side by side)")
    if measured:
        log("")
    for metric in (about(name) for name in _SHOWN if name in measured):
        log(f"  {metric.label:<64} {measured[metric.name]:.{metric.digits}f} {metric.unit}".rstrip())


def _sweep_rows(path: Path) -> dict[tuple[str, str, str], list[float]]:
    """Test errors of finished trials by method, labels and epochs."""
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        result: dict[tuple[str, str, str], list[float]] = {}
        for row in rows:
            if row["status"] == "finished" and row["test_error_pct"]:  # the plain VAE has none
                key = (row["method"], row["labels"], "-" if row["method"].startswith("supervised") else row["epochs"])
                result.setdefault(key, []).append(float(row["test_error_pct"]))
    except FileNotFoundError as error:
        raise DataError(f"the sweep's table is missing (run `dvc repro`): {path}") from error
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is damaged or was written by another version: {error}") from error
    return result
