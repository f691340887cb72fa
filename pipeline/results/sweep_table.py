"""results.parquet of a sweep: a row a trial, with a schema version in its metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import DataError
from pipeline.results.tables import reading
from pipeline.utils.files import atomic_file

SCHEMA = "1"
"""Raised when a column changes its name, type or meaning; a measure more is no change."""

COLUMNS = {
    "method": pa.string(),
    "labels": pa.int64(),  # over all classes
    "label_count": pa.string(),  # as it was asked for: 100, 0.01, all
    "seed": pa.int64(),
    "status": pa.string(),  # finished | failed
    "error": pa.string(),
    "test_error_classifier_pct": pa.float64(),
    "test_error_generative_pct": pa.float64(),
    "test_error_prototype_pct": pa.float64(),
    "val_error_pct": pa.float64(),
    "val_bound_nats": pa.float64(),
    "bound_nats": pa.float64(),  # of the test split, as the next one
    "iw_bound_nats": pa.float64(),
    "epochs": pa.int64(),
    "steps": pa.int64(),
    "seconds": pa.float64(),  # of training
    "hardware": pa.string(),
    "commit": pa.string(),
    "fingerprint": pa.string(),
}
"""Columns of every file; further measures follow, a column of floats each. Empty where a trial has no such value."""

VARYING = ("seconds", "hardware", "commit")
"""Columns that are not the same when the same trials are run again."""

_SCHEMA_KEY, _SOURCE_KEY, _BASELINE_KEY = b"ie_results_schema", b"ie_source", b"ie_baseline"


@dataclass(frozen=True)
class Results:
    """A sweep's results."""

    rows: list[dict[str, Any]]
    source: str
    """Name of the data."""

    baseline: str
    """The method that the others are compared with."""


def write_results(path: Path, results: Results) -> None:
    """All rows, with whatever measures any of them has."""
    measures = dict.fromkeys(name for row in results.rows for name in row if name not in COLUMNS)
    fields = COLUMNS | dict.fromkeys(measures, pa.float64())
    metadata = {_SCHEMA_KEY: SCHEMA, _SOURCE_KEY: results.source, _BASELINE_KEY: results.baseline}
    schema = pa.schema(list(fields.items()), metadata=metadata)
    table = pa.table({name: [row.get(name) for row in results.rows] for name in fields}, schema=schema)
    with atomic_file(path) as part:
        pq.write_table(table, part)


def read_results(path: Path) -> Results:
    """The rows again.

    Raises:
        DataError: the file is missing or damaged, or of another schema.
    """
    with reading(path, "results"):
        table = pq.read_table(path)
    metadata = table.schema.metadata or {}
    found = metadata.get(_SCHEMA_KEY, b"").decode()
    if found != SCHEMA:
        raise DataError(
            f"results have schema {found or 'none'}, this version reads {SCHEMA}; run `ie sweep` again, which trains "
            f"nothing that is finished: {path}"
        )
    missing = [name for name, kind in COLUMNS.items() if name not in table.schema.names or table[name].type != kind]
    if missing:
        raise DataError(f"results lack column {', '.join(missing)}: {path}")
    return Results(table.to_pylist(), metadata[_SOURCE_KEY].decode(), metadata[_BASELINE_KEY].decode())


def finished(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that have a result."""
    return [row for row in rows if row["status"] == "finished"]
