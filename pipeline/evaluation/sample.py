"""The examples that a measure which is no sum is taken on: chosen by a hash of the key."""

from __future__ import annotations

from pipeline.data.loading.in_memory import SplitData
from pipeline.utils.key_sample import lowest

TEST_POINTS = 10_000
"""Test examples that stay in memory: for probes, swaps, baselines, the curve of risk and the gallery."""


def sampled(split: SplitData, num: int) -> SplitData:
    """`num` of its examples, those with the lowest hash; all where there are no more."""
    return split if len(split) <= num else split.take(lowest(split.keys, num))
