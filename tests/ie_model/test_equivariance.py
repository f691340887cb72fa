"""Measures of invariance and equivariance against loops, closed forms and codes whose answer is known."""

from __future__ import annotations

import itertools
import math
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPRegressor
from threadpoolctl import threadpool_info, threadpool_limits

from ie_model.metrics import equivariance as eq

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
KINDS = ["linear", "mlp"]

examples = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def labelled_codes(draw: st.DrawFn) -> tuple[F64, F64, I64]:
    """Codes, the codes after a map, and classes of unequal size, of which at least two occur."""
    rng = np.random.default_rng(draw(seeds))
    num_points, num_units = draw(st.integers(3, 25)), draw(st.integers(1, 4))
    offset = draw(st.sampled_from([0.0, 1.0, 1e4]))
    y = rng.integers(0, draw(st.integers(2, 5)), num_points) * 3
    y[:2] = [0, 3]
    z, step = rng.normal(size=(2, num_points, num_units))
    return offset + z + y[:, None] * rng.normal(), offset + z + step, y


def rotation(degrees: float) -> F64:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[c, -s], [s, c]])


def normal(seed: int, *shape: int) -> F64:
    return np.random.default_rng(seed).normal(size=shape)


def style(seed: int, num_points: int, offset: float = 0.0) -> tuple[F64, F64, F64]:
    """Codes that the map moves by g along a line, among noise; g of the map, off by `offset` in its second output."""
    rng = np.random.default_rng(seed)
    z, g = rng.normal(size=(num_points, 3)), rng.uniform(-1, 1, size=(num_points, 2))
    return z, z + g @ np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), g + np.array([0.0, offset])


