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
from pipeline.slices import Places, SliceReader, Values
from pipeline.store import StoreSettings, open_store
from pipeline.tars import iter_shard

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
        folder: where the manifest lies. Tars beside it are read whole; those that lie elsewhere by way of the index,
            each sample checked by its CRC-32.
        settings: how to read an object store; one without a cache and with five retries when None.
        skip: leave out examples that cannot be had, instead of raising.

    Raises:
        DataError: a shard is missing or damaged, or holds another number of examples than the manifest says.
        ResourceError: an object store cannot be reached.
    """
    x = np.empty((manifest.splits[split].samples, *manifest.spec.shape), dtype=manifest.spec.dtype)
    bad: IntArray = np.zeros(0, dtype=np.int64)
    if manifest.location or skip:
        settings = settings or StoreSettings(Path(), cache_mb=0, retries=5)
        keys, y, bad = _by_index(folder, manifest, split, x, settings, skip)
    else:
        keys, y = _by_tars(folder, manifest, split, x)
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{folder}: the key {twice!r} occurs twice in split {split}")
    order = np.argsort(np.array(keys))
    order = order[~np.isin(order, bad)]
    if log is not None:
        log(f"read {len(keys)} {split} examples")
    return SplitData(manifest.spec, [keys[i] for i in order], torch.from_numpy(x[order]), y[order], len(bad))


def _by_tars(folder: Path, manifest: Manifest, split: SplitName, x: Values) -> tuple[list[str], IntArray]:
    """Fills x from the tars beside the manifest; keys and classes in the same order."""
    spec = manifest.spec
    keys: list[str] = []
    y = np.full(len(x), -1, dtype=np.int64)
    for shard in manifest.splits[split].shards:
        start = len(keys)
        for example in iter_shard(folder / shard.path, spec, manifest.encoding):
            if len(keys) - start >= shard.samples:
                raise DataError(f"{folder / shard.path}: more examples than the manifest's {shard.samples}")
            x[len(keys)] = padded(example.x, spec)
            if example.y is not None:
                y[len(keys)] = example.y
            keys.append(example.key)
        if len(keys) - start != shard.samples:
            raise DataError(f"{folder / shard.path}: {len(keys) - start} examples, the manifest says {shard.samples}")
    return keys, y


def _by_index(
    folder: Path, manifest: Manifest, split: SplitName, x: Values, settings: StoreSettings, skip: bool
) -> tuple[list[str], IntArray, IntArray]:
    """As `_by_tars`, from wherever the tars lie; and the rows that cannot be had."""
    index, shards = read_index(folder, manifest, split), manifest.splits[split].shards
    store = open_store(folder, manifest, [split], settings)
    reader = SliceReader(Places.of(index), shards, store, manifest.spec, manifest.encoding)
    faults = reader.rows(np.arange(len(index)), x, _SLICE_BYTES)
    if faults and not skip:
        raise faults[0].error(index, shards, store)
    bad = np.array(sorted(fault.position for fault in faults), dtype=np.int64)
    return list(index.keys), index.y, bad
