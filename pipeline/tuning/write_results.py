"""What a sweep leaves: results.parquet, summary.md and .tex, table.csv, measures.csv, metrics, the plot."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ie_model.metrics.measures import mean_and_std
from pipeline.errors import TrainingError
from pipeline.plots.error_vs_labels import error_against_labels
from pipeline.plots.published_results import PUBLISHED
from pipeline.results.origin import Origin, write_origin
from pipeline.results.sweep_summary import write_summary
from pipeline.results.sweep_table import Results, finished, write_results
from pipeline.storage.run_storage import Storage
from pipeline.tuning.trials import Trial, TrialResult, finished_result, name_of_trial
from pipeline.utils.checksums import write_checksums
from pipeline.utils.files import atomic_file, write_json
from pipeline.utils.progress import Log

COLUMNS = (
    "method", "labels", "seed", "test_error_pct", "val_error_pct", "val_bound_nats", "epochs", "steps",
    "status", "error",
)  # fmt: skip


def publish(
    trials: Sequence[Trial],
    storage: Storage,
    failures: dict[str, str],
    out: Path,
    log: Log,
    *,
    asked: str,
    source: str,
    baseline: str,
    origin: Origin | None = None,
) -> None:
    """Writes all outputs of a sweep.

    Args:
        failures: errors of failed trials, by fingerprint.
        asked: hash of the measures that are asked for, empty for errors alone (`pipeline.tuning.trials.measured_as`).

    Raises:
        TrainingError: every trial failed; nothing is written.
    """
    rows: list[dict[str, Any]] = []
    measured: list[tuple[Trial, dict[str, float]]] = []
    for trial in trials:
        # An older result with other measures is not what was asked for.
        result = finished_result(storage, trial.job.fingerprint, asked)
        if result is not None:
            measures = result.measures if asked else {}
            measured.append((trial, measures))
            rows.append(_row(trial, result) | measures)
        else:
            error = failures.get(trial.job.fingerprint, "did not run")
            about = f"{trial.method}, {trial.labels} labels, seed {trial.seed}"
            where = storage.where(f"{name_of_trial(trial.job.fingerprint)}/error.log")
            log(f"sweep: FAILED {about}: {error}; log in {where}")
            rows.append(_cell(trial) | {"status": "failed", "error": error})
    if not finished(rows):
        raise TrainingError(f"all {len(rows)} trials of the sweep failed; the first: {rows[0]['error']}")
    out.mkdir(parents=True, exist_ok=True)
    write_results(out / "results.parquet", Results(rows, source, baseline))
    write_summary(out)
    _write_table(out / "table.csv", rows)
    _write_measures(out / "measures.csv", measured)
    write_json(out / "metrics.json", _metrics(rows))
    write_json(out / "timing.json", {"trial_seconds": round(sum(row["seconds"] for row in finished(rows)), 1)})
    error_against_labels(out / "table.csv", out / "error_against_labels.png", PUBLISHED.get(source, ()))
    if origin is not None:
        write_origin(out, origin)
    write_checksums(out)


def _cell(trial: Trial) -> dict[str, Any]:
    return {
        "method": trial.method,
        "labels": trial.labels,
        "label_count": str(trial.job.label_count),
        "seed": trial.seed,
        "fingerprint": trial.job.fingerprint,
    }


def _row(trial: Trial, result: TrialResult) -> dict[str, Any]:
    """A finished trial's row of results.parquet, without its measures."""
    kept = ("val_error_pct", "val_bound_nats", "epochs", "steps", "seconds", "hardware", "commit")
    row = _cell(trial) | {"status": "finished", "error": ""} | {name: getattr(result, name) for name in kept}
    row["test_error_classifier_pct"] = result.test_error_pct
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}


def _write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"test_error_pct": row.get("test_error_classifier_pct")})


def _write_measures(path: Path, measured: Sequence[tuple[Trial, dict[str, float]]]) -> None:
    """A line for each measure of each trial; only the heading where the sweep asked for errors alone."""
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "labels", "seed", "measure", "value"))
        for trial, measures in measured:
            for name, value in measures.items():
                writer.writerow((trial.method, trial.labels, trial.seed, name, value))


def _metrics(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    done = finished(rows)
    metrics: dict[str, float] = {"trials_finished": len(done), "trials_failed": len(rows) - len(done)}
    for method, labels in dict.fromkeys((row["method"], row["labels"]) for row in done):
        cell = [row for row in done if (row["method"], row["labels"]) == (method, labels)]
        errors = [row["test_error_classifier_pct"] for row in cell if row["test_error_classifier_pct"] is not None]
        if not errors:
            continue  # the plain VAE
        mean, std, num = mean_and_std(errors)
        metrics |= {
            f"{method}_{labels}_test_error_pct": round(mean, 4),
            f"{method}_{labels}_test_error_std": round(std, 4),
            f"{method}_{labels}_n": num,
        }
    return metrics
