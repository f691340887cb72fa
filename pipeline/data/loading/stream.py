"""A split read from its tars, epoch after epoch, by a plan, on one rank, in this process or in others.

The batches are the same for any number of loader processes, and a stream begins at any step as if it had run up to it.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing import connection, parent_process
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.slice_reader import Fault, Slice, SliceReader, Values
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, SplitName
from pipeline.data.shards.reading import Reading
from pipeline.errors import DataError, ResourceError
from pipeline.utils.arrays import IntArray

# Fork would copy locks that another thread holds, and Ray's workers have threads; spawn imports torch in each process.
# A fork server imports once, has no threads, and forks in milliseconds.
_CONTEXT = "forkserver"
_PREFETCH = 2
# Of a block of steps that a loader process sends at once: large enough to make the sending cheap.
_BLOCK_BYTES = 2 << 20
_MOST_STEPS = 32


@dataclass(frozen=True, eq=False)
class Batch:
    """One rank's part of a step."""

    x: Tensor
    """As stored, `[batch_size / world_size, *shape]`, in the order of the rank's lanes; NaN past a series' end."""

    positions: IntArray
    """Rows of the plan, `[batch_size / world_size]`. An unreadable sample has another's row."""

    faults: int
    """Rows that stand for another one; always 0 where faults are fatal."""


@dataclass(frozen=True, eq=False)
class _Block:
    """Some steps of some lanes."""

    x: Tensor
    """`[steps, lanes, *shape]`"""

    positions: Tensor
    """`[steps, lanes]`"""

    faults: tuple[tuple[int, Fault], ...]
    """With the step that each is in."""

    failure: str | None = None
    """What ends the stream, in one line, where it is no sample's fault."""


def slice_size(manifest: Manifest, split: SplitName, slice_kb: int) -> int:
    """Samples of a slice: as many as lie in about `slice_kb` kB of the split's tars, at least one."""
    described = manifest.splits[split]
    return max(1, round(1000 * slice_kb * described.samples / sum(shard.bytes for shard in described.shards)))


def lanes_of_worker(lanes: range, worker: int, num_workers: int) -> range:
    """The lanes of a rank that one of its loader processes reads."""
    return lanes[worker::num_workers]


class ShardStream:
    """The batches of one rank, without end. Iterate once; `close` ends its processes, as does leaving a `with`."""

    def __init__(
        self,
        dataset: ShardedDataset,
        split: SplitName,
        plan: LanePlan,
        rank: int,
        world_size: int,
        start_step: int,
        reading: Reading,
    ) -> None:
        """
        Args:
            plan: over the samples of the split's shards; see `slice_size`.
            start_step: steps done before, counted from the first epoch's beginning.

        Raises:
            DataError: the index is missing or damaged.
            ValueError: the plan is of other shards, or the ranks cannot share its batches equally.
        """
        self._reader = SliceReader(dataset, split, reading)
        if plan.shard_sizes.tolist() != [shard.samples for shard in self._reader.shards]:
            raise ValueError(f"the plan is not of the shards of split {split}")
        self._reading = reading
        self._lanes = plan.lanes(rank, world_size)
        self._num_workers = min(reading.loader_workers, len(self._lanes))
        self._blocks = _Blocks(self._reader, plan, self._lanes, start_step, reading.faults == "skip")
        self._running: Iterator[_Block] | None = None

    def __iter__(self) -> Iterator[Batch]:
        """
        Raises:
            DataError: a sample is unreadable and faults are fatal, or all of a lane's are; names the shard
                and the key.
            ResourceError: an object store cannot be reached, or a loader process was ended from outside.
        """
        n = max(1, self._num_workers)
        blocks = self._start()
        while True:
            # One block of each process, of the same steps.
            parts = [self._next(blocks) for _ in range(n)]
            x, positions = _in_lane_order(parts, len(self._lanes))
            faults = np.zeros(len(x), dtype=np.int64)
            for part in parts:
                for step, _ in part.faults:
                    faults[step] += 1
            for step in range(len(x)):
                yield Batch(x[step], positions[step], int(faults[step]))

    def close(self) -> None:
        """Ends the loader processes."""
        shut_down = getattr(self._running, "_shutdown_workers", None)
        if shut_down is not None:
            shut_down()
        self._running = None

    def __enter__(self) -> ShardStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Iterator[_Block]:
        if self._num_workers == 0:
            self._running = iter(self._blocks)
        else:
            with warnings.catch_warnings():
                # More processes than cores: the user's choice, and right where a store is slow.
                warnings.filterwarnings("ignore", "This DataLoader will create")
                loader = DataLoader(
                    self._blocks,
                    batch_size=None,
                    num_workers=self._num_workers,
                    prefetch_factor=_PREFETCH,
                    multiprocessing_context=_context(),
                    worker_init_fn=functools.partial(_begin, dict(os.environ)),
                    # Its own: the default draws from PyTorch's global state, on which a run's numbers depend.
                    generator=torch.Generator(),
                )
                self._running = iter(loader)
        return self._running

    def _next(self, blocks: Iterator[_Block]) -> _Block:
        try:
            block = next(blocks)
        except (RuntimeError, ConnectionError, EOFError) as error:
            # PyTorch's text depends on the state of the process.
            if isinstance(error, RuntimeError) and "exited unexpectedly" not in str(error):
                raise
            raise ResourceError(
                "a loader process was ended from outside, perhaps for lack of memory; "
                "lower reader.loader_workers or reader.slice_kb"
            ) from error
        if block.failure is not None:
            raise ResourceError(block.failure)
        # Counted only where skipped; a lane without any good sample is an error either way.
        for _, fault in block.faults:
            if self._reading.faults == "fatal" or fault.whole_lane:
                raise self._reader.error(fault)
        return block


