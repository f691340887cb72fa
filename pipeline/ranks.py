"""Sums over the ranks of a data-parallel run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ie_model.objective import SINGLE, Ranks


@dataclass
class _Exchange:
    """A sum that is under way: that of values, later that of their gradients."""

    group: Any
    work: Any = None
    gradient: Tensor | None = None

    def begin(self, values: Tensor) -> Tensor:
        """Begins to sum values in place."""
        self.work = dist.all_reduce(values, group=self.group, async_op=True)
        return values


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        return exchange.begin(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, None]:
        ctx.exchange.work.wait()
        return ctx.exchange.gradient, None


class _Finish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, exchange: _Exchange) -> Tensor:
        ctx.exchange = exchange
        exchange.work.wait()
        return values.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        # Autograd goes back from what was computed last: the parts between `begin` and here come before `_Begin`.
        gradient = ctx.exchange.begin(gradients[0].clone())
        ctx.exchange.gradient = gradient
        return gradient, None


def connect_ranks() -> Ranks:
    """The ranks of the process group that was set up before; all of them call it.

    The sums have a group of their own: the wrapper that averages gradients sends its buckets whenever they are full,
    and the two must not wait for each other.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return SINGLE
    group = dist.new_group()

    def begin(values: Tensor) -> Callable[[], Tensor]:
        exchange = _Exchange(group)
        total = _Begin.apply(values, exchange)  # type: ignore[no-untyped-call]

        def finish() -> Tensor:
            result: Tensor = _Finish.apply(total, exchange)  # type: ignore[no-untyped-call]
            return result

        return finish

    return Ranks(dist.get_world_size(), begin)
