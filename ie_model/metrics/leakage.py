"""What a sample of v tells of the class: a probe that never sees a draw twice, and what needs no training.

A probe on few points and one draw of each stops early and finds less than v transmits: on MNIST 24 % of the classes
from 5,000 points where 55,000 points drawn anew in each epoch gave 35 %. Shapes: N points, K classes, V units of v.

Every function raises ValueError for arrays that do not fit each other, as `ie_model.metrics.measures` does, and
`Undefined` where the data alone rule the measure out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from ie_model.metrics.measures import (
    SMALLEST_PROBABILITY,
    Ints,
    Undefined,
    _check_labels,
    _check_matrix,
    _check_same_length,
)

_HIDDEN = (256, 256)
_HOLDOUT, _MAX_EPOCHS, _PATIENCE, _RATE = 0.1, 100, 5, 3e-3
_LEAST_BATCH, _MOST_BATCH, _STEPS = 32, 2000, 25
"""An epoch is of `_STEPS` batches, or of more where they would be larger than `_MOST_BATCH`."""

_DRAWS = 4
"""Of v for each held-out and each test point."""


@dataclass(frozen=True)
class Posteriors:
    """q(v|r,x) of N points, a Gaussian with independent units, and the points' classes."""

    mean: NDArray[np.floating[Any]]
    """`[N, V]`."""

    log_var: NDArray[np.floating[Any]]
    """`[N, V]`."""

    y: NDArray[np.integer[Any]]
    """`[N]`."""

    def __post_init__(self) -> None:
        _check_matrix(self.mean, "mean")
        _check_matrix(self.log_var, "log_var")
        _check_labels(self.y, "y")
        _check_same_length(self.mean, "mean", self.y, "y")
        if self.mean.shape != self.log_var.shape:
            raise ValueError(
                f"mean and log_var must have the same shape, got {list(self.mean.shape)} and {list(self.log_var.shape)}"
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[Any]) -> Posteriors:
        """Some of the points."""
        return Posteriors(self.mean[rows], self.log_var[rows], self.y[rows])

    def draw(self, rng: np.random.Generator) -> NDArray[np.float32]:
        """One v of each point, `[N, V]`."""
        noise = rng.standard_normal(self.mean.shape, dtype=np.float32)
        return np.asarray(self.mean + np.exp(0.5 * self.log_var) * noise, dtype=np.float32)


@dataclass(frozen=True)
class Leak:
    """What a probe read of the class from draws of v."""

    accuracy: float
    """Share of test draws whose class it names, 0..1."""

    mi_nats: float
    """Lower bound on the mutual information of v and the class: the entropy of test's class shares less the probe's
    cross-entropy on test, or 0 where that is below 0."""

    points: int
    """That it was fitted on."""

    epochs: int
    """Until it found no more on held-out points."""


