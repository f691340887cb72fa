"""Measures of what a known map g of the data does to a code z: invariance, equivariance, style. Arrays in, numbers out.

Nothing here knows of a model, a map or a file. Shapes: N points, M test points, D units of the code, O parameters of
the map, C candidates. `z` holds the codes of the points and `moved` the codes of the same points after the map, row by
row. Everything is computed in float64, apart from the MLP of `style_regression`. Each docstring names what fools the
measure and which control to show beside it.

Every function raises ValueError, with the shape or the value that it got, for empty arrays, arrays that do not fit each
other, labels that are not whole numbers from 0, numbers that are not finite, and scores that are not defined: what
the arguments' lines rule out.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from ie_model.metrics.measures import (
    Floats,
    Ints,
    Undefined,
    _check_finite,
    _check_labels,
    _check_matrix,
    _check_same_length,
    r2_per_output,
)

_MLP_HOLDOUT = 0.1

_CHUNK_VALUES = 2**22
"""float64 numbers that `retrieval` holds at once (32 MiB), or one row's C * D if that is more."""


@dataclass(frozen=True)
class LinearAction:
    """What one map does to codes, as an affine map: z(gx) ~ A z(x) + b."""

    matrix: NDArray[np.float64]
    """A, `[D, D]`; a row for each unit of z(gx), a column for each unit of z(x)."""
    offset: NDArray[np.float64]
    """b, `[D]`."""

    def __post_init__(self) -> None:
        _check_matrix(self.matrix, "matrix")
        _check_finite(self.offset, "offset")
        shapes = list(self.matrix.shape), list(self.offset.shape)
        if shapes[0] != 2 * shapes[1]:
            raise ValueError(f"matrix and offset must have shapes [D, D] and [D], got {shapes[0]} and {shapes[1]}")

    def apply(self, z: Floats) -> NDArray[np.float64]:
        """A z + b of each row of z `[N, D]`, `[N, D]`."""
        _check_matrix(z, "z")
        if z.shape[1] != len(self.offset):
            raise ValueError(f"z {list(z.shape)} must have the action's {len(self.offset)} columns")
        with threadpool_limits(limits=1):
            return np.asarray(z.astype(np.float64) @ self.matrix.T + self.offset, dtype=np.float64)


@dataclass(frozen=True)
class Retrieval:
    """How well predictions find their own target among others. Only comparable at the same `num_candidates`."""

    mrr: float
    """Mean over points of 1 / rank, 0..1."""
    hit_at_1: float
    """Share of points of rank 1, 0..1."""
    hit_at_5: float
    """Share of points of rank 5 or better, 0..1; always 1 for up to five candidates."""
    num_candidates: int
    """C, the right one included."""


def style_regression(
    train_z: Floats,
    train_moved: Floats,
    train_g: Floats,
    test_z: Floats,
    test_moved: Floats,
    test_g: Floats,
    kind: Literal["linear", "mlp"],
    seed: int,
) -> NDArray[np.float64]:
    """R^2 per output, `[O]`, of reading a map's parameters g from the codes before and after it.

    At most 1; 0 is the best constant. The regressor is fitted on train, scored on test, and sees [z, moved, moved - z].
    A score above `constant_floor` proves that the map leaves a trace in the code; one at the floor proves only that
    this regressor found none. Fooled by size: features are standardised on train, so a systematic move of a millionth
    of the code's spread is read as well as a large one (`invariance_ratio` sees the size). One far test point can pull
    a score far below 0. A code without units (D = 0) is the best constant: zeros.

    Args:
        train_z, train_moved: `[N, D]`; train_g: `[N, O]`, an angle as its sine and cosine. Columns may be constant.
        test_z, test_moved: `[M, D]`; test_g: `[M, O]`, no output constant.
        kind: `linear` is a ridge regression (penalty 1 on standardised features); `mlp` has two hidden layers of 256
            ReLUs, Adam, and stops early on a tenth of the train points, of which it needs two.
        seed: of the MLP's weights, batches and held-out points; `linear` has one optimum and ignores it.
    """
    for name, z, moved, g in (("train", train_z, train_moved, train_g), ("test", test_z, test_moved, test_g)):
        _check_pair(z, moved, f"{name}_z", f"{name}_moved", may_lack_columns=True)
        _check_matrix(g, f"{name}_g")
        _check_same_length(z, f"{name}_z", g, f"{name}_g")
    _check_same_columns(train_z, "train_z", test_z, "test_z")
    if kind not in ("linear", "mlp"):
        raise ValueError(f"kind must be 'linear' or 'mlp', got {kind!r}")
    if kind == "mlp" and math.ceil(_MLP_HOLDOUT * len(train_z)) < 2:
        raise Undefined(f"an mlp needs 11 train points to hold two out, got train_z {list(train_z.shape)}")
    # Before the fit, which may be long: refuses a test_g without R^2.
    floor = constant_floor(train_g, test_g)
    if train_z.shape[1] == 0:
        return np.zeros_like(floor)
    train_x, test_x = _pair_features(train_z, train_moved), _pair_features(test_z, test_moved)
    return r2_per_output(test_g, regressed(train_x, train_g, test_x, kind, seed))


