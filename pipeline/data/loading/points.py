"""Points of a split by position: in memory, or read from shards through the index."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from pipeline.data.loading.slice_reader import SliceReader
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import SplitName
from pipeline.data.shards.reading import Reading
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray


class Points(Protocol):
    """Points of a split by position."""

    def take(self, positions: IntArray) -> Tensor:
        """As stored, `[n, *shape]`, on the training device."""
        ...


@dataclass(frozen=True, eq=False)
class InMemory:
    """See `Points`."""

    x: Tensor

    def take(self, positions: IntArray) -> Tensor:
        return self.x[torch.from_numpy(positions)]


class InShards:
    """See `Points`: read through the index at each request."""

    def __init__(self, dataset: ShardedDataset, split: SplitName, reading: Reading, device: torch.device):
        """
        Raises:
            DataError: the index is missing or damaged.
        """
        self._reader, self._device = SliceReader(dataset, split, reading), device
        self.index = self._reader.index

    def take(self, positions: IntArray) -> Tensor:
        """
        Raises:
            DataError: one is unreadable; names the shard and the key.
        """
        x, faults = self.look(positions)
        if faults:
            raise faults[min(faults)]
        return x

    def look(self, positions: IntArray) -> tuple[Tensor, dict[int, DataError]]:
        """As `take`, with the error of each unreadable position; its row means nothing."""
        x = np.empty((len(positions), *self._reader.spec.shape), self._reader.spec.dtype)
        faults = {fault.position: self._reader.error(fault) for fault in self._reader.rows(positions, x)}
        return torch.from_numpy(x).to(self._device), faults


@dataclass(frozen=True, eq=False)
class Kept:
    """See `Points`: some points of a split, in memory."""

    positions: IntArray
    """Ascending."""

    x: Tensor

    def take(self, positions: IntArray) -> Tensor:
        return self.x[torch.from_numpy(np.searchsorted(self.positions, positions))]


@dataclass(frozen=True, eq=False)
class Some:
    """See `Points`: the good ones among others."""

    points: Points
    positions: IntArray

    def take(self, positions: IntArray) -> Tensor:
        return self.points.take(self.positions[positions])


def readable(points: InShards, positions: IntArray, at_once: int = 4096) -> IntArray:
    """Readable positions."""
    bad: set[int] = set()
    for begin in range(0, len(positions), at_once):
        bad |= points.look(positions[begin : begin + at_once])[1].keys()
    return positions[~np.isin(positions, list(bad))] if bad else positions
