"""The .ts format of time series with a class each, and what data sets in it share: a train and a test file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ie_model.scaling import mean_and_deviation
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import ArrayExamples, Examples, RawSplit, Values
from pipeline.data.sources.base import PlainSource, RawFile, numbered
from pipeline.data.sources.encodings import decode_text
from pipeline.data.sources.walk import Place
from pipeline.errors import DataError, FaultError

_KEYS = (
    "problemname",
    "timestamps",
    "missing",
    "univariate",
    "dimensions",
    "equallength",
    "serieslength",
    "classlabel",
    "data",
)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_INFINITE = re.compile(r"[+-]?inf(inity)?", re.IGNORECASE)
_LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Case:
    """One series of a .ts file."""

    x: npt.NDArray[np.float64]
    """`[C, length]`; missing values are NaN."""

    y: int
    """Index of its label."""

    line: int
    """Where it stands in the file, from 1."""


def read_ts(path: Place, num_channels: int, labels: tuple[str, ...]) -> list[Case]:
    """The cases of a .ts file, in its order.

    Layout: `#` comments; `@` lines, of which `@classLabel true LABEL...` is needed and `@data` the last; then a case a
    line, its dimensions separated by `:` and their values by `,`, its label last. A value may be `?` or NaN.

    Raises:
        DataError: the file is missing, or a line is not of the format; the message names file and line.
    """
    lines = _lines(path)
    start, length = _read_header(path, lines, num_channels, labels)
    cases = []
    for number, line in enumerate(lines[start:], start + 1):
        if line.strip():
            x, label = _read_case(line, f"{path}: line {number}", num_channels)
            if label not in labels:
                raise DataError(f"{path}: line {number}: label {label!r}, expected one of: {', '.join(labels)}")
            if length not in (None, x.shape[1]):
                raise DataError(f"{path}: line {number}: length {x.shape[1]}, the file's header has {length}")
            cases.append(Case(x, labels.index(label), number))
    if not cases:
        raise DataError(f"{path}: line {len(lines)}: the file ends without a case")
    return cases


def read_labels(path: Place) -> tuple[int, tuple[str, ...]]:
    """The number of channels and the labels of a .ts file of which nothing is known, by its header; where that does not
    tell the channels, by the first case.

    Raises:
        DataError: as `read_ts`; `read_ts` checks the rest of the header.
    """
    labels: tuple[str, ...] = ()
    channels: int | None = None
    started = False
    for number, line in enumerate(_lines(path), 1):
        text, where = line.strip(), f"{path}: line {number}"
        if started and text:
            return channels or len(text.split(":")) - 1, labels
        key, _, value = text.removeprefix("@").partition(" ")
        key, value = key.lower() if text.startswith("@") else "", value.strip()
        if key == "classlabel":
            told, *names = value.split() or [""]
            if told.lower() != "true" or len(set(names)) < 2:
                raise DataError(f"{where}: @classLabel is {value[:80]!r}, expected: true, then two labels or more")
            labels = tuple(dict.fromkeys(names))
        elif key == "dimensions":
            if not re.fullmatch("[1-9][0-9]{0,5}", value):
                raise DataError(f"{where}: @dimensions is {value[:80]!r}, expected a number from 1 up")
            channels = int(value)
        elif key == "data":
            if not labels:
                raise DataError(f"{where}: @classLabel has not come before @data")
            started = True
    raise DataError(f"{path}: the file ends without {'a case' if started else '@data'}")


def _lines(path: Place) -> list[str]:
    try:
        return decode_text(path.read_bytes()).split("\n")
    except FileNotFoundError as error:
        raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
    except ValueError as error:
        raise DataError(f"{path}: {error}") from error


def _read_header(path: Place, lines: list[str], num_channels: int, labels: tuple[str, ...]) -> tuple[int, int | None]:
    """The number of lines up to and with `@data`, and the length of all cases if the header has it."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text, where = line.strip(), f"{path}: line {number}"
        if not text or text.startswith("#"):
            continue
        if not text.startswith("@"):
            raise DataError(f"{where}: neither a comment nor a line of the header (@...), and @data has not come yet")
        key, _, value = text[1:].partition(" ")
        key, value = key.lower(), value.strip()
        if key not in _KEYS or key in found:
            raise DataError(f"{where}: @{key} is {'there twice' if key in found else 'not known'}")
        found[key] = value
        if key == "timestamps" and value.lower() != "false":
            raise DataError(f"{where}: @timeStamps is {value!r}; series with time stamps cannot be read")
        if key == "dimensions" and value != str(num_channels):
            raise DataError(f"{where}: @dimensions is {value!r}, expected {num_channels}")
        if key == "serieslength" and not re.fullmatch("[0-9]{1,9}", value):
            raise DataError(f"{where}: @seriesLength is {value!r}, expected a number")
        if key == "classlabel" and (value.split()[:1] != ["true"] or set(value.split()[1:]) != set(labels)):
            raise DataError(f"{where}: @classLabel is {value!r}, expected: true {' '.join(labels)}")
        if key == "data":
            if "classlabel" not in found:
                raise DataError(f"{where}: @classLabel has not come before @data")
            equal = found.get("equallength", "").lower() == "true" and "serieslength" in found
            return number, int(found["serieslength"]) if equal else None
    raise DataError(f"{path}: line {len(lines)}: the file ends without @data")


