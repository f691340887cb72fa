"""Everything that the page is made of, read from the stages' results and checked to be of one run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.shards.manifest import MANIFEST, Manifest, read_manifest
from pipeline.errors import DataError
from pipeline.results.gallery_file import Gallery, read_gallery
from pipeline.results.sweep_table import Results, finished, read_results
from pipeline.results.tables import (
    FACTOR_COLUMNS,
    FACTORS,
    LATENTS,
    Table,
    count_pairs,
    latent_schema,
    numbers,
    read_csv,
    reading,
)
from pipeline.utils.checksums import check_results, read_sealed
from pipeline.utils.files import read_json, sha256_file

Floats = NDArray[np.float64]

_TRAIN_FILES = ("history.csv", "metrics.json", "timing.json")
_EVALUATE_FILES = (
    "calibration.csv", "confusion.csv", "gallery.safetensors", f"{LATENTS}/", "measures.csv", "metrics.json",
    "risk_coverage.csv", "timing.json",
)  # fmt: skip
FACTOR_HEADER = (
    "factor", "measure", "scored on", "from", "linear", "MLP", "within a class, linear", "within a class, MLP",
    "not measured",
)  # fmt: skip
_SWEEP_FILES = ("results.parquet", "timing.json")


@dataclass(frozen=True)
class Measured:
    """A row of measures.csv."""

    group: str
    name: str
    value: float
    better: str
    control: str
    reason: str = ""
    """Why there is no value."""


@dataclass(frozen=True)
class Latents:
    """What the page needs of all test points; N rows."""

    keys: list[str]
    labels: list[str]
    predictions: list[str]
    probabilities: Floats
    r: Floats
    v: Floats


@dataclass(frozen=True)
class Sweep:
    """What the page needs of a sweep."""

    results: Results
    trial_seconds: float
    measures: dict[tuple[str, int], dict[str, list[float]]]
    """Of a method at a number of labels: values over seeds by measure; all measures of finished trials."""


@dataclass(frozen=True)
class Inputs:
    """All of it."""

    manifest: Manifest
    manifest_sha256: str
    model: dict[str, Any]
    """config.json of the model: spec, model, provenance."""

    gallery: Gallery
    latents: Latents
    measures: list[Measured]
    not_measured: list[Measured]
    """Rows without a value, each with its reason."""

    metrics: dict[str, float]
    train_metrics: dict[str, float]
    train_timing: dict[str, Any]
    evaluate_timing: dict[str, Any]
    history: Table
    confusion: NDArray[np.int64]
    """Counts, actual by predicted `[K, K]`, in the order of the manifest's classes."""

    calibration: tuple[Floats, Floats, Floats]
    """Confidence, accuracy (NaN in an empty bin) and count of each bin."""

    risk_coverage: tuple[Floats, Floats]
    sweep: Sweep | None
    factors: list[tuple[str, ...]] = field(default_factory=list)
    """Rows under `FACTOR_HEADER`; none where the data has no factors."""

    data: str = ""
    """The data in words, with the name of its folder."""

    left_out: tuple[str, ...] = ()
    """What is not on the page and why, and what has changed since the run; a line each."""


def read_inputs(project: Path, shards: Path, with_sweep: bool) -> Inputs:
    """Reads results/train, results/sweep and results/evaluate, and the shards' manifest.

    Raises:
        DataError: a file is missing or damaged, or they are not of one run; the message names the file and the command
            that makes it.
    """
    results = project / "results"
    train, evaluate = results / "train", results / "evaluate"
    check_results(train, _TRAIN_FILES, "ie train")
    check_results(evaluate, _EVALUATE_FILES, "ie evaluate")
    if with_sweep:
        check_results(results / "sweep", _SWEEP_FILES, "ie sweep")
    manifest = read_manifest(shards)
    if manifest.factors:
        check_results(evaluate, (FACTORS,), "ie evaluate")
    model = read_sealed(train / "model" / "config.json", "the trained model's config (run `ie train`)")
    try:
        fingerprint = str(model["provenance"]["fingerprint"])
    except (KeyError, TypeError) as error:
        raise DataError(f"config is damaged, it has no provenance: {train / 'model' / 'config.json'}") from error
    metrics = _numbers(evaluate / "metrics.json", "the evaluation's metrics (run `ie evaluate`)")
    gallery = read_gallery(evaluate / "gallery.safetensors")
    latents, made_by, made_of = _latents(evaluate / LATENTS)
    manifest_sha256 = sha256_file(shards / MANIFEST)
    if made_of != manifest_sha256:
        raise DataError(
            f"latents are not of the shards as they are now ({shards / MANIFEST}); run `ie evaluate` again: "
            f"{evaluate / 'latents.parquet'}"
        )
    if {made_by, gallery.text.fingerprint} != {fingerprint}:
        raise DataError(
            f"latents, gallery and model are not of one run; run `ie evaluate` again: {evaluate / 'latents.parquet'}"
        )
    known = set(latents.keys)
    if gallery.text.spec != manifest.spec or not known.issuperset(gallery.text.keys):
        path = evaluate / "gallery.safetensors"
        raise DataError(f"gallery and latents are not of the same points; run `ie evaluate` again: {path}")
    history = read_csv(train / "history.csv", ["epoch"])
    measures, not_measured = _measures(evaluate / "measures.csv")
    numbers(history, "epoch", train / "history.csv")
    return Inputs(
        manifest=manifest,
        manifest_sha256=manifest_sha256,
        model=model,
        gallery=gallery,
        latents=latents,
        measures=measures,
        not_measured=not_measured,
        metrics=metrics,
        train_metrics=_numbers(train / "metrics.json", "the training's metrics (run `ie train`)"),
        train_timing=_record(train / "timing.json", "the training's time (run `ie train`)", "seconds"),
        evaluate_timing=_record(evaluate / "timing.json", "the evaluation's time (run `ie evaluate`)", "seconds"),
        history=history,
        confusion=_confusion(evaluate / "confusion.csv", manifest.spec.classes),
        calibration=_calibration(evaluate / "calibration.csv"),
        risk_coverage=_risk(evaluate / "risk_coverage.csv"),
        sweep=_sweep(results / "sweep") if with_sweep else None,
        factors=_factors(evaluate / FACTORS) if manifest.factors else [],
    )


