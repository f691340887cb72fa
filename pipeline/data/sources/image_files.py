"""What the sources of the user's own pictures share."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec, LikelihoodName
from pipeline.data.example import Examples, RawSplit, Values
from pipeline.data.sources.user_data import LISTING, Listed, OwnParams, OwnSource, read_checked
from pipeline.data.sources.walk import Place
from pipeline.errors import FaultError
from pipeline.utils.arrays import IntArray
from pipeline.utils.images import decode_picture

# Pictures, spread over the list, that `channels: auto` looks at, and the side that they are scaled to for that.
_LOOKED_AT, _SIDE = 500, 32
_GREY_SPREAD, _GREY_SHARE = 24, 0.001


@dataclass(frozen=True, eq=False)
class Pictures(Examples):
    """Examples that are a picture file each, decoded when they are read."""

    keys: Sequence[str]
    y: IntArray
    folder: Place
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
    """What the sources of the user's own pictures share; see `pipeline.data.sources.base.Source`."""

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        shape = self._shape(raw)
        likelihood = picture_likelihood(self.options, shape[0])
        return DataSpec(kind="image", shape=shape, dtype="uint8", classes=classes, likelihood=likelihood)

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, _ = self.read_listing(raw)
        files = self.split(raw, split)
        keys = [file.key for file in files]
        return Pictures(keys, class_indices(files, classes), self.folder, files, self._shape(raw))

    def _shape(self, raw: Path) -> tuple[int, int, int]:
        """C, H, W."""
        channels = self.options.channels
        if channels == "auto":
            channels = _channels(self, raw, self.checksums(raw)[LISTING])
        return channels, self.options.height, self.options.width


def picture_likelihood(options: OwnParams, channels: int) -> LikelihoodName:
    """p(x | r, v) of images made of own pictures."""
    if options.likelihood != "auto":
        return options.likelihood
    return "bernoulli" if channels == 1 else "discretized_logistic"


@lru_cache(maxsize=2)  # asked for by spec and for each split
def _channels(source: PictureSource, raw: Path, listing: str) -> Literal[1, 3]:
    """1 where no picture that is looked at has colour; `listing` is the checksum of the list of files."""
    _, files = source.read_listing(raw)
    for file in files[:: max(1, len(files) // _LOOKED_AT)]:
        with contextlib.suppress(FaultError):  # reported where the example is read
            where = f"{source.folder / file.path}: key {file.key}"
            if has_colour(decode_picture(read_checked(source.folder, file), where, _SIDE, _SIDE, 3)):
                return 3
    return 1


def has_colour(picture: npt.NDArray[np.uint8]) -> bool:
    """Whether the channels `[3, H, W]` differ by more than JPEG makes those of a grey picture differ."""
    spread = picture.max(0).astype(int) - picture.min(0)
    return bool((spread > _GREY_SPREAD).mean() > _GREY_SHARE)
