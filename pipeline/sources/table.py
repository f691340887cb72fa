"""The user's own images, by a table: a CSV or Parquet file with the path and the label of each picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import DataError
from pipeline.sources.base import KEY, RawSplit
from pipeline.sources.folders import checked_folder, checked_link
from pipeline.sources.own import Found, Layout, key_of
from pipeline.sources.pictures import SUFFIXES, PictureSource

_COLUMNS = ("path", "label", "split", "key")
_TABLES = (".csv", ".parquet")
Row = dict[str, str]


class Table(PictureSource):
    """See `pipeline.sources.base.Source`. Columns are `path` (relative to data.folder), `label` (empty where it is not
    known), and optionally `split` (train or test) and `key`; others are passed over."""

    @property
    def name(self) -> str:
        return "table"

    def find(self) -> Layout:
        root = checked_folder(self.folder)
        table = _only_table(root)
        rows = list(_read_csv(table) if table.suffix.lower() == ".csv" else _read_parquet(table))
        has_test = any(row["split"] == "test" for _, row in rows)
        seen: dict[str, str] = {}
        files = []
        for where, row in rows:
            file = _found(root, where, row, has_test)
            for what, value in (("path", file.path), ("key", file.key)):
                if (twice := seen.setdefault(f"{what} {value}", where)) != where:
                    raise DataError(f"{where}: the {what} {value!r} is there already, see {twice.rpartition(': ')[2]}")
            files.append(file)
        trained = {file.label for file in files if file.split != "test" and file.label is not None}
        for (where, _), file in zip(rows, files, strict=True):
            if file.label is not None and file.label not in trained:
                raise DataError(f"{where}: class {file.label!r} is not in train")
        return Layout(tuple(sorted(trained)), tuple(sorted(files, key=lambda file: file.path)))


def _only_table(root: Path) -> Path:
    found = sorted(p for p in root.iterdir() if p.suffix.lower() in _TABLES and not p.name.startswith("."))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise DataError(f"{root}: expected one table, a .csv or .parquet file; found: {names}")
    return found[0]


def _found(root: Path, where: str, row: Row, has_test: bool) -> Found:
    path = root / row["path"]
    if not row["path"] or PurePosixPath(row["path"]).is_absolute() or ".." in path.parts:
        raise DataError(f"{where}: path is {row['path']!r}; it must be relative to the table's folder and stay inside")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{where}: {row['path']!r} is no picture; allowed: {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise DataError(f"{where}: no such file: {path}")
    if path.is_symlink() or not path.resolve().is_relative_to(root):
        checked_link(path, root)
    if row["split"] not in ("", "train", "test"):
        raise DataError(f"{where}: split is {row['split']!r}; allowed: train, test, or nothing for train")
    split: RawSplit | None = ("test" if row["split"] == "test" else "train") if has_test else None
    if split == "test" and not row["label"]:
        raise DataError(f"{where}: an example of test without a label")
    if row["key"] and not KEY.fullmatch(row["key"]):
        raise DataError(
            f"{where}: key is {row['key']!r}; allowed are up to 80 letters, digits, '_' and '-', the first no '_' or "
            "'-'; without the column, keys are made of the paths"
        )
    name = path.relative_to(root).as_posix()
    return Found(name, row["label"] or None, split, row["key"] or key_of(name))


def _read_csv(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(path, reader.fieldnames or [])
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values():
                    raise DataError(f"{where}: not as many values as there are columns")
                yield where, {column: row.get(column) or "" for column in _COLUMNS}
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8 ({error})") from error


def _read_parquet(path: Path) -> Iterator[tuple[str, Row]]:
    # Here, and not at the top: whoever has no such table need not wait for pyarrow.
    import pyarrow
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
        _check_columns(path, names)
        rows = pq.read_table(path, columns=[c for c in _COLUMNS if c in names]).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())})") from error
    for i, row in enumerate(rows, 1):
        yield f"{path}: row {i}", {column: _text(row.get(column)) for column in _COLUMNS}


def _check_columns(path: Path, names: Any) -> None:
    for column in _COLUMNS[:2]:
        if list(names).count(column) != 1:
            raise DataError(f"{path}: expected one column {column!r}; its columns are: {', '.join(map(str, names))}")


def _text(value: Any) -> str:
    # A label that is missing is None or, from a column of numbers, NaN.
    return "" if value is None or value != value else str(value)