def _record(path: Path, what: str, number: str) -> dict[str, Any]:
    """A JSON object that has a number of this name."""
    record = read_json(path, what)
    if not isinstance(record, dict) or not isinstance(record.get(number), int | float):
        raise DataError(f"{what} is damaged, it has no number {number}: {path}")
    return record


def _numbers(path: Path, what: str) -> dict[str, float]:
    """A JSON object of numbers."""
    record = read_json(path, what)
    if not isinstance(record, dict) or not all(isinstance(value, int | float) for value in record.values()):
        raise DataError(f"{what} is damaged, it is no object of numbers: {path}")
    return record


def _latents(path: Path) -> tuple[Latents, str, str]:
    """The test rows, and fingerprint of the model and SHA-256 of the manifest that they were made of."""
    columns = {"key": None, "label": None, "prediction": None, "probabilities": list, "r": list, "v_mean": list}
    with reading(path, "latents (run `ie evaluate`)"):
        schema = latent_schema(path)
        missing = [name for name in (*columns, "split") if name not in schema.names]
        if missing:
            raise DataError(f"latents lack column {', '.join(missing)}, they have {', '.join(schema.names)}: {path}")
        table = pq.read_table(path, columns=[*columns], filters=[("split", "==", "test")])
    labels = table["label"].to_pylist()
    if table.num_rows == 0 or None in labels:
        raise DataError(f"latents need rows of split test, all with a label; got {table.num_rows}: {path}")
    vectors = {}
    for name in ("probabilities", "r", "v_mean"):
        column = table[name].combine_chunks()
        if not pa.types.is_fixed_size_list(column.type):
            raise DataError(f"latents column {name} must be a fixed-size list of floats, is {column.type}: {path}")
        vectors[name] = np.asarray(column.flatten(), dtype=np.float64).reshape(table.num_rows, -1)
        if not np.isfinite(vectors[name]).all():
            raise DataError(f"latents hold values of {name} that are not finite: {path}")
    metadata = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    keys, predictions = table["key"].to_pylist(), table["prediction"].to_pylist()
    latents = Latents(keys, labels, predictions, vectors["probabilities"], vectors["r"], vectors["v_mean"])
    return latents, metadata.get("model_fingerprint", ""), metadata.get("data_sha256", "")


def _measures(path: Path) -> tuple[list[Measured], list[Measured]]:
    """What was measured, and what was not."""
    table = read_csv(path, ["group", "name", "value", "better", "control"])
    reasons = table.get("reason", [""] * len(table["name"]))  # results of versions before have none
    measured = {
        name: [cell for cell, why in zip(column, reasons, strict=True) if not why] for name, column in table.items()
    }
    values = iter(numbers(measured, "value", path).tolist())
    text = (table[name] for name in ("group", "name", "better", "control"))
    rows = [
        Measured(group, name, math.nan if why else next(values), better, control, why)
        for group, name, better, control, why in zip(*text, reasons, strict=True)
    ]
    return [row for row in rows if not row.reason], [row for row in rows if row.reason]


def _confusion(path: Path, classes: tuple[str, ...]) -> NDArray[np.int64]:
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    for (actual, predicted), num in count_pairs(path, "actual", "predicted").items():
        if actual not in place or predicted not in place:
            raise DataError(f"confusion holds a class that the shards do not have ({actual!r}, {predicted!r}): {path}")
        counts[place[actual], place[predicted]] = num
    return counts


def _calibration(path: Path) -> tuple[Floats, Floats, Floats]:
    table = read_csv(path, ["confidence", "accuracy", "count"])
    confidence, accuracy = (numbers(table, name, path, gaps=True) for name in ("confidence", "accuracy"))
    return confidence, accuracy, numbers(table, "count", path)


def _risk(path: Path) -> tuple[Floats, Floats]:
    table = read_csv(path, ["coverage", "risk"])
    return numbers(table, "coverage", path), numbers(table, "risk", path)


def _factors(path: Path) -> list[tuple[str, ...]]:
    table = read_csv(path, FACTOR_COLUMNS)
    for column in FACTOR_COLUMNS[4:8]:
        values = numbers(table, column, path, gaps=True)
        table[column] = ["" if math.isnan(value) else f"{value:.2f}" for value in values]
    table["measure"] = [{"r2": "R²"}.get(measure, measure) for measure in table["measure"]]
    table["from"] = [source.replace("_", " ") for source in table["from"]]
    return list(zip(*(table[column] for column in (*FACTOR_COLUMNS[:8], "reason")), strict=True))


def _sweep(folder: Path) -> Sweep:
    results = read_results(folder / "results.parquet")
    timing = _record(folder / "timing.json", "the sweep's time (run `ie sweep`)", "trial_seconds")
    values: dict[tuple[str, int], dict[str, list[float]]] = {}
    for row in finished(results.rows):
        measured = values.setdefault((row["method"], row["labels"]), {})
        for name, value in row.items():
            if isinstance(value, float) and name != "seconds":
                measured.setdefault(name, []).append(value)
    return Sweep(results, float(timing["trial_seconds"]), values)
