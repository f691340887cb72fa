"""What a stream reads at each step: a plan that is a pure function of its inputs. Numbers only; no file is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.utils.arrays import IntArray


@dataclass(frozen=True, eq=False)
class _Epoch:
    """An epoch's slices in the order in which they are read."""

    first: IntArray
    """Row at which each slice begins."""

    begin: IntArray
    """Place of its first row in the epoch's order."""


class LanePlan:
    """The order of an epoch over stored samples, made so that each reader walks through shards in long strides.

    The rows (the stored positions that are not excluded) are cut at shards' borders and into slices; the slices are
    shuffled, and the whole is laid out in `batch_size` lanes of `steps` rows each. A batch is one row of each lane: it
    mixes as many slices as it has samples, and each lane reads slices from end to end. Rank r of W takes the lanes
    `lanes(r, W)`, so neither the number of ranks nor that of their loader processes changes what a step holds.

    Where a shard is cut differs from epoch to epoch, so that samples do not keep the same neighbours. The rows beyond
    equal steps are left out by turns as in `ie_model.epoch_plan.EpochPlan`. Memory and the time to begin anywhere are
    those of the slices, not of the samples.
    """

    def __init__(
        self, shard_sizes: Sequence[int], batch_size: int, slice_size: int, seed: int, excluded: IntArray | None = None
    ) -> None:
        """
        Args:
            shard_sizes: samples of each shard; a position counts through the shards in this order.
            batch_size: samples of a step over all ranks.
            slice_size: most consecutive stored samples that stay together.
            excluded: positions never read, ascending, none twice.

        Raises:
            ValueError: batch_size or slice_size is below 1, or the rows do not fill one batch.
        """
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.batch_size, self.slice_size, self.seed = batch_size, slice_size, seed
        self.excluded = np.zeros(0, dtype=np.int64) if excluded is None else np.asarray(excluded, dtype=np.int64)
        if batch_size < 1 or slice_size < 1:
            raise ValueError(f"batch_size {batch_size} and slice_size {slice_size} must be at least 1")
        if len(self.excluded) and (np.diff(self.excluded) <= 0).any():
            raise ValueError("excluded positions must rise")
        self.num_rows = int(self.shard_sizes.sum()) - len(self.excluded)
        if self.num_rows < batch_size:
            raise ValueError(f"{self.num_rows} points do not fill one batch of {batch_size}")
        # Excluded positions before row i are as many as entries here that are at most i.
        self._gaps = self.excluded - np.arange(len(self.excluded))
        self._kept: dict[int, _Epoch] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_kept": {}}

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks and in all epochs."""
        return self.num_rows // self.batch_size

    def lanes(self, rank: int, world_size: int) -> range:
        """The lanes of a rank.

        Raises:
            ValueError: the ranks cannot share a batch equally.
        """
        if self.batch_size % world_size:
            raise ValueError(f"batch_size {self.batch_size} is not a multiple of world_size {world_size}")
        part = self.batch_size // world_size
        return range(rank * part, (rank + 1) * part)

    def positions(self, epoch: int, step: int, lanes: Sequence[int]) -> IntArray:
        """Stored positions that the lanes read at a step, `[len(lanes)]`."""
        plan = self._epoch(epoch)
        places = np.asarray(lanes, dtype=np.int64) * self.steps + step
        i = np.searchsorted(plan.begin, places, side="right") - 1
        return self._stored(plan.first[i] + places - plan.begin[i])

    def lane_slices(self, epoch: int, lane: int, start_step: int = 0) -> Iterator[IntArray]:
        """Stored positions of each slice of a lane, ascending and in one shard, from `start_step` on.

        A slice is consecutive but for excluded positions, and spans at most `slice_size` of all.
        """
        plan = self._epoch(epoch)
        place, end = lane * self.steps + start_step, (lane + 1) * self.steps
        i = int(np.searchsorted(plan.begin, place, side="right")) - 1
        while place < end:
            stop = min(end, int(plan.begin[i + 1]) if i + 1 < len(plan.begin) else end)
            row = int(plan.first[i]) + place - int(plan.begin[i])
            yield self._stored(np.arange(row, row + stop - place))
            place, i = stop, i + 1

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._kept:
            # Two are in use at once where lanes cross from one epoch to the next.
            self._kept = dict(list(self._kept.items())[-1:]) | {epoch: self._shuffled(epoch)}
        return self._kept[epoch]

    def _shuffled(self, epoch: int) -> _Epoch:
        rng = np.random.default_rng([self.seed, epoch])
        first, length = self._slices(rng)
        rest = self.num_rows % self.batch_size
        if rest:
            # Left out is a run of rows, further on each epoch; it may go around the end.
            start = epoch * rest % self.num_rows
            stop = start + rest
            kept = [(0, start), (stop, self.num_rows)] if stop < self.num_rows else [(stop - self.num_rows, start)]
            parts = [(np.maximum(first, low), np.minimum(first + length, high)) for low, high in kept]
            first = np.concatenate([low for low, _ in parts])
            length = np.concatenate([high - low for low, high in parts])
            first, length = first[length > 0], length[length > 0]
        order = rng.permutation(len(first))
        first, length = first[order], length[order]
        return _Epoch(first, np.cumsum(length) - length)

    def _slices(self, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
        """First row and number of rows of each slice, in stored order."""
        sizes, ends = self.shard_sizes, np.cumsum(self.shard_sizes)
        # A shard's first slice is cut short by chance: see the class.
        short = rng.integers(0, self.slice_size, size=len(sizes))
        counts = -(-(sizes + short) // self.slice_size)
        shard = np.repeat(np.arange(len(sizes)), counts)
        nth = np.arange(len(shard)) - np.repeat(np.cumsum(counts) - counts, counts)
        cuts = np.maximum(nth * self.slice_size - short[shard], 0) + (ends - sizes)[shard]
        rows = cuts - np.searchsorted(self.excluded, cuts)
        lengths = np.diff(rows, append=self.num_rows)
        return rows[lengths > 0], lengths[lengths > 0]

    def _stored(self, rows: IntArray) -> IntArray:
        return rows + np.searchsorted(self._gaps, rows, side="right")
