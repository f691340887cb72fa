"""Sums over the ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ie_model.objective import SINGLE, Ranks

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


def ranks_here() -> Ranks:
    """The ranks of the process group that was set up before; all of them make one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return SINGLE
    # A group of their own: the wrapper that averages gradients sends its buckets whenever they are full, and the two
    # must not wait for each other.
    return Ranks(dist.get_world_size(), _differentiable(_by_group(dist.new_group())))


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
