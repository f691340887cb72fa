"""The user's own feature vectors: one file of rows, or a file for each split."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ie_model.scaling import mean_and_deviation
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import KEY, Examples, RawSplit, Values
from pipeline.data.sources.labels import OwnSplit, check_unlike, means_unlabelled, split_word, stripped
from pipeline.data.sources.user_data import Found, Layout, Listed, OwnSource, carve_test, read_checked
from pipeline.data.sources.vector_files import ARRAY, TABLES, Rows, read_array, read_vectors, texts
from pipeline.data.sources.walk import Place, Walk, checked_folder, counted
from pipeline.errors import DataError, FaultError
from pipeline.utils.arrays import IntArray

_LABELS = "-y"
"""Ends the key of a .npy file that holds labels."""


@dataclass(frozen=True, eq=False)
class _All:
    """All rows of all files."""

    x: npt.NDArray[np.float64]
    """`[N, D]`."""

    features: tuple[str, ...]
    factors: npt.NDArray[np.float64]
    """`[N, F]`; NaN where a value is missing."""

    labels: list[str]
    """Empty: unlabelled."""

    splits: list[OwnSplit | None]
    """None: train, of which test is to be carved."""

    keys: list[str]
    where: list[str]
    """File and row, for errors."""

    notes: tuple[str, ...]


class Vectors(OwnSource):
    """See `pipeline.data.sources.base.Source`."""

    @property
    def name(self) -> str:
        return "vectors"

    @property
    def most_bytes(self) -> int:
        return 4_000_000_000

    @property
    def file_factors(self) -> tuple[str, ...]:
        return ()  # a file holds many examples

    def find(self) -> Layout:
        root = checked_folder(self.folder)
        walk = Walk(root, strict=False)
        found = _files(root, walk)
        parts = []
        for file in found:
            self.checked_size(root / file.path)
            parts.append((file, (root / file.path).read_bytes()))
        rows = _joined(root, parts, self.options.factors)
        classes = _classes(root, rows)
        return Layout(classes, tuple(found), walk.passed_over, rows.notes)

    def val_keys(self, raw: Path) -> frozenset[str]:
        rows = self._rows(raw)
        return frozenset(key for key, split in zip(rows.keys, rows.splits, strict=True) if split == "val")

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        shape = (self._rows(raw).x.shape[1],)
        return DataSpec(kind="vector", shape=shape, dtype="float32", classes=classes, likelihood="gaussian")

    def preprocessing(self, raw: Path) -> Preprocessing:
        # From train alone, for test too: what is known of test must not shape what the model sees.
        rows = self._rows(raw)
        return scales_of(rows.x[self._members(rows, "train")], rows.features, str(self.folder))

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, files = self.read_listing(raw)
        rows = self._rows(raw)
        members = self._members(rows, split)
        if not len(members):
            raise DataError(f"{self.folder}: no row for {split}; classes of two rows give none to test: add rows")
        index = {name: i for i, name in enumerate(classes)}
        y = np.array([index.get(rows.labels[i], -1) for i in members])
        keys = [rows.keys[i] for i in members]
        scales = self.preprocessing(raw)
        return VectorExamples(keys, y, self.folder, tuple(files), self.options.factors, members, scales)

    def factors(self, raw: Path, split: RawSplit) -> npt.NDArray[np.float64]:
        rows = self._rows(raw)
        return rows.factors[self._members(rows, split)]

    def _members(self, rows: _All, split: RawSplit) -> IntArray:
        """Rows of a raw split; those of val are of raw train."""
        open_rows = [
            Found("", label or None, None, key)
            for key, label, s in zip(rows.keys, rows.labels, rows.splits, strict=True)
            if s is None
        ]
        test = carve_test(open_rows, self.options.test_size, self.seed)
        is_test = [s == "test" or key in test for key, s in zip(rows.keys, rows.splits, strict=True)]
        return np.flatnonzero(np.array(is_test) == (split == "test"))

    def _rows(self, raw: Path) -> _All:
        return _read(self.folder, tuple(self.read_listing(raw)[1]), self.options.factors)


@dataclass(frozen=True, eq=False)
class VectorExamples(Examples):
    """Rows of the files, standardised; a process that reads them opens the files once."""

    keys: list[str]
    y: IntArray
    folder: Place
    files: tuple[Listed, ...]
    factors: tuple[str, ...]
    """Columns that are no features."""

    members: IntArray
    scales: Preprocessing

    def read(self, i: int) -> Values:
        rows = _read(self.folder, self.files, self.factors)
        row = int(self.members[i])
        try:
            return standardised(rows.x[row], self.scales)
        except ValueError as error:
            raise FaultError(f"{rows.where[row]}: key {self.keys[i]}: {error}") from error


def standardised(x: npt.NDArray[np.float64], scales: Preprocessing) -> npt.NDArray[np.float32]:
    """A vector `[D]` less the features' means, over their deviations.

    Raises:
        ValueError: a value is missing, infinite, or out of float32's range then; the message names the feature.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        result = ((x - np.array(scales.means)) / np.array(scales.deviations)).astype(np.float32)
    if not (finite := np.isfinite(result)).all():
        first = int(np.argmin(finite))
        name = repr(scales.features[first]) if scales.features else str(first + 1)
        value = x[first]
        what = "missing or NaN" if np.isnan(value) else "infinite" if np.isinf(value) else "too far from train's"
        raise ValueError(f"feature {name} is {what}")
    return result


