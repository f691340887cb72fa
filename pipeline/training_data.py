"""What a rank trains and validates on: splits in memory, or read from the tars again each epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ie_model.objective import Shares
from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.index import read_index
from pipeline.labels import IntArray, choose_labelled
from pipeline.plan import EpochPlan, LanePlan
from pipeline.reader import SplitData, load_split
from pipeline.shards import Manifest, SplitName, read_manifest, verify_shards
from pipeline.slices import Places, SliceReader
from pipeline.store import open_store
from pipeline.stream import ShardStream, slice_size, store_settings
from pipeline.tars import REMEDY

TRAINING_SPLITS: tuple[SplitName, SplitName] = ("train", "val")


class Reading(BaseModel):
    """How a run reads its shards; `pipeline.params.ReaderParams` with what `auto` stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: Literal["memory", "stream"]
    memory_mb: int
    loader_workers: int
    slice_kb: int
    cache: str
    """Absolute."""

    cache_mb: int
    retries: int
    faults: Literal["fatal", "skip"]


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
    """See `Points`: read by way of the index, each time they are asked for."""

    def __init__(self, folder: Path, manifest: Manifest, split: SplitName, reading: Reading, device: torch.device):
        """
        Raises:
            DataError: the index is missing or damaged.
        """
        self.index = read_index(folder, manifest, split)
        self._shards = manifest.splits[split].shards
        self._store = open_store(folder, manifest, [split], store_settings(reading))
        self._spec, self._device = manifest.spec, device
        self._reader = SliceReader(Places.of(self.index), self._shards, self._store, manifest.spec, manifest.encoding)

    def take(self, positions: IntArray) -> Tensor:
        """
        Raises:
            DataError: one cannot be had; names the shard and the key.
        """
        x, faults = self.look(positions)
        if faults:
            raise faults[min(faults)]
        return x

    def look(self, positions: IntArray) -> tuple[Tensor, dict[int, DataError]]:
        """As `take`, with the error of each position that cannot be had; its row means nothing."""
        x = np.empty((len(positions), *self._spec.shape), self._spec.dtype)
        faults = {f.position: f.error(self.index, self._shards, self._store) for f in self._reader.rows(positions, x)}
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
class TrainingData:
    """The train and val splits as a run sees them."""

    spec: DataSpec
    num_points: int
    """Of train."""

    points: Points
    """Of train; where it is streamed, the labelled ones alone."""

    y: IntArray
    """Classes of train's points, -1 where not known, `[num_points]`."""

    members: list[IntArray]
    """Positions of the labelled points of each class."""

    labelled: IntArray
    """Of all classes, ascending."""

    unlabelled: IntArray
    val: Points
    val_y: IntArray
    skipped: int
    """Examples of train and val that cannot be had, where `faults` says skip."""

    source: tuple[Path, Manifest, Reading] | None
    """What the unlabelled points are streamed from; None where they are in memory."""

    @property
    def shares(self) -> Shares:
        return Shares(len(self.labelled), len(self.unlabelled))

    @contextlib.contextmanager
    def unlabelled_batches(
        self, batch_size: int, seed: int, rank: int, world_size: int, start_step: int, device: torch.device
    ) -> Iterator[Iterator[tuple[Tensor, int]]]:
        """This rank's unlabelled points of step after step, without end: `[batch_size / world_size, *shape]` as stored.

        With each step comes how many of them stand for points that cannot be had (where `faults` says skip).

        Each comes once before any comes again, but for those beyond equal steps; see the plans.

        Args:
            batch_size: over all ranks.
            start_step: steps that are done.
        """
        if self.source is None:
            plan = EpochPlan(len(self.unlabelled), batch_size, world_size, seed)
            steps = plan.stream(rank, start_step)
            yield ((self.points.take(self.unlabelled[positions]).to(device), 0) for positions in steps)
            return
        folder, manifest, reading = self.source
        sizes = [shard.samples for shard in manifest.splits["train"].shards]
        excluded = np.setdiff1d(np.arange(self.num_points), self.unlabelled)
        lanes = LanePlan(sizes, batch_size, slice_size(manifest, "train", reading.slice_kb), seed, excluded)
        with ShardStream(folder, manifest, "train", lanes, rank, world_size, start_step, reading) as stream:
            yield ((batch.x.to(device, non_blocking=True), batch.faults) for batch in stream)


