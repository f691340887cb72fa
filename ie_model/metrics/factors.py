"""How much a representation tells of a factor, a number known of each example beside its class: arrays in, numbers out.

Shapes: N train points, M test points, D features. A factor is a quantity, scored by R^2, or codes of categories (sites,
speakers), scored by accuracy. Whatever holds the class tells of a factor that goes with the class: show the same score
of the class alone beside it, or `within_class_r2`, which leaves only what the class does not explain.

Every function raises ValueError for empty arrays or arrays that do not fit each other, and its kind `Undefined` where
the data alone rule the measure out.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor
from sklearn.preprocessing import StandardScaler

from ie_model.metrics.equivariance import regressed
from ie_model.metrics.measures import Floats, Ints, Undefined, probe_accuracy, r2_per_output

MOST_CATEGORIES = 20
_FEWEST = 11  # an MLP holds two of them out
_ROUNDING = 1e-12


def is_categorical(values: Floats) -> bool:
    """Whether values `[N]` are taken for codes of categories: whole numbers, `MOST_CATEGORIES` of them at most."""
    different = np.unique(values)
    return len(different) <= MOST_CATEGORIES and bool((different == np.round(different)).all())


def factor_score(
    train_x: Floats,
    train_factor: Floats,
    test_x: Floats,
    test_factor: Floats,
    kind: Literal["linear", "mlp"],
    seed: int,
    *,
    categorical: bool,
) -> float:
    """R^2 of a fresh regressor on a frozen representation, fitted on train and scored on test; of categories accuracy.

    At most 1. R^2 of the best constant is 0; accuracy has the most frequent category's share as its floor.

    Args:
        train_x: `[N, D]`, with values of the factor `[N]`; test_x: `[M, D]`, with values `[M]`.
        kind: see `ie_model.metrics.equivariance.style_regression`, of categories `probe_accuracy`; so is seed.
    """
    _check_size(train_factor, test_factor)
    if np.ptp(train_factor) == 0 or (np.ptp(test_factor) == 0 and not categorical):
        raise Undefined("the factor has one value in train or in test")
    if categorical:
        codes = np.unique(np.concatenate([train_factor, test_factor]), return_inverse=True)[1]
        split = len(train_factor)
        return probe_accuracy(train_x, codes[:split], test_x, codes[split:], kind, seed)
    predicted = regressed(train_x, train_factor[:, None], test_x, kind, seed)
    return float(r2_per_output(test_factor[:, None], predicted)[0])


def within_class_r2(
    train_x: Floats,
    train_factor: Floats,
    train_y: Ints,
    test_x: Floats,
    test_factor: Floats,
    test_y: Ints,
    kind: Literal["linear", "mlp"],
    seed: int,
    *,
    categorical: bool,
) -> float:
    """R^2 of what is left of a factor without its class means, which are train's; categories as indicators, pooled.

    At most 1; about 0 where the representation tells of the factor no more than the class does. Points of a class that
    train does not have are left out. Blind to how far the factor goes with the class: see `factor_score` of the class.

    Args:
        as for `factor_score`; train_y: classes `[N]`; test_y: `[M]`.
    """
    known = np.isin(test_y, train_y)
    test_x, test_factor, test_y = test_x[known], test_factor[known], test_y[known]
    _check_size(train_factor, test_factor)
    train_g, test_g = train_factor[:, None].astype(np.float64), test_factor[:, None].astype(np.float64)
    if categorical:
        codes = np.unique(np.concatenate([train_factor, test_factor]))
        train_g, test_g = ((g == codes).astype(np.float64) for g in (train_g, test_g))
    spread, width = np.sum((test_g - test_g.mean(axis=0)) ** 2), np.ptp(train_g, axis=0).max()
    for c in np.unique(train_y):
        mean = train_g[train_y == c].mean(axis=0)
        train_g[train_y == c] -= mean
        test_g[test_y == c] -= mean
    total = np.sum((test_g - test_g.mean(axis=0)) ** 2)
    if total <= _ROUNDING * spread or not np.ptp(train_g, axis=0).max() > _ROUNDING * width:
        raise Undefined("the factor does not vary within a class")
    return float(1.0 - np.sum((test_g - regressed(train_x, train_g, test_x, kind, seed)) ** 2) / total)


def disentanglement(codes: Floats, factors: Floats, seed: int) -> tuple[float, float]:
    """Disentanglement and completeness of codes (Eastwood and Williams 2018, equations 1 to 3), each from 0 to 1.

    Disentanglement: each code tells of one factor alone. Completeness: each factor is told by one code alone. A code
    counts by how far a random forest of all codes relies on it; one that no forest uses does not count. How well the
    codes tell the factors at all is for `factor_score` to say.

    Args:
        codes: `[N, D]`; factors: quantities `[N, F]`, finite.
    """
    if len(factors) < _FEWEST or min(codes.shape[1], factors.shape[1]) < 2:
        few = f"{len(factors)} examples, {codes.shape[1]} codes and {factors.shape[1]} factors"
        raise Undefined(f"{few}, at least {_FEWEST}, 2 and 2 are needed")
    if (np.ptp(factors, axis=0) == 0).any():
        raise Undefined("a factor has one value in train")
    importance = np.empty((codes.shape[1], factors.shape[1]))
    for j, factor in enumerate(StandardScaler().fit_transform(factors.astype(np.float64)).T):
        # Without random choices of codes a forest leaves aside those that only go with the one that tells.
        forest = RandomForestRegressor(50, min_samples_leaf=5, max_features=None, random_state=seed)
        importance[:, j] = forest.fit(codes, factor).feature_importances_
    weights = importance.sum(axis=1) / importance.sum()
    return (
        float(np.sum(weights * (1 - _entropy(importance)))),
        float(np.mean(1 - _entropy(importance.T))),
    )


def _entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row `[A, B]` as shares of its sum, in units of log B; 1 for a row of zeros."""
    total = rows.sum(axis=1, keepdims=True)
    shares = np.divide(rows, total, out=np.full_like(rows, 1 / rows.shape[1]), where=total > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    found: NDArray[np.float64] = -(shares * logs).sum(axis=1) / np.log(rows.shape[1])
    return found


def _check_size(train: NDArray[np.floating], test: NDArray[np.floating]) -> None:
    if len(train) < _FEWEST or len(test) < 2:
        few = f"{len(train)} train and {len(test)} test examples have a value of the factor"
        raise Undefined(f"{few}, at least {_FEWEST} and 2 are needed")
