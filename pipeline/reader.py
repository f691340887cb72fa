"""A split in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.index import read_index
from pipeline.labels import IntArray
from pipeline.plan import EpochPlan, draw_support
from pipeline.samples import padded
from pipeline.shards import Manifest, SplitName
from pipeline.slices import Places, SliceReader
from pipeline.store import StoreSettings, open_store

__all__ = ["EpochPlan", "SplitData", "draw_support", "load_split", "memory_bytes", "padded"]

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
    """Examples that could not be had and were left out."""

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
    folder: Path,
    manifest: Manifest,
    split: SplitName,
    log: Callable[[str], None] | None = None,
    settings: StoreSettings | None = None,
    skip: bool = False,
) -> SplitData:
    """Reads all shards of a split. Examples are sorted by key: what follows does not depend on the shards' layout.

    Args:
        folder: where the manifest lies. Tars are read by way of the index, each sample is checked by its CRC-32.
        settings: how to read an object store; one without a cache and with five retries when None.
        skip: leave out examples that cannot be had, instead of raising.

    Raises:
        DataError: the index or a shard is missing or damaged.
        ResourceError: an object store cannot be reached.
    """
    x = np.empty((manifest.splits[split].samples, *manifest.spec.shape), dtype=manifest.spec.dtype)
    index, shards = read_index(folder, manifest, split), manifest.splits[split].shards
    store = open_store(folder, manifest, [split], settings or StoreSettings(Path(), cache_mb=0, retries=5))
    reader = SliceReader(Places.of(index), shards, store, manifest.spec, manifest.encoding)
    faults = reader.rows(np.arange(len(index)), x, _SLICE_BYTES)
    if faults and not skip:
        raise faults[0].error(index, shards, store)
    bad = np.array([fault.position for fault in faults], dtype=np.int64)
    keys, y = list(index.keys), index.y
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{folder}: the key {twice!r} occurs twice in split {split}")
    order = np.argsort(np.array(keys))
    order = order[~np.isin(order, bad)]
    if log is not None:
        log(f"read {len(keys)} {split} examples")
    return SplitData(manifest.spec, [keys[i] for i in order], torch.from_numpy(x[order]), y[order], len(bad))
