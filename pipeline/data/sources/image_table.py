"""The user's own images, by a table: a CSV or Parquet file with the path and the label of each picture."""

from __future__ import annotations

import contextlib
import math
import stat
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from pipeline.data.example import KEY
from pipeline.data.sources.image_files import PictureSource
from pipeline.data.sources.labels import OwnSplit, means_unlabelled, split_word, stripped
from pipeline.data.sources.rows import TABLES, Row, count_rows, place, read_rows
from pipeline.data.sources.user_data import Found, Layout, key_of
from pipeline.data.sources.walk import Place, Walk, checked_folder, checked_link, counted
from pipeline.errors import DataError
from pipeline.storage.object_path import ObjectPath, objects_below
from pipeline.utils.images import MOST_BYTES, SUFFIXES
from pipeline.utils.progress import Meter


class Table(PictureSource):
    """See `pipeline.data.sources.base.Source`.

    Columns are `path` (relative to data.folder), `label` (empty where it is not known), and optionally `split` (train,
    val or test), `key` and those of `data.own.factors`; others are passed over.
    """

    @property
    def name(self) -> str:
        return "table"

    @property
    def most_bytes(self) -> int:
        return MOST_BYTES

    def find(self) -> Layout:
        root = checked_folder(self.folder)
        walk = Walk(root, strict=False)
        table = _only_table(root, walk)
        factors = [name.lower() for name in self.options.factors]
        rows = _Rows(root, table, factors)
        with contextlib.closing(Meter("fetch: table", count_rows(table), "rows")) as meter:
            for count, (number, row) in enumerate(read_rows(table, factors), 1):
                rows.add(number, row)
                meter.update(count)
        for path in walk.below(root):
            if rows.has(path) or path == table:
                continue
            if path.suffix.lower() in SUFFIXES:
                walk.passed_over["picture(s) that the table does not name"] += 1
            else:
                walk.pass_over(path)
        return rows.layout(walk)


def _only_table(root: Place, walk: Walk) -> Place:
    found = [path for path in walk.files(root) if path.suffix.lower() in TABLES]
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        others = f"; others: {counted(walk.passed_over)}" if walk.passed_over else ""
        raise DataError(f"{root}: expected one table, a .csv or .parquet file; found: {names}{others}")
    return found[0]


class _Rows:
    """The examples of a table's rows."""

    def __init__(self, root: Place, table: Place, factors: Sequence[str]) -> None:
        self.root, self.table, self.factors = root, table, factors
        self.files: list[Found] = []
        self._numbers = array("q")
        self._paths: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._inside: dict[str, bool] = {}
        self._stripped = self._unlabelled = 0

    def has(self, path: Place) -> bool:
        """Whether a row names this picture."""
        return path.relative_to(self.root).as_posix() in self._paths

    def add(self, number: int, row: Row) -> None:
        """Raises DataError, with the row's place: it is not as it should be, or is there twice."""
        file = self._found(place(self.table, number), row)
        for what, value, seen in (("path", file.path, self._paths), ("key", file.key, self._keys)):
            if (twice := seen.setdefault(value, number)) != number:
                unit = place(self.table, twice).rpartition(": ")[2]
                raise DataError(f"{place(self.table, number)}: the {what} {value!r} is there already, see {unit}")
        self.files.append(file)
        self._numbers.append(number)

    def layout(self, walk: Walk) -> Layout:
        """Raises DataError: an example of val or test is of a class that train does not have."""
        files = self.files
        if not any(file.split == "test" for file in files):  # test is carved from train
            files = [replace(file, split=None) if file.split == "train" else file for file in files]
        trained = {file.label for file in files if file.split in (None, "train") and file.label is not None}
        for number, file in zip(self._numbers, files, strict=True):
            if file.label is not None and file.label not in trained:
                raise DataError(f"{place(self.table, number)}: class {file.label!r} is not in train")
        notes = []
        if self._stripped:
            notes.append(f"{self._stripped} label(s) have blanks before or after them, which are removed")
        if self._unlabelled:
            notes.append(f"{self._unlabelled} label(s) mean an unlabelled example, as `unlabelled` does")
        if num_val := sum(file.split == "val" for file in files):
            notes.append(f"{num_val} examples are val by the column split")
        ordered = sorted(files, key=lambda file: file.path)
        return Layout(tuple(sorted(trained)), tuple(ordered), walk.passed_over, tuple(notes))

    def _found(self, where: str, row: Row) -> Found:
        name = self._path(where, row["path"])
        label = stripped(row["label"])
        self._stripped += label != row["label"]
        if label and means_unlabelled(label, where):
            self._unlabelled += 1
            label = ""
        split: OwnSplit | None = split_word(row["split"]) if stripped(row["split"]) else "train"
        if split is None:
            raise DataError(f"{where}: split is {row['split']!r}; allowed: train, val, test, or nothing for train")
        if split != "train" and not label:
            raise DataError(f"{where}: an example of {split} without a label")
        key = stripped(row["key"])
        if key and not KEY.fullmatch(key):
            raise DataError(
                f"{where}: key is {key!r}; allowed are up to 80 letters, digits, '_' and '-', the first no '_' or "
                "'-'; without the column, keys are made of the paths"
            )
        factors = tuple(_number(row[factor], factor, where) for factor in self.factors)
        return Found(name, label or None, split, key or key_of(name), factors=factors)

    def _path(self, where: str, text: str) -> str:
        """The picture's path below the table's folder."""
        path = self.root / text
        if not text or PurePosixPath(text).is_absolute() or ".." in path.parts:
            raise DataError(f"{where}: path is {text!r}; it must be relative to the table's folder and stay inside")
        if path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{where}: {text!r} is no picture; allowed: {', '.join(SUFFIXES)}")
        if isinstance(path, ObjectPath):
            assert isinstance(self.root, ObjectPath)
            if path not in objects_below(self.root).files:
                raise DataError(f"{where}: no such file: {path}")
            return path.relative_to(self.root).as_posix()
        try:
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode) or not self._is_inside(path):
                checked_link(path, Path(self.root))
                mode = path.stat().st_mode
        except (FileNotFoundError, NotADirectoryError) as error:
            hint = "; write folders with /" if "\\" in text else ""
            raise DataError(f"{where}: no such file: {path}{hint}") from error
        except (OSError, RuntimeError) as error:  # a name that is too long, or a loop of links
            raise DataError(f"{where}: {text[:80]!r} cannot be opened ({type(error).__name__})") from error
        if not stat.S_ISREG(mode):
            raise DataError(f"{where}: {'a folder' if stat.S_ISDIR(mode) else 'not a plain file'}: {path}")
        return path.relative_to(self.root).as_posix()

    def _is_inside(self, path: Path) -> bool:
        """Whether no link on its way leads out; known folders are not looked at again."""
        folder = str(path.parent)
        if folder not in self._inside:
            self._inside[folder] = path.parent.resolve().is_relative_to(self.root)
        return self._inside[folder]


def _number(text: str, factor: str, where: str) -> float | None:
    """A factor's value, None where it is missing. Raises DataError: it is no finite number."""
    if stripped(text).lower() in ("", "na", "n/a", "nan", "null"):
        return None
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise DataError(f"{where}: factor {factor!r} is {text[:80]!r}; allowed: a finite number, or nothing where unknown")
