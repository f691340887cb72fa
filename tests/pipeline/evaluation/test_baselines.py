"""Simple classifiers beside a model: what they get, and how sure the comparison is."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from ie_model.metrics import baselines
from ie_model.spec import Kind
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.baselines import beside_baselines, few, most_labels
from pipeline.results.metric_catalog import find
from pipeline.results.verdict import verdict
from tests.helpers.tiny import spec_of


def two_groups(num: int, seed: int) -> tuple[Any, Any]:
    """Points `[num, 20]` of two classes whose means differ in the first value alone."""
    rng = np.random.default_rng(seed)
    y = np.arange(num) % 2
    x = rng.normal(0, 1, (num, 20)).astype(np.float32)
    x[:, 0] += 4 * y
    return x, y


@pytest.mark.parametrize("num", [12, 200], ids=["fewer points than values", "more"])
def test_logistic_regression_of_separable_points_beats_nearest_neighbour(num: int) -> None:
    x, y = two_groups(num, 0)
    test_x, test_y = two_groups(400, 1)
    error = [
        float((classify(x, y, test_x) != test_y).mean())
        for classify in (baselines.logistic_regression, baselines.nearest_neighbour)
    ]
    assert error[0] < error[1] < 0.5
    assert error[0] < (0.2 if num == 12 else 0.05)


def test_logistic_regression_in_the_span_of_few_points_is_that_of_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "PENALTIES", (1.0,))
    x, y = two_groups(16, 0)
    test_x, _ = two_groups(400, 1)
    centre = x.mean(0)
    scale = (x - centre).std()
    whole = LogisticRegression().fit((x - centre) / scale, y).predict((test_x - centre) / scale)
    assert (baselines.logistic_regression(x, y, test_x) == whole).all()


def test_logistic_regression_with_one_point_of_a_class_or_constant_values_predicts() -> None:
    x = np.zeros((3, 4), np.float32)
    assert len(baselines.logistic_regression(x, np.array([0, 0, 1]), x)) == 3


@pytest.mark.parametrize(
    ("kind", "stored", "row"),
    [
        ("image", np.full((1, 1, 1, 2), 255, np.uint8), [1.0, 1.0]),
        ("counts", np.array([[0, 1]], np.int32), [0.0, math.log(2)]),
        ("series", np.array([[[2.0, np.nan]]], np.float32), [2.0, 0.0]),
    ],
)
def test_raw_values_of_a_kind_are_finite_rows(kind: Kind, stored: Any, row: list[float]) -> None:
    assert baselines.raw_values(stored, kind).tolist()[0] == pytest.approx(row)


def test_wilson_interval_of_known_counts_matches_the_published_formula() -> None:
    assert baselines.wilson_interval(10, 100) == pytest.approx((0.0552, 0.1744), abs=1e-4)
    assert baselines.wilson_interval(0, 10)[0] == 0
    assert baselines.wilson_interval(10, 10)[1] == 1
    with pytest.raises(ValueError, match="0 of 0"):
        baselines.wilson_interval(0, 0)


def test_mcnemar_p_counts_points_that_one_alone_gets_right() -> None:
    right, other = np.array([True] * 10 + [False] * 5), np.array([False] * 10 + [False] * 5)
    assert baselines.mcnemar_p(right, other) == pytest.approx(2 / 2**10)
    assert baselines.mcnemar_p(right, right) == 1.0


def test_few_of_many_labels_keeps_two_of_each_class_whatever_the_order() -> None:
    keys, y = [f"{i}" for i in range(100)], np.repeat([0, 1], [96, 4])
    rows = np.arange(100)
    kept = few(rows, keys, y, 10)
    assert 10 <= len(kept) <= 12
    assert (y[kept] == 1).sum() >= 2
    assert kept.tolist() == few(rows[::-1].copy(), keys, y, 10).tolist()
    assert few(rows, keys, y, 100) is rows


def test_most_labels_of_mnist_are_thousands() -> None:
    assert 3000 < most_labels(spec_of("image", 10, (1, 28, 28)), 10_000) < 20_000


@pytest.mark.parametrize("kind", ["image", "series", "counts"])
def test_baselines_of_every_kind_give_a_verdict_and_documented_names(kind: Kind) -> None:
    spec = spec_of(kind)
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = rng.integers(0, 5, (90, *spec.shape)) + 20 * y.reshape(-1, *[1] * len(spec.shape))
    split = SplitData(spec, [f"{i}" for i in range(90)], torch.from_numpy(x.astype(spec.dtype)), y)
    totals = {"examples": np.array(90.0), "wrong": np.array(90.0), "classes": np.full(3, 30.0)}
    rows = beside_baselines(split, np.arange(12), split, (y + 1) % 3, totals)
    metrics = {row.name: row.value for row in rows} | {"test_error_classifier_pct": 100.0, "labels": 12}
    assert all(math.isfinite(value) for value in metrics.values())
    assert [name for name in metrics if find(name) is None] == []
    assert metrics["baseline_1nn_error_pct"] < 10
    assert verdict(metrics).level == "worse"