def regressed(
    train_x: Floats, train_g: Floats, test_x: Floats, kind: Literal["linear", "mlp"], seed: int
) -> NDArray[np.float64]:
    """What a fresh regressor of `style_regression` predicts for test, `[M, O]`.

    Args:
        train_x: `[N, D]`, D at least 1; train_g: `[N, O]`; test_x: `[M, D]`.
    """
    scale_x, scale_g = StandardScaler(), StandardScaler()
    # float32 halves the MLP's time and costs nothing at this precision.
    dtype: type[np.floating[Any]] = np.float64 if kind == "linear" else np.float32
    x = scale_x.fit_transform(train_x.astype(np.float64)).astype(dtype)
    target = scale_g.fit_transform(train_g.astype(np.float64)).astype(dtype)
    test_x = scale_x.transform(test_x.astype(np.float64)).astype(dtype)
    # One thread: the score must not depend on how many cores the machine has.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # A regressor cut off at max_iter is a valid, slightly weaker one; the user can do nothing about it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        regressor = Ridge(alpha=1.0)
        if kind == "mlp":
            regressor = MLPRegressor(
                hidden_layer_sizes=(256, 256),
                early_stopping=True,
                validation_fraction=_MLP_HOLDOUT,
                n_iter_no_change=8,
                max_iter=100,
                random_state=seed,
            )
        # A single output goes in without its axis: as a column it makes sklearn warn.
        regressor.fit(x, target[:, 0] if target.shape[1] == 1 else target)
        predicted = regressor.predict(test_x).reshape(len(test_x), target.shape[1])
    return np.asarray(scale_g.inverse_transform(predicted.astype(np.float64)), dtype=np.float64)


def constant_floor(train_g: Floats, test_g: Floats) -> NDArray[np.float64]:
    """R^2 per output, `[O]`, of saying train's mean for every test point: at most 0. The control of `style_regression`.

    Far below 0 where train and test have different means; a regressor that beats such a floor need not beat 0.
    train_g: `[N, O]`; test_g: `[M, O]`, no output constant.
    """
    _check_matrix(train_g, "train_g")
    _check_matrix(test_g, "test_g")
    _check_same_columns(train_g, "train_g", test_g, "test_g")
    mean = np.broadcast_to(train_g.mean(axis=0, dtype=np.float64), test_g.shape)
    # No constant beats test's own mean; rounding may leave 1e-16 above it.
    return np.minimum(r2_per_output(test_g, mean), 0.0)


def invariance_ratio(z: Floats, moved: Floats, y: Ints) -> float:
    """Mean squared distance of z(x) to z(gx) over that of z(x) to z(x') of another class. Lower is more invariant.

    0 is invariant; 1 means that the map moves a point as far as a change of class. The mean below the line is over all
    pairs of points of different classes, exactly. Blind to what carries the classes: a code of many units that hold
    noise has large distances between classes and a small ratio. A map close to the identity makes it small for any
    code: show the same ratio of raw pixels beside it.

    Args:
        z, moved: `[N, D]`, not all z equal up to rounding; y: classes `[N]`, at least two of them.
    """
    _check_pair(z, moved, "z", "moved")
    index, count = _class_index(z, y)
    exact = z.astype(np.float64)
    movement = np.mean(np.sum((exact - moved) ** 2, axis=1))
    centred = exact - exact.mean(axis=0)
    square = np.bincount(index, np.sum(centred**2, axis=1))
    others = len(y) - count
    # Sum over ordered pairs of a class c and the rest of ||a - b||^2. The sums of all classes cancel, so the cross term
    # -2 sum_c . (sum of the rest) is +2 ||sum_c||^2: no difference of large numbers is left.
    cross = 2.0 * np.sum(_class_sums(centred, index, len(count)) ** 2, axis=1)
    apart = np.sum(others * square + count * (square.sum() - square) + cross) / np.sum(count * others)
    if apart <= _rounding(exact):
        raise Undefined(f"z {list(z.shape)} has equal rows: no distance between classes to compare with")
    return float(movement / apart)