def _in_lane_order(parts: list[_Block], num_lanes: int) -> tuple[Tensor, IntArray]:
    if len(parts) == 1:
        return parts[0].x, parts[0].positions.numpy()
    x = parts[0].x.new_empty((len(parts[0].x), num_lanes, *parts[0].x.shape[2:]))
    positions = np.empty(x.shape[:2], dtype=np.int64)
    for worker, part in enumerate(parts):
        x[:, worker :: len(parts)] = part.x
        positions[:, worker :: len(parts)] = part.positions.numpy()
    return x, positions


def _context() -> Any:
    context: Any = torch.multiprocessing.get_context(_CONTEXT)
    context.set_forkserver_preload(["pipeline.data.loading.stream"])
    return context


def _begin(environment: dict[str, str], worker: int) -> None:
    """Gives a loader process the rank's environment, and ends it when the rank's process ends, however that was.

    The fork server has the environment of the time when it was started. PyTorch would look at the parent's id, which
    is the fork server's here, and a fork server outlives a killed rank while it has children.
    """
    os.environ.clear()
    os.environ.update(environment)
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Blocks(IterableDataset[_Block]):
    """The blocks of all lanes of a rank, or in a loader process of its part of them."""

    def __init__(self, reader: SliceReader, plan: LanePlan, lanes: range, start_step: int, skip: bool) -> None:
        self._reader, self._plan, self._lanes = reader, plan, lanes
        self._start_step, self._skip = start_step, skip
        bytes_ = reader.spec.num_values * np.dtype(reader.spec.dtype).itemsize * len(lanes)
        self._steps = max(1, min(_MOST_STEPS, _BLOCK_BYTES // bytes_))

    def __iter__(self) -> Iterator[_Block]:
        info = get_worker_info()
        if info is not None:
            torch.set_num_threads(1)
        numbers = self._lanes if info is None else lanes_of_worker(self._lanes, info.id, info.num_workers)
        epoch, step = divmod(self._start_step, self._plan.steps)
        spec = self._reader.spec
        lanes = [_Lane(self._reader, self._plan, number, self._skip) for number in numbers]
        while True:
            for lane in lanes:
                lane.begin(epoch, step)
            while step < self._plan.steps:
                stop = min(self._plan.steps, step + self._steps)
                x = np.empty((stop - step, len(lanes), *spec.shape), spec.dtype)
                positions = np.empty((stop - step, len(lanes)), dtype=np.int64)
                faults: list[tuple[int, Fault]] = []
                try:
                    for i, lane in enumerate(lanes):
                        faults += lane.read(x[:, i], positions[:, i])
                except (DataError, ResourceError) as error:
                    # As a value: an exception that crosses from process to process brings its traceback as text.
                    yield _Block(torch.empty(0), torch.empty(0), (), str(error))
                    return
                yield _Block(torch.from_numpy(x), torch.from_numpy(positions), tuple(faults))
                step = stop
            epoch, step = epoch + 1, 0


class _Lane:
    """One lane of a plan, read from one slice to the next."""

    def __init__(self, reader: SliceReader, plan: LanePlan, number: int, skip: bool) -> None:
        self.reader, self.plan, self.number, self.skip = reader, plan, number, skip
        self.good = np.empty(reader.spec.shape, reader.spec.dtype)

    def begin(self, epoch: int, step: int) -> None:
        """Goes to a step of an epoch."""
        self.epoch, self.step = epoch, step
        self.slices = self.plan.lane_slices(epoch, self.number, step)
        self.slice: Slice | None = None
        self.place = 0
        self.has_good = False

    def read(self, x: Values, positions: IntArray) -> list[tuple[int, Fault]]:
        """Fills the next `len(x)` rows `[steps, *shape]`; returns the faults, each with its row.

        The row of an unreadable sample is that of the last good one before it in this epoch, or of the first
        one after: of the plan and the data alone, so that a run that is resumed has the same.
        """
        faults: list[tuple[int, Fault]] = []
        done = 0
        while done < len(x):
            if self.slice is None or self.place == len(self.slice.positions):
                self.slice, self.place = self.reader.slice(next(self.slices)), 0
            take = min(len(x) - done, len(self.slice.positions) - self.place)
            positions[done : done + take] = self.slice.positions[self.place : self.place + take]
            found = self.slice.decode(self.place, x[done : done + take])
            rows = np.searchsorted(self.slice.positions, [fault.position for fault in found]) - self.place + done
            faults += zip(rows.tolist(), found, strict=True)
            self.place += take
            done += take
        self.step += len(x)
        if self.skip:
            self._replace(x, faults)
        return faults

    def _replace(self, x: Values, faults: list[tuple[int, Fault]]) -> None:
        bad = dict(faults)
        for row in sorted(bad):
            if row and row - 1 not in bad:
                self.good[...], self.has_good = x[row - 1], True
            if not self.has_good:
                self._find_good(self.step - len(x) + row)
            if not self.has_good:
                faults[:] = [(row, replace(bad[row], whole_lane=True))]
                return
            x[row] = self.good
        if len(x) - 1 not in bad:
            self.good[...], self.has_good = x[-1], True

    def _find_good(self, step: int) -> None:
        """The nearest good sample of the lane before a step, or else after it."""
        for other in [*range(step - 1, -1, -1), *range(step + 1, self.plan.steps)]:
            position = self.plan.positions(self.epoch, other, [self.number])
            if not self.reader.slice(position).decode(0, self.good[None]):
                self.has_good = True
                return
