"""Checks of shards before a run."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.data.loading.shard_store import open_store
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import SplitName
from pipeline.data.shards.reading import Reading
from pipeline.errors import DataError


def check_shards(dataset: ShardedDataset, splits: Sequence[SplitName], reading: Reading) -> None:
    """Looks at shards before a run as closely as it can afford to.

    What is read into memory is read whole and checked by SHA-256. A stream's shards, and those in another place,
    must be there in their full size; each of their samples is checked by its CRC-32 when it is read. Where faults
    are skipped, nothing is looked at here but the index.

    Raises:
        DataError: a shard or the index is missing, truncated or damaged; the message names it.
        ResourceError: an object store cannot be reached.
    """
    if reading.faults == "skip":
        for split in splits:
            dataset.index(split)
        return
    if reading.mode == "memory" and not dataset.manifest.location:
        dataset.verify(splits)
        return
    store = open_store(dataset, splits, reading)
    for split in splits:
        dataset.index(split)
        for shard in dataset.shards(split):
            size = store.size(shard.path)
            if size != shard.bytes:
                what = "truncated" if size < shard.bytes else "overgrown"
                raise DataError(f"{store.where(shard.path)}: {what}, {size} of {shard.bytes} bytes; {store.remedy}")