def scales_of(x: npt.NDArray[np.float64], features: tuple[str, ...], where: str) -> Preprocessing:
    """Mean and deviation of each feature over the rows `[N, D]` that have all values.

    Raises:
        DataError: none has.
    """
    whole = x[np.isfinite(x).all(axis=1) & (np.abs(x) < np.finfo(np.float32).max).all(axis=1)]
    if not len(whole):
        empty = [i for i in range(x.shape[1]) if not np.isfinite(x[:, i]).any()]
        names = features or tuple(map(str, range(1, x.shape[1] + 1)))
        which = f"; feature {names[empty[0]]!r} has no value at all" if empty else ""
        raise DataError(f"{where}: no row of train has a finite value of every feature{which}")
    means, deviations = mean_and_deviation(whole)
    deviations = np.where(deviations == 0, 1.0, deviations)
    return Preprocessing(means=tuple(means.tolist()), deviations=tuple(deviations.tolist()), features=features)


def _files(root: Place, walk: Walk) -> list[Found]:
    """One table, or a table or a pair of arrays for each split. Raises DataError: anything else."""
    tables: dict[OwnSplit | None, list[Place]] = {}
    arrays: dict[OwnSplit | None, dict[str, list[Place]]] = {}
    for path in walk.below(root):
        suffix = path.suffix.lower()
        if path.parent == root and suffix in TABLES:
            tables.setdefault(split_word(path.stem), []).append(path)
        elif path.parent == root and suffix == ARRAY and (named := _array_name(path.stem)):
            arrays.setdefault(named[1], {}).setdefault(named[0], []).append(path)
        else:
            walk.pass_over(path)
    one_form = "one .csv, .tsv, .parquet or .npz file, or one for each of train, val and test, or x.npy with y.npy"
    groups = [*tables.values(), *(files for pair in arrays.values() for files in pair.values())]
    both = bool(tables) == bool(arrays)
    if both or any(len(group) > 1 for group in groups) or (None in (tables or arrays) and len(tables or arrays) > 1):
        there = ", ".join(sorted(path.name for group in groups for path in group)) or "none"
        others = f"; others: {counted(walk.passed_over)}" if walk.passed_over else ""
        raise DataError(f"{root}: expected {one_form}; found: {there}{others}")
    if "train" not in (tables or arrays) and None not in (tables or arrays):
        raise DataError(f"{root}: no file for train among {', '.join(path.name for g in groups for path in g)}")
    found = [Found(files[0].name, None, split, split or "row") for split, files in tables.items()]
    for split, pair in arrays.items():
        if missing := {"x", "y"} - pair.keys():
            raise DataError(f"{root}: {next(iter(pair.values()))[0].name} without its array {min(missing)}")
        found += [Found(pair["x"][0].name, None, split, split or "row")]
        found += [Found(pair["y"][0].name, None, split, (split or "row") + _LABELS)]
    return sorted(found, key=lambda file: file.path)


def _array_name(stem: str) -> tuple[str, OwnSplit | None] | None:
    """`x`, `y`, `X_train`, `test-y`: which array of which split; None where the name is none of these."""
    words = stem.lower().replace("-", "_").split("_")
    kinds = [word for word in words if word in ("x", "y")]
    others = "_".join(word for word in words if word not in ("x", "y"))
    split = split_word(others) if others else None
    return (kinds[0], split) if len(kinds) == 1 and (split or not others) else None


# Every process reads the files once; two, for the folders of a test.
@functools.lru_cache(maxsize=2)
def _read(folder: Place, files: tuple[Listed, ...], factors: tuple[str, ...]) -> _All:
    return _joined(folder, [(file, read_checked(folder, file)) for file in files], factors)


