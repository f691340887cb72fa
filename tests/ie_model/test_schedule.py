"""What changes from step to step."""

from __future__ import annotations

import pytest

from ie_model.schedule import kl_weight, learning_rate, seed_of


def test_kl_weight_rises_to_one_and_stays() -> None:
    weights = [kl_weight(step, 100, 0.5) for step in range(100)]
    assert weights[0] == 0
    assert weights == sorted(weights)
    assert weights[25] == pytest.approx(0.5)
    assert set(weights[50:]) == {1.0}


def test_kl_weight_falls_from_a_start_above_one() -> None:
    weights = [kl_weight(step, 100, 0.5, 5.0) for step in range(100)]
    assert weights[0] == 5
    assert weights == sorted(weights, reverse=True)
    assert weights[25] == pytest.approx(3)
    assert set(weights[50:]) == {1.0}


def test_kl_weight_is_one_from_the_first_step_without_a_warm_up() -> None:
    assert kl_weight(0, 100, 0.0) == 1.0


def test_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 200, 0.01, 0.05) for step in range(200)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[9] == max(rates) == pytest.approx(0.01, rel=0.01)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < 1e-5


def test_seed_of_differs_by_use_step_and_rank() -> None:
    seeds = {seed_of(7, stream, step, rank) for stream in range(3) for step in range(20) for rank in range(4)}
    assert len(seeds) == 240
    assert all(0 <= seed < 2**63 for seed in seeds)
