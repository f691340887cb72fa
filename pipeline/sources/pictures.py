"""What the sources of the user's own pictures share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec, LikelihoodName
from pipeline.pictures import decode_picture
from pipeline.sources.base import Examples, IntArray, RawSplit, Values
from pipeline.sources.own import Listed, OwnParams, OwnSource, read_checked


@dataclass(frozen=True, eq=False)
class Pictures(Examples):
    """Examples that are a picture file each, decoded when they are read."""

    keys: Sequence[str]
    y: IntArray
    folder: Path
    files: Sequence[Listed]
    shape: tuple[int, int, int]
    """C, H, W."""

    def read(self, i: int) -> Values:
        file = self.files[i]
        channels, height, width = self.shape
        where = f"{self.folder / file.path}: key {file.key}"
        return decode_picture(read_checked(self.folder, file), where, height, width, channels)


def class_indices(files: Sequence[Listed], classes: Sequence[str]) -> IntArray:
    """Class index of each file, -1 where it has no label, `[N]`."""
    places = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if file.label is None else places[file.label] for file in files], dtype=np.int64)


@dataclass(frozen=True)
class PictureSource(OwnSource):
    """What the sources of the user's own pictures share; see `pipeline.sources.base.Source`."""

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        return DataSpec(
            kind="image",
            shape=picture_shape(self.options),
            dtype="uint8",
            classes=classes,
            likelihood=picture_likelihood(self.options),
        )

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, _ = self.read_listing(raw)
        files = self.split(raw, split)
        return Pictures(
            [file.key for file in files], class_indices(files, classes), self.folder, files, picture_shape(self.options)
        )


def picture_shape(options: OwnParams) -> tuple[int, int, int]:
    """C, H, W of images made of own pictures."""
    return options.channels, options.height, options.width


def picture_likelihood(options: OwnParams) -> LikelihoodName:
    """p(x | r, v) of images made of own pictures."""
    if options.likelihood != "auto":
        return options.likelihood
    return "bernoulli" if options.channels == 1 else "discretized_logistic"
