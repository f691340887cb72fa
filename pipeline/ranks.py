"""Sums over the ranks of a data-parallel run."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from ie_model.objective import SINGLE, Ranks


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        total: Tensor = gradients[0].clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def connect_ranks() -> Ranks:
    """The ranks of the process group that was set up before; all of them call it.

    The sums have a group of their own: the wrapper that averages gradients sends its buckets whenever they are full,
    and the two must not wait for each other.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return SINGLE
    group = dist.new_group()
    return Ranks(dist.get_world_size(), lambda values: cast(Tensor, _Sum.apply(values, group)))  # type: ignore[no-untyped-call]
