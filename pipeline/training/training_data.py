"""What a rank trains and validates on: splits in memory, or read from the tars again each epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ie_model.epoch_plan import EpochPlan
from ie_model.objective import Shares
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.loading.in_memory import SplitData, load_split
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.points import InMemory, InShards, Kept, Points, Some, readable
from pipeline.data.loading.stream import ShardStream, slice_size
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, SplitName
from pipeline.data.shards.reading import Reading
from pipeline.training.label_subset import choose_in_index, choose_labelled, labels_per_class
from pipeline.training.session import Session
from pipeline.utils.arrays import IntArray

TRAINING_SPLITS: tuple[SplitName, SplitName] = ("train", "val")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The train and val splits as a run sees them."""

    spec: DataSpec
    preprocessing: Preprocessing
    num_points: int
    """Of train."""

    points: Points
    """Of train; where it is streamed, the labelled ones alone."""

    labelled: IntArray
    """Positions of the labelled points, ascending."""

    y: IntArray
    """Their classes, `[len(labelled)]`."""

    excluded: IntArray
    """Positions that are not among the unlabelled points, ascending: the labelled ones, unreadable ones included."""

    val: Points
    val_y: IntArray
    skipped: int
    """Unreadable examples of train and val, with `faults: skip`."""

    source: tuple[ShardedDataset, Reading] | None
    """What the unlabelled points are streamed from; None where they are in memory."""

    @property
    def shares(self) -> Shares:
        return Shares(len(self.labelled), self.num_unlabelled)

    @property
    def num_unlabelled(self) -> int:
        return self.num_points - len(self.excluded)

    @cached_property
    def unlabelled(self) -> IntArray:
        """Positions of the unlabelled points, ascending: 8 bytes each, which a stream does without."""
        return np.setdiff1d(np.arange(self.num_points), self.excluded)

    @cached_property
    def members(self) -> list[IntArray]:
        """Positions of the labelled points of each class."""
        return [self.labelled[self.y == c] for c in range(self.spec.num_classes)]

    def classes(self, positions: IntArray) -> IntArray:
        """Of labelled points."""
        return self.y[np.searchsorted(self.labelled, positions)]

    @contextlib.contextmanager
    def unlabelled_batches(
        self, batch_size: int, seed: int, rank: int, world_size: int, start_step: int, device: torch.device
    ) -> Iterator[Iterator[tuple[Tensor, int]]]:
        """This rank's unlabelled points of step after step, without end: `[batch_size / world_size, *shape]` as stored.

        With each step comes how many of them replace unreadable points (with `faults: skip`).

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
        dataset, reading = self.source
        sizes = [shard.samples for shard in dataset.shards("train")]
        size = slice_size(dataset.manifest, "train", reading.slice_kb)
        lanes = LanePlan(sizes, batch_size, size, seed, self.excluded)
        with ShardStream(dataset, "train", lanes, rank, world_size, start_step, reading) as stream:
            yield ((batch.x.to(device, non_blocking=True), batch.faults) for batch in stream)


def load_training_data(
    folder: Path,
    reading: Reading,
    label_count: int | float | str,
    label_seed: int,
    device: torch.device,
    session: Session | None = None,
) -> TrainingData:
    """Train and val from the shards, labels chosen.

    Args:
        session: of several ranks; of a stream's points the first rank chooses, and the others take its positions.

    Raises:
        DataError: index or shards are missing or damaged.
        ParamsError: the data cannot give that many labels.
    """
    dataset = ShardedDataset.open(folder)
    if reading.mode == "memory":
        train, val = (load_split(dataset, name, reading=reading) for name in TRAINING_SPLITS)
        return _in_memory(train, val, dataset.manifest, label_count, label_seed, device)
    labels = _chosen(dataset, label_count, label_seed, session)
    return _streamed(dataset, reading, labels, device)


def _chosen(dataset: ShardedDataset, count: int | float | str, seed: int, session: Session | None) -> IntArray:
    sizes = dataset.manifest.splits["train"].class_counts
    if session is None or session.rank == 0:
        chosen = choose_in_index(dataset.index("train"), sizes, count, seed, dataset.manifest.label_hash)
    else:
        chosen = np.zeros(sum(labels_per_class(count, sizes, seed).values()), dtype=np.int64)
    return chosen if session is None else session.all_reduce(torch.from_numpy(chosen).to(session.device)).cpu().numpy()


def _streamed(dataset: ShardedDataset, reading: Reading, chosen: IntArray, device: torch.device) -> TrainingData:
    train, val = (InShards(dataset, name, reading, device) for name in TRAINING_SPLITS)
    spec, index, labelled = dataset.spec, train.index, chosen
    val_positions = np.arange(len(val.index))
    skipped = 0
    if reading.faults == "skip":
        good = [readable(train, labelled), readable(val, val_positions)]
        skipped = len(labelled) + len(val_positions) - sum(map(len, good))
        labelled, val_positions = good
    size = spec.num_values * np.dtype(spec.dtype).itemsize
    fits = len(labelled) * size <= reading.memory_mb * 1_000_000
    return TrainingData(
        spec=spec,
        preprocessing=dataset.manifest.preprocessing,
        num_points=len(index),
        points=Kept(labelled, train.take(labelled)) if fits else train,
        labelled=labelled,
        y=index.classes(labelled),
        excluded=chosen,
        val=Some(val, val_positions),
        val_y=val.index.classes(val_positions),
        skipped=skipped,
        source=(dataset, reading),
    )


def _in_memory(
    train: SplitData,
    val: SplitData,
    manifest: Manifest,
    label_count: int | float | str,
    label_seed: int,
    device: torch.device,
) -> TrainingData:
    labelled = choose_labelled(train.keys, train.y, train.spec.classes, label_count, label_seed, manifest.label_hash)
    return TrainingData(
        spec=train.spec,
        preprocessing=manifest.preprocessing,
        num_points=len(train),
        points=InMemory(_on(train.x, device)),
        labelled=labelled,
        y=train.y[labelled],
        excluded=labelled,
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
