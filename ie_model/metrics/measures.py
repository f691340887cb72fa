"""Measures of a classifier, of a representation and of a bound: arrays in, numbers out.

Nothing here knows of a model or a file. Shapes: N points, K classes, D features, V units of v, O outputs. Rates are
fractions 0..1, never percent; bounds are nats. Each docstring names what fools the measure.

Every function raises ValueError, with the shape or the value that it got, for empty arrays, arrays that do not fit
each other, labels that are not whole numbers in 0..K-1, numbers that are not finite and rows of `probabilities` that
are no distribution. It is `Undefined` where the data alone rule the measure out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

SUM_TOLERANCE = 1e-3
"""How far a row of float32 probabilities may be from summing to 1."""

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
"""Floor of a probability under a logarithm, 87.3 nats: what a float32 softmax returns as 0 was not 0."""

_MLP_HOLDOUT = 0.1


class Undefined(ValueError):
    """The data do not allow the measure: too few points or classes, or nothing that varies."""


@dataclass(frozen=True)
class CalibrationCurve:
    """Confidence against accuracy in `bins` equal-width bins (i / bins, (i + 1) / bins] of confidence."""

    confidence: NDArray[np.float64]
    """Mean q of the predicted class, `[bins]`; NaN in an empty bin."""

    accuracy: NDArray[np.float64]
    """Share of right predictions, `[bins]`; NaN in an empty bin."""

    count: NDArray[np.int64]
    """Points, `[bins]`."""


def error_rate(predicted: Ints, y: Ints) -> float:
    """Share of wrong predictions, 0..1.

    Fooled by unequal classes: always saying the largest class scores that class's share.

    Args:
        predicted: classes `[N]`; y: true classes `[N]`.
    """
    _check_labels(predicted, "predicted")
    _check_labels(y, "y")
    _check_same_length(predicted, "predicted", y, "y")
    return float(np.mean(predicted != y))


def calibration_curve(probabilities: Floats, y: Ints, bins: int) -> CalibrationCurve:
    """Mean confidence, accuracy and count per bin of the predicted class's confidence.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`; bins: number of equal-width bins.
    """
    _check_probabilities(probabilities, y)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    confidence, right = _confidence(probabilities, y)
    # A bin holds its upper edge, so that a confidence of exactly 1 needs no bin of its own.
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins).astype(np.int64)
    filled = np.maximum(count, 1)
    return CalibrationCurve(
        confidence=np.where(count > 0, np.bincount(index, confidence, bins) / filled, np.nan),
        accuracy=np.where(count > 0, np.bincount(index, right, bins) / filled, np.nan),
        count=count,
    )


def expected_calibration_error(probabilities: Floats, y: Ints, bins: int) -> float:
    """ECE, 0..1: mean over points of |accuracy - confidence| of the point's bin. Lower is better.

    Fooled by a model that predicts the class shares for every point (0, and useless), by few points (biased upwards:
    noise in a bin counts as error) and by the choice of bins: report `bins` and the error rate beside it. Only the
    predicted class's probability enters.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`; bins: number of equal-width bins.
    """
    curve = calibration_curve(probabilities, y, bins)
    filled = curve.count > 0
    gap = np.abs(curve.accuracy[filled] - curve.confidence[filled])
    # Rounding in a sum of many shares could leave 0..1 by one part in 1e16.
    return float(min(1.0, np.sum(gap * curve.count[filled]) / curve.count.sum()))


def brier_score(probabilities: Floats, y: Ints) -> float:
    """Mean over points of the squared distance between q(y|x) and the one-hot truth, summed over classes: 0..2.

    Lower is better; proper, so honesty is the best policy. Twice the two-class score that some libraries report.
    Fooled by nothing in expectation, but mixes accuracy and calibration: a change does not tell which one moved.

    Source: Brier, Monthly Weather Review 1950.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`.
    """
    _check_probabilities(probabilities, y)
    difference = probabilities.astype(np.float64)
    difference[np.arange(len(y)), y] -= 1.0
    return float(np.mean(np.sum(difference**2, axis=1)))


def negative_log_likelihood(probabilities: Floats, y: Ints) -> float:
    """Mean over points of -log q(y|x) of the true class, in nats. Lower is better; chance is log K.

    Fooled by single points: one confident mistake can outweigh hundreds. A probability of 0 counts as
    `SMALLEST_PROBABILITY`, so the score is finite.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`.
    """
    _check_probabilities(probabilities, y)
    true = probabilities[np.arange(len(y)), y].astype(np.float64)
    # 0 - x rather than -x: a perfect score is 0.0, not -0.0.
    return float(0.0 - np.mean(np.log(np.clip(true, SMALLEST_PROBABILITY, 1.0))))


def risk_coverage(probabilities: Floats, y: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Error rate among the most confident points, for every share of points that is answered.

    Points of equal confidence share their errors evenly, so that the order of the input does not matter.

    Source: El-Yaniv and Wiener, JMLR 2010; Geifman and El-Yaniv, NeurIPS 2017.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`.

    Returns:
        coverage `[N]`, 1/N..1 rising, and the risk at it `[N]`, 0..1; the last risk is the error rate. The first
        few rest on a handful of points.
    """
    _check_probabilities(probabilities, y)
    confidence, right = _confidence(probabilities, y)
    _, tie, size = np.unique(-confidence, return_inverse=True, return_counts=True)
    expected_error = np.bincount(tie, 1.0 - right) / size
    num_covered = np.arange(1, len(y) + 1)
    risk = np.cumsum(expected_error[np.sort(tie)]) / num_covered
    return num_covered / len(y), np.clip(risk, 0.0, 1.0)


