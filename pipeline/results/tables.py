"""Reading the tables that stages leave: CSV, Parquet, and npz without pickled objects.

A table that is missing, damaged or lacks a column is a DataError that names the file.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow import dataset

from pipeline.errors import DataError, from_os_error
from pipeline.utils.key_sample import lowest

Table = dict[str, list[str]]


@contextlib.contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever a reader raises on a missing or damaged file into a DataError."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing: {path}") from error
    except (pa.ArrowException, zipfile.BadZipFile, EOFError, ValueError, csv.Error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(f"{what} is damaged ({reason[0]}): {path}") from error
    except OSError as error:
        known = from_os_error(error)
        if known is not None:
            raise known from error
        raise DataError(f"{what} cannot be read ({error}): {path}") from error


def read_csv(path: Path, required: Sequence[str]) -> Table:
    """Columns of a CSV as they are written, text: a class may be called NA or 007."""
    header, *rows = _lines(path, required)
    return {column: [row[index] for row in rows] for index, column in enumerate(header)}


def count_pairs(path: Path, first: str, second: str) -> Counter[tuple[str, str]]:
    """How many rows of a CSV have each pair of cells in two columns; a row is in memory at a time. Raises as above."""
    lines = _lines(path, [first, second])
    header = next(lines)
    a, b = header.index(first), header.index(second)
    return Counter((row[a], row[b]) for row in lines)


def _lines(path: Path, required: Sequence[str]) -> Iterator[list[str]]:
    """The header and the rows of a CSV that has the columns `required` and a row at least."""
    with reading(path, "table"), path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        missing = [column for column in required if column not in header]
        if missing:
            raise DataError(f"table lacks column {', '.join(missing)}, it has {', '.join(header) or 'none'}: {path}")
        yield header
        number = 0
        for number, row in enumerate(filter(None, rows), 1):
            if len(row) != len(header):
                raise DataError(f"row {number} has {len(row)} cells where the header has {len(header)}: {path}")
            yield row
        if not number:
            raise DataError(f"table has no rows: {path}")


def numbers(table: Table, column: str, path: Path, gaps: bool = False) -> NDArray[np.float64]:
    """A column as floats; with `gaps`, empty and not-finite cells are NaN, else they are refused."""
    values = []
    for number, cell in enumerate(table[column], 1):
        try:
            value = float(cell) if cell.strip() or not gaps else math.nan
        except ValueError:
            raise DataError(f"column {column}, row {number} is not a number ({cell!r}): {path}") from None
        if not math.isfinite(value):
            if not gaps:
                raise DataError(f"column {column}, row {number} is not a finite number ({cell!r}): {path}")
            value = math.nan
        values.append(value)
    return np.array(values)


FACTORS = "factors.csv"
FACTOR_COLUMNS = (
    "factor", "measure", "scored_on", "from", "linear", "mlp", "within_class_linear", "within_class_mlp",
    "train_points", "test_points", "reason",
)  # fmt: skip
"""Of results/evaluate/factors.csv, which has no row where the data has no factors."""

LATENTS = "latents"
"""The folder of results/evaluate with the parts of the latents."""


def latent_schema(path: Path) -> pa.Schema:
    """Of a Parquet file, or of a folder of them."""
    return pq.ParquetDataset(path).schema


def read_predictions(path: Path) -> Iterator[tuple[str, str]]:
    """Class and prediction of each test row, a batch of rows in memory at a time."""
    with reading(path, "latents"):
        rows = dataset.dataset(path, format="parquet")
        for batch in rows.to_batches(columns=["label", "prediction"], filter=dataset.field("split") == "test"):
            yield from zip(batch["label"].to_pylist(), batch["prediction"].to_pylist(), strict=True)


def sampled_latents(path: Path, split: str, columns: Sequence[str], most: int, *, labelled: bool = True) -> pa.Table:
    """Columns of the rows of a split, of `most` at most: those whose keys have the lowest hash.

    Args:
        labelled: of rows whose class is known.
    """
    with reading(path, "latents"):
        names = latent_schema(path).names
        missing = [name for name in ("key", "split", "label", *columns) if name not in names]
        if missing:
            raise DataError(f"latents lack column {', '.join(missing)}, they have {', '.join(names)}: {path}")
        rows, among = dataset.dataset(path, format="parquet"), dataset.field("split") == split
        if labelled:
            among = among & dataset.field("label").is_valid()
        batches = rows.to_batches(columns=["key"], filter=among)
        chosen = lowest((key for batch in batches for key in batch["key"].to_pylist()), most)
        return rows.take(chosen, columns=list(columns), filter=among)


def latent_vectors(rows: pa.Table, column: str) -> NDArray[np.float64]:
    """A column of fixed-size lists, `[N, D]`."""
    flat = rows[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float64).reshape(len(rows), -1)


def read_test_latents(path: Path, column: str, most: int) -> tuple[NDArray[np.float64], list[str]]:
    """Vectors `[N, D]` and class names of the test rows, of `most` at most: those whose keys have the lowest hash."""
    table = sampled_latents(path, "test", ["label", column], most, labelled=False)
    kind = table.schema.field(column).type
    if not pa.types.is_fixed_size_list(kind):
        raise DataError(f"latents column {column} must be a fixed-size list of floats, is {kind}: {path}")
    if table.num_rows == 0:
        raise DataError(f"latents have no row of split test: {path}")
    with reading(path, "latents"):
        x = latent_vectors(table, column)
    labels = table["label"].to_pylist()
    if not np.isfinite(x).all() or None in labels:
        raise DataError(f"latents hold test rows without a label or with values of {column} not finite: {path}")
    return x, [str(label) for label in labels]


def latent_classes(path: Path) -> list[str]:
    """Names of the model's classes in their own order, which gives each its colour; empty where the file has none."""
    with reading(path, "latents"):
        named = (latent_schema(path).metadata or {}).get(b"classes", b"[]")
        return [str(name) for name in json.loads(named)]