def _read_case(line: str, where: str, num_channels: int) -> tuple[npt.NDArray[np.float64], str]:
    *dimensions, label = line.split(":")
    if len(dimensions) != num_channels:
        raise DataError(f"{where}: {len(dimensions)} dimensions, expected {num_channels}")
    rows = [[_read_value(text.strip(), where) for text in dimension.split(",")] for dimension in dimensions]
    if len({len(row) for row in rows}) != 1:
        raise DataError(f"{where}: dimensions of unequal lengths, {sorted({len(row) for row in rows})}")
    return np.array(rows), label.strip()


def _read_value(text: str, where: str) -> float:
    if _NUMBER.fullmatch(text):
        value = float(text)
        if abs(value) <= _LARGEST:
            return value
    elif text == "?" or text.lower() == "nan":
        return float("nan")
    elif not _INFINITE.fullmatch(text):
        raise DataError(f"{where}: {text[:40]!r} is not a number")
    raise DataError(f"{where}: {text[:40]!r} is infinite, or too large for float32")


@dataclass(frozen=True)
class TsSeries(PlainSource):
    """See `pipeline.data.sources.base.Source`."""

    name: str
    labels: dict[str, str]
    """Names of the classes, in their order, by label in the files."""

    train: RawFile
    test: RawFile
    num_channels: int
    length: int
    """The longest of both files."""

    num_train: int

    @property
    def files(self) -> tuple[RawFile, ...]:
        return (self.train, self.test)

    @property
    def num_classes(self) -> int:
        return len(self.labels)

    def spec(self, raw: Path) -> DataSpec:
        return DataSpec(
            kind="series",
            shape=(self.num_channels, self.length),
            dtype="float32",
            classes=tuple(self.labels.values()),
            likelihood="gaussian",
        )

    def preprocessing(self, raw: Path) -> Preprocessing:
        # From train alone, for test too: what is known of test must not shape what the model sees.
        return scales(raw / self.train.name, self._read(raw / self.train.name))

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        train = self._read(raw / self.train.name)
        path = raw / (self.train if split == "train" else self.test).name
        cases = train if split == "train" else self._read(path)
        return scaled(path, split, cases, scales(raw / self.train.name, train))

    def _read(self, path: Path) -> list[Case]:
        cases = read_ts(path, self.num_channels, tuple(self.labels))
        for case in cases:
            if case.x.shape[1] > self.length:
                raise DataError(
                    f"{path}: line {case.line}: length {case.x.shape[1]}, {self.name}'s longest is {self.length}"
                )
        return cases


@dataclass(frozen=True, eq=False)
class SeriesExamples(ArrayExamples):
    """Cases of a .ts file. One of which nothing is known is a fault of it alone."""

    path: Place
    lines: Sequence[int]
    """Where each case stands in the file, from 1."""

    def read(self, i: int) -> Values:
        x = self.values[i]
        if np.isnan(x).all():
            raise FaultError(f"{self.path}: line {self.lines[i]}: key {self.keys[i]}: no value that is known")
        return x


def standardised(x: npt.NDArray[np.float64], scales: Preprocessing) -> npt.NDArray[np.float32]:
    """Each channel less its mean, over its deviation, `[C, length]`.

    Raises:
        ValueError: a value is out of float32's range then.
    """
    mean, deviation = (np.array(values)[:, None] for values in (scales.means, scales.deviations))
    with np.errstate(over="ignore"):
        result = ((x - mean) / deviation).astype(np.float32)
    if np.isinf(result).any():
        raise ValueError("a value is too far from train's for float32")
    return result


def scaled(path: Place, split: RawSplit, cases: Sequence[Case], scales: Preprocessing) -> SeriesExamples:
    """The cases of a split, read from `path`, as examples: each channel standardised.

    Raises:
        DataError: a value is out of float32's range then; the message names file and line.
    """
    values = []
    for case in cases:
        try:
            values.append(standardised(case.x, scales))
        except ValueError as error:
            raise DataError(f"{path}: line {case.line}: {error}") from error
    y = np.array([case.y for case in cases])
    return SeriesExamples(numbered(split, len(cases)), y, values, path, [case.line for case in cases])


def scales(path: Place, cases: Sequence[Case]) -> Preprocessing:
    """Mean and deviation of each channel over all times of all cases.

    Raises:
        DataError: a channel has no value at all, or hardly varies; the message names file and channel.
    """
    values = np.concatenate([case.x for case in cases], axis=1)
    for channel, missing in enumerate(np.isnan(values).all(axis=1)):
        if missing:
            raise DataError(f"{path}: dimension {channel + 1} has no value in any case")
    means, deviations = mean_and_deviation(values.T)
    if not deviations.all():
        dimension = int(deviations.argmin()) + 1
        raise DataError(f"{path}: dimension {dimension} varies by less than double precision can square; multiply it")
    return Preprocessing(means=tuple(means.tolist()), deviations=tuple(deviations.tolist()))
