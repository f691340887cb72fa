"""What a representation tells of a factor, on codes whose content is known."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from ie_model.metrics.factors import disentanglement, factor_score, is_categorical, within_class_r2
from ie_model.metrics.measures import Undefined

N, M = 500, 300
RNG = np.random.default_rng(0)
Y = RNG.integers(0, 3, N + M)
STYLE = RNG.normal(size=N + M)
CLASS_CODE = np.eye(3)[Y] + 0.01 * RNG.normal(size=(N + M, 3))
STYLE_CODE = np.stack([STYLE, RNG.normal(size=N + M)], 1)
ANGLE = 3.0 * Y + STYLE
SITE = (STYLE > 0).astype(float)


def score(x: Any, factor: Any, kind: Literal["linear", "mlp"] = "linear", **more: Any) -> float:
    return factor_score(x[:N], factor[:N], x[N:], factor[N:], kind, 0, categorical=is_categorical(factor), **more)


def within(x: Any, factor: Any, kind: Literal["linear", "mlp"] = "linear") -> float:
    categorical = is_categorical(factor)
    return within_class_r2(x[:N], factor[:N], Y[:N], x[N:], factor[N:], Y[N:], kind, 0, categorical=categorical)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_within_class_r2_tells_a_code_of_the_class_from_one_of_the_factor(kind: Literal["linear", "mlp"]) -> None:
    assert score(CLASS_CODE, ANGLE, kind) > 0.8, "the factor goes with the class"
    assert abs(within(CLASS_CODE, ANGLE, kind)) < 0.05
    assert score(STYLE_CODE, ANGLE, kind) < 0.3
    assert within(STYLE_CODE, ANGLE, kind) > 0.95


def test_within_class_r2_of_a_quantity_equals_one_minus_the_unexplained_share_of_its_deviations() -> None:
    means = np.array([ANGLE[:N][Y[:N] == c].mean() for c in range(3)])
    left = ANGLE - means[Y]
    design = np.column_stack([np.ones(N + M), STYLE])
    slope = np.linalg.lstsq(design[:N], left[:N], rcond=None)[0]
    expected = 1 - ((left[N:] - design[N:] @ slope) ** 2).sum() / ((left[N:] - left[N:].mean()) ** 2).sum()
    assert within(STYLE[:, None], ANGLE) == pytest.approx(expected, abs=1e-4)


def test_categories_are_scored_by_accuracy_and_within_a_class_by_their_indicators() -> None:
    assert score(STYLE_CODE, SITE) > 0.95
    assert score(CLASS_CODE, SITE) < 0.6
    assert within(STYLE_CODE, SITE) > 0.5, "a line through a step explains 2 / pi of it"
    assert abs(within(CLASS_CODE, SITE)) < 0.05
    assert score(CLASS_CODE, Y.astype(float)) == 1


@pytest.mark.parametrize(
    ("values", "categorical"),
    [([0, 1, 7], True), ([*range(20)], True), ([*range(21)], False), ([0.5, 1, 2], False), ([-1, 3], True)],
)
def test_is_categorical_takes_few_whole_numbers(values: list[float], categorical: bool) -> None:
    assert is_categorical(np.array(values * 3, dtype=float)) == categorical


def test_a_factor_that_the_data_do_not_let_measure_is_undefined() -> None:
    with pytest.raises(Undefined, match="does not vary within a class"):
        within(STYLE_CODE, 2.5 * Y)
    with pytest.raises(Undefined, match="one value in train"):
        score(STYLE_CODE, np.ones(N + M))
    with pytest.raises(Undefined, match=r"10 train and 300 test"):
        factor_score(STYLE_CODE[:10], ANGLE[:10], STYLE_CODE[N:], ANGLE[N:], "linear", 0, categorical=False)
    y = np.zeros(N, dtype=int)
    with pytest.raises(Undefined, match=r"500 train and 0 test"):
        within_class_r2(
            STYLE_CODE[:N], ANGLE[:N], y, STYLE_CODE[N:], ANGLE[N:], np.ones(M, dtype=int), "linear", 0,
            categorical=False,
        )  # fmt: skip


def test_disentanglement_and_completeness_of_known_codes() -> None:
    rng = np.random.default_rng(3)
    factors = rng.uniform(size=(400, 2))
    alone = disentanglement(factors[:, ::-1], factors, 0)
    assert min(alone) > 0.95
    turned = disentanglement(np.stack([factors.sum(1), factors[:, 0] - factors[:, 1]], 1), factors, 0)
    assert max(turned) < 0.3
    # Two codes for each factor: each code of one factor, no factor by one code.
    halves = np.where(rng.random((400, 1)) < 0.5, [1.0, 0.0], [0.0, 1.0])
    doubled = np.concatenate([factors[:, :1] * halves, factors[:, 1:] * halves], axis=1)
    disentangled, complete = disentanglement(doubled, factors, 0)
    assert disentangled > 0.8 and complete < 0.65
    assert disentanglement(factors, factors, 0) == disentanglement(factors, factors, 0)


@pytest.mark.parametrize(("codes", "factors"), [((400, 1), (400, 2)), ((400, 2), (400, 1)), ((10, 2), (10, 2))])
def test_disentanglement_needs_codes_factors_and_examples(codes: tuple[int, int], factors: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(Undefined, match="at least 11, 2 and 2 are needed"):
        disentanglement(rng.random(codes), rng.random(factors), 0)
    with pytest.raises(Undefined, match="one value"):
        disentanglement(rng.random((400, 2)), np.ones((400, 2)), 0)