def within_between_ratio(z: Floats, y: Ints) -> float:
    """Variance within classes over variance between class means, as traces. 0 where each class is one point.

    Classes weigh by their points. Blind to a class of two far clusters whose mean is right, and biased: with n points
    a class, means of pure noise differ too, so a useless code scores about n - 1 and not infinity. Control: raw pixels
    at the same points.

    Args:
        z: `[N, D]`, not all class means equal up to rounding; y: classes `[N]`, at least two of them.
    """
    _check_matrix(z, "z")
    index, count = _class_index(z, y)
    exact = z.astype(np.float64)
    centred = exact - exact.mean(axis=0)
    means = _class_sums(centred, index, len(count)) / count[:, None]
    between = np.sum(count * np.sum(means**2, axis=1)) / len(y)
    if between <= _rounding(exact):
        raise Undefined(f"z {list(z.shape)} has the same mean in all {len(count)} classes: nothing to divide by")
    return float(np.mean(np.sum((centred - means[index]) ** 2, axis=1)) / between)


def fit_linear_action(z: Floats, moved: Floats, ridge: float = 1e-3) -> LinearAction:
    """The affine map of codes that best does what ONE map of the data does: least squares with a small penalty.

    Minimises, over A and b, mean ||A z + b - moved||^2 + ridge * sum over units j of var(z_j) ||A[:, j]||^2: the
    penalty is relative to a unit's own variance, so that its scale does not matter. With few points for D units it
    fits noise: judge it by `action_r2` on other points.

    Args:
        z, moved: `[N, D]`, codes before and after the same map of every point; units may be constant.
        ridge: above 0, since constant or repeated units leave plain least squares without one answer.
    """
    _check_pair(z, moved, "z", "moved")
    if not (math.isfinite(ridge) and ridge > 0):
        raise ValueError(f"ridge must be finite and above 0, got {ridge}")
    scale = StandardScaler()
    with threadpool_limits(limits=1):
        standard = scale.fit_transform(z.astype(np.float64))
        mean = moved.mean(axis=0, dtype=np.float64)
        gram = standard.T @ standard / len(z) + ridge * np.eye(z.shape[1])
        weights = np.linalg.solve(gram, standard.T @ (moved - mean) / len(z))
        matrix = (weights / scale.scale_[:, None]).T
        return LinearAction(matrix=matrix, offset=mean - matrix @ scale.mean_)


def action_r2(action: LinearAction, z: Floats, moved: Floats) -> NDArray[np.float64]:
    """R^2 of each unit, `[D]`, of predicting moved by the action. At most 1; 0 is the best constant.

    Means something only above `identity_r2` of the same points: a map that hardly moves the code is predicted well by
    anything near the identity. On the points of the fit it flatters.

    Args:
        action: of one map; z, moved: `[N, D]`, held-out points and the same map, no unit of moved constant.
    """
    _check_pair(z, moved, "z", "moved")
    return r2_per_output(moved, action.apply(z))


def identity_r2(z: Floats, moved: Floats) -> NDArray[np.float64]:
    """R^2 of each unit, `[D]`, of predicting that the map does nothing: moved by z. The control of `action_r2`.

    1 for a unit that the map leaves alone, -3 for one whose sign it turns about a mean of 0. z, moved: `[N, D]`, no
    unit of moved constant.
    """
    _check_pair(z, moved, "z", "moved")
    return r2_per_output(moved, z)


def composition_error(first: LinearAction, second: LinearAction, both: LinearAction, z: Floats) -> float:
    """How far `second` after `first` is from the action fitted to the composed map: 0 is a representation.

    mean ||A2(A1 z) - A12 z||^2 / mean ||A12 z - mean of A12 z||^2, so 1 is as bad as the best constant; no upper end.
    Fooled by a code that the maps leave alone, where identities compose exactly, and blind to whether the actions fit:
    show `action_r2` and `identity_r2` of all three. The fits' penalty shrinks twice on one side and once on the other.

    Args:
        first, second: actions of two maps; both: of the first map followed by the second, not sending all points to
            one (up to rounding); z: `[N, D]`.
    """
    stepwise, direct = second.apply(first.apply(z)), both.apply(z)
    spread = np.mean(np.sum((direct - direct.mean(axis=0)) ** 2, axis=1))
    if spread <= _rounding(direct):
        raise Undefined(f"the composed action sends all of z {list(z.shape)} to one point: nothing to divide by")
    return float(np.mean(np.sum((stepwise - direct) ** 2, axis=1)) / spread)


