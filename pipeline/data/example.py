"""What sources give and shards hold: examples, one by one or as the examples of a split."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.utils.arrays import IntArray

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
"""What a key may be: the name of a member of a tar, up to its first dot."""

RawSplit = Literal["train", "test"]

Values = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class Example:
    """One raw example. By the kind of its source's DataSpec, `x` holds

    - `image`: uint8 `[C, H, W]`, 0 to 255;
    - `series`: float32 `[C, length]`, of this example's own length, which is at most the T of the spec; a value that is
      missing is NaN, none is infinite. Each channel is standardised by its mean and deviation over the raw train split;
    - `vector`: float32 `[D]`, finite; each feature is standardised by its mean and deviation over the raw train split;
    - `counts`: int32 `[W]`, how often each word of the vocabulary occurs; at least one does.
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
