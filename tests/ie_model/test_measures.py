"""Measures against numbers worked by hand and against independent computations."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from ie_model.metrics import measures

BINS = 15

examples = settings(max_examples=60, deadline=None)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Random q(y|x) as a float32 softmax returns it, often with ties, and random classes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_points, num_classes = draw(st.integers(1, 40)), draw(st.integers(2, 6))
    logits = rng.normal(size=(num_points, num_classes)) * draw(st.sampled_from([0.0, 1.0, 30.0]))
    if draw(st.booleans()):
        logits = logits[rng.integers(0, num_points, num_points)]
    logits = logits.astype(np.float32)
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True), rng.integers(0, num_classes, num_points)


def one_hot(y: NDArray[np.int64], num_classes: int) -> NDArray[np.float64]:
    return np.eye(num_classes)[y]


# Three points of two classes; the second is predicted wrongly.
P = np.array([[0.9, 0.1], [0.6, 0.4], [0.25, 0.75]])
Y = np.array([0, 1, 1])


class TestByHand:
    def test_error_rate(self) -> None:
        assert measures.error_rate(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 0])) == 0.5

    def test_calibration_curve(self) -> None:
        curve = measures.calibration_curve(P, Y, 2)
        assert curve.count.tolist() == [0, 3]
        assert math.isnan(curve.confidence[0]) and math.isnan(curve.accuracy[0])
        assert curve.confidence[1] == pytest.approx(0.75)
        assert curve.accuracy[1] == pytest.approx(2 / 3)

    def test_a_bin_holds_its_upper_edge(self) -> None:
        curve = measures.calibration_curve(np.array([[0.5, 0.5], [0.75, 0.25], [1.0, 0.0]]), np.array([0, 0, 0]), 4)
        assert curve.count.tolist() == [0, 1, 1, 1]

    def test_expected_calibration_error(self) -> None:
        assert measures.expected_calibration_error(P, Y, 1) == pytest.approx(0.75 - 2 / 3)
        # Four bins: 0.6 and 0.75 share (0.5, 0.75], accuracy 1/2, confidence 0.675; 0.9 is alone and right.
        assert measures.expected_calibration_error(P, Y, 4) == pytest.approx((2 * 0.175 + 0.1) / 3)

    def test_brier_score(self) -> None:
        assert measures.brier_score(P, Y) == pytest.approx((2 * 0.01 + 2 * 0.36 + 2 * 0.0625) / 3)

    def test_brier_score_of_a_confident_mistake_is_two(self) -> None:
        assert measures.brier_score(np.array([[1.0, 0.0]]), np.array([1])) == 2.0

    def test_negative_log_likelihood(self) -> None:
        expected = -(math.log(0.9) + math.log(0.4) + math.log(0.75)) / 3
        assert measures.negative_log_likelihood(P, Y) == pytest.approx(expected)

    def test_a_probability_of_zero_costs_87_nats_and_no_warning(self) -> None:
        zero = np.array([[1.0, 0.0]], dtype=np.float32)
        assert measures.negative_log_likelihood(zero, np.array([1])) == pytest.approx(87.3365, abs=1e-3)

    def test_risk_coverage(self) -> None:
        coverage, risk = measures.risk_coverage(P, Y)
        assert coverage == pytest.approx([1 / 3, 2 / 3, 1])
        assert risk == pytest.approx([0, 0, 1 / 3])
        assert measures.area_under_risk_coverage(P, Y) == pytest.approx(1 / 9)

    def test_points_of_equal_confidence_share_their_errors(self) -> None:
        p = np.array([[0.7, 0.3], [0.7, 0.3], [0.9, 0.1]])
        assert measures.risk_coverage(p, np.array([0, 1, 0]))[1] == pytest.approx([0, 0.25, 1 / 3])

    def test_active_units(self) -> None:
        kl = np.array([[0.0, 0.2, 0.05, 3.0], [0.0, 0.0, 0.05, 1.0]])
        assert measures.active_units(kl).tolist() == [False, True, False, True]
        assert measures.active_units(kl, threshold=1.0).tolist() == [False, False, False, True]

    def test_bits_per_dim_turns_the_sign(self) -> None:
        assert measures.bits_per_dim(-784 * math.log(2), 784) == pytest.approx(1.0)
        assert measures.bits_per_dim(-100.0, 784) == pytest.approx(0.184017, abs=1e-6)

    def test_r2_per_output(self) -> None:
        target = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]])
        predicted = np.array([[1.0, 20.0], [2.0, 20.0], [4.0, 20.0]])
        assert measures.r2_per_output(target, predicted) == pytest.approx([0.5, 0.0])

    def test_mean_and_std(self) -> None:
        assert measures.mean_and_std([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.0, math.sqrt(14 / 3), 4))
        assert measures.mean_and_std([2.5]) == (2.5, 0.0, 1)


class TestAgainstIndependentComputations:
    @examples
    @given(predictions())
    def test_error_and_likelihood(self, case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
        p, y = case
        predicted = p.argmax(1)
        assert measures.error_rate(predicted, y) == pytest.approx(1 - sk.accuracy_score(y, predicted))
        nll = np.mean([-math.log(max(float(row[c]), 1.1754943508222875e-38)) for row, c in zip(p, y, strict=True)])
        assert measures.negative_log_likelihood(p, y) == pytest.approx(nll, rel=1e-6, abs=1e-9)

    @examples
    @given(predictions())
    def test_brier_score(self, case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
        p, y = case
        expected = sum((float(q) - (c == k)) ** 2 for row, c in zip(p, y, strict=True) for k, q in enumerate(row))
        assert measures.brier_score(p, y) == pytest.approx(expected / len(y), rel=1e-5, abs=1e-9)

    @examples
    @given(predictions(), st.integers(1, 20))
    def test_expected_calibration_error(self, case: tuple[NDArray[np.float32], NDArray[np.int64]], bins: int) -> None:
        p, y = case
        total = 0.0
        for b in range(bins):
            inside = [
                (min(float(row.max()), 1.0), int(row.argmax()) == c)
                for row, c in zip(p, y, strict=True)
                if b < min(float(row.max()), 1.0) * bins <= b + 1
            ]
            total += abs(sum(conf for conf, _ in inside) - sum(right for _, right in inside))
        assert measures.expected_calibration_error(p, y, bins) == pytest.approx(total / len(y), abs=1e-9)

    @examples
    @given(predictions())
    def test_risk_is_the_mean_over_orders_of_ties(self, case: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
        p, y = case
        confidence, wrong = np.minimum(p.max(1), 1), (p.argmax(1) != y)
        coverage, risk = measures.risk_coverage(p, y)
        for i, c in enumerate(np.sort(confidence)[::-1]):
            surely, ties = confidence > c, confidence == c
            errors = wrong[surely].sum() + wrong[ties].mean() * (i + 1 - surely.sum())
            assert risk[i] == pytest.approx(errors / (i + 1), abs=1e-9)
        assert coverage == pytest.approx(np.arange(1, len(y) + 1) / len(y))
        assert measures.area_under_risk_coverage(p, y) == pytest.approx(risk.mean())

    @examples
    @given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 4))
    def test_r2_per_output(self, seed: int, num_points: int, num_outputs: int) -> None:
        rng = np.random.default_rng(seed)
        target, predicted = rng.normal(5, 1, size=(2, num_points, num_outputs))
        expected = sk.r2_score(target, predicted, multioutput="raw_values")
        assert measures.r2_per_output(target, predicted) == pytest.approx(expected)


class TestProperties:
    @examples
    @given(predictions(), st.integers(1, 30))
    def test_ranges(self, case: tuple[NDArray[np.float32], NDArray[np.int64]], bins: int) -> None:
        p, y = case
        assert 0 <= measures.expected_calibration_error(p, y, bins) <= 1
        assert 0 <= measures.brier_score(p, y) <= 2 + 1e-6
        assert 0 <= measures.negative_log_likelihood(p, y) <= 87.34
        coverage, risk = measures.risk_coverage(p, y)
        assert np.all(np.diff(coverage) > 0) and np.all((risk >= 0) & (risk <= 1))
        assert risk[-1] == pytest.approx(measures.error_rate(p.argmax(1), y))
        assert measures.calibration_curve(p, y, bins).count.sum() == len(y)

    @examples
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
    def test_perfect_predictions_score_zero(self, classes: list[int]) -> None:
        y = np.array(classes)
        p = one_hot(y, 5)
        scores = [
            measures.error_rate(p.argmax(1), y),
            measures.expected_calibration_error(p, y, BINS),
            measures.brier_score(p, y),
            measures.negative_log_likelihood(p, y),
            measures.area_under_risk_coverage(p, y),
        ]
        assert scores == [0.0] * 5
        assert math.copysign(1.0, scores[3]) == 1.0

    @examples
    @given(predictions(), st.randoms(use_true_random=False))
    def test_the_order_of_points_does_not_matter(
        self, case: tuple[NDArray[np.float32], NDArray[np.int64]], random: Any
    ) -> None:
        p, y = case
        order = list(range(len(y)))
        random.shuffle(order)
        for score in (
            lambda p, y: measures.expected_calibration_error(p, y, BINS),
            measures.brier_score,
            measures.negative_log_likelihood,
            measures.area_under_risk_coverage,
        ):
            assert score(p[order], y[order]) == pytest.approx(score(p, y), abs=1e-9)

    def test_inputs_are_left_alone(self) -> None:
        p, y = P.copy(), Y.copy()
        measures.brier_score(p, y)
        measures.risk_coverage(p, y)
        measures.expected_calibration_error(p, y, BINS)
        assert np.array_equal(p, P) and np.array_equal(y, Y)

    def test_ece_does_not_see_that_a_constant_answer_is_useless(self) -> None:
        """What the docstring warns of: the class shares for every point are perfectly calibrated."""
        p, y = np.tile([0.75, 0.25], (4, 1)), np.array([0, 0, 0, 1])
        assert measures.expected_calibration_error(p, y, BINS) == 0.0
        assert measures.brier_score(p, y) > 0.3


def clusters(num_points: int, seed: int, constant: bool = False) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num_points)
    x = np.array([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]])[y] + rng.normal(size=(num_points, 2))
    return (np.column_stack([x, np.full(num_points, 0.1)]) if constant else x), y


class TestProbe:
    @pytest.mark.parametrize("kind", ["linear", "mlp"])
    def test_finds_separate_clusters_past_a_constant_column(self, kind: Any) -> None:
        assert measures.probe_accuracy(*clusters(400, 0, True), *clusters(200, 1, True), kind, 0) > 0.97

    @pytest.mark.parametrize("kind", ["linear", "mlp"])
    def test_the_scale_of_a_column_does_not_matter(self, kind: Any) -> None:
        x, y = clusters(400, 0)
        test_x, test_y = clusters(200, 1)
        scale = np.array([1e-4, 1e3])
        assert measures.probe_accuracy(x * scale, y, test_x * scale, test_y, kind, 0) > 0.97

    @pytest.mark.parametrize("kind", ["linear", "mlp"])
    def test_noise_scores_about_chance(self, kind: Any) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(600, 4)), rng.integers(0, 3, 600)
        accuracy = measures.probe_accuracy(x[:300], y[:300], x[300:], y[300:], kind, 0)
        assert 0.2 < accuracy < 0.47

    def test_only_the_mlp_solves_xor(self) -> None:
        x = np.random.default_rng(0).uniform(-1, 1, size=(1200, 2))
        y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
        split = x[:800], y[:800], x[800:], y[800:]
        assert measures.probe_accuracy(*split, "linear", 0) < 0.65
        assert measures.probe_accuracy(*split, "mlp", 0) > 0.9

    def test_is_fitted_on_train_and_scored_on_test(self) -> None:
        x, y = clusters(300, 0)
        test_x, test_y = clusters(200, 1)
        assert measures.probe_accuracy(x, y, test_x, (test_y + 1) % 3, "linear", 0) < 0.05

    def test_the_same_seed_gives_the_same_number_and_leaves_numpys_state(self) -> None:
        rng = np.random.default_rng(3)
        x, y = rng.normal(size=(400, 3)), rng.integers(0, 3, 400)
        state = pickle.dumps(np.random.get_state())
        scores = [measures.probe_accuracy(x[:200], y[:200], x[200:], y[200:], "mlp", seed) for seed in (0, 0, 1, 2)]
        assert scores[0] == scores[1]
        assert len(set(scores)) > 1
        assert pickle.dumps(np.random.get_state()) == state

    def test_a_probe_that_does_not_converge_warns_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measures, "LogisticRegression", lambda **_: LogisticRegression(max_iter=1))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            measures.probe_accuracy(*clusters(100, 0), *clusters(50, 1), "linear", 0)

    def test_classes_that_train_lacks_count_as_wrong(self) -> None:
        x, y = clusters(300, 0)
        test_x, test_y = clusters(200, 1)
        assert measures.probe_accuracy(x, y, test_x, np.full_like(test_y, 7), "linear", 0) == 0.0


I3 = np.array([0, 1, 0])
P3 = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measures.error_rate(I3, I3[:2]), r"\[3\].*\[2\]"),
        (lambda: measures.error_rate(I3[:0], I3[:0]), r"\[0\]"),
        (lambda: measures.error_rate(np.array([[0, 1]]), I3), r"\[1, 2\]"),
        (lambda: measures.error_rate(np.array([0.0, 1.0, 0.0]), I3), "float64"),
        (lambda: measures.error_rate(I3, -I3), r"-1\.\.0"),
        (lambda: measures.expected_calibration_error(P3, I3[:2], BINS), r"\[3, 2\].*\[2\]"),
        (lambda: measures.expected_calibration_error(P3[0], I3, BINS), r"\[2\]"),
        (lambda: measures.expected_calibration_error(P3, I3, 0), "bins.*0"),
        (lambda: measures.calibration_curve(P3 * 2, I3, BINS), r"\[3, 2\].*off by 1"),
        (lambda: measures.brier_score(P3, np.array([0, 1, 2])), r"0\.\.1, got 0\.\.2"),
        (lambda: measures.brier_score(np.array([[1.5, -0.5]]), I3[:1]), r"\[1, 2\].*-0\.5"),
        (lambda: measures.negative_log_likelihood(P3[:0], I3[:0]), r"\[0, 2\]"),
        (lambda: measures.risk_coverage(np.full((3, 2), np.nan), I3), r"\[3, 2\].*6"),
        (lambda: measures.area_under_risk_coverage(P3[None], I3), r"\[1, 3, 2\]"),
        (lambda: measures.active_units(P3[0]), r"\[2\]"),
        (lambda: measures.active_units(P3 * np.inf), r"\[3, 2\]"),
        (lambda: measures.bits_per_dim(-1.0, 0), "num_values"),
        (lambda: measures.bits_per_dim(math.nan, 784), "nan"),
        (lambda: measures.r2_per_output(P3, P3[:, :1]), r"\[3, 2\].*\[3, 1\]"),
        (lambda: measures.r2_per_output(np.array([[0.1, 1], [0.1, 2], [0.1, 3]]), P3), r"\[3, 2\].*\[0\]"),
        (lambda: measures.mean_and_std([]), r"\[0\]"),
        (lambda: measures.mean_and_std(P3), r"\[3, 2\]"),
        (lambda: measures.mean_and_std([1.0, math.inf]), r"\[2\]"),
        (lambda: measures.probe_accuracy(P3, I3[:2], P3, I3, "linear", 0), r"train_x \[3, 2\].*\[2\]"),
        (lambda: measures.probe_accuracy(P3, I3, P3[:, :1], I3, "linear", 0), r"\[3, 2\].*\[3, 1\]"),
        (lambda: measures.probe_accuracy(P3, I3 * 0, P3, I3, "linear", 0), "two classes, got 1"),
        (lambda: measures.probe_accuracy(P3, I3, P3, I3, "mlp", 0), r"\[3\] of 2 classes, 1 of"),
        (lambda: measures.probe_accuracy(P3, I3, P3, I3, "tree", 0), "tree"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_and_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_each", [2, 3, 5])
def test_mlp_probe_of_many_classes_with_few_points_each_reads_what_is_there(num_each: int) -> None:
    y = np.repeat(np.arange(20), num_each)
    x = np.eye(20)[y]
    assert measures.probe_accuracy(x, y, x, y, "mlp", 0) > 0.5


def test_mlp_probe_leaves_a_class_of_one_point_out_and_counts_it_as_wrong() -> None:
    y = np.concatenate([np.repeat([0, 1], 50), [2]])
    x = np.eye(3)[y]
    assert measures.probe_accuracy(x, y, x, y, "mlp", 0) == pytest.approx(100 / 101)
    assert measures.probe_accuracy(x, y, x[-1:], y[-1:], "mlp", 0) == 0
