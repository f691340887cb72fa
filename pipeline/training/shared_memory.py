"""Sums over the ranks of one host, by memory that they share.

gloo sends every sum through sockets, by a thread of its own: on a host whose cores all compute, that thread's turns and
the copies cost more than the sum. Here each rank writes its values where the others can read them and signals it by one
byte. Nothing runs beside the computation, and a sum that was begun needs no core until it is asked for.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# How long a rank asks again and again before it sleeps until it is woken. Ranks are seldom further apart than that, and
# to be woken takes long.
_SPIN_S = 0.005

# Room for a path that one rank sends to the others, bytes; a Unix socket's is shorter.
_PATH_BYTES = 128

# From here on, bytes, each of more than two ranks sums a part and reads the others' parts, instead of summing all.
_SHARED_WORK = 1 << 16

T = TypeVar("T")


class LostRankError(RuntimeError):
    """Another rank is gone, or did not come in time; in the words of gloo, which `pipeline.cluster.failures` knows."""


class SharedSum:
    """One stream of sums over all ranks of a host; all ranks begin and finish the same sums in the same order.

    Values are added in the order of the ranks, on each rank: what they end with is the same to the last bit.
    """

    def __init__(self, rank: int, peers: dict[int, socket.socket], timeout_s: float) -> None:
        """
        Args:
            rank: this process's.
            peers: a connected `SOCK_SEQPACKET` socket to each other rank.
            timeout_s: how long to wait for another rank.
        """
        self.rank, self.world_size = rank, len(peers) + 1
        self._peers, self._timeout_s = peers, timeout_s
        for peer in peers.values():
            peer.setblocking(False)
        self._memory: mmap.mmap | None = None
        self._capacity = 0
        """Bytes of one rank's values. Each rank has two such places, used by turns."""
        self._turn = 0

    def begin(self, values: Tensor, scale: float = 1.0) -> Callable[[], Tensor]:
        """Begins a sum of `scale * values` over the ranks; what it returns waits for it and writes it into `values`.

        One at a time: what is returned is called once, before the next sum is begun.

        Args:
            values: contiguous, on the CPU, of the same type and size on all ranks. Not to be changed meanwhile.

        Raises:
            LostRankError: another rank is gone; from what is returned, also that it did not come in time.
            OSError: there is no memory for the values.
        """
        flat = values.view(-1)
        if flat.nbytes > self._capacity:
            self._grow(flat.nbytes)
        self._turn = 1 - self._turn
        places = [self._place(rank, flat) for rank in range(self.world_size)]
        # What lay here two sums ago has been read: a rank began the sum after it only when it had finished.
        torch.mul(flat, scale, out=places[self.rank])
        self._say()

        def finish() -> Tensor:
            self._wait()
            if self.world_size == 2 or flat.nbytes < _SHARED_WORK:
                _add(places, flat)
                return values
            parts = [place.tensor_split(self.world_size) for place in places]
            mine = parts[self.rank][self.rank]
            mine.copy_(_add([part[self.rank] for part in parts], torch.empty_like(mine)))
            self._say()
            self._wait()
            torch.cat([part[rank] for rank, part in enumerate(parts)], out=flat)
            return values

        return finish

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()

    def _place(self, rank: int, like: Tensor) -> Tensor:
        assert self._memory is not None
        offset = (2 * rank + self._turn) * self._capacity
        return torch.frombuffer(self._memory, dtype=like.dtype, count=like.numel(), offset=offset)

    def _grow(self, size: int) -> None:
        """Memory for values of that many bytes, made by rank 0 and passed on; nameless, it goes with the ranks."""
        self._capacity = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        total = 2 * self.world_size * self._capacity
        if self.rank == 0:
            descriptor = os.memfd_create("sums")
            # Taken now: what is missing is an error here, and would end the process when it is written to.
            os.posix_fallocate(descriptor, 0, total)
            for rank, peer in self._peers.items():
                with _lost(rank):
                    socket.send_fds(peer, [b"m"], [descriptor])
        else:
            with _lost(0):
                descriptor = self._when_ready(self._peers[0], lambda peer: socket.recv_fds(peer, 1, 1)[1])[0]
        self._memory = mmap.mmap(descriptor, total)
        os.close(descriptor)

    def _say(self) -> None:
        for rank, peer in self._peers.items():
            with _lost(rank):
                peer.send(b"r")

    def _wait(self) -> None:
        """Until each other rank has said once more that its values are there.

        The socket orders memory, too: what a rank wrote before it sent a byte is seen by its receiver.
        """
        for rank, peer in self._peers.items():
            with _lost(rank):
                self._when_ready(peer, lambda peer: peer.recv(1))

    def _when_ready(self, peer: socket.socket, receive: Callable[[socket.socket], T]) -> T:
        """What is received, as soon as it has come; at first by asking again and again.

        Raises:
            ConnectionError: the peer is gone.
            TimeoutError: nothing came in time.
        """
        began, sleeper = time.monotonic(), None
        while True:
            try:
                if received := receive(peer):
                    return received
                raise ConnectionResetError
            except BlockingIOError:
                waited = time.monotonic() - began
            if waited > self._timeout_s:
                raise TimeoutError
            if waited > _SPIN_S:
                if sleeper is None:
                    sleeper = select.poll()
                    sleeper.register(peer, select.POLLIN)
                sleeper.poll(1000 * (self._timeout_s - waited))


