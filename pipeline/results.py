"""What a finished `dvc repro` leaves, in a few lines: headline numbers and where everything lies."""

from __future__ import annotations

import csv
from pathlib import Path

from ie_model.measures import mean_and_std
from pipeline.errors import DataError
from pipeline.files import read_json
from pipeline.methods import METHODS
from pipeline.params import Params
from pipeline.progress import Log

_LINES = (
    ("error by the generative rule", "test_error_generative_pct", "%"),
    ("error by the nearest r_y", "test_error_prototype_pct", "%"),
    ("class from r of one example, linear probe", "probe_class_from_r_linear_pct", "%"),
    ("class from sampled v, MLP probe (chance 1/K)", "probe_class_from_v_sampled_mlp_pct", "%"),
    ("rotation (sine) from v, R^2", "r2_rotation_sin_from_v_mlp", ""),
    ("class swap: an independent classifier sees the new class", "swap_oracle_pct", "%"),
    ("bound on log p(x)", "bound_nats", "nats"),
    ("importance-weighted bound", "iw_bound_nats", "nats"),
)


def show_results(params: Params, project: Path, log: Log) -> None:
    """Prints the main run beside the sweep's trials, and the paths of latents and figures.

    Raises:
        DataError: a stage has not run; the message names the file that is missing.
    """
    results = project / "results"
    measured = read_json(results / "evaluate" / "metrics.json", "the evaluation's metrics (run `dvc repro`)")
    trained = read_json(results / "train" / "metrics.json", "the training's metrics (run `dvc repro`)")
    rows = _sweep_rows(results / "sweep" / "table.csv")
    log("")
    log(f"Test error, %          labels  epochs  {params.data.source}")
    about: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    main = f"{measured['test_error_classifier_pct']:.2f}"
    log(f"  {main:>14} {measured['labels']:>12} {trained['epochs']:>7}  the main run (results/train/model)")
    for (method, labels, epochs), errors in rows.items():
        mean, std, n = mean_and_std(errors)
        value = f"{mean:.2f}" + (f" ± {std:.2f}" if n > 1 else "")
        log(f"  {value:>14} {labels:>12} {epochs:>7}  {about.get(method, method)} (sweep, n={n})")
    log("")
    for text, name, unit in _LINES:
        if name in measured:
            log(f"  {text:<58} {measured[name]:.1f} {unit}" if unit else f"  {text:<58} {measured[name]:.2f}")
    log("")
    for what, path in (
        ("page", "results/report/index.html, opens from disk; model_card.md beside it"),
        ("latents", "results/evaluate/latents.parquet"),
        ("figures", "results/evaluate/figures/"),
        ("tables", "results/sweep/summary.md, summary.tex, results.parquet"),
        ("curves", "results/train/curves.png, results/sweep/error_against_labels.png"),
        ("model", "results/train/model/"),
        ("metrics", "dvc metrics show"),
    ):
        log(f"  {what:<8} {path}")
    log("")
    log("  next     dvc exp run -S labels.count=600, then dvc metrics diff; or step by step: docs/tutorial.md")


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
