"""Simple classifiers of raw values, to be read beside a model, and how sure a comparison is. Arrays in, numbers out.

Shapes: N labelled points, M test points, D values, K classes.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

from ie_model.spec import Kind

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

PENALTIES = (0.01, 0.1, 1.0, 10.0)
"""What C of the logistic regression is chosen from."""

_FOLDS = 5
_STEPS = 300
_VALIDATED = 1000
"""Points of the cross-validation at most; the last fit has all of them."""


def raw_values(x: NDArray[Any], kind: Kind) -> NDArray[np.float32]:
    """Examples as stored `[N, *shape]` as rows `[N, D]`: bytes / 255, log(1 + count), or values with 0 past an end."""
    rows = x.reshape(len(x), -1).astype(np.float32)
    if kind == "image":
        return rows / np.float32(255)
    if kind == "counts":
        return np.log1p(rows)
    return np.nan_to_num(rows)


def nearest_neighbour(x: Floats, y: Ints, test_x: Floats) -> NDArray[np.int64]:
    """Class of the nearest labelled point by Euclidean distance, `[M]`.

    Args:
        x: `[N, D]`; y: their classes `[N]`; test_x: `[M, D]`.
    """
    with threadpool_limits(limits=1):
        fitted = KNeighborsClassifier(1, algorithm="brute").fit(x, y)
        return np.asarray(fitted.predict(test_x), dtype=np.int64)


def logistic_regression(x: Floats, y: Ints, test_x: Floats) -> NDArray[np.int64]:
    """Class by an L2-regularised logistic regression, `[M]`.

    Values are centred, and divided by one number, their deviation. C is the best of `PENALTIES` in a stratified
    cross-validation on the labelled points, the smaller where two are equal; 1 where a class has a single point.

    Args:
        x: `[N, D]`; y: their classes `[N]`, at least two of them; test_x: `[M, D]`.
    """
    with threadpool_limits(limits=1):
        centre = x.mean(0, dtype=np.float64).astype(x.dtype)
        scale = x.dtype.type(np.std(x - centre)) or x.dtype.type(1)
        rows, test = ((part - centre) / scale for part in (x, test_x))
        if len(rows) < rows.shape[1]:
            # With an L2 penalty the weights are in the span of the points: N coordinates are enough, and exact.
            _, _, basis = np.linalg.svd(rows, full_matrices=False)
            rows, test = rows @ basis.T, test @ basis.T
        c = _penalty(rows, y)
        return np.asarray(_fit(rows, y, c).predict(test), dtype=np.int64)


def _penalty(x: Floats, y: Ints) -> float:
    order = np.random.default_rng(0).permutation(len(x))[:_VALIDATED]
    x, y = x[order], y[order]
    folds = min(_FOLDS, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return 1.0
    wrong = dict.fromkeys(PENALTIES, 0)
    for fit, score in StratifiedKFold(folds).split(x, y):
        for c in PENALTIES:
            wrong[c] += int((_fit(x[fit], y[fit], c).predict(x[score]) != y[score]).sum())
    return min(PENALTIES, key=lambda c: (wrong[c], c))


def _fit(x: Floats, y: Ints, c: float) -> LogisticRegression:
    with warnings.catch_warnings():
        # Cut off, it is a valid, slightly weaker baseline.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(C=c, max_iter=_STEPS).fit(x, y)


def wilson_interval(wrong: int, num: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a rate `wrong / num`, both ends 0..1; 95 % by default.

    Holds for one model on new test points of the same origin. Another label subset or seed moves the rate by more.

    Source: Wilson, JASA 1927.
    """
    if not 0 <= wrong <= num or num < 1:
        raise ValueError(f"wrong must be 0..num and num at least 1, got {wrong} of {num}")
    rate, part = wrong / num, z * z / num
    centre = (rate + part / 2) / (1 + part)
    half = z * math.sqrt(rate * (1 - rate) / num + part / (4 * num)) / (1 + part)
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def mcnemar_p(right: NDArray[np.bool_], other_right: NDArray[np.bool_]) -> float:
    """p-value of McNemar's exact test that two classifiers err equally often, on the same points.

    Only points that one gets right and the other wrong enter; 1.0 where there are none.

    Args:
        right, other_right: whether each is right, `[M]`.

    Source: McNemar, Psychometrika 1947.
    """
    alone, other = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    return float(binomtest(alone, alone + other).pvalue) if alone + other else 1.0