def _add(values: list[Tensor], out: Tensor) -> Tensor:
    torch.add(values[0], values[1], out=out)
    for other in values[2:]:
        out.add_(other)
    return out


@contextlib.contextmanager
def _lost(rank: int) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise LostRankError(f"Timed out waiting for rank {rank}") from error
    except ConnectionError as error:
        raise LostRankError(f"Connection closed by peer: rank {rank}") from error


def connect_here(count: int, timeout_s: float) -> list[SharedSum]:
    """Streams of sums over the ranks of the process group, which are processes of one host; all of them call it.

    Empty where the system of any rank has no such memory or sockets, or the ranks do not find each other.
    """
    if not hasattr(os, "memfd_create"):
        return []
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with _common_folder(rank) as folder:
        meetings = [_meet(folder / str(i), rank, world_size) for i in range(count)]
        streams = [SharedSum(rank, peers, timeout_s) for peers in meetings if peers is not None]
        # All ranks are through before the folder goes.
        if _all(len(streams) == count):
            return streams
        for stream in streams:
            stream.close()
        return []


@contextlib.contextmanager
def _common_folder(rank: int) -> Iterator[Path]:
    """A folder that rank 0 makes, announces to the others, and removes."""
    told = torch.zeros(_PATH_BYTES, dtype=torch.uint8)
    with contextlib.ExitStack() as stack:
        if rank == 0:
            # One that is longer is too long for a socket: the ranks do not find each other there, and do without.
            path = stack.enter_context(tempfile.TemporaryDirectory(prefix="ie-")).encode()[:_PATH_BYTES]
            told[: len(path)] = torch.tensor(list(path), dtype=torch.uint8)
        dist.broadcast(told, 0)
        yield Path(bytes(told.tolist()).rstrip(b"\0").decode(errors="replace"))


def _meet(prefix: Path, rank: int, world_size: int) -> dict[int, socket.socket] | None:
    """A socket to each other rank; None if any rank cannot."""
    peers: dict[int, socket.socket] = {}

    def listen() -> None:
        listener.bind(f"{prefix}-{rank}")
        listener.listen(world_size)

    def call() -> None:
        for other in range(rank):
            peers[other] = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            peers[other].connect(f"{prefix}-{other}")
            peers[other].send(rank.to_bytes(4))

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        if not (_all_can(listen) and _all_can(call)):
            for peer in peers.values():
                peer.close()
            return None
        # They have all called.
        for _ in range(world_size - rank - 1):
            peer, _ = listener.accept()
            peers[int.from_bytes(peer.recv(4))] = peer
    return dict(sorted(peers.items()))


def _all_can(do: Callable[[], None]) -> bool:
    try:
        do()
    except OSError:
        return _all(False)
    return _all(True)


def _all(here: bool) -> bool:
    """Whether it is so on all ranks."""
    result = torch.tensor(int(here))
    dist.all_reduce(result, dist.ReduceOp.MIN)
    return bool(result)