class TestStyleRegression:
    @pytest.mark.parametrize("kind", KINDS)
    def test_reads_a_parameter_that_moves_the_code(self, kind: Any) -> None:
        r2 = eq.style_regression(*style(0, 500), *style(1, 200), kind, 0)
        assert r2.shape == (2,) and np.all(r2 > 0.9) and np.all(r2 <= 1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_code_without_the_parameter_scores_no_better_than_a_constant(self, kind: Any) -> None:
        (z, _, g), (test_z, _, test_g) = style(0, 500), style(1, 200)
        moved, test_moved = z + 0.1 * normal(2, 500, 3), test_z + 0.1 * normal(3, 200, 3)
        assert np.all(eq.style_regression(z, moved, g, test_z, test_moved, test_g, kind, 0) < 0.05)

    @pytest.mark.parametrize("kind", KINDS)
    def test_an_output_with_a_large_offset_does_not_lend_its_score_to_the_others(self, kind: Any) -> None:
        """Over both outputs pooled, the constant predictor explains nearly all of the variance."""
        z, moved, g = style(0, 400, offset=100.0)
        test_z, test_moved, test_g = style(1, 200, offset=100.0)
        pooled = 1 - np.sum((test_g - g.mean(0)) ** 2) / np.sum((test_g - test_g.mean()) ** 2)
        assert pooled > 0.99
        # Only the unit of the second output is left as it is.
        moved[:, [0, 2]], test_moved[:, [0, 2]] = z[:, [0, 2]], test_z[:, [0, 2]]
        r2 = eq.style_regression(z, moved, g, test_z, test_moved, test_g, kind, 0)
        assert r2[0] < 0.05 and r2[1] > 0.9

    def test_only_the_mlp_reads_what_is_no_linear_function_of_the_move(self) -> None:
        def absolute(seed: int, num_points: int) -> tuple[F64, F64, F64]:
            z, moved, g = style(seed, num_points)
            return z, moved, np.abs(g[:, :1])

        split = *absolute(0, 800), *absolute(1, 200)
        assert eq.style_regression(*split, "linear", 0)[0] < 0.1
        assert eq.style_regression(*split, "mlp", 0)[0] > 0.6

    def test_linear_is_ridge_on_standardised_codes_and_their_difference(self) -> None:
        (z, moved, g), (test_z, test_moved, test_g) = style(0, 30), style(1, 20)
        x, test_x = np.hstack([z, moved, moved - z]), np.hstack([test_z, test_moved, test_moved - test_z])
        x, test_x = (x - x.mean(0)) / x.std(0), (test_x - x.mean(0)) / x.std(0)
        weights = np.linalg.solve(x.T @ x + np.eye(9), x.T @ (g - g.mean(0)))
        error = np.sum((test_g - g.mean(0) - test_x @ weights) ** 2, axis=0)
        expected = 1 - error / np.sum((test_g - test_g.mean(0)) ** 2, axis=0)
        assert eq.style_regression(z, moved, g, test_z, test_moved, test_g, "linear", 0) == pytest.approx(expected)

    @pytest.mark.parametrize("kind", KINDS)
    def test_scale_offset_and_constant_units_do_not_matter(self, kind: Any) -> None:
        def stretched(seed: int, num_points: int) -> tuple[F64, F64, F64]:
            z, moved, g = style(seed, num_points)
            z, moved = (np.column_stack([c * [1e-4, 1e3, 1.0], np.full(num_points, 0.1)]) for c in (z, moved))
            return z, moved, g * [1e-3, 1e3] + [5.0, 0.0]

        assert np.all(eq.style_regression(*stretched(0, 500), *stretched(1, 200), kind, 0) > 0.9)

    def test_a_systematic_move_is_read_however_small(self) -> None:
        """What the docstring warns of."""
        (z, moved, g), (test_z, test_moved, test_g) = style(0, 200), style(1, 100)
        moved, test_moved = z + 1e-6 * (moved - z), test_z + 1e-6 * (test_moved - test_z)
        assert np.all(eq.style_regression(z, moved, g, test_z, test_moved, test_g, "linear", 0) > 0.9)

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_fitted_on_train_and_scored_on_test(self, kind: Any) -> None:
        z, moved, g = style(0, 300)
        test_z, test_moved, test_g = style(1, 200)
        assert np.all(eq.style_regression(z, moved, g, test_z, test_moved, -test_g, kind, 0) < -1)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_code_without_units_scores_zero(self, kind: Any) -> None:
        none, (_, _, g), (_, _, test_g) = np.empty((20, 0)), style(0, 20), style(1, 10)
        assert eq.style_regression(none, none, g, none[:10], none[:10], test_g, kind, 0).tolist() == [0.0, 0.0]

    def test_the_seed_alone_decides_an_mlps_score(self) -> None:
        split = *style(0, 150), *style(1, 50)
        scores = [eq.style_regression(*split, "mlp", seed).tolist() for seed in (0, 0, 1)]
        assert scores[0] == scores[1] != scores[2]

    def test_runs_in_one_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        threads: list[int] = []

        def ridge(**options: Any) -> Any:
            threads.extend(pool["num_threads"] for pool in threadpool_info())
            return Ridge(**options)

        monkeypatch.setattr(eq, "Ridge", ridge)
        with threadpool_limits(limits=2):
            eq.style_regression(*style(0, 30), *style(1, 20), "linear", 0)
        assert set(threads) == {1}

    def test_an_mlp_that_does_not_converge_warns_nobody(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(eq, "MLPRegressor", lambda **options: MLPRegressor(**(options | {"max_iter": 1})))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            eq.style_regression(*style(0, 11), *style(1, 5), "mlp", 0)


class TestConstantFloor:
    def test_by_hand(self) -> None:
        train = np.array([[1.0, 0.0], [3.0, 0.0]])
        test = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
        assert eq.constant_floor(train, test) == pytest.approx([0.0, -6.0])

    @examples
    @given(seeds, st.integers(2, 20), st.sampled_from([0.0, 0.1, 1e6]))
    def test_is_at_most_zero_and_what_the_mean_scores(self, seed: int, num_points: int, offset: float) -> None:
        train, test = offset + normal(seed, 2, num_points, 3)
        floor = eq.constant_floor(train, test)
        assert np.all(floor <= 0)
        expected = [-((a.mean() - b.mean()) ** 2) / b.var() for a, b in zip(train.T, test.T, strict=True)]
        assert floor == pytest.approx(expected, rel=1e-3, abs=1e-6)

    def test_rounding_leaves_nothing_above_zero(self) -> None:
        for seed in range(100):
            test = normal(seed, 9, 3)
            assert np.all(eq.constant_floor(test[::-1], test) <= 0)


class TestInvarianceRatio:
    @examples
    @given(labelled_codes())
    def test_is_the_mean_over_all_pairs_of_different_classes(self, case: tuple[F64, F64, I64]) -> None:
        z, moved, y = case
        pairs = itertools.combinations(range(len(y)), 2)
        apart = [np.sum((z[i] - z[j]) ** 2) for i, j in pairs if y[i] != y[j]]
        expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(z, moved, strict=True)]) / np.mean(apart)
        assert eq.invariance_ratio(z, moved, y) == pytest.approx(expected, rel=1e-9)

    def test_zero_is_invariant_and_one_is_a_change_of_class(self) -> None:
        z = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
        y = np.array([0, 0, 1])
        assert eq.invariance_ratio(z, z, y) == 0.0
        assert eq.invariance_ratio(z, z + np.array([5.0, 0.0]), y) == pytest.approx(1.0)

    @examples
    @given(labelled_codes(), st.floats(0.01, 100))
    def test_scale_rotation_and_the_order_of_points_do_not_matter(
        self, case: tuple[F64, F64, I64], scale: float
    ) -> None:
        z, moved, y = case
        ratio = eq.invariance_ratio(z, moved, y)
        order = np.random.default_rng(0).permutation(len(y))
        assert eq.invariance_ratio(z[order], moved[order], y[order]) == pytest.approx(ratio, rel=1e-9)
        turn = scale * np.linalg.qr(normal(0, z.shape[1], z.shape[1]))[0]
        assert eq.invariance_ratio(z @ turn, moved @ turn, y) == pytest.approx(ratio, rel=1e-6)

    def test_float32_codes_far_from_zero_lose_nothing(self) -> None:
        z, y = (1e3 + normal(0, 200, 3)).astype(np.float32), np.arange(200) % 2
        moved = z + np.float32(0.5)
        expected = eq.invariance_ratio(z.astype(np.float64) - 1e3, moved.astype(np.float64) - 1e3, y)
        assert eq.invariance_ratio(z, moved, y) == pytest.approx(expected, rel=1e-9)

    def test_needs_no_memory_for_pairs(self) -> None:
        z, y = normal(0, 5000, 2), np.arange(5000) % 10
        tracemalloc.start()
        eq.invariance_ratio(z, z, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5e6


class TestWithinBetweenRatio:
    @examples
    @given(labelled_codes())
    def test_matches_a_loop_over_classes(self, case: tuple[F64, F64, I64]) -> None:
        z, _, y = case
        within = sum(np.sum((row - z[y == c].mean(0)) ** 2) for row, c in zip(z, y, strict=True))
        between = sum(np.sum((z[y == c].mean(0) - z.mean(0)) ** 2) for c in y)
        assert eq.within_between_ratio(z, y) == pytest.approx(within / between, rel=1e-6)

    def test_by_hand_with_classes_of_unequal_size(self) -> None:
        # Means 1 and 4 of three and one points, 1.75 in all: within 8 / 4, between (3 * 0.75^2 + 2.25^2) / 4.
        z = np.array([[-1.0], [1.0], [3.0], [4.0]])
        assert eq.within_between_ratio(z, np.array([0, 0, 0, 1])) == pytest.approx(8 / 6.75)

    def test_classes_that_are_points_score_zero(self) -> None:
        y = np.array([0, 2, 2, 0, 7])
        assert eq.within_between_ratio(normal(0, 8, 3)[y], y) == pytest.approx(0.0, abs=1e-30)

    def test_noise_scores_about_the_points_of_a_class(self) -> None:
        """The bias that the docstring names."""
        assert eq.within_between_ratio(normal(0, 400, 50), np.arange(400) % 20) == pytest.approx(19, rel=0.1)


class TestLinearAction:
    def test_finds_a_rotation_and_a_shift_of_a_plane(self) -> None:
        z, held_out = normal(0, 50, 2), normal(1, 20, 2)
        moved, held_out_moved = (c @ rotation(30).T + [1.0, -2.0] for c in (z, held_out))
        action = eq.fit_linear_action(z, moved, ridge=1e-12)
        assert action.matrix == pytest.approx(rotation(30), abs=1e-9)
        assert action.offset == pytest.approx([1.0, -2.0], abs=1e-9)
        assert action.apply(held_out) == pytest.approx(held_out_moved, abs=1e-9)
        assert eq.action_r2(action, held_out, held_out_moved) == pytest.approx([1.0, 1.0])
        assert np.all(eq.identity_r2(held_out, held_out_moved) < 0.5)

    def test_the_default_penalty_costs_next_to_nothing(self) -> None:
        z = normal(0, 50, 2)
        assert np.all(eq.action_r2(eq.fit_linear_action(z, z @ rotation(30).T), z, z @ rotation(30).T) > 0.99999)

    @examples
    @given(seeds, st.integers(1, 4), st.sampled_from([1e-3, 0.1, 10.0]))
    def test_minimises_the_error_with_its_penalty(self, seed: int, num_units: int, ridge: float) -> None:
        z, moved = normal(seed, 2, 12, num_units) * 3 + 5
        action = eq.fit_linear_action(z, moved, ridge)

        def loss(matrix: F64, offset: F64) -> float:
            error = np.mean(np.sum((z @ matrix.T + offset - moved) ** 2, axis=1))
            return float(error + ridge * np.sum(z.var(0) * np.sum(matrix**2, axis=0)))

        best = loss(action.matrix, action.offset)
        for step in normal(seed + 1, 20, num_units, num_units + 1) * 0.1:
            assert loss(action.matrix + step[:, 1:], action.offset + step[:, 0]) >= best
        # A minimum, not only good: the gradient vanishes.
        tiny = np.eye(num_units)[0] * 1e-4
        for sign in (1, -1):
            assert loss(action.matrix, action.offset + sign * tiny) - best == pytest.approx(1e-8, rel=0.01)

    def test_the_scale_of_a_unit_does_not_matter(self) -> None:
        z, moved = normal(0, 30, 3), normal(1, 30, 3)
        scale = np.array([1e-4, 1.0, 1e4])
        r2 = eq.action_r2(eq.fit_linear_action(z, moved, 0.1), z, moved)
        scaled = eq.fit_linear_action(z * scale, moved * scale, 0.1)
        assert eq.action_r2(scaled, z * scale, moved * scale) == pytest.approx(r2)

    def test_constant_and_repeated_units_and_few_points_are_no_obstacle(self) -> None:
        z = normal(0, 4, 3)[:, [0, 1, 2, 2, 0]]
        z[:, 4] = 0.1
        action = eq.fit_linear_action(z, z + 1)
        assert action.apply(z) == pytest.approx(z + 1, abs=0.01)

    def test_an_unrelated_move_is_no_action_on_held_out_points(self) -> None:
        action = eq.fit_linear_action(normal(0, 40, 3), normal(1, 40, 3))
        assert np.all(eq.action_r2(action, normal(2, 200, 3), normal(3, 200, 3)) < 0.05)

    def test_scores_are_per_unit(self) -> None:
        z = normal(0, 200, 2)
        moved = np.column_stack([-z[:, 0], normal(1, 200) + 100])
        r2 = eq.action_r2(eq.fit_linear_action(z, moved), z, moved)
        assert r2[0] > 0.999 and r2[1] < 0.1

    def test_doing_nothing_scores_one_and_turning_the_sign_minus_three(self) -> None:
        z = np.array([[1.0, 1.0], [-1.0, -1.0]])
        assert eq.identity_r2(z, z * [1, -1]) == pytest.approx([1.0, -3.0])

    def test_the_error_of_doing_nothing_is_relative_to_the_moved_code(self) -> None:
        z = normal(0, 10, 1)
        assert eq.identity_r2(z - z.mean(), 2 * (z - z.mean())) == pytest.approx([0.75])

    @examples
    @given(seeds)
    def test_the_order_of_points_does_not_matter(self, seed: int) -> None:
        z, moved = normal(seed, 2, 15, 3)
        order = np.random.default_rng(seed).permutation(15)
        action, shuffled = eq.fit_linear_action(z, moved), eq.fit_linear_action(z[order], moved[order])
        assert shuffled.matrix == pytest.approx(action.matrix, abs=1e-9)
        assert shuffled.offset == pytest.approx(action.offset, abs=1e-9)


class TestCompositionError:
    def test_rotations_of_a_plane_compose(self) -> None:
        z = normal(0, 50, 2)
        first, second, both = (eq.fit_linear_action(z, z @ rotation(a).T + 1, 1e-12) for a in (30, 45, 75))
        direct = eq.fit_linear_action(z, (z @ rotation(30).T + 1) @ rotation(45).T + 1, 1e-12)
        assert eq.composition_error(first, second, direct, z) == pytest.approx(0.0, abs=1e-9)
        # The linear part of `both` is right, and its offset is not.
        assert eq.composition_error(first, second, both, z) > 0.01

    def test_by_hand(self) -> None:
        double, shift = (eq.LinearAction(np.array([[a]]), np.array([b])) for a, b in ((2.0, 0.0), (1.0, 3.0)))
        z = np.array([[1.0], [-1.0]])
        # First doubled, then shifted: 5 and 1. Shifted, then doubled: 8 and 4. `double` alone: 2 and -2, mean square 4.
        assert eq.composition_error(double, shift, double, z) == pytest.approx(9 / 4)
        assert eq.composition_error(shift, double, double, z) == pytest.approx(36 / 4)

    @examples
    @given(seeds, st.integers(1, 4))
    def test_the_product_of_two_actions_composes(self, seed: int, num_units: int) -> None:
        first, second = (eq.LinearAction(m[1:], m[0]) for m in normal(seed, 2, num_units + 1, num_units))
        both = eq.LinearAction(second.matrix @ first.matrix, second.matrix @ first.offset + second.offset)
        z = normal(seed + 1, 9, num_units)
        assert eq.composition_error(first, second, both, z) == pytest.approx(0.0, abs=1e-9)

    def test_identities_compose_whatever_they_say(self) -> None:
        """What the docstring warns of."""
        nothing = eq.LinearAction(np.eye(2), np.zeros(2))
        assert eq.composition_error(nothing, nothing, nothing, normal(0, 5, 2)) == 0.0


class TestRetrieval:
    def test_by_hand_among_all_points(self) -> None:
        target = np.array([[0.0], [1.0], [3.0], [10.0]])
        # Ranks 1, 2 (0.4 is nearer to 0), 4 (10 is nearest) and 1.
        result = eq.retrieval(np.array([[0.1], [0.4], [10.0], [9.0]]), target, 4, 0)
        assert result.mrr == pytest.approx((1 + 1 / 2 + 1 / 2 + 1) / 4)
        assert (result.hit_at_1, result.hit_at_5, result.num_candidates) == (0.5, 1.0, 4)

    @examples
    @given(seeds, st.integers(2, 20), st.integers(1, 3))
    def test_matches_a_loop_with_ties_against_the_prediction(self, seed: int, num_points: int, num_units: int) -> None:
        rng = np.random.default_rng(seed)
        predicted, target = rng.integers(0, 4, size=(2, num_points, num_units)).astype(np.float64)
        pairs = zip(predicted, target, strict=True)
        rank = [sum(np.sum((t - p) ** 2) <= np.sum((own - p) ** 2) for t in target) for p, own in pairs]
        result = eq.retrieval(predicted, target, num_points, seed)
        assert result.mrr == pytest.approx(np.mean([1 / r for r in rank]))
        assert result.hit_at_1 == pytest.approx(np.mean([r == 1 for r in rank]))
        assert result.hit_at_5 == pytest.approx(np.mean([r <= 5 for r in rank]))

    def test_a_collapsed_code_ranks_last(self) -> None:
        result = eq.retrieval(np.full((30, 2), 0.1), np.full((30, 2), 0.3), 10, 0)
        assert (result.mrr, result.hit_at_1, result.hit_at_5) == pytest.approx((0.1, 0.0, 0.0))

    @pytest.mark.parametrize("num_candidates", [2, 10, 50])
    def test_guessing_scores_what_the_candidates_allow(self, num_candidates: int) -> None:
        result = eq.retrieval(normal(0, 3000, 3), normal(1, 3000, 3), num_candidates, 0)
        assert result.hit_at_1 == pytest.approx(1 / num_candidates, abs=0.03)
        assert result.hit_at_5 == pytest.approx(min(1, 5 / num_candidates), abs=0.04)
        assert result.mrr == pytest.approx(sum(1 / r for r in range(1, num_candidates + 1)) / num_candidates, abs=0.03)

    @examples
    @given(seeds, st.integers(2, 12), st.data())
    def test_a_perfect_prediction_is_always_first(self, seed: int, num_points: int, data: st.DataObject) -> None:
        """Which says too that no point is drawn among its own others: that would tie."""
        target = normal(seed, num_points, 2)
        result = eq.retrieval(target, target, data.draw(st.integers(2, num_points)), seed)
        assert (result.mrr, result.hit_at_1, result.hit_at_5) == (1.0, 1.0, 1.0)

    def test_every_other_point_is_as_likely_a_candidate(self) -> None:
        target = np.eye(6)
        for row, rival in itertools.permutations(range(6), 2):
            predicted = target.copy()
            # The rival is nearest, the right one next: a miss exactly when the rival is drawn, 2 times in 5.
            predicted[row] = 0.4 * target[row] + 0.6 * target[rival]
            misses = [6 - 6 * eq.retrieval(predicted, target, 3, seed).hit_at_1 for seed in range(100)]
            assert np.mean(misses) == pytest.approx(0.4, abs=0.2)

    def test_the_order_of_points_does_not_matter_among_all(self) -> None:
        predicted, target = normal(0, 40, 2), normal(0, 40, 2) + 0.3 * normal(1, 40, 2)
        order = np.random.default_rng(2).permutation(40)
        one, other = eq.retrieval(predicted, target, 40, 0), eq.retrieval(predicted[order], target[order], 40, 1)
        assert (one.mrr, one.hit_at_1, one.hit_at_5) == pytest.approx((other.mrr, other.hit_at_1, other.hit_at_5))
        assert 0.1 < one.hit_at_1 < 0.9

    def test_more_candidates_make_it_harder(self) -> None:
        predicted, target = normal(0, 300, 2), normal(0, 300, 2) + 0.3 * normal(1, 300, 2)
        scores = [eq.retrieval(predicted, target, c, 0).mrr for c in (2, 20, 300)]
        assert scores[0] > scores[1] + 0.1 and scores[1] > scores[2] + 0.1

    def test_the_seed_alone_decides_the_draws(self) -> None:
        predicted, target = normal(0, 100, 2), normal(1, 100, 2)
        results = [eq.retrieval(predicted, target, 5, seed) for seed in (0, 0, 1)]
        assert results[0] == results[1] != results[2]

    def test_chunks_bound_the_memory_and_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        predicted, target = normal(0, 400, 10), normal(1, 400, 10)
        whole = eq.retrieval(predicted, target, 300, 3)
        monkeypatch.setattr(eq, "_CHUNK_VALUES", 7 * 300 * 10)
        tracemalloc.start()
        chunked = eq.retrieval(predicted, target, 300, 3)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert chunked == whole
        # In one piece it is 400 * 300 * 10 numbers, 9.6 MB.
        assert peak < 1.5e6


Z, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
NAN = np.full((6, 2), np.nan)
ACTION = eq.LinearAction(np.eye(2), np.zeros(2))
CONSTANT = eq.LinearAction(np.zeros((2, 2)), np.full(2, 0.1))
EQUAL_MEANS = np.array([[0.1], [0.3], [0.2], [0.2], [0.3], [0.1]])


def regression(**changed: Any) -> F64:
    """`style_regression` of small arrays that fit, apart from those given."""
    arguments: dict[str, Any] = {f"{part}_{name}": Z for part in ("train", "test") for name in ("z", "moved", "g")}
    return eq.style_regression(**(arguments | {"kind": "linear", "seed": 0} | changed))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: regression(train_moved=Z[:5]), r"train_z and train_moved.*\[6, 2\] and \[5, 2\]"),
        (lambda: regression(train_g=Z[:5]), r"train_z \[6, 2\] and train_g \[5, 2\]"),
        (lambda: regression(test_moved=NAN), r"test_moved \[6, 2\] holds 12"),
        (lambda: regression(train_g=Z[:, :0]), r"train_g.*\[6, 0\]"),
        (lambda: regression(test_z=Z[:0], test_moved=Z[:0]), r"test_z.*\[0, 2\]"),
        (lambda: regression(test_z=Z[:, :0], test_moved=Z[:, :0]), r"columns, got \[6, 2\] and \[6, 0\]"),
        (lambda: regression(train_z=Z[:, :1], train_moved=Z[:, :1]), r"train_z and test_z.*\[6, 1\] and \[6, 2\]"),
        (lambda: regression(test_g=Z[:, :1]), r"train_g and test_g.*\[6, 2\] and \[6, 1\]"),
        (lambda: regression(test_g=Z * [0, 1]), r"constant in outputs \[0\]"),
        (lambda: regression(kind="tree"), "tree"),
        (lambda: regression(kind="mlp"), r"11 train points.*\[6, 2\]"),
        (lambda: eq.constant_floor(Z, Z[:, :1]), r"\[6, 2\] and \[6, 1\]"),
        (lambda: eq.constant_floor(Z[:0], Z), r"train_g.*\[0, 2\]"),
        (lambda: eq.constant_floor(Z, Z * 0), r"constant in outputs \[0, 1\]"),
        (lambda: eq.invariance_ratio(Z, Z[:, :1], Y), r"\[6, 2\] and \[6, 1\]"),
        (lambda: eq.invariance_ratio(Z, NAN, Y), r"moved \[6, 2\] holds 12"),
        (lambda: eq.invariance_ratio(Z, Z, Y[:5]), r"\[6, 2\] and y \[5\]"),
        (lambda: eq.invariance_ratio(Z, Z, Y * 0), r"two classes, got 1"),
        (lambda: eq.invariance_ratio(Z, Z, Y - 1), r"-1\.\.0"),
        (lambda: eq.invariance_ratio(Z * 0 + 0.1, Z, Y), r"z \[6, 2\] has equal rows"),
        (lambda: eq.within_between_ratio(Z, np.zeros(6)), "float64"),  # type: ignore[arg-type]
        (lambda: eq.within_between_ratio(Z[0], Y), r"\[2\]"),
        (lambda: eq.within_between_ratio(Z, Y * 0), r"two classes, got 1"),
        (lambda: eq.within_between_ratio(EQUAL_MEANS, Y), r"z \[6, 1\] has the same mean in all 2"),
        (lambda: eq.fit_linear_action(Z, Z[:5]), r"\[6, 2\] and \[5, 2\]"),
        (lambda: eq.fit_linear_action(Z[:, :0], Z[:, :0]), r"\[6, 0\]"),
        (lambda: eq.fit_linear_action(Z, Z, 0.0), "ridge.*0.0"),
        (lambda: eq.fit_linear_action(Z, Z, math.nan), "ridge.*nan"),
        (lambda: eq.LinearAction(np.eye(2), np.zeros(3)), r"\[2, 2\] and \[3\]"),
        (lambda: eq.LinearAction(np.ones((2, 3)), np.zeros(2)), r"\[2, 3\] and \[2\]"),
        (lambda: eq.LinearAction(np.eye(2), np.full(2, np.inf)), r"offset \[2\] holds 2"),
        (lambda: ACTION.apply(Z[:, :1]), r"\[6, 1\].*2 columns"),
        (lambda: eq.action_r2(ACTION, Z, Z[:5]), r"\[6, 2\] and \[5, 2\]"),
        (lambda: eq.action_r2(ACTION, Z, Z * [0, 1]), r"constant in outputs \[0\]"),
        (lambda: eq.identity_r2(Z, NAN), r"moved \[6, 2\] holds 12"),
        (lambda: eq.composition_error(ACTION, ACTION, CONSTANT, Z), r"z \[6, 2\] to one point"),
        (lambda: eq.composition_error(ACTION, ACTION, ACTION, Z[:, :1]), r"\[6, 1\]"),
        (lambda: eq.retrieval(Z, Z[:5], 3, 0), r"\[6, 2\] and \[5, 2\]"),
        (lambda: eq.retrieval(Z, NAN, 3, 0), r"target \[6, 2\] holds 12"),
        (lambda: eq.retrieval(Z, Z, 7, 0), r"2\.\.6.*got 7"),
        (lambda: eq.retrieval(Z, Z, 1, 0), r"2\.\.6.*got 1"),
    ],
)
def test_what_does_not_fit_is_refused_and_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_are_left_alone() -> None:
    z, moved, y = Z.copy(), Z + 1, Y.copy()
    eq.invariance_ratio(z, moved, y)
    eq.within_between_ratio(z, y)
    eq.fit_linear_action(z, moved)
    eq.retrieval(z, moved, 6, 0)
    regression(train_z=z, train_moved=moved)
    assert np.array_equal(z, Z) and np.array_equal(moved, Z + 1) and np.array_equal(y, Y)
