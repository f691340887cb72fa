"""Files of feature vectors as tables of numbers: .csv, .tsv, .parquet, .npz, .npy. Nothing is unpickled.

Columns are numbers, but for `label`, `split` and `key`; a Parquet column may be a list of numbers, as embeddings are.
Those that the user calls factors are no features.
"""

from __future__ import annotations

import csv
import io
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.sources.encodings import decode_text
from pipeline.data.sources.labels import stripped
from pipeline.errors import DataError

TABLES = (".csv", ".tsv", ".parquet", ".npz")
ARRAY = ".npy"
WORDS = ("label", "split", "key")
MOST_VALUES = 500_000_000
"""Rows times features: 4 GB as they are read."""

_NUMPY_ERRORS = (
    ValueError, TypeError, EOFError, OSError, KeyError, MemoryError, RuntimeError, NotImplementedError,
    RecursionError, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rows:
    """A table of N vectors of D features."""

    x: npt.NDArray[np.float64]
    """`[N, D]`; NaN where a value is missing."""

    features: tuple[str, ...]
    """Names of the D columns; empty where the file has none."""

    words: dict[str, list[str]]
    """`label`, `split`, `key` of each row where there is such a column; empty text where it has none."""

    factors: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Columns `[N]` that are no features, by name in lower case; NaN where a value is missing."""


def read_vectors(path: PurePath, data: bytes, factors: Sequence[str] = ()) -> Rows:
    """The content of a file of `TABLES`, or a matrix of .npy.

    Args:
        path: names the file in errors, its suffix the format; data: all of it.
        factors: columns that are no features, in any case.

    Raises:
        DataError: it is not such a file, or lacks a factor; the message names file, column and row.
    """
    suffix, names = path.suffix.lower(), [name.lower() for name in factors]
    if suffix == ARRAY:
        rows = Rows(_matrix(path, "it", read_array(path, data)), (), {})
    else:
        rows = _from_npz(path, data, names) if suffix == ".npz" else _from_table(path, data, suffix, names)
    for name in names:
        if name not in rows.factors:
            there = f"; its features are: {', '.join(rows.features[:20])}" if rows.features else ""
            raise DataError(f"{path}: no column {name!r}, which data.own.factors names{there}")
        if len(wrong := np.flatnonzero(np.isinf(rows.factors[name]))):
            raise DataError(f"{path}: row {wrong[0] + 1}: factor {name!r} is infinite")
    if suffix == ARRAY:
        return rows
    if not len(rows.x) or not rows.x.shape[1]:
        raise DataError(f"{path}: {rows.x.shape[0]} rows of {rows.x.shape[1]} features; at least one of each is needed")
    return rows


def read_array(path: PurePath, data: bytes) -> npt.NDArray[Any]:
    """A .npy array.

    Raises:
        DataError: it is none, or holds Python objects, which are not read.
    """
    try:
        if not data.startswith(b"\x93NUMPY"):
            raise ValueError("its first bytes are those of another format")
        return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))
    except _NUMPY_ERRORS as error:
        raise DataError(f"{path}: not a .npy array that can be read ({_short(error)})") from error


def texts(path: PurePath, name: str, values: npt.NDArray[Any]) -> list[str]:
    """Labels or other words of an array `[N]`: whole numbers as digits, NaN as empty text.

    Raises:
        DataError: it has another shape, or numbers that are not whole.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.dtype.kind not in "iufbUS":
        raise DataError(
            f"{path}: {name} is {values.dtype} of shape {list(values.shape)}, expected numbers or texts [N]"
        )
    if values.dtype.kind == "S":
        return [bytes(value).decode("utf-8", errors="replace") for value in values]
    return [_word(path, name, i, value) for i, value in enumerate(values.tolist(), 1)]


def _word(path: PurePath, name: str, row: int, value: object) -> str:
    if value is None or value != value:
        return ""
    if isinstance(value, float):
        if not value.is_integer():
            raise DataError(f"{path}: row {row}: {name} is {value!r}; a class is a text or a whole number")
        return str(int(value))
    return str(value)


def _from_npz(path: PurePath, data: bytes, factors: Sequence[str]) -> Rows:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array")
            sizes: list[int] = [info.file_size for info in zipfile.ZipFile(io.BytesIO(data)).infolist()]
            if sum(sizes) > 8 * MOST_VALUES:
                most = f"{8 * MOST_VALUES // 1_000_000:,} MB"
                raise DataError(f"{path}: {sum(sizes) // 1_000_000:,} MB unpacked; at most {most}")
            found = {name.lower(): np.asarray(file[name]) for name in file.files}
    except _NUMPY_ERRORS as error:
        raise DataError(f"{path}: not a .npz file that can be read ({_short(error)})") from error
    known = {"y": "label", **{word: word for word in WORDS}}
    if "x" not in found or set(found) - {"x", *known, *factors}:
        names, more = ", ".join(found) or "none", "and optionally y (or label), split and key [N]"
        raise DataError(f"{path}: arrays are {names}; expected x [N, D], {more}")
    if "y" in found and "label" in found:
        raise DataError(f"{path}: holds both y and label; keep one")
    x = _matrix(path, "x", found["x"])
    words = {known[name]: texts(path, name, values) for name, values in found.items() if name in known}
    numbers = {name: _matrix(path, name, found[name].reshape(-1, 1))[:, 0] for name in factors if name in found}
    lengths = {name: len(values) for name, values in words.items()} | {n: len(values) for n, values in numbers.items()}
    for name, num in lengths.items():
        if num != len(x):
            raise DataError(f"{path}: {num} values of {name} for {len(x)} rows of x")
    return Rows(x, (), words, numbers)


def _matrix(path: PurePath, name: str, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    if values.ndim != 2 or values.dtype.kind not in "iufb":
        raise DataError(f"{path}: {name} is {values.dtype} of shape {list(values.shape)}, expected numbers [N, D]")
    _check_size(path, *values.shape)
    return values.astype(np.float64)


def _check_size(path: PurePath, rows: int, columns: int) -> None:
    if rows * columns > MOST_VALUES:
        raise DataError(f"{path}: {rows:,} rows of {columns:,} features; at most {MOST_VALUES:,} values")


def _from_table(path: PurePath, data: bytes, suffix: str, factors: Sequence[str]) -> Rows:
    # Here, and not at the top: pyarrow takes long to load.
    import pyarrow as pa

    try:
        table = _read_parquet(path, data) if suffix == ".parquet" else _read_csv(path, data)
        return _columns(path, table, factors)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a {suffix} file that can be read ({_short(error)})") from error


def _read_parquet(path: PurePath, data: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = pq.ParquetFile(pa.BufferReader(data))
    _check_size(path, file.metadata.num_rows, file.metadata.num_columns)
    table = file.read()
    table.validate(full=True)  # text that is not UTF-8
    return table


def _read_csv(path: PurePath, data: bytes) -> Any:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        text = decode_text(data)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error
    header = text[: text.find("\n") if "\n" in text else len(text)].rstrip("\r")
    rows = [(next(csv.reader([header], delimiter=d), []), d) for d in ",;\t|"]
    names, delimiter = max(rows, key=lambda row: ("label" in map(_plain, row[0]), len(row[0])))
    if names and all(_is_number(name) for name in names):
        raise DataError(f"{path}: no header; the first line must name the columns, one of them `label`")
    _check_names(path, names)
    words = {name: pa.string() for name in names if _plain(name) in WORDS}
    return arrow_csv.read_csv(
        pa.BufferReader(f"{text}\n".encode()),
        parse_options=arrow_csv.ParseOptions(delimiter=delimiter),
        convert_options=arrow_csv.ConvertOptions(column_types=words, strings_can_be_null=False),
    )


def _columns(path: PurePath, table: Any, factors: Sequence[str]) -> Rows:
    import pyarrow as pa

    _check_names(path, table.column_names)
    words: dict[str, list[str]] = {}
    features: list[str] = []
    others: dict[str, npt.NDArray[np.float64]] = {}
    parts: list[npt.NDArray[np.float64]] = []
    for name, column in zip(table.column_names, table.columns, strict=True):
        if (plain := _plain(name)) in WORDS:
            words[plain] = [_word(path, plain, i, value) for i, value in enumerate(column.to_pylist(), 1)]
            continue
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            values = _list_column(path, name, column)
            names = [f"{name}[{i}]" for i in range(values.shape[1])]
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
            values, names = column.cast(pa.float64()).to_numpy().reshape(-1, 1), [name]
        elif pa.types.is_null(kind):
            values, names = np.full((len(column), 1), np.nan), [name]
        else:
            rule = "a factor is a number" if plain in factors else "features are numbers: leave the column out"
            raise DataError(f"{path}: column {name!r} holds {_first_text(column)}; {rule}")
        if plain in factors:
            if values.shape[1] != 1:
                raise DataError(f"{path}: factor {name!r} holds lists; allowed: a number a row")
            others[plain] = values[:, 0]
            continue
        parts.append(values)
        features += names
    _check_size(path, len(table), len(features))
    x = np.concatenate(parts, axis=1) if parts else np.empty((len(table), 0))
    return Rows(x, tuple(features), words, others)


def _list_column(path: PurePath, name: str, column: Any) -> npt.NDArray[np.float64]:
    rows = column.to_pylist()
    lengths = {len(row) if row is not None else 0 for row in rows}
    if len(lengths) != 1:
        raise DataError(
            f"{path}: column {name!r} holds lists of {min(lengths)} to {max(lengths)} values; one length is needed"
        )
    try:
        return np.array(rows, dtype=np.float64).reshape(len(rows), -1)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: column {name!r}: lists of something else than numbers ({_short(error)})") from error


def _first_text(column: Any) -> str:
    for i, value in enumerate(column.to_pylist(), 1):
        if value is not None and not _is_number(str(value)):
            return f"{str(value)[:40]!r} in row {i}"
    return str(column.type)


def _check_names(path: PurePath, names: Sequence[str]) -> None:
    plain = [_plain(name) for name in names]
    if twice := sorted({name for name in plain if plain.count(name) > 1}):
        raise DataError(f"{path}: column {twice[0]!r} is there twice")
    if "" in plain:
        raise DataError(f"{path}: column {plain.index('') + 1} has no name (a saved index?); remove or name it")


def _plain(name: str) -> str:
    return stripped(name).lower()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
