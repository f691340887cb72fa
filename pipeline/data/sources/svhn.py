"""SVHN, cropped digits: house numbers photographed from the street, 32x32 in colour, 10 classes.

`svhn-extra` has the 531,131 easier images of the third file as training examples besides: a data set of its own, with
its own folders, so that shards of both can be side by side and params are checked against the right counts.
"""

from __future__ import annotations

import os
import struct
import tempfile
import weakref
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec
from pipeline.data.example import Examples, RawSplit, Values
from pipeline.data.sources.base import PlainSource, RawFile
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

_SHAPE = (3, 32, 32)
_CHUNK = 4096
_SITE = "https://ufldl.stanford.edu/housenumbers/"
# What scipy raises for a file that is damaged or no .mat file; NotImplementedError for the HDF5 kind of them.
_DAMAGE = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OverflowError,
    EOFError,
    OSError,
    NotImplementedError,
    MemoryError,
    struct.error,
    zlib.error,
)


def read_mat(path: Path) -> tuple[npt.NDArray[np.uint8], IntArray]:
    """Images `[32, 32, 3, N]` and digits `[N]` of one of SVHN's .mat files, in which 10 stands for the digit 0.

    Raises:
        DataError: the file is missing, damaged, or holds something else.
    """
    from scipy.io import loadmat, whosmat
    from scipy.io.matlab import MatReadError

    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
    try:
        # Names and shapes first: nothing is read, and no memory taken, of a file that is another.
        shapes = {name: shape for name, shape, _ in whosmat(file)}
        num = shapes.get("X", (0,))[-1]
        if shapes.get("X") != (32, 32, 3, num) or shapes.get("y") != (num, 1) or num < 1:
            raise DataError(f"{path}: expected X of [32, 32, 3, N] and y of [N, 1]; found {shapes}")
        found: dict[str, Any] = loadmat(file, variable_names=["X", "y"])
    except (*_DAMAGE, MatReadError) as error:
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: not a .mat file that can be read ({said or type(error).__name__})") from error
    finally:
        file.close()
    images, digits = found["X"], found["y"][:, 0]
    if images.dtype != np.uint8 or not np.issubdtype(digits.dtype, np.number):
        raise DataError(f"{path}: X is of {images.dtype} and y of {digits.dtype}, expected uint8 and numbers")
    wrong = np.flatnonzero(~np.isin(digits, np.arange(1, 11)))
    if wrong.size:
        raise DataError(f"{path}: y of image {wrong[0]} is {digits[wrong[0]]}, expected 1 to 10")
    return images, digits.astype(np.int64) % 10


@dataclass(eq=False)
class UnpackedImages(Examples):
    """Images one after the other in a file, which each process maps into its memory when it first reads one."""

    keys: list[str]
    y: IntArray
    path: Path
    _mapped: npt.NDArray[np.uint8] | None = field(default=None, repr=False)

    def read(self, i: int) -> Values:
        if self._mapped is None:
            try:
                self._mapped = np.memmap(self.path, np.uint8, "r", shape=(len(self.keys), *_SHAPE))
            except (FileNotFoundError, ValueError) as error:
                raise DataError(f"{self.path}: the unpacked images are gone; run `ie shard` again") from error
        return np.array(self._mapped[i])

    def __getstate__(self) -> dict[str, Any]:
        # The map would be pickled as the whole array.
        return self.__dict__ | {"_mapped": None}


@dataclass(frozen=True)
class Svhn(PlainSource):
    """See `pipeline.data.sources.base.Source`."""

    name: str
    files: tuple[RawFile, ...]
    """Test, then those of train."""

    num_train: int
    num_classes: int = 10

    def spec(self, raw: Path) -> DataSpec:
        classes = tuple(str(digit) for digit in range(10))
        return DataSpec(kind="image", shape=_SHAPE, dtype="uint8", classes=classes, likelihood="discretized_logistic")

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        """The examples of a split. They are unpacked in a file beside `raw` as long as the result lives; copies of it
        in other processes read the same file."""
        keys: list[str] = []
        digits = []
        # Named so that `remove_leftovers` takes it away after a kill.
        handle, name = tempfile.mkstemp(prefix=f".{raw.name}.", suffix=".part", dir=raw.parent)
        try:
            with os.fdopen(handle, "wb") as unpacked:
                for file in self.files[1:] if split == "train" else self.files[:1]:
                    images, y = read_mat(raw / file.name)
                    keys += [f"{file.name.partition('_')[0]}-{i:06d}" for i in range(len(y))]
                    digits.append(y)
                    for start in range(0, len(y), _CHUNK):
                        part = images[..., start : start + _CHUNK].transpose(3, 2, 0, 1)
                        unpacked.write(np.ascontiguousarray(part).data)
                    del images  # before the next file's
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        examples = UnpackedImages(keys, np.concatenate(digits), Path(name))
        weakref.finalize(examples, _remove, Path(name), os.getpid())
        return examples


def _remove(path: Path, process: int) -> None:
    # A forked process has the finalizer too, and must not take the file from the others.
    if os.getpid() == process:
        path.unlink(missing_ok=True)


_TEST = RawFile(
    "test_32x32.mat",
    "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    64_275_384,
    {"https": (_SITE + "test_32x32.mat",)},
)
_TRAIN = RawFile(
    "train_32x32.mat",
    "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    182_040_794,
    {"https": (_SITE + "train_32x32.mat",)},
)
_EXTRA = RawFile(
    "extra_32x32.mat",
    "a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3",
    1_329_278_602,
    {"https": (_SITE + "extra_32x32.mat",)},
)

SVHN = Svhn("svhn", (_TEST, _TRAIN), num_train=73_257)
SVHN_EXTRA = Svhn("svhn-extra", (_TEST, _TRAIN, _EXTRA), num_train=73_257 + 531_131)
