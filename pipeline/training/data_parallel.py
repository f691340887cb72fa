"""Sums over the ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ie_model.objective import SINGLE, Ranks
from pipeline.training.shared_memory import SharedSum, connect_here

Begin = Callable[[Tensor], Callable[[], Tensor]]
"""Begins to sum values over the ranks, in place; what it returns waits for the sum."""


@dataclass
class _Exchange:
    """A sum that is under way: that of values, later that of their gradients."""

    begin_sum: Begin
    finish: Callable[[], Tensor] | None = None

    def begin(self, values: Tensor) -> Tensor:
        self.finish = self.begin_sum(values)
        return values

    def wait(self) -> Tensor:
        assert self.finish is not None
        return self.finish()


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.begin(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        return ctx.exchange.wait(), None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.wait().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        # Autograd goes back from what was computed last: the parts between `begin` and here come before `_Begin`.
        return ctx.exchange.begin(gradients[0].clone()), None


class RankGroup:
    """The ranks of the process group that was set up before; all of them make one."""

    def __init__(self, one_host: bool, timeout_s: float) -> None:
        """
        Args:
            one_host: all ranks are processes of one host and compute on its CPU: they use memory that they share.
            timeout_s: how long to wait for another rank there; what a process group waits is its own.
        """
        self.ranks = SINGLE
        self._gradients: SharedSum | None = None
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        # The sums have a stream or a group of their own: the wrapper that averages gradients sends its buckets whenever
        # they are full, and the two must not wait for each other.
        streams = connect_here(2, timeout_s) if one_host else []
        if streams:
            sums, self._gradients = streams
            begin: Begin = sums.begin
        else:
            begin = _by_group(dist.new_group())
        self.ranks = Ranks(dist.get_world_size(), _differentiable(begin))

    @property
    def shares_memory(self) -> bool:
        """Whether the ranks exchange by memory that they share."""
        return self._gradients is not None

    def average_gradients(self, wrapped: nn.Module) -> nn.Module:
        """Has a data-parallel wrapper average gradients in the way of this group."""
        gradients = self._gradients
        if gradients is None or not isinstance(wrapped, DistributedDataParallel):
            return wrapped
        share = 1 / gradients.world_size

        def average(_: None, bucket: Any) -> torch.futures.Future[Tensor]:
            future: torch.futures.Future[Tensor] = torch.futures.Future()
            future.set_result(gradients.begin(bucket.buffer(), share)())
            return future

        # The wrapper compares annotations with its own, and does not take them as the strings that they are here.
        average.__annotations__.clear()
        wrapped.register_comm_hook(None, average)
        return wrapped


def _by_group(group: Any) -> Begin:
    def begin(values: Tensor) -> Callable[[], Tensor]:
        work: Any = dist.all_reduce(values, group=group, async_op=True)

        def finish() -> Tensor:
            work.wait()
            return values

        return finish

    return begin


def _differentiable(begin_sum: Begin) -> Begin:
    def begin(values: Tensor) -> Callable[[], Tensor]:
        exchange = _Exchange(begin_sum)
        total = _Begin.apply(values, exchange)  # type: ignore[no-untyped-call]

        def finish() -> Tensor:
            result: Tensor = _Finish.apply(total, exchange)  # type: ignore[no-untyped-call]
            return result

        return finish

    return begin