def fresh_probe(
    train: Posteriors, test: Posteriors, seed: int, tell: Callable[[int], None] = lambda epoch: None
) -> Leak:
    """An MLP fitted to the class from v ~ q(v|r,x), drawn anew in each epoch until it saturates.

    Two hidden layers of 256 ReLUs, Adam, batches of 2,000, smaller for few points; a tenth of train, held out, decides
    when it ends. The accuracy at chance proves only that this probe found nothing. The bound on the mutual information
    is that of Barber and Agakov, "The IM Algorithm", NIPS 2003: it holds for any probe, and a better one raises it.
    Both fall with fewer points, so state them; a class that is absent from train counts as wrong.

    Args:
        train: at least two classes of it in what is fitted on; test: the points to score on.
        seed: of weights, batches, draws and held-out points.
        tell: takes each epoch that is done.
    """
    _check_same_units(train, test)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(train))
    held = max(1, math.ceil(_HOLDOUT * len(train)))
    stop, fit = train.take(order[:held]), train.take(order[held:])
    classes = np.unique(np.concatenate([train.y, test.y]))
    if len(np.unique(fit.y)) < 2:
        raise Undefined(f"train {list(train.mean.shape)} must hold at least two classes outside of its tenth")
    scale = np.sqrt(train.mean.var(axis=0) + np.exp(train.log_var).mean(axis=0)).astype(np.float32)
    centre = train.mean.mean(axis=0).astype(np.float32)

    def drawn(points: Posteriors) -> NDArray[np.float32]:
        return np.asarray((points.draw(rng) - centre) / np.maximum(scale, 1e-12), dtype=np.float32)

    watched = [drawn(stop) for _ in range(_DRAWS)]
    scored = [drawn(test) for _ in range(_DRAWS)]
    batch = min(max(_LEAST_BATCH, len(fit) // _STEPS), _MOST_BATCH, len(fit))
    probe = MLPClassifier(_HIDDEN, batch_size=batch, learning_rate_init=_RATE, random_state=seed)
    best, best_epoch, epoch = math.inf, 0, 0
    found: list[NDArray[np.float32]] = []
    # One thread: the score must not depend on how many cores the machine has.
    with threadpool_limits(limits=1):
        while epoch < min(_MAX_EPOCHS, best_epoch + _PATIENCE):
            probe.partial_fit(drawn(fit), fit.y, classes=classes)
            epoch += 1
            tell(epoch)
            loss = _cross_entropy([probe.predict_proba(v) for v in watched], classes, stop.y)
            if loss < best:
                best, best_epoch = loss, epoch
                found = [probe.predict_proba(v) for v in scored]
    accuracy = np.mean([np.mean(classes[p.argmax(axis=1)] == test.y) for p in found])
    shares = np.unique(test.y, return_counts=True)[1] / len(test)
    entropy = -float(np.sum(shares * np.log(shares)))
    return Leak(float(accuracy), max(0.0, entropy - _cross_entropy(found, classes, test.y)), len(train), epoch)


def quadratic_accuracy(train: Posteriors, test: Posteriors, seed: int) -> float:
    """Share of test draws of v whose class a Gaussian for each class names, 0..1 (quadratic discriminant analysis).

    Reads what a linear probe cannot: classes of equal means whose spreads differ. One draw of each point.

    Args:
        train: at least two points more than V of each class; test: the points to score on. seed: of the draws.
    """
    _check_same_units(train, test)
    classes, count = np.unique(train.y, return_counts=True)
    if len(classes) < 2 or count.min() < train.mean.shape[1] + 2:
        raise Undefined(
            f"a Gaussian a class needs two classes or more and {train.mean.shape[1] + 2} points of each, got "
            f"{len(classes)} classes and {count.min()} points of the smallest"
        )
    rng = np.random.default_rng(seed)
    with threadpool_limits(limits=1):
        model = QuadraticDiscriminantAnalysis(reg_param=1e-6).fit(train.draw(rng).astype(np.float64), train.y)
        return float(np.mean(model.predict(test.draw(rng).astype(np.float64)) == test.y))


def class_kl(posteriors: Posteriors) -> dict[int, float]:
    """KL(q(v|y) || N(0, I)) of each class that occurs, in nats, by the moments of q(v|y), the mean of its q(v|r,x).

    0 is a class whose v is distributed as the prior: what a swap assumes. Of all q(v|y) with these means and
    covariances a Gaussian has the least KL, so it is a lower bound: two clusters apart look like one wide cloud.

    Args:
        posteriors: at least V + 1 points of each class, else few points look like a narrow cloud.
    """
    num_units = posteriors.mean.shape[1]
    found = {}
    for c in np.unique(posteriors.y):
        of_class = posteriors.take(np.flatnonzero(posteriors.y == c))
        if len(of_class) <= num_units:
            raise Undefined(f"class {c} has {len(of_class)} points, the moments of v need {num_units + 1}")
        mean = of_class.mean.astype(np.float64)
        covariance = np.atleast_2d(np.cov(mean, rowvar=False, bias=True))
        covariance = covariance + np.diag(np.exp(of_class.log_var.astype(np.float64)).mean(axis=0))
        centre = mean.mean(axis=0)
        log_det = np.linalg.slogdet(covariance)[1]
        found[int(c)] = float(0.5 * (np.trace(covariance) + centre @ centre - num_units - log_det))
    return found


def _cross_entropy(probabilities: list[NDArray[np.float32]], classes: Ints, y: Ints) -> float:
    column = np.searchsorted(classes, y)
    true = np.stack([p[np.arange(len(y)), column] for p in probabilities]).astype(np.float64)
    return float(-np.mean(np.log(np.maximum(true, SMALLEST_PROBABILITY))))


def _check_same_units(train: Posteriors, test: Posteriors) -> None:
    if train.mean.shape[1] != test.mean.shape[1]:
        raise ValueError(
            f"train and test must have as many units, got {list(train.mean.shape)} and {list(test.mean.shape)}"
        )