def area_under_risk_coverage(probabilities: Floats, y: Ints) -> float:
    """Mean risk over all coverages, 0..1. Lower is better.

    Depends on the order of the confidences alone, not on their size: a badly calibrated model can score perfectly.
    It falls with the error rate itself, so two models compare only at a similar one.

    Args:
        probabilities: q(y|x) `[N, K]`; y: true classes `[N]`.
    """
    return float(np.mean(risk_coverage(probabilities, y)[1]))


def probe_accuracy(
    train_x: Floats, train_y: Ints, test_x: Floats, test_y: Ints, kind: Literal["linear", "mlp"], seed: int
) -> float:
    """Share of test points whose class a fresh classifier reads from a frozen representation, 0..1.

    A score above chance proves that the class is there; a score at chance proves only that this probe did not find
    it. Features are standardised on the train points, which blows up units that carry next to nothing: the means of
    collapsed units of v can score far above what a SAMPLE of v transmits, so report both. Compare with chance
    (1 / K, or the largest class's share) and with shuffled features. A class that is absent from train counts as
    wrong.

    Args:
        train_x: `[N, D]`, and its classes train_y `[N]`, at least two of them; columns may be constant.
        test_x: `[M, D]`, and its classes test_y `[M]`.
        kind: `linear` is a logistic regression (L2, C = 1); `mlp` has two hidden layers of 256 ReLUs, Adam, and stops
            early on a tenth of the train points, or on one of each class where that is more, of half of them at most.
            A class of a single train point is left out of its fit.
        seed: of the MLP's weights, batches and held-out points; `linear` has one optimum and ignores it.
    """
    for name, x, y in (("train", train_x, train_y), ("test", test_x, test_y)):
        _check_matrix(x, f"{name}_x")
        _check_labels(y, f"{name}_y")
        _check_same_length(x, f"{name}_x", y, f"{name}_y")
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(
            f"train_x and test_x must have as many columns, got {list(train_x.shape)} and {list(test_x.shape)}"
        )
    class_sizes = np.unique(train_y, return_counts=True)[1]
    if len(class_sizes) < 2:
        raise Undefined(f"train_y {list(train_y.shape)} must hold at least two classes, got {len(class_sizes)}")
    dtype: type[np.floating[Any]]
    if kind == "linear":
        classifier, dtype = LogisticRegression(max_iter=2000), np.float64
    elif kind == "mlp":
        train_x, train_y, held_out = _for_early_stopping(train_x, train_y)
        # float32 halves the time and costs nothing at this precision.
        dtype = np.float32
        classifier = MLPClassifier(
            hidden_layer_sizes=(256, 256),
            early_stopping=True,
            validation_fraction=held_out,
            n_iter_no_change=8,
            max_iter=100,
            random_state=seed,
        )
    else:
        raise ValueError(f"kind must be 'linear' or 'mlp', got {kind!r}")
    probe = make_pipeline(StandardScaler(), classifier)
    # One thread: the score must not depend on how many cores the machine has.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # A probe cut off at max_iter is a valid, slightly weaker probe; the user can do nothing about it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(train_x.astype(dtype), train_y)
        predicted = probe.predict(test_x.astype(dtype))
    return float(np.mean(predicted == test_y))


def _for_early_stopping(x: Floats, y: Ints) -> tuple[Floats, Ints, float]:
    """Points of classes that have two at least, and the share of them to hold out so that each class is in both parts.

    Raises Undefined where there are too few.
    """
    classes, index, count = np.unique(y, return_inverse=True, return_counts=True)
    kept = (count >= 2)[index]
    x, y, num_classes = x[kept], y[kept], int((count >= 2).sum())
    # Rounded up, the second is one point of each class and no more.
    share = max(_MLP_HOLDOUT, (num_classes - 1e-9) / max(1, len(y)))
    if num_classes < 2:
        raise Undefined(
            f"an mlp probe needs two train points each of at least two classes, got train_y {list(index.shape)} of "
            f"{len(classes)} classes, {num_classes} of them with two or more"
        )
    return x, y, share


def active_units(kl: Floats, threshold: float = 0.05) -> NDArray[np.bool_]:
    """Which units of v carry anything: their KL, averaged over points, is above the threshold, `[V]`.

    Says that a unit transmits, not what. The count depends on the threshold and on the basis of v: one direction
    spread over several units counts several times. State the threshold.

    Source: the KL per unit as the sign of collapse; Burda et al., ICLR 2016 use the variance of the mean instead.

    Args:
        kl: KL(q(v|r,x) || N(0, I)) per unit in nats, `[N, V]`; threshold in nats.
    """
    _check_matrix(kl, "kl")
    return np.asarray(kl.mean(axis=0, dtype=np.float64) > threshold, dtype=np.bool_)


