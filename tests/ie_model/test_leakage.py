"""What draws of v tell of the class: against integrals of densities that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ie_model.metrics.leakage import Posteriors, class_kl, fresh_probe, quadratic_accuracy
from ie_model.metrics.measures import Undefined

Array = NDArray[np.floating[Any]]


def posteriors(num: int, means: list[list[float]], deviation: list[float], seed: int) -> Posteriors:
    """Classes in turn; a point's mean is its class's plus noise of the class's deviation, its variance 0.25."""
    rng = np.random.default_rng(seed)
    y = np.arange(num) % len(means)
    mean = np.array(means)[y] + np.array(deviation)[y, None] * rng.standard_normal((num, len(means[0])))
    return Posteriors(mean.astype(np.float32), np.full(mean.shape, math.log(0.25), np.float32), y)


def normal(v: Array, mean: float, variance: float) -> Array:
    return np.exp(-((v - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_the_bound_and_the_accuracy_are_those_of_the_densities() -> None:
    """Two classes of v ~ N(+-1, 1): the integrals are the truth."""
    fit, score = (posteriors(4000, [[-1.0], [1.0]], [math.sqrt(0.75)] * 2, seed) for seed in (0, 1))
    leak = fresh_probe(fit, score, 0)
    v = np.linspace(-9, 9, 20001)
    p = [normal(v, mean, 1.0) for mean in (-1.0, 1.0)]
    mixture, step = (p[0] + p[1]) / 2, v[1] - v[0]
    information = sum(float(np.sum(q * np.log(q / mixture))) * step / 2 for q in p)
    accuracy = float(np.sum(np.maximum(*p))) * step / 2
    assert leak.mi_nats == pytest.approx(information, abs=0.015)
    assert leak.accuracy == pytest.approx(accuracy, abs=0.01)
    assert leak.points == 4000 and 1 < leak.epochs <= 100
    assert fresh_probe(fit, score, 0) == leak, "the same twice"


def test_classes_of_one_distribution_tell_nothing() -> None:
    fit, score = (posteriors(2000, [[0.0, 0.0]] * 4, [1.0] * 4, seed) for seed in (0, 1))
    leak = fresh_probe(fit, score, 0)
    assert leak.mi_nats < 0.01
    assert leak.accuracy == pytest.approx(0.25, abs=0.03)


def test_a_gaussian_a_class_reads_a_spread_that_no_line_does() -> None:
    fit, score = (posteriors(1500, [[0.0, 0.0]] * 2, [0.1, 3.0], seed) for seed in (0, 1))
    assert quadratic_accuracy(fit, score, 0) > 0.85
    assert fresh_probe(fit, score, 0).accuracy > 0.85


def test_kl_of_a_class_is_the_closed_form_and_zero_for_the_prior() -> None:
    """q(v|y) of class 0 is N(0, I), of class 1 N((2, 0), 0.5 I)."""
    found = class_kl(posteriors(40000, [[0.0, 0.0], [2.0, 0.0]], [math.sqrt(0.75), 0.5], 0))
    assert found[0] == pytest.approx(0.0, abs=0.01)
    assert found[1] == pytest.approx(0.5 * (2 * 0.5 + 4 - 2 - 2 * math.log(0.5)), abs=0.03)


def test_more_points_find_more() -> None:
    """Ten classes in eight units: what 100 points teach is less than 2,000 do."""
    means = np.random.default_rng(3).normal(size=(10, 8)).tolist()
    fit, score = (posteriors(2000, means, [0.5] * 10, seed) for seed in (0, 1))
    few, many = fresh_probe(fit.take(np.arange(100)), score, 0), fresh_probe(fit, score, 0)
    assert few.accuracy < many.accuracy - 0.02
    assert few.mi_nats < many.mi_nats - 0.1


@pytest.mark.parametrize(
    ("mean", "log_var", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 1)), [0, 1, 0], "same shape"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [0, 1], "as many rows"),
        (np.full((3, 2), np.nan), np.zeros((3, 2)), [0, 1, 0], "mean .* not finite"),
        (np.zeros((3, 2)), np.full((3, 2), np.inf), [0, 1, 0], "log_var .* not finite"),
        (np.zeros((3, 2)), np.zeros((3, 2)), [0, -1, 0], "classes 0"),
        (np.zeros((0, 2)), np.zeros((0, 2)), [], "rows and columns"),
    ],
)
def test_posteriors_that_do_not_fit_are_refused(mean: Array, log_var: Array, y: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Posteriors(mean, log_var, np.array(y, dtype=np.int64))


def test_data_that_rule_a_measure_out_say_so() -> None:
    one_class, few = posteriors(40, [[0.0]], [1.0], 0), posteriors(4, [[0.0] * 5] * 2, [1.0] * 2, 0)
    with pytest.raises(Undefined, match="two classes"):
        fresh_probe(one_class, one_class, 0)
    with pytest.raises(Undefined, match="7 points of each, got 2 classes and 2 points"):
        quadratic_accuracy(few, few, 0)
    with pytest.raises(Undefined, match="class 0 has 2 points, the moments of v need 6"):
        class_kl(few)
    with pytest.raises(ValueError, match="as many units"):
        fresh_probe(one_class, few, 0)
