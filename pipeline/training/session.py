"""What the training loop asks of where it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from ie_model.objective import Ranks


class Session(Protocol):
    """The rank's surroundings: Ray Train, a sweep's trial, or a test."""

    rank: int
    world_size: int
    device: torch.device
    ranks: Ranks
    """Differentiable sums over all ranks, for the objective."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module for data-parallel training, on the device."""
        ...

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        ...

    def restore(self) -> contextlib.AbstractContextManager[Path | None]:
        """The last checkpoint's folder, or None."""
        ...

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        """Publishes an epoch's metrics and, from rank 0, a checkpoint. All ranks call it equally often."""
        ...

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        """Keeps a checkpoint between the ends of epochs, from rank 0. All ranks call it at the same steps."""
        ...

    def is_preempted(self) -> bool:
        """Whether a host of the run is about to be taken away. All ranks call it at the same steps, for one answer."""
        ...

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        """Reports progress; called on every rank, about once a second. The rate is that of all ranks."""
        ...