def bits_per_dim(nats: float, num_values: int) -> float:
    """A mean bound on log p(x) in nats per example as bits per value, sign turned: lower is better.

    Comparable only between models of the same data, the same likelihood and the same bound: a Bernoulli bound on
    grey values is no density of them.

    Args:
        nats: mean bound, one number, usually negative; num_values: scalars in one example (`DataSpec.num_values`).
    """
    if num_values < 1:
        raise ValueError(f"num_values must be at least 1, got {num_values}")
    if not math.isfinite(nats):
        raise ValueError(f"nats must be finite, got {nats}")
    return -nats / (num_values * math.log(2))


def r2_per_output(target: Floats, predicted: Floats) -> NDArray[np.float64]:
    """R^2 of each output, `[O]`: 1 - squared error / squared error of the target's own mean.

    At most 1; 0 is the best constant, below 0 is worse than that. Per output, because a mean pooled over outputs of
    different offset gives a constant predictor a positive score. An angle must come as its sine and cosine.

    Args:
        target: `[N, O]`; predicted: `[N, O]`.

    Raises:
        ValueError: also for an output whose target is constant, where R^2 is not defined.
    """
    _check_matrix(target, "target")
    _check_matrix(predicted, "predicted")
    if target.shape != predicted.shape:
        raise ValueError(
            f"target and predicted must have the same shape, got {list(target.shape)} and {list(predicted.shape)}"
        )
    constant = np.flatnonzero(np.ptp(target, axis=0) == 0)
    if len(constant) > 0:
        raise Undefined(f"target {list(target.shape)} is constant in outputs {constant.tolist()}: R^2 is not defined")
    exact = target.astype(np.float64)
    residual = np.sum((exact - predicted) ** 2, axis=0)
    total = np.sum((exact - exact.mean(axis=0)) ** 2, axis=0)
    return np.asarray(1.0 - residual / total, dtype=np.float64)


def mean_and_std(values: Sequence[float] | Floats) -> tuple[float, float, int]:
    """Mean, standard deviation (n - 1 in the denominator) and n of runs that differ in their seed alone.

    The deviation is 0.0 for one value, which is no measure of spread: show n beside it.

    Args:
        values: `[n]`, at least one.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"values must have shape [n] with n >= 1, got {list(array.shape)}")
    _check_finite(array, "values")
    std = float(array.std(ddof=1)) if array.size > 1 else 0.0
    return float(array.mean()), std, int(array.size)


def _confidence(probabilities: Floats, y: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """q of the predicted class `[N]`, and 1.0 where that class is right, else 0.0, `[N]`."""
    right = (probabilities.argmax(axis=1) == y).astype(np.float64)
    return np.minimum(probabilities.max(axis=1).astype(np.float64), 1.0), right


def _check_labels(labels: Ints, name: str, num_classes: int | None = None) -> None:
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"{name} must have shape [N] with N >= 1, got {list(labels.shape)}")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{name} {list(labels.shape)} must hold whole numbers, got dtype {labels.dtype}")
    if labels.min() < 0 or (num_classes is not None and labels.max() >= num_classes):
        top = "" if num_classes is None else f"..{num_classes - 1}"
        raise ValueError(f"{name} {list(labels.shape)} must hold classes 0{top}, got {labels.min()}..{labels.max()}")


def _check_matrix(x: Floats, name: str) -> None:
    if x.ndim != 2 or x.size == 0:
        raise ValueError(f"{name} must be a matrix with rows and columns, got shape {list(x.shape)}")
    _check_finite(x, name)


def _check_finite(x: Floats, name: str) -> None:
    num_bad = int(np.count_nonzero(~np.isfinite(x)))
    if num_bad > 0:
        raise ValueError(f"{name} {list(x.shape)} holds {num_bad} values that are not finite")


def _check_same_length(a: NDArray[Any], a_name: str, b: NDArray[Any], b_name: str) -> None:
    if len(a) != len(b):
        raise ValueError(f"{a_name} {list(a.shape)} and {b_name} {list(b.shape)} must have as many rows")


def _check_probabilities(probabilities: Floats, y: Ints) -> None:
    _check_matrix(probabilities, "probabilities")
    shape = list(probabilities.shape)
    _check_labels(y, "y", probabilities.shape[1])
    _check_same_length(probabilities, "probabilities", y, "y")
    worst = float(np.abs(probabilities.sum(axis=1, dtype=np.float64) - 1.0).max())
    if probabilities.min() < 0 or worst > SUM_TOLERANCE:
        raise ValueError(
            f"rows of probabilities {shape} must be >= 0 and sum to 1, got a least value of "
            f"{probabilities.min():.3g} and a sum off by {worst:.3g}"
        )