def retrieval(predicted: Floats, target: Floats, num_candidates: int, seed: int) -> Retrieval:
    """How often a prediction is nearest to its own target, among random others, by squared distance.

    The size of the candidate set decides the numbers, so state it: guessing has a Hit@k of k / C and an MRR of
    (1 + 1/2 + ... + 1/C) / C. Ties count against the prediction: its rank is the number of candidates that are no
    farther than the right one, that one included, so a collapsed code ranks last. Control: z(x) itself as the
    prediction of z(gx). For a map that moves little, it scores well.

    Args:
        predicted, target: `[N, D]`, row by row.
        num_candidates: C, 2..N: the right row of target and C - 1 others, drawn for each row without replacement.
        seed: of the draws. With C = N there is nothing to draw, and the order of points does not matter.
    """
    _check_pair(predicted, target, "predicted", "target")
    num_points, num_columns = target.shape
    if not 2 <= num_candidates <= num_points:
        raise Undefined(
            f"num_candidates must be 2..{num_points}, the rows of target {list(target.shape)}, got {num_candidates}"
        )
    guess, truth = predicted.astype(np.float64), target.astype(np.float64)
    rng = np.random.default_rng(seed)
    rank = np.empty(num_points, dtype=np.int64)
    step = max(1, _CHUNK_VALUES // (num_candidates * num_columns))
    for start in range(0, num_points, step):
        rows = np.arange(start, min(start + step, num_points))
        candidates = np.empty((len(rows), num_candidates), dtype=np.int64)
        candidates[:, 0] = rows
        for i, row in enumerate(rows):
            others = rng.choice(num_points - 1, num_candidates - 1, replace=False, shuffle=False)
            # The numbers from the row's own one on stand for the rows behind it.
            candidates[i, 1:] = others + (others >= row)
        gap = truth[candidates]
        gap -= guess[rows, None]
        distance = np.square(gap, out=gap).sum(axis=2)
        rank[rows] = np.sum(distance <= distance[:, :1], axis=1)
    return Retrieval(
        mrr=float(np.mean(1.0 / rank)),
        hit_at_1=float(np.mean(rank <= 1)),
        hit_at_5=float(np.mean(rank <= 5)),
        num_candidates=num_candidates,
    )


def _pair_features(z: Floats, moved: Floats) -> NDArray[np.float64]:
    """[z, moved, moved - z], `[N, 3 D]`."""
    before, after = z.astype(np.float64), moved.astype(np.float64)
    return np.concatenate([before, after, after - before], axis=1)


def _class_index(z: Floats, y: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the classes that occur each point has, `[N]`, and the points of each, `[K]`; K is at least 2."""
    _check_labels(y, "y")
    _check_same_length(z, "z", y, "y")
    classes, index, count = np.unique(y, return_inverse=True, return_counts=True)
    if len(classes) < 2:
        raise Undefined(f"y {list(y.shape)} must hold at least two classes, got {len(classes)}")
    return index.astype(np.int64), count.astype(np.int64)


def _class_sums(x: NDArray[np.float64], index: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    sums = np.zeros((num_classes, x.shape[1]))
    np.add.at(sums, index, x)
    return sums


def _rounding(x: NDArray[np.float64]) -> float:
    """The mean squared distance between rows that rounding alone may make out of equal ones."""
    return float(x.size * (np.finfo(np.float64).eps * np.abs(x).max()) ** 2)


def _check_pair(a: Floats, b: Floats, a_name: str, b_name: str, may_lack_columns: bool = False) -> None:
    for x, name in ((a, a_name), (b, b_name)):
        if not (may_lack_columns and x.ndim == 2 and len(x) > 0 and x.shape[1] == 0):
            _check_matrix(x, name)
    if a.shape != b.shape:
        raise ValueError(f"{a_name} and {b_name} must have the same shape, got {list(a.shape)} and {list(b.shape)}")


def _check_same_columns(a: Floats, a_name: str, b: Floats, b_name: str) -> None:
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"{a_name} and {b_name} must have as many columns, got {list(a.shape)} and {list(b.shape)}")