def _joined(
    root: Place, parts: list[tuple[Listed, bytes]] | list[tuple[Found, bytes]], factors: tuple[str, ...]
) -> _All:
    """The rows of all files, each label and split in its one spelling. Raises DataError: they do not fit."""
    by_key = {file.key: (file, data) for file, data in parts}
    tables: list[tuple[Found, Rows]] = []
    for key, (file, data) in by_key.items():
        path = root / file.path
        if key.endswith(_LABELS):
            continue
        rows = read_vectors(path, data, factors)
        if (pair := by_key.get(key + _LABELS)) is not None:
            other = root / pair[0].path
            labels = texts(other, "y", read_array(other, pair[1]))
            if len(labels) != len(rows.x):
                raise DataError(f"{other}: {len(labels)} labels for the {len(rows.x)} rows of {file.path}")
            rows = Rows(rows.x, (), {"label": labels})
        if "label" not in rows.words:
            there = f"; its columns are: {', '.join(rows.features[:20])}" if rows.features else ""
            raise DataError(f"{path}: expected a column `label` (in .npz an array y){there}")
        tables.append((file, rows))
    tables.sort(key=lambda table: table[0].split not in (None, "train"))
    first_file, first = tables[0]
    x, others, labels, splits, keys, where = [], [], [], [], [], []
    notes: Counter[str] = Counter()
    for file, rows in tables:
        path = root / file.path
        x.append(_in_order(path, rows, first_file.path, first))
        columns = [rows.factors[name.lower()] for name in factors]
        others.append(np.array(columns, dtype=np.float64).reshape(len(factors), len(rows.x)).T)
        for i in range(len(rows.x)):
            place = f"{path}: row {i + 1}"
            label, said = _label(rows.words["label"][i], place)
            split = _split(rows.words.get("split", [""] * len(rows.x))[i], file.split, place)
            if split in ("val", "test") and not label:
                raise DataError(f"{place}: a row of {split} without a label")
            key = stripped(rows.words["key"][i]) if "key" in rows.words else ""
            if key and not KEY.fullmatch(key):
                raise DataError(f"{place}: key is {key[:90]!r}; allowed are up to 80 letters, digits, '_' and '-'")
            labels.append(label)
            splits.append(split)
            keys.append(key or f"{file.key}-{i:07d}")
            where.append(place)
            notes.update(said)
    if len(set(keys)) < len(keys):
        twice = next(key for key, num in Counter(keys).items() if num > 1)
        raise DataError(f"{where[len(keys) - 1 - keys[::-1].index(twice)]}: the key {twice!r} is there already")
    if "test" in splits:
        splits = [split or "train" for split in splits]
    else:
        splits = [None if split == "train" else split for split in splits]
    minus = _minus_one(root, labels)
    if minus:
        labels = ["" if label == "-1" else label for label in labels]
        notes["label(s) are -1, which stands for unlabelled"] += minus
    told = tuple(f"{num} {what}" for what, num in notes.items())
    return _All(np.concatenate(x), first.features, np.concatenate(others), labels, splits, keys, where, told)


def _in_order(path: Place, rows: Rows, other: str, first: Rows) -> npt.NDArray[np.float64]:
    """Values with the columns in the first file's order."""
    if rows.x.shape[1] != first.x.shape[1]:
        raise DataError(f"{path}: {rows.x.shape[1]} features, {other} has {first.x.shape[1]}")
    if rows.features == first.features:
        return rows.x
    if difference := sorted(set(first.features) ^ set(rows.features)):
        raise DataError(f"{path}: its columns are not those of {other}: {difference[0]!r} is in one alone")
    return rows.x[:, [rows.features.index(name) for name in first.features]]


def _label(text: str, where: str) -> tuple[str, list[str]]:
    label = stripped(text)
    notes = ["label(s) have blanks before or after them, which are removed"] if label != text else []
    if label and means_unlabelled(label, where):
        return "", [*notes, "label(s) mean an unlabelled row, as `unlabelled` does"]
    return label, notes


def _split(text: str, of_file: OwnSplit | None, where: str) -> OwnSplit | None:
    word = stripped(text)
    if not word:
        return of_file
    split = split_word(word)
    if split is None or (of_file is not None and split != of_file):
        allowed = f"{of_file}, as the file's name has it" if of_file else "train, val, test, or nothing for train"
        raise DataError(f"{where}: split is {text!r}; allowed: {allowed}")
    return split


def _minus_one(root: Place, labels: list[str]) -> int:
    """How many labels are -1 and mean unlabelled, as in scikit-learn. Raises DataError: they may be a class."""
    num, others = labels.count("-1"), {label for label in labels if label not in ("", "-1")}
    if not num or not all(label.lstrip("-").isdigit() for label in others):
        return 0
    if len(others) == 1 or any(label.startswith("-") for label in others):
        raise DataError(
            f"{root}: label -1 may be a class, or stand for an unlabelled row; leave the label empty for unlabelled "
            "rows, or name the class by another word"
        )
    return num


def _classes(root: Place, rows: _All) -> tuple[str, ...]:
    """Raises DataError: fewer than two classes, one of a single row of train, or one that train does not have."""
    trained = Counter(
        label for label, split in zip(rows.labels, rows.splits, strict=True) if label and split in (None, "train")
    )
    for label, place in zip(rows.labels, rows.where, strict=True):
        if label and label not in trained:
            raise DataError(f"{place}: class {label!r} is not in train")
    for label, num in trained.items():
        if num < 2:
            raise DataError(f"{root}: class {label!r} has {num} row in train; at least 2 are needed")
    # 2 before 10.
    classes = sorted(trained, key=lambda c: (0, int(c), c) if c.isdecimal() and len(c) < 19 else (1, 0, c))
    check_unlike(classes, str(root))
    return tuple(classes)