def check_shards(folder: Path, manifest: Manifest, splits: Sequence[SplitName], reading: Reading) -> None:
    """Looks at shards before a run as closely as it can afford to.

    What is read into memory is read whole and checked by SHA-256. A stream's shards, and those that lie elsewhere,
    must be there in their full size; each of their samples is checked by its CRC-32 when it is read. Where faults
    are skipped, nothing is looked at here but the index.

    Raises:
        DataError: a shard or the index is missing, truncated or damaged; the message names it.
        ResourceError: an object store cannot be reached.
    """
    if reading.faults == "skip":
        for split in splits:
            read_index(folder, manifest, split)
        return
    if reading.mode == "memory" and not manifest.location:
        verify_shards(folder, manifest, splits)
        return
    store = open_store(folder, manifest, splits, store_settings(reading))
    for split in splits:
        read_index(folder, manifest, split)
        for shard in manifest.splits[split].shards:
            size = store.size(shard.path)
            if size != shard.bytes:
                what = "truncated" if size < shard.bytes else "overgrown"
                raise DataError(f"{store.where(shard.path)}: {what}, {size} of {shard.bytes} bytes; {REMEDY}")


def load_training_data(
    folder: Path, reading: Reading, label_count: int | float | str, label_seed: int, device: torch.device
) -> TrainingData:
    """Train and val from the shards, labels chosen.

    Raises:
        DataError: index or shards are missing or damaged.
        ParamsError: the data cannot give that many labels.
    """
    manifest = read_manifest(folder)
    if reading.mode == "memory":
        train, val = (read_split(folder, manifest, name, reading) for name in TRAINING_SPLITS)
        return _in_memory(train, val, label_count, label_seed, device)
    return _streamed(folder, manifest, reading, label_count, label_seed, device)


def read_split(folder: Path, manifest: Manifest, split: SplitName, reading: Reading) -> SplitData:
    """A whole split in memory, as `load_split` with a run's settings. Raises as that."""
    skip = reading.faults == "skip"
    return load_split(folder, manifest, split, settings=store_settings(reading), skip=skip)


def _streamed(
    folder: Path,
    manifest: Manifest,
    reading: Reading,
    label_count: int | float | str,
    label_seed: int,
    device: torch.device,
) -> TrainingData:
    train, val = (InShards(folder, manifest, name, reading, device) for name in TRAINING_SPLITS)
    classes, index = manifest.spec.classes, train.index
    labelled = choose_labelled(index.keys, index.y, classes, label_count, label_seed)
    unlabelled = np.setdiff1d(np.arange(len(index)), labelled)
    val_positions = np.arange(len(val.index))
    skipped = 0
    if reading.faults == "skip":
        good = [_good(train, labelled), _good(val, val_positions)]
        skipped = len(labelled) + len(val_positions) - sum(map(len, good))
        labelled, val_positions = good
    size = manifest.spec.num_values * np.dtype(manifest.spec.dtype).itemsize
    fits = len(labelled) * size <= reading.memory_mb * 1_000_000
    return TrainingData(
        spec=manifest.spec,
        num_points=len(index),
        points=Kept(labelled, train.take(labelled)) if fits else train,
        y=index.y,
        members=[labelled[index.y[labelled] == c] for c in range(manifest.spec.num_classes)],
        labelled=labelled,
        unlabelled=unlabelled,
        val=_Some(val, val_positions),
        val_y=val.index.y[val_positions],
        skipped=skipped,
        source=(folder, manifest, reading),
    )


def _in_memory(
    train: SplitData, val: SplitData, label_count: int | float | str, label_seed: int, device: torch.device
) -> TrainingData:
    labelled = choose_labelled(train.keys, train.y, train.spec.classes, label_count, label_seed)
    return TrainingData(
        spec=train.spec,
        num_points=len(train),
        points=InMemory(_on(train.x, device)),
        y=train.y,
        members=[labelled[train.y[labelled] == c] for c in range(train.spec.num_classes)],
        labelled=labelled,
        unlabelled=np.setdiff1d(np.arange(len(train)), labelled),
        val=InMemory(val.x),
        val_y=val.y,
        skipped=train.skipped + val.skipped,
        source=None,
    )


def _on(x: Tensor, device: torch.device) -> Tensor:
    """On the device where half of its free memory holds it."""
    if device.type != "cuda":
        return x.to(device)
    free, _ = torch.cuda.mem_get_info(device)
    return x.to(device) if x.nbytes <= free // 2 else x.pin_memory()


@dataclass(frozen=True, eq=False)
class _Some:
    """See `Points`: the good ones among others."""

    points: Points
    positions: IntArray

    def take(self, positions: IntArray) -> Tensor:
        return self.points.take(self.positions[positions])


def _good(points: InShards, positions: IntArray, at_once: int = 4096) -> IntArray:
    """Positions that can be had."""
    bad: set[int] = set()
    for begin in range(0, len(positions), at_once):
        bad |= points.look(positions[begin : begin + at_once])[1].keys()
    return positions[~np.isin(positions, list(bad))] if bad else positions
