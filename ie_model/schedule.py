"""Length and batch of a run by the number of points, and what changes from step to step."""

from __future__ import annotations

import math

import numpy as np

_LARGEST, _SMALLEST = 256, 64
# A batch is at most this share of the points, or the gradient of a small data set hardly varies from step to step.
_SHARE = 1 / 32


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


def learning_rate(step: int, total_steps: int, highest: float, warmup: float) -> float:
    """A linear rise over `warmup`, a share of the steps, under a cosine that falls to zero."""
    rise = min(1.0, (step + 1) / max(1, round(warmup * total_steps)))
    return highest * rise * 0.5 * (1 + math.cos(math.pi * step / total_steps))


def kl_weight(step: int, total_steps: int, kl_warmup: float, kl_start: float = 0.0) -> float:
    """beta, which goes from `kl_start` to 1 over `kl_warmup`, a share of the steps."""
    steps = kl_warmup * total_steps
    return 1.0 if step >= steps else kl_start + (1.0 - kl_start) * step / steps


def seed_of(seed: int, stream: int, step: int, rank: int) -> int:
    """Seed of one use of random numbers at one step of one rank: nothing needs to be kept to resume at a step."""
    state = np.random.SeedSequence([seed, stream, step, rank]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))
