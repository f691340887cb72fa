"""Latents as Parquet: one row an example, vectors as fixed-size lists, hashes of model and data in the schema."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch

from ie_model.artifact import Artifact
from ie_model.inference import Encoded
from pipeline.data.shards.index import factor_column
from pipeline.errors import DataError
from pipeline.utils.files import atomic_file

_COMPRESSION = "zstd"


def schema(artifact: Artifact, metadata: dict[str, str], factors: Sequence[str] = ()) -> pa.Schema:
    """Columns of a latents file.

    key; split; label (class name, null where not known); label_used (the run was trained with it); prediction;
    probabilities `[K]`; r = f_inv(x) `[R]`, the single-example embedding; v_mean and v_log_var `[V]` of q(v | r_y, x)
    given the predicted class; bound_nats, U(x); squared_error, the mean over values of (x - reconstruction)^2;
    factor_<name> of each of the data's `factors`, null where its value is missing.
    """
    spec, config = artifact.model.spec, artifact.model.config
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("label_used", pa.bool_(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32(), spec.num_classes), nullable=False),
        pa.field("r", pa.list_(pa.float32(), config.r_dim), nullable=False),
        pa.field("v_mean", pa.list_(pa.float32(), config.v_dim), nullable=False),
        pa.field("v_log_var", pa.list_(pa.float32(), config.v_dim), nullable=False),
        pa.field("bound_nats", pa.float32(), nullable=False),
        pa.field("squared_error", pa.float32(), nullable=False),
        *map(factor_column, factors),
    ]
    return pa.schema(fields, metadata=metadata)


def metadata(artifact: Artifact, data_hash: str) -> dict[str, str]:
    """What a latents file names in its schema.

    Args:
        data_hash: SHA-256 of what was encoded (a manifest), or a name for it.
    """
    return {
        "model_fingerprint": str(artifact.provenance.get("fingerprint", "")),
        "data_sha256": data_hash,
        "classes": json.dumps(artifact.model.spec.classes),
        "v_condition": "predicted class",
    }


def latent_table(
    columns: pa.Schema,
    keys: Sequence[str],
    split: str,
    y: npt.NDArray[np.int64],
    label_used: npt.NDArray[np.bool_] | None,
    encoded: Encoded,
    factors: pa.Table | None = None,
) -> pa.Table:
    """Rows of a batch of examples, with the model's outputs.

    Args:
        columns: `schema` of the model.
        y: classes `[N]`, -1 where not known.
        factors: the columns of factors in `columns`, N rows.

    Raises:
        DataError: a value is not finite; names the example and the column.
    """
    classes = json.loads(columns.metadata[b"classes"])
    names = np.array(classes, dtype=object)
    values: dict[str, Any] = {
        "key": list(keys),
        "split": [split] * len(keys),
        "label": [classes[c] if c >= 0 else None for c in y],
        "label_used": np.zeros(len(keys), dtype=bool) if label_used is None else label_used,
        "prediction": names[encoded.log_q.argmax(1).cpu().numpy()].tolist(),
        "probabilities": _vectors(encoded.log_q.exp()),
        "r": _vectors(encoded.f),
        "v_mean": _vectors(encoded.v_mean),
        "v_log_var": _vectors(encoded.v_log_var),
        "bound_nats": encoded.bound.cpu().numpy(),
        "squared_error": encoded.squared_error.cpu().numpy(),
    }
    for name, column in values.items():
        _check_finite(name, column, keys)
    if factors is not None:
        values |= {name: factors[name].combine_chunks() for name in factors.column_names}
    arrays = [
        values[field.name] if isinstance(values[field.name], pa.Array) else pa.array(values[field.name], field.type)
        for field in columns
    ]
    return pa.Table.from_arrays(arrays, schema=columns)


_READ_FIRST = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("confidence", pa.float32(), nullable=False),
        pa.field("val_below_pct", pa.float32()),
        pa.field("label", pa.string()),
        pa.field("bound_nats", pa.float32(), nullable=False),
        pa.field("squared_error", pa.float32(), nullable=False),
    ]
)


def read_first(rows: pa.Table, val_bounds: Sequence[float]) -> pa.Table:
    """What one reads first of a latents table: the class, its probability, and how usual the example is. No vectors.

    Args:
        val_bounds: see `ie_model.artifact.Artifact`; empty: `val_below_pct` is null.
    """
    probabilities = rows["probabilities"].combine_chunks()
    best = probabilities.flatten().to_numpy().reshape(len(rows), -1).max(1)
    below: Any = [None] * len(rows)
    if val_bounds:
        below = 100 * np.searchsorted(np.array(val_bounds), rows["bound_nats"].to_numpy(), side="right")
        below = below / len(val_bounds)
    added = {"confidence": pa.array(best, pa.float32()), "val_below_pct": pa.array(below, pa.float32())}
    return pa.table([added[name] if name in added else rows[name] for name in _READ_FIRST.names], schema=_READ_FIRST)


def new_schema(columns: pa.Schema) -> pa.Schema:
    """Columns of a file of new examples: those of `read_first`, then the others of `schema`."""
    others = [field for field in columns if field.name not in _READ_FIRST.names]
    return pa.schema([*_READ_FIRST, *others], metadata=columns.metadata)


@contextlib.contextmanager
def new_writer(path: Path, columns: pa.Schema) -> Iterator[Callable[[pa.Table, pa.Table], None]]:
    """Takes latents and their `read_first`, of which a `.csv` has the second alone.

    The file appears when the block ends without an error.
    """
    if path.suffix.lower() == ".csv":
        with atomic_file(path) as part, pyarrow.csv.CSVWriter(part, _READ_FIRST) as text:
            yield lambda rows, first: text.write_table(first)
        return
    whole = new_schema(columns)
    with latent_writer(path, whole) as writer:

        def write(rows: pa.Table, first: pa.Table) -> None:
            both = [first[f.name] if f.name in first.column_names else rows[f.name] for f in whole]
            writer.write_table(pa.table(both, schema=whole))

        yield write


def file_of(rows: pa.Table) -> bytes:
    """A Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression=_COMPRESSION)
    return sink.getvalue().to_pybytes()


@contextlib.contextmanager
def latent_writer(path: Path, columns: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """A file of `latent_table`s that appears at `path` when the block ends without an error."""
    with atomic_file(path) as part, pq.ParquetWriter(part, columns, compression=_COMPRESSION) as writer:
        yield writer


def _check_finite(name: str, column: Any, keys: Sequence[str]) -> None:
    if isinstance(column, pa.FixedSizeListArray):
        column = column.flatten().to_numpy(zero_copy_only=False).reshape(len(keys), -1)
    if not isinstance(column, np.ndarray) or column.dtype.kind != "f":
        return
    finite = np.isfinite(column).reshape(len(keys), -1).all(1)
    if not finite.all():
        raise DataError(
            f"the model gives {name} that is not finite for {len(keys) - int(finite.sum())} of {len(keys)} examples, "
            f"the first: {keys[int(finite.argmin())]}"
        )


def _vectors(x: torch.Tensor) -> pa.FixedSizeListArray:
    values = x.cpu().numpy().astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
