"""Standardising raw values: mean and deviation of each feature or channel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def mean_and_deviation(x: Values) -> tuple[Values, Values]:
    """Of each column of `[N, D]` over the values that are not NaN, each column has one.

    A column that never changes has itself as mean and a deviation of 1, so that it becomes 0: what is left of its
    deviation is rounding, which would be blown up. A deviation of 0 is one that double precision cannot square.
    """
    low, high, mean, deviation = (f(x, axis=0) for f in (np.nanmin, np.nanmax, np.nanmean, np.nanstd))
    constant = low == high
    return np.where(constant, low, mean), np.where(constant, 1.0, deviation)
