"""A split from its first example to its last, whether it fits into memory or not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from ie_model.spec import DataSpec
from pipeline.data.loading.in_memory import SplitData, load_split
from pipeline.data.loading.points import InShards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import SplitName
from pipeline.data.shards.reading import Reading
from pipeline.utils.arrays import IntArray


class Split(Protocol):
    """Examples by row, in the order of their keys."""

    @property
    def keys(self) -> Sequence[str]: ...

    @property
    def y(self) -> IntArray:
        """Class index, -1 where not known, `[N]`."""
        ...

    @property
    def skipped(self) -> int:
        """Unreadable examples; known when all have been read."""
        ...

    def __len__(self) -> int: ...

    def take(self, rows: IntArray) -> SplitData:
        """Some of the examples, in memory."""
        ...

    def batches(self, size: int) -> Iterator[tuple[IntArray, SplitData]]:
        """All examples, `size` at a time at most, in the order in which they are read best: their rows, and they."""
        ...


class StreamedSplit:
    """See `Split`: values are read through the index on demand; about 50 bytes an example stay."""

    def __init__(self, points: InShards, spec: DataSpec, skip: bool) -> None:
        """
        Args:
            skip: leave out unreadable examples, instead of raising.
        """
        self.spec, self._points, self._skip = spec, points, skip
        self._positions = points.index.keys.order()
        self.keys = points.index.keys.take(self._positions)
        self.y = points.index.y[self._positions]
        self._bad: set[int] = set()

    @property
    def skipped(self) -> int:
        return len(self._bad)

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: IntArray) -> SplitData:
        """
        Raises:
            DataError: one is unreadable, and none is to be skipped; names the shard and the key.
        """
        return self._read(rows)[1]

    def batches(self, size: int) -> Iterator[tuple[IntArray, SplitData]]:
        """In the order of the shards. Raises as `take`."""
        in_shards = np.argsort(self._positions, kind="stable")
        for start in range(0, len(self), size):
            yield self._read(in_shards[start : start + size])

    def _read(self, rows: IntArray) -> tuple[IntArray, SplitData]:
        positions = self._positions[rows]
        if not self._skip:
            return rows, SplitData(self.spec, list(self.keys.take(rows)), self._points.take(positions), self.y[rows])
        x, faults = self._points.look(positions)
        self._bad |= faults.keys()
        good = ~np.isin(positions, list(faults))
        rows = rows[good]
        return rows, SplitData(self.spec, list(self.keys.take(rows)), x[torch.from_numpy(good)], self.y[rows])


def open_split(dataset: ShardedDataset, split: SplitName, reading: Reading) -> Split:
    """A split as a run reads its data: in memory, or streamed, by `reading.mode`.

    Raises:
        DataError: the index or a shard is missing or damaged.
        ResourceError: an object store cannot be reached.
    """
    if reading.mode == "memory":
        return load_split(dataset, split, reading=reading)
    points = InShards(dataset, split, reading, torch.device("cpu"))
    return StreamedSplit(points, dataset.spec, skip=reading.faults == "skip")
