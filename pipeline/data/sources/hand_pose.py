"""Hand poses of pose-classification-kit (Findelair 2020, MIT licence): 11,204 poses that OpenPose found, 21 key points
of a left or right hand each; the class is one of 27 gestures."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import ArrayExamples, Examples, RawSplit
from pipeline.data.sources.base import PlainSource, RawFile
from pipeline.data.sources.vectors import scales_of, standardised
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

FEATURES = tuple(f"{axis}{point}" for point in range(21) for axis in "xy")
COLUMNS = ("label", "hand", "accuracy", *FEATURES)
_HANDS = ("left", "right")
_GESTURES = """Chef Help Super VIP Water Metal Dislike Loser Phone Shaka Stop Vulcan_Salute Power_Fist Horns Fight_Fist
Middle_Finger Ok"""
GAP = 20
"""Rows left out between train and test: at this distance two rows are about as far apart as any of their recording."""

_CSV = RawFile(
    "HandPose_Dataset.csv",
    "bb9e11ec73f54111301e6cb3063bf0b9251523e79ee4646e7cecf47cff599d07",
    5_703_890,
    {"pypi": ("pose-classification-kit==1.1.5:pose_classification_kit/datasets/HandPose_Dataset.csv",)},
)


@dataclass(frozen=True, eq=False)
class _Poses:
    """All rows of the file, in its order."""

    x: npt.NDArray[np.float64]
    """`[N, 42]`."""

    y: IntArray
    """`[N]`."""

    keys: list[str]
    """Hand and row: `left-000017`."""

    run: IntArray
    """Which recording, of a gesture with one hand, `[N]`."""


@dataclass(frozen=True)
class HandPose(PlainSource):
    """See `pipeline.data.sources.base.Source`.

    Neighbouring rows are near copies, frames of one recording. So of each gesture and hand the last fifth of the rows
    is test, the `GAP` rows before it are in neither split, and the others are train. Left and right hands stay as they
    are, mirror images of each other; the key names the hand. OpenPose's confidence (`accuracy`) is not a feature.
    """

    name: str = "hand-pose"
    classes: tuple[str, ...] = (*map(str, range(10)), *_GESTURES.split())
    num_train: int = 7_906
    files: tuple[RawFile, ...] = (_CSV,)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def spec(self, raw: Path) -> DataSpec:
        return DataSpec(
            kind="vector", shape=(len(FEATURES),), dtype="float32", classes=self.classes, likelihood="gaussian"
        )

    def preprocessing(self, raw: Path) -> Preprocessing:
        # From train alone, for test too: what is known of test must not shape what the model sees.
        poses = self._read(raw)
        return scales_of(poses.x[members(poses.run, "train")], FEATURES, str(raw / _CSV.name))

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        poses = self._read(raw)
        rows = {name: members(poses.run, name) for name in ("train", "test")}
        where = str(raw / _CSV.name)
        scales = scales_of(poses.x[rows["train"]], FEATURES, where)
        try:
            values = [standardised(poses.x[i], scales) for i in rows[split]]
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        return ArrayExamples([poses.keys[i] for i in rows[split]], poses.y[rows[split]], values)

    def _read(self, raw: Path) -> _Poses:
        path = raw / _CSV.name
        index = {name: i for i, name in enumerate(self.classes)}
        x, y, keys, run = [], [], [], []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                lines = csv.reader(file)
                if tuple(next(lines, ())) != COLUMNS:
                    raise DataError(f"{path}: its columns are not {', '.join(COLUMNS[:5])}, ...; run `ie fetch`")
                for i, line in enumerate(lines):
                    if len(line) != len(COLUMNS) or line[0] not in index or line[1] not in _HANDS:
                        raise ValueError(f"not a gesture, a hand and {len(COLUMNS) - 2} numbers")
                    x.append(np.array(line[3:], dtype=np.float64))
                    if not np.isfinite(x[-1]).all():
                        raise ValueError("a value is not finite")
                    y.append(index[line[0]])
                    keys.append(f"{line[1]}-{i:06d}")
                    run.append(2 * y[-1] + _HANDS.index(line[1]))
        except FileNotFoundError as error:
            raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
        except (ValueError, csv.Error) as error:
            raise DataError(f"{path}: line {len(keys) + 2}: {error}; run `ie fetch`") from error
        if not keys:
            raise DataError(f"{path}: no row; run `ie fetch`")
        return _Poses(np.stack(x), np.array(y), keys, np.array(run))


def members(run: IntArray, split: RawSplit) -> IntArray:
    """Rows of a split, in order, by the recording `[N]` of each row."""
    chosen = []
    for number in np.unique(run):
        rows = np.flatnonzero(run == number)
        first = len(rows) - len(rows) // 5
        chosen.append(rows[first:] if split == "test" else rows[: max(0, first - GAP)])
    return np.sort(np.concatenate(chosen))


HAND_POSE = HandPose()
