"""Length and batch of a run by the number of points: what `auto` and the floors of params.yaml stand for."""

from __future__ import annotations

from dataclasses import dataclass

from ie_model.schedule import auto_batch_size, steps_per_epoch
from pipeline.config.params import TrainParams

_FEW_STEPS = 500


@dataclass(frozen=True)
class Length:
    """Of a run."""

    batch_size: int
    epochs: int
    steps_per_epoch: int


def run_length(train: TrainParams, epochs: int, min_steps: int, num_points: int) -> Length:
    """What batch and floor of params come to.

    Args:
        epochs, min_steps: of `train` or of `sweep`.
        num_points: of train, labelled or not.
    """
    batch_size = train.batch_size
    if batch_size == "auto":
        batch_size = auto_batch_size(num_points, train.worker_range)
    return Length(batch_size, epochs, steps_per_epoch(num_points, batch_size, epochs, min_steps))


def shortness(steps: int) -> str:
    """A warning where a run has hardly any steps, else nothing."""
    if steps >= _FEW_STEPS:
        return ""
    return f"{steps} steps are few, a class is seldom learned in fewer than {_FEW_STEPS}: raise train.min_steps"
