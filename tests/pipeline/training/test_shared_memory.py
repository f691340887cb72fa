"""Sums over the ranks of one host by shared memory."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.shared_memory import LostRankError, SharedSum, connect_here

T = TypeVar("T")


@contextlib.contextmanager
def streams(world_size: int, timeout_s: float = 20.0) -> Iterator[list[SharedSum]]:
    """One end for each rank, all in this process."""
    peers: list[dict[int, socket.socket]] = [{} for _ in range(world_size)]
    for a, b in itertools.combinations(range(world_size), 2):
        peers[a][b], peers[b][a] = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ends = [SharedSum(rank, dict(sorted(mine.items())), timeout_s) for rank, mine in enumerate(peers)]
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def two() -> Iterator[list[SharedSum]]:
    with streams(2, timeout_s=0.3) as ends:
        yield ends


def at_once(do: Callable[[int], T], world_size: int) -> list[T]:
    """What each rank's thread returns."""
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(do, range(world_size)))


def values_of(rank: int, size: int, turn: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * turn + rank)
    return torch.randn(size, generator=generator)


def summed_in_order(world_size: int, size: int, turn: int, scale: float) -> Tensor:
    total = values_of(0, size, turn) * scale
    for rank in range(1, world_size):
        total = total + values_of(rank, size, turn) * scale
    return total


@given(
    world_size=st.integers(2, 4),
    # Few values, more than there was room for, and so many that more than two ranks share the work.
    sizes=st.lists(st.sampled_from([1, 3, 1500, 20_001]), min_size=1, max_size=6),
    scale=st.sampled_from([1.0, 0.5, 1 / 3]),
)
@settings(max_examples=25, deadline=None)
def test_every_rank_ends_with_the_sum_in_the_order_of_the_ranks(
    world_size: int, sizes: list[int], scale: float
) -> None:

    def run(ends: list[SharedSum], rank: int) -> list[Tensor]:
        results = []
        for turn, size in enumerate(sizes):
            values = values_of(rank, size, turn)
            finish = ends[rank].begin(values, scale)
            time.sleep(0.001 * ((rank + turn) % 3))
            assert finish() is values
            results.append(values)
        return results

    with streams(world_size) as ends:
        results = at_once(partial(run, ends), world_size)
    for turn, size in enumerate(sizes):
        expected = summed_in_order(world_size, size, turn, scale)
        for mine in results:
            assert torch.equal(mine[turn], expected)


def test_a_sum_that_is_not_asked_for_yet_does_not_hold_the_others_up(two: list[SharedSum]) -> None:
    # Nobody else takes part in the room being made, so the first is asked for at once.
    at_once(lambda rank: two[rank].begin(torch.ones(4))(), 2)
    mine, theirs = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    later = two[0].begin(mine)
    assert two[1].begin(theirs)().tolist() == [11.0, 22.0]
    assert mine.tolist() == [1.0, 2.0]
    assert later().tolist() == [11.0, 22.0]


def test_values_keep_shape_and_type(two: list[SharedSum]) -> None:
    sums = at_once(lambda rank: two[rank].begin(torch.full((2, 3), rank + 1, dtype=torch.float64))(), 2)
    assert all(total.dtype == torch.float64 and total.tolist() == [[3.0] * 3] * 2 for total in sums)


def test_a_rank_that_does_not_come_is_named_after_the_time(two: list[SharedSum]) -> None:
    at_once(lambda rank: two[rank].begin(torch.ones(1))(), 2)
    finish = two[0].begin(torch.ones(1))
    began = time.monotonic()
    with pytest.raises(LostRankError, match="Timed out waiting for rank 1"):
        finish()
    assert 0.3 <= time.monotonic() - began < 5


def test_a_rank_that_is_gone_is_named_at_once() -> None:
    began = time.monotonic()
    with streams(3, timeout_s=60) as ends:
        at_once(lambda rank: ends[rank].begin(torch.ones(1))(), 3)
        finish = ends[0].begin(torch.ones(1))
        ends[1].begin(torch.ones(1))
        threading.Timer(0.2, ends[2].close).start()
        with pytest.raises(LostRankError, match="Connection closed by peer: rank 2"):
            finish()
        with pytest.raises(LostRankError, match="Connection closed by peer: rank 2"):
            ends[0].begin(torch.ones(1))
    assert time.monotonic() - began < 10


def test_a_rank_that_is_gone_before_there_is_room_is_named(two: list[SharedSum]) -> None:
    two[0].close()
    with pytest.raises(LostRankError, match="rank 0"):
        two[1].begin(torch.ones(1))


def test_memory_that_is_not_there_is_an_error_where_it_is_asked_for(
    two: list[SharedSum], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        two[0].begin(torch.ones(1))


def refuse(_: socket.socket, address: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), address)


@contextlib.contextmanager
def spoiled(how: str, rank: int, folder: str) -> Iterator[None]:
    """A rank's system, in which something is not as usual."""
    with contextlib.ExitStack() as stack:
        if how == "folders":
            stack.enter_context(patch.object(tempfile, "tempdir", f"{folder}/{rank}"))
        elif how == "path":
            stack.enter_context(patch.object(tempfile, "tempdir", f"{folder}/{'long' * 30}"))
        elif how == "one rank" and rank == 1:
            stack.enter_context(patch.object(socket.socket, "bind", refuse))
        elif how == "call" and rank == 2:
            stack.enter_context(patch.object(socket.socket, "connect", refuse))
        elif how == "system":
            stack.enter_context(patch.object(os, "memfd_create"))
            del os.memfd_create
        if tempfile.tempdir:
            Path(tempfile.tempdir).mkdir(exist_ok=True)
        yield


FOUND = {"": 2, "folders": 2, "path": 0, "one rank": 0, "call": 0, "system": 0}


def meet(rank: int, folder: str) -> None:
    """A process of the test below: how many streams it has, and a sum by each."""
    if "lo" in {name for _, name in socket.if_nameindex()}:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=3, timeout=timedelta(seconds=60)
    )
    try:
        found = {}
        for how in FOUND:
            with spoiled(how, rank, folder):
                made = connect_here(2, 60.0)
            sums = [stream.begin(torch.tensor([float(rank + 1)]))().item() for stream in made]
            found[how] = [len(made), *sums]
            # What was begun last is finished by all before one of them goes.
            dist.barrier()
            for stream in made:
                stream.close()
        Path(folder, f"{rank}.json").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


def test_processes_of_a_host_find_each_other_or_all_do_without(tmp_path: Path) -> None:
    spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(meet, args=(str(tmp_path),), nprocs=3)
    for rank in range(3):
        found = json.loads(Path(tmp_path, f"{rank}.json").read_text())
        assert found == {how: [2, 6.0, 6.0] if num else [0] for how, num in FOUND.items()}