def read_images(path: Path, key: str) -> NDArray[np.float64]:
    """Images `[rows, columns, C, H, W]` in 0..1."""
    images = _read_array(path, key)
    if images.ndim != 5 or images.size == 0 or images.shape[2] not in (1, 3) or images.dtype.kind != "f":
        raise DataError(
            f"array {key} must be floats [rows, columns, 1 or 3, H, W], got {images.dtype} {list(images.shape)}: {path}"
        )
    # The negated comparison also catches NaN.
    if not (images.min() >= -1e-3 and images.max() <= 1 + 1e-3):
        raise DataError(f"array {key} must be in 0..1, got {images.min():g}..{images.max():g}: {path}")
    return np.clip(images.astype(np.float64), 0.0, 1.0)


def read_grid(path: Path, key: str, ndim: int) -> NDArray[np.float64]:
    """An array of floats with so many axes; NaN, but not infinity, may stand for what is not there."""
    grid = _read_array(path, key)
    if grid.ndim != ndim or grid.size == 0 or grid.dtype.kind != "f":
        raise DataError(f"array {key} must be floats with {ndim} axes, got {grid.dtype} {list(grid.shape)}: {path}")
    if np.isinf(grid).any() or np.isnan(grid).all():
        raise DataError(f"array {key} holds an infinite value, or none at all: {path}")
    return grid.astype(np.float64)


def _read_array(path: Path, key: str) -> NDArray[Any]:
    # Opened here: given a path, np.load leaves a damaged file open.
    with reading(path, "arrays"), path.open("rb") as file:
        loaded: Any = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"arrays are no npz file: {path}")
        with loaded as arrays:
            if key not in arrays.files:
                raise DataError(f"arrays lack {key}, they have {', '.join(arrays.files) or 'none'}: {path}")
            return np.asarray(arrays[key])
