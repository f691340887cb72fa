"""Statistics within and over groups: against computations by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ie_model.metrics.grouped import share_interval, within_group_correlation
from ie_model.metrics.measures import Undefined

RNG = np.random.default_rng(0)
GROUP = np.repeat(np.arange(20), 10)
A = RNG.standard_normal(200)
B = 0.6 * A + 0.8 * RNG.standard_normal(200)


def test_a_correlation_within_groups_is_that_of_the_residuals() -> None:
    def residuals(values: np.ndarray) -> np.ndarray:
        return (values.reshape(20, 10) - values.reshape(20, 10).mean(1, keepdims=True)).ravel()

    expected = np.corrcoef(residuals(A), residuals(B))[0, 1]
    assert 0.4 < expected < 0.8
    assert within_group_correlation(A, B, GROUP) == pytest.approx(expected, abs=1e-12)


def test_neither_offsets_of_groups_nor_groups_of_one_nor_unknown_points_count() -> None:
    plain = within_group_correlation(A, B, GROUP)
    offset = within_group_correlation(A + 50 * GROUP, B - 30 * GROUP, 7 * GROUP - 3)
    more = within_group_correlation(
        np.append(A, [9.0, np.nan, 4.0]), np.append(B, [-9.0, 4.0, np.nan]), np.append(GROUP, [99, 0, 1])
    )
    assert (offset, more) == pytest.approx((plain, plain), abs=1e-9)


@pytest.mark.parametrize(
    ("a", "group"), [(GROUP * 0.1, GROUP), (np.full(200, np.nan), GROUP), (A, np.minimum(np.arange(200), 190))]
)
def test_a_correlation_of_what_is_constant_unknown_or_nearly_all_alone_is_undefined(
    a: np.ndarray, group: np.ndarray
) -> None:
    with pytest.raises(Undefined):
        within_group_correlation(a, B, group)


def test_an_interval_draws_groups_and_not_points() -> None:
    """Of 20 groups half are hit, each as a whole: the deviation of the share is that of 20 points."""
    low, high = share_interval(GROUP < 10, GROUP, seed=0)
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 20) ** 0.5, rel=0.1)
    assert (low + high) / 2 == pytest.approx(0.5, abs=0.03)
    assert (low, high) == share_interval(GROUP < 10, GROUP, seed=0) != share_interval(GROUP < 10, GROUP, seed=1)
    alike = share_interval(np.arange(200) % 2 == 0, GROUP, seed=0)
    assert alike == (0.5, 0.5), "no two groups differ"


def test_an_interval_weighs_groups_by_their_points() -> None:
    group = np.repeat([0, 1], [900, 100])
    assert share_interval(group == 0, group, seed=0) == (0.0, 1.0)
    with pytest.raises(Undefined):
        share_interval(GROUP > 3, np.zeros(200, dtype=np.int64), seed=0)


def test_arrays_that_do_not_fit_are_refused() -> None:
    for a, group in ((A[:-1], GROUP), (A.reshape(20, 10), GROUP), (A, GROUP[:5])):
        with pytest.raises(ValueError, match=r"\[N\] of one length"):
            within_group_correlation(a, B, group)
    with pytest.raises(ValueError, match=r"\[N\] of one length"):
        share_interval(A > 0, GROUP[:5], seed=0)
