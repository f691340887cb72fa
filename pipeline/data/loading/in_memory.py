"""A split in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ie_model.spec import DataSpec
from pipeline.data.loading.slice_reader import SliceReader
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, SplitName
from pipeline.data.shards.reading import ONCE, Reading
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

_SLICE_BYTES = 8 << 20


@dataclass(frozen=True)
class SplitData:
    """A split, decoded once and kept in memory, in the order of its keys."""

    spec: DataSpec
    keys: list[str]
    x: Tensor
    """As stored, `[N, *spec.shape]`; series are NaN past their end."""

    y: IntArray
    """Class index, -1 where not known, `[N]`."""

    skipped: int = 0
    """Unreadable examples that were left out."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: IntArray) -> SplitData:
        """Some of the examples."""
        return SplitData(self.spec, [self.keys[i] for i in rows], self.x[torch.from_numpy(rows)], self.y[rows])

    def batches(self, size: int) -> Iterator[tuple[IntArray, SplitData]]:
        """All examples in their order, `size` at a time: their rows, and they."""
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            part = SplitData(self.spec, self.keys[rows], self.x[rows], self.y[rows])
            yield np.arange(start, start + len(part)), part


def memory_bytes(manifest: Manifest, splits: Sequence[SplitName]) -> int:
    """Bytes that the values of some splits take in memory, as `load_split` keeps them."""
    values = manifest.spec.num_values * np.dtype(manifest.spec.dtype).itemsize
    return sum(manifest.splits[split].samples for split in splits) * values


def load_split(
    dataset: ShardedDataset,
    split: SplitName,
    log: Callable[[str], None] | None = None,
    reading: Reading = ONCE,
) -> SplitData:
    """Reads all shards of a split. Examples are sorted by key: what follows does not depend on the shards' layout.

    Args:
        dataset: its tars are read through the index, each sample is checked by its CRC-32.
        reading: retries and cache of an object store; `faults` says whether unreadable examples are left out.

    Raises:
        DataError: the index or a shard is missing or damaged.
        ResourceError: an object store cannot be reached.
    """
    spec, reader = dataset.spec, SliceReader(dataset, split, reading)
    index = reader.index
    x = np.empty((len(index), *spec.shape), dtype=spec.dtype)
    faults = reader.rows(np.arange(len(index)), x, _SLICE_BYTES)
    if faults and reading.faults == "fatal":
        raise reader.error(faults[0])
    bad = np.array([fault.position for fault in faults], dtype=np.int64)
    keys, y = list(index.keys), index.y
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{dataset.folder}: the key {twice!r} occurs twice in split {split}")
    order = np.argsort(np.array(keys))
    order = order[~np.isin(order, bad)]
    if log is not None:
        log(f"read {len(keys)} {split} examples")
    return SplitData(spec, [keys[i] for i in order], torch.from_numpy(x[order]), y[order], len(bad))
