"""Which unlabelled points each step of an epoch takes: a pure function of its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ie_model.support import IntArray


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
        kept = np.ones(self.num_points, dtype=bool)
        kept[fixed[(epoch * rest + np.arange(rest)) % self.num_points]] = False
        return permutation[kept[permutation]]

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
