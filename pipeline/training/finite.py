"""When a run's loss or gradient stops being finite: which was first, at which step, and after what."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

_NEVER = 2**62
_LARGE = 1e6
"""Norm of a gradient that has grown beyond what training has."""

First = tuple[Literal["loss", "gradient"], int, float, float]
"""What was not finite first, its step from 0, and loss and norm of the gradient before it."""


class Watch:
    """Remembers the first step whose loss, and the first whose gradient, is not finite, and the last finite values.

    Nothing is read back from the device until `first` is asked.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self._parameters = parameters
        # Of the loss and of the gradient.
        self._steps = torch.full((2,), _NEVER, dtype=torch.int64, device=device)
        self._last = torch.full((2,), torch.nan, device=device)

    @torch.no_grad()
    def note(self, step: int, loss: Tensor) -> None:
        """A step's loss, and the gradients that the parameters have now."""
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        values = torch.stack([loss.detach().float(), norm.float()])
        finite = values.isfinite()
        self._steps = torch.where(finite, self._steps, self._steps.clamp(max=step))
        self._last = torch.where(finite & (self._steps == _NEVER), values, self._last)

    def first(self, all_reduce: Callable[[Tensor], Tensor]) -> First | None:
        """None where all were finite. Every rank calls it: the gradient is the same on all, the loss a rank's own.

        Args:
            all_reduce: sum over ranks.
        """
        loss, gradient = self._steps.tolist()
        own = torch.tensor(float(loss <= gradient and loss < _NEVER), device=self._steps.device)
        by_loss = all_reduce(own).item() > 0
        if (step := min(loss, gradient)) == _NEVER:
            return None
        before_loss, before_norm = self._last.tolist()
        return "loss" if by_loss else "gradient", step, before_loss, before_norm


def explain(first: First | None, row: Mapping[str, float], precision: str, learning_rate: float, x: Tensor) -> str:
    """What is known of a run that is no longer finite, and what to change.

    Args:
        first: see `Watch.first`; None where training was finite and validation was not.
        row: the epoch's means.
        x: some of the inputs.
    """
    inputs = f"inputs as stored are up to {float(x.float().nan_to_num(0).abs().max()):.3g}"
    rate = f"lower train.learning_rate ({learning_rate:g})"
    if first is None:
        names = ", ".join(name for name, value in row.items() if not math.isfinite(value))
        known = f"{names}, while loss and gradients of training were finite; {inputs}"
    else:
        what, step, loss, norm = first
        before = f"after loss {loss:.3g} and a gradient of norm {norm:.3g}" if math.isfinite(loss) else "from the start"
        known = f"the {what} of step {step + 1} was the first, {before}; {inputs}"
        if what == "gradient" and precision != "bfloat16" and not norm > _LARGE:
            return f"{known}; its loss was finite: look for inputs out of range before you {rate}"
    if precision == "bfloat16":
        return f"{known}; set train.precision to float32: the arithmetic may be the cause; if it stays, {rate}"
    return f"{known}; {rate}"
