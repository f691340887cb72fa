"""Length and batch of a run by the number of points: what `auto` and the floors of params.yaml stand for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.config.params import TrainParams

_LARGEST, _SMALLEST = 256, 64
# A batch is at most this share of the points, or the gradient of a small data set hardly varies from step to step.
_SHARE = 1 / 32
_FEW_STEPS = 500


def auto_batch_size(num_points: int, workers: tuple[int, int]) -> int:
    """The batch of `train.batch_size: auto`, over all ranks.

    The largest power of two up to a thirty-second of the points, from 64 to 256, rounded up to what each allowed number
    of ranks divides.

    Args:
        num_points: of train, labelled or not.
        workers: fewest and most ranks.
    """
    size = min(_LARGEST, max(_SMALLEST, 2 ** int(math.log2(max(1, _SHARE * num_points)))))
    each = math.lcm(*range(workers[0], workers[1] + 1))
    return math.ceil(size / each) * each


def steps_per_epoch(num_points: int, batch_size: int, epochs: int, min_steps: int) -> int:
    """Steps of an epoch: one pass over the points, or more where `epochs` passes take fewer than `min_steps` steps."""
    return max(1, num_points // batch_size, math.ceil(min_steps / epochs))


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
