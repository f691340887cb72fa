"""The IDX format, and what MNIST and its relatives share: four such files of small grey images and their labels."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec
from pipeline.data.example import ArrayExamples, Examples, RawSplit
from pipeline.data.sources.base import PlainSource, RawFile, numbered
from pipeline.errors import DataError

_UINT8 = 0x08
_PREFIX: dict[RawSplit, str] = {"train": "train", "test": "t10k"}


def read_idx(path: Path, num_dims: int) -> npt.NDArray[np.uint8]:
    """The array of an uncompressed IDX file of uint8 values, with `num_dims` dimensions.

    Layout: two zero bytes, the type (8: uint8), the number of dimensions, each size as big-endian uint32, the values.

    Raises:
        DataError: the file is missing, of another format, or its length is not what its header has.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
    header = 4 + 4 * num_dims
    if len(data) < header or data[:4] != bytes((0, 0, _UINT8, num_dims)):
        raise DataError(f"{path}: not an IDX file of uint8 values with {num_dims} dimension(s)")
    shape = struct.unpack(f">{num_dims}I", data[4:header])
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise DataError(f"{path}: {len(data)} bytes, its header has {expected}; the file is truncated or damaged")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


@dataclass(frozen=True)
class IdxImages(PlainSource):
    """See `pipeline.data.sources.base.Source`."""

    name: str
    classes: tuple[str, ...]
    files: tuple[RawFile, ...]
    num_train: int = 60_000

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def spec(self, raw: Path) -> DataSpec:
        return DataSpec(kind="image", shape=(1, 28, 28), dtype="uint8", classes=self.classes, likelihood="bernoulli")

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        images_path = raw / f"{_PREFIX[split]}-images-idx3-ubyte"
        images, labels = read_idx(images_path, 3), read_idx(raw / f"{_PREFIX[split]}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(f"{images_path}: {len(images)} images, but {len(labels)} labels beside it")
        return ArrayExamples(numbered(split, len(images)), labels.astype(np.int64), images[:, None])
