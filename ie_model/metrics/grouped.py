"""Points in groups: a correlation within groups, an interval over groups. Arrays in, numbers out.

Every function raises ValueError, with the shapes that it got, for arrays that are not `[N]` of one length. It is
`Undefined` where the data alone rule the measure out.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ie_model.metrics.measures import Floats, Ints, Undefined

_LEAST = 10
"""Points beyond one a group that a correlation within groups needs: with fewer its error is a third or more."""

_DRAWS = 2000


def within_group_correlation(a: Floats, b: Floats, group: Ints) -> float:
    """Pearson's correlation of a and b about the means of their groups, pooled over groups: -1..1.

    Differences between groups add nothing to it, and a group of one point nothing at all. Points where a or b is NaN
    are left out: show their share beside it where there are many.

    Args:
        a, b: `[N]`, neither constant within all groups; group: `[N]`.
    """
    _check_rows(a, b, group)
    known = ~(np.isnan(a) | np.isnan(b))
    _, index, count = np.unique(group[known], return_inverse=True, return_counts=True)
    if len(index) - len(count) < _LEAST:
        raise Undefined(f"{len(index)} known points in {len(count)} groups: not {_LEAST} more points than groups")
    centred = []
    for values in (a[known].astype(np.float64), b[known].astype(np.float64)):
        part = values - (np.bincount(index, values) / count)[index]
        # What rounding alone leaves of equal values.
        if np.abs(part).max() <= 1e-12 * np.abs(values).max():
            raise Undefined("constant within groups: nothing to correlate")
        centred.append(part / np.linalg.norm(part))
    return float(np.clip(centred[0] @ centred[1], -1, 1))


def share_interval(hit: NDArray[np.bool_], group: Ints, seed: int) -> tuple[float, float]:
    """Ends of the 95 % percentile interval of the share of hits, 0..1, by a bootstrap that draws whole groups.

    Points of one group are alike, so drawing points would make it too narrow. Too narrow too with few groups.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.

    Args:
        hit, group: `[N]`, at least two groups; seed: of the draws.
    """
    _check_rows(hit, group)
    _, index, count = np.unique(group, return_inverse=True, return_counts=True)
    if len(count) < 2:
        raise Undefined(f"an interval over groups needs two, got {len(count)}")
    drawn = np.random.default_rng(seed).integers(len(count), size=(_DRAWS, len(count)))
    hits = np.bincount(index, hit)
    low, high = np.quantile(hits[drawn].sum(1) / count[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)


def _check_rows(*arrays: NDArray[np.generic]) -> None:
    shapes = [list(array.shape) for array in arrays]
    if any(array.ndim != 1 for array in arrays) or len({len(array) for array in arrays}) > 1:
        raise ValueError(f"arrays must be [N] of one length, got {shapes}")
