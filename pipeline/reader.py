"""What each rank reads at each step: a split in memory, and a plan that is a pure function of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.labels import IntArray
from pipeline.shards import Manifest, SplitName
from pipeline.tars import iter_shard


@dataclass(frozen=True)
class SplitData:
    """A split, decoded once and kept in memory, in the order of its keys."""

    spec: DataSpec
    keys: list[str]
    x: Tensor
    """As stored, `[N, *spec.shape]`; series are NaN past their end."""

    y: IntArray
    """Class index, -1 where not known, `[N]`."""

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: IntArray) -> SplitData:
        """Some of the examples."""
        return SplitData(self.spec, [self.keys[i] for i in rows], self.x[torch.from_numpy(rows)], self.y[rows])


def load_split(
    folder: Path, manifest: Manifest, split: SplitName, log: Callable[[str], None] | None = None
) -> SplitData:
    """Reads all shards of a split. Examples are sorted by key: what follows does not depend on the shards' layout.

    Raises:
        DataError: a shard is missing or damaged, or holds another number of examples than the manifest says.
    """
    described = manifest.splits[split]
    spec = manifest.spec
    x = np.empty((described.samples, *spec.shape), dtype=spec.dtype)
    keys: list[str] = []
    y = np.full(described.samples, -1, dtype=np.int64)
    for shard in described.shards:
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
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DataError(f"{folder}: the key {twice!r} occurs twice in split {split}")
    order = np.argsort(np.array(keys))
    if log is not None:
        log(f"read {len(keys)} {split} examples")
    return SplitData(spec, [keys[i] for i in order], torch.from_numpy(x[order]), y[order])


def padded(x: npt.NDArray[Any], spec: DataSpec) -> npt.NDArray[Any]:
    """An example in the spec's shape: a series is filled up with NaN, others have it already."""
    if spec.kind != "series" or x.shape == spec.shape:
        return x
    full = np.full(spec.shape, np.nan, dtype=x.dtype)
    full[:, : x.shape[1]] = x
    return full


@dataclass(frozen=True)
class EpochPlan:
    """How the points of an epoch are dealt to ranks and steps.

    Every rank takes the same number of steps of the same size. The points beyond equal steps are rotated: an epoch
    leaves out other ones than the epoch before, so that none is dropped for good.
    """

    num_points: int
    batch_size: int
    """Over all ranks."""

    world_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of world_size {self.world_size}")
        if self.num_points < self.batch_size:
            raise ValueError(f"{self.num_points} points do not fill one batch of {self.batch_size}")

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks and in all epochs."""
        return self.num_points // self.batch_size

    def order(self, epoch: int) -> IntArray:
        """Positions in the order in which an epoch reads them, `[steps * batch_size]`."""
        permutation = np.random.default_rng([self.seed, epoch]).permutation(self.num_points)
        used = self.steps * self.batch_size
        rest = self.num_points - used
        if rest == 0:
            return permutation
        # Left out are `rest` consecutive points of a fixed order, further on each epoch.
        fixed = np.random.default_rng([self.seed]).permutation(self.num_points)
        left_out = fixed[(epoch * rest + np.arange(rest)) % self.num_points]
        return permutation[~np.isin(permutation, left_out)]

    def batches(self, epoch: int, rank: int, start_step: int = 0) -> Iterator[IntArray]:
        """Positions of each step of a rank, `[batch_size / world_size]` each, from `start_step` on."""
        part = self.batch_size // self.world_size
        steps = self.order(epoch).reshape(self.steps, self.world_size, part)
        for step in range(start_step, self.steps):
            yield steps[step, rank]

    def stream(self, rank: int, start_step: int = 0) -> Iterator[IntArray]:
        """The batches of epoch after epoch, from `start_step` steps after the first one on; it has no end."""
        epoch, step = divmod(start_step, self.steps)
        while True:
            yield from self.batches(epoch, rank, step)
            epoch, step = epoch + 1, 0


def draw_support(members: list[IntArray], m: int, rng: np.random.Generator) -> IntArray:
    """m different positions of each class (all of them where a class has fewer), class after class.

    Args:
        members: positions of the labelled points of each class.
    """
    return np.concatenate([rng.choice(c, size=min(m, len(c)), replace=False) for c in members])
