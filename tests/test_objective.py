"""The bounds against brute force with torch.distributions, and what the loss is made of."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from ie_model.config import ObjectiveConfig
from ie_model.model import EquiVAE, class_means, leave_one_out_means
from ie_model.objective import Objective, Shares, labelled_bound, leave_one_out_log_q, noise_like, unlabelled_bound
from tests.tiny import (
    MOVING,
    STILL,
    backward,
    binary_points,
    each_class,
    objective_config,
    pair_bound,
    points,
    seeded,
    tiny_model,
    tiny_spec,
)

SHARES = Shares(num_labelled=3, num_unlabelled=17)


def representations_of(model: EquiVAE) -> Tensor:
    return torch.randn(model.spec.num_classes, model.config.r_dim, generator=seeded(5)).to(model.log_scale.dtype)


def loss_of(
    config: ObjectiveConfig, shares: Shares = SHARES, model: EquiVAE | None = None, unlabelled: int | None = 4
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and log of one step on fixed points and noise."""
    model = model or tiny_model()
    num_classes = model.spec.num_classes
    x_unlabelled = None if unlabelled is None else binary_points(unlabelled, model.spec, seed=1)
    x = binary_points(3 * num_classes, model.spec)
    objective = Objective(model, config, shares)
    return cast(tuple[Tensor, dict[str, Tensor]], objective(x, each_class(num_classes, 3), x_unlabelled, seeded(2)))


def ignoring_noise(model: EquiVAE) -> EquiVAE:
    """A model whose decoder does not see v: the value of a pair then does not depend on which noise it meets."""
    nn.init.zeros_(model.decoder.from_v.weight)
    return model


@torch.no_grad()
def enumerated_bound(model: EquiVAE, x: Tensor, r: Tensor, log_q: Tensor, noise: Tensor) -> Tensor:
    """U(x) as the formula says it: for each point, over each class; noise `[B, K, V]`."""
    bounds = []
    for b in range(len(x)):
        bound = torch.zeros((), dtype=x.dtype)
        for c in range(len(r)):
            q = log_q[b, c].exp()
            if q > 0:
                bound += q * (pair_bound(model, x[b], r[c], noise[b, c]) - log_q[b, c])
        bounds.append(bound)
    return torch.stack(bounds)


def test_the_labelled_bound_is_that_of_torch_distributions() -> None:
    model, x = tiny_model(), binary_points(6)
    r = representations_of(model)[each_class(3, 2)]
    bound, kl = labelled_bound(model, x, model.features(x), r, seeded(7))
    noise = torch.randn(6, 2, generator=seeded(7))
    torch.testing.assert_close(bound, torch.stack([pair_bound(model, x[i], r[i], noise[i]) for i in range(6)]))
    assert kl.shape == (6, 2)


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_the_exact_unlabelled_bound_is_the_enumeration_of_classes(classifier: str) -> None:
    model, x = tiny_model(tiny_spec(num_classes=4), classifier=classifier), binary_points(7)
    r = torch.randn(4, 3, generator=seeded(5))
    log_q = model.classify(model.embed(x), r)
    actual = unlabelled_bound(model, x, model.features(x), r, log_q, 0.0, seeded(3))
    noise = torch.randn(7 * 4, 2, generator=seeded(3)).reshape(7, 4, 2)
    torch.testing.assert_close(actual.bound, enumerated_bound(model, x, r, log_q, noise))
    assert actual.num_alive.tolist() == [4] * 7
    assert actual.dropped_mass.tolist() == [0] * 7


def test_the_pruned_bound_is_the_enumeration_of_the_classes_that_live() -> None:
    model, x = tiny_model(), binary_points(5)
    r = representations_of(model)
    q = torch.tensor([[0.9, 0.06, 0.04], [0.2, 0.5, 0.3], [0.04, 0.02, 0.94], [0.05, 0.9, 0.05], [0.4, 0.04, 0.56]])
    alive = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 0, 1]]).bool()
    actual = unlabelled_bound(model, x, model.features(x), r, q.log(), 0.0499, seeded(3))
    noise = torch.zeros(5, 3, 2)
    noise[alive] = torch.randn(int(alive.sum()), 2, generator=seeded(3))
    kept = q * alive
    log_q = (kept / kept.sum(1, keepdim=True)).log()
    torch.testing.assert_close(actual.bound, enumerated_bound(model, x, r, log_q, noise))
    assert torch.equal(actual.num_alive, alive.sum(1))
    torch.testing.assert_close(actual.dropped_mass, (q * ~alive).sum(1))


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 5), prune=st.floats(0.001, 0.5))
@settings(max_examples=25, deadline=None)
def test_the_exact_bound_is_the_mixture_of_the_kept_and_the_dropped_one_plus_an_entropy(
    seed: int, num_classes: int, prune: float
) -> None:
    spec = tiny_spec(num_classes=num_classes)
    model, x = ignoring_noise(tiny_model(spec)).double(), binary_points(3, spec, seed).double()
    r = representations_of(model)
    log_q = (3 * torch.randn(3, num_classes, generator=seeded(seed), dtype=torch.float64)).log_softmax(1)
    features, noise = model.features(x), torch.zeros(3, num_classes, 2)
    exact = unlabelled_bound(model, x, features, r, log_q, 0.0, seeded()).bound
    pruned = unlabelled_bound(model, x, features, r, log_q, prune, seeded())
    alive = (log_q.exp() >= prune) | (log_q == log_q.max(1, keepdim=True).values)
    dropped = enumerated_bound(model, x, r, log_q.masked_fill(alive, -torch.inf).log_softmax(1), noise)
    d = pruned.dropped_mass
    for b in range(3):
        if alive[b].all():
            assert float(d[b]) == 0
            torch.testing.assert_close(pruned.bound[b], exact[b])
        else:
            entropy = -d[b] * d[b].log() - (1 - d[b]) * (1 - d[b]).log()
            torch.testing.assert_close(exact[b], (1 - d[b]) * pruned.bound[b] + d[b] * dropped[b] + entropy)


@given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 8), prune=st.floats(0, 0.999))
@settings(max_examples=40, deadline=None)
def test_the_dropped_mass_is_below_classes_times_prune(seed: int, num_classes: int, prune: float) -> None:
    spec = tiny_spec(num_classes=num_classes)
    model, x = tiny_model(spec), points(4, spec)
    log_q = (2 * torch.randn(4, num_classes, generator=seeded(seed))).log_softmax(1)
    result = unlabelled_bound(model, x, model.features(x), representations_of(model), log_q, prune, seeded())
    assert bool((result.dropped_mass <= num_classes * prune).all())
    assert bool((result.num_alive >= 1).all())


def test_the_best_class_is_never_dropped() -> None:
    model, x = tiny_model(), binary_points(1)
    r, q = representations_of(model), torch.tensor([[0.3, 0.4, 0.3]])
    result = unlabelled_bound(model, x, model.features(x), r, q.log(), 0.9, seeded(3))
    alone = pair_bound(model, x[0], r[1], torch.randn(1, 2, generator=seeded(3))[0])
    assert result.num_alive.tolist() == [1]
    assert float(result.dropped_mass) == pytest.approx(0.6)
    assert float(result.bound.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)


def test_no_gradient_of_a_dropped_class_becomes_nan() -> None:
    model, x = tiny_model(), points(2)
    logits = torch.tensor([[50.0, 0.0, -50.0], [0.0, 1.0, 2.0]], requires_grad=True)
    r = representations_of(model)
    backward(unlabelled_bound(model, x, model.features(x), r, logits.log_softmax(1), 0.2, seeded()).bound.sum())
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert logits.grad[1].abs().max() > 0


def test_the_gradient_of_the_labelled_bound_is_that_of_finite_differences() -> None:
    model = tiny_model(spread=1.0).double()
    x, r = points(2).double().requires_grad_(), torch.randn(2, 3, generator=seeded(), dtype=torch.float64)
    r.requires_grad_()

    def bound(x: Tensor, r: Tensor) -> Tensor:
        return labelled_bound(model, x, model.features(x), r, seeded(4))[0]

    assert torch.autograd.gradcheck(bound, (x, r))


@pytest.mark.parametrize("prune", [0.0, 0.2])
def test_the_gradient_of_the_unlabelled_bound_is_that_of_finite_differences(prune: float) -> None:
    model = tiny_model(spread=1.0).double()
    x, r = points(2).double(), representations_of(model).requires_grad_()
    logits = torch.tensor([[2.0, 1.5, -1.0], [0.1, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)

    def bound(r: Tensor, logits: Tensor) -> Tensor:
        return unlabelled_bound(model, x, model.features(x), r, logits.log_softmax(1), prune, seeded(4)).bound

    assert torch.autograd.gradcheck(bound, (r, logits))


def test_the_gradient_of_the_loss_in_the_weights_is_that_of_finite_differences() -> None:
    model = tiny_model(spread=1.0).double()
    x, y, x_unlabelled = binary_points(6).double(), each_class(3, 2), binary_points(2, seed=1).double()
    objective = Objective(model, objective_config(), SHARES)

    def loss(*_: Tensor) -> Tensor:
        return cast(Tensor, objective(x, y, x_unlabelled, seeded(4))[0])

    weights = (model.invariant_out.weight, model.posterior_head.from_r.weight, model.decoder.out.bias, model.log_scale)
    assert torch.autograd.gradcheck(loss, weights)


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_the_labelled_class_probability_leaves_each_point_out_of_its_own_class_only(classifier: str) -> None:
    model = tiny_model(classifier=classifier)
    f, y = torch.randn(9, 3, generator=seeded()), each_class(3, 3)
    r = class_means(f, y, 3)
    expected = []
    for i in range(9):
        r_i = r.clone()
        r_i[y[i]] = torch.stack([f[j] for j in range(9) if j != i and y[j] == y[i]]).mean(0)
        expected.append(model.classify(f[i : i + 1], r_i)[0, y[i]])
    torch.testing.assert_close(leave_one_out_log_q(model, f, f, y, r), torch.stack(expected))


def test_the_plain_loss_is_the_weighted_sum_of_its_three_parts() -> None:
    model, config = tiny_model(), objective_config(alpha=5.0)
    x, x_unlabelled, y = binary_points(9), binary_points(4, seed=1), each_class(3, 3)
    loss, _ = loss_of(config, SHARES, model)

    noise = seeded(2)
    f = model.embed(x)
    r, r_own = class_means(f, y, 3), leave_one_out_means(f, y, 3)
    noise_labelled = torch.randn(9, 2, generator=noise)
    labelled = torch.stack([pair_bound(model, x[i], r_own[i], noise_labelled[i]) for i in range(9)])
    log_q = model.classify(model.embed(x_unlabelled), r)
    noise_unlabelled = torch.randn(12, 2, generator=noise).reshape(4, 3, 2)
    unlabelled = enumerated_bound(model, x_unlabelled, r, log_q, noise_unlabelled)
    log_q_own = leave_one_out_log_q(model, f, f, y, r)
    torch.testing.assert_close(loss, -(0.15 * labelled.mean() + 0.85 * unlabelled.mean() + 5.0 * log_q_own.mean()))


def test_shares_are_those_of_the_data_and_sum_to_one() -> None:
    shares = Shares(num_labelled=100, num_unlabelled=59_900)
    assert shares.labelled == pytest.approx(1 / 600)
    assert shares.labelled + shares.unlabelled == pytest.approx(1)


@pytest.mark.parametrize("unlabelled", [1, 9])
def test_each_bound_weighs_its_share_of_the_data_whatever_the_batch(unlabelled: int) -> None:
    config = objective_config(alpha=0.0)
    labelled_only, _ = loss_of(config, Shares(1, 0), unlabelled=unlabelled)
    unlabelled_only, _ = loss_of(config, Shares(0, 1), unlabelled=unlabelled)
    loss, _ = loss_of(config, Shares(1, 3), unlabelled=unlabelled)
    torch.testing.assert_close(loss, 0.25 * labelled_only + 0.75 * unlabelled_only)


def test_alpha_weighs_the_labelled_class_term_independently_of_the_shares() -> None:
    for shares in (Shares(1, 3), Shares(9, 1)):
        without, logged = loss_of(objective_config(alpha=0.0), shares)
        with_alpha, _ = loss_of(objective_config(alpha=7.0), shares)
        torch.testing.assert_close(with_alpha, without - 7.0 * logged["log_q_labelled"])


def test_the_log_agrees_with_the_loss() -> None:
    loss, logged = loss_of(objective_config(alpha=5.0))
    parts = -0.15 * logged["bound_labelled"] - 0.85 * logged["bound_unlabelled"] - 5.0 * logged["log_q_labelled"]
    torch.testing.assert_close(parts, loss.detach())
    torch.testing.assert_close(logged["loss"], loss.detach())
    assert not any(value.requires_grad for value in logged.values())


def test_the_plain_objective_logs_nothing_of_the_extended_one() -> None:
    _, logged = loss_of(objective_config(extended=False))
    names = {"loss", "bound_labelled", "log_q_labelled", "kl", "bound_unlabelled", "classes_alive", "dropped_mass"}
    assert set(logged) == names


def test_the_plain_loss_does_not_depend_on_the_extended_settings() -> None:
    first, _ = loss_of(objective_config(extended=False, augment=MOVING, consistency=2.0, confidence=0.1))
    second, _ = loss_of(objective_config(extended=False, augment=STILL, consistency=9.0, confidence=1.0))
    assert torch.equal(first, second)


def test_augmentation_changes_the_extended_loss() -> None:
    moving, _ = loss_of(objective_config(extended=True, augment=MOVING, consistency=0.0))
    still, _ = loss_of(objective_config(extended=True, augment=STILL, consistency=0.0))
    assert not torch.allclose(moving, still)


def test_the_extended_objective_without_distortion_and_consistency_classifies_as_the_plain_one() -> None:
    _, plain = loss_of(objective_config(extended=False))
    _, extended = loss_of(objective_config(extended=True, augment=STILL, consistency=0.0))
    torch.testing.assert_close(extended["log_q_labelled"], plain["log_q_labelled"])
    torch.testing.assert_close(extended["bound_labelled"], plain["bound_labelled"])


def test_consistency_is_zero_where_nothing_is_confident() -> None:
    _, logged = loss_of(objective_config(extended=True, confidence=1.0), model=tiny_model(spread=0.5))
    assert float(logged["consistency"]) == 0
    assert float(logged["confident"]) == 0


def test_consistency_where_all_are_confident_is_the_distorted_views_cross_entropy() -> None:
    model = tiny_model()
    _, logged = loss_of(objective_config(extended=True, augment=STILL, confidence=1e-6), model=model)
    r = class_means(model.embed(binary_points(9)), each_class(3, 3), 3)
    best = model.classify(model.embed(binary_points(4, seed=1)), r).max(1).values
    torch.testing.assert_close(logged["consistency"], -best.mean().detach(), rtol=1e-3, atol=1e-5)
    assert float(logged["confident"]) == 1


def test_consistency_enters_the_loss_with_its_weight() -> None:
    once, logged = loss_of(objective_config(extended=True, consistency=1.0, confidence=1e-6))
    thrice, _ = loss_of(objective_config(extended=True, consistency=3.0, confidence=1e-6))
    torch.testing.assert_close(thrice - once, 2 * logged["consistency"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("extended", [False, True])
def test_without_unlabelled_points_only_labelled_terms_are_there(extended: bool) -> None:
    loss, logged = loss_of(objective_config(extended=extended), Shares(9, 0), unlabelled=None)
    assert set(logged) == {"loss", "bound_labelled", "log_q_labelled", "kl"}
    expected = -logged["bound_labelled"] - 5.0 * logged["log_q_labelled"]
    torch.testing.assert_close(loss.detach(), expected)


def test_every_weight_of_the_whole_objective_gets_a_gradient() -> None:
    for classifier in ("distance", "network"):
        model = tiny_model(classifier=classifier)
        backward(loss_of(objective_config(), model=model)[0])
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_the_supervised_objective_trains_the_embedding_and_the_classifier_alone(classifier: str) -> None:
    model = tiny_model(classifier=classifier)
    backward(loss_of(objective_config(method="supervised"), model=model)[0])
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {"invariant_trunk", "invariant_out", "log_scale" if classifier == "distance" else "class_logits"}


def test_the_supervised_loss_is_the_cross_entropy_of_the_labelled_points() -> None:
    model = tiny_model(classifier="network")
    loss, logged = loss_of(objective_config(method="supervised"), model=model)
    logits = model.class_logits(model.embed(binary_points(9)))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, each_class(3, 3)))
    assert set(logged) == {"loss", "log_q_labelled"}


def test_the_supervised_loss_sees_distorted_points_when_extended() -> None:
    plain, _ = loss_of(objective_config(method="supervised"))
    extended, _ = loss_of(objective_config(method="supervised", extended=True))
    assert not torch.allclose(plain, extended)


def test_noise_is_a_function_of_the_generators_state() -> None:
    x = torch.empty(3, 4)
    assert torch.equal(noise_like(x, seeded(1)), noise_like(x, seeded(1)))
    assert not torch.equal(noise_like(x, seeded(1)), noise_like(x, seeded(2)))


def test_the_same_step_gives_the_same_loss_and_other_noise_another() -> None:
    objective = Objective(tiny_model(), objective_config(extended=True), SHARES)
    arguments = binary_points(9), each_class(3, 3), binary_points(4, seed=1)
    assert torch.equal(objective(*arguments, seeded(2))[0], objective(*arguments, seeded(2))[0])
    assert not torch.equal(objective(*arguments, seeded(2))[0], objective(*arguments, seeded(3))[0])


def test_a_single_labelled_point_of_a_class_stops_the_step() -> None:
    objective = Objective(tiny_model(), objective_config(), SHARES)
    with pytest.raises(ValueError, match=r"class \[2\] has a single labelled point"):
        objective(points(5), torch.tensor([0, 0, 1, 1, 2]), None, seeded())


shapes = st.tuples(st.sampled_from([1, 3]), st.integers(5, 13), st.integers(5, 13))


@given(
    shape=shapes,
    num_classes=st.integers(2, 5),
    times=st.integers(2, 4),
    unlabelled=st.none() | st.integers(1, 6),
    classifier=st.sampled_from(["distance", "network"]),
    method=st.sampled_from(["plain", "extended", "supervised"]),
    prune=st.sampled_from([0.0, 0.01, 0.3]),
)
@settings(max_examples=40, deadline=None)
def test_loss_log_and_gradients_are_finite_for_any_shape(
    shape: tuple[int, int, int],
    num_classes: int,
    times: int,
    unlabelled: int | None,
    classifier: str,
    method: str,
    prune: float,
) -> None:
    spec = tiny_spec(shape, num_classes)
    model = tiny_model(spec, classifier=classifier)
    changes: dict[str, Any] = {"extended": method == "extended", "prune": prune}
    config = objective_config(**changes, method="supervised" if method == "supervised" else "equivae")
    x_unlabelled = None if unlabelled is None else points(unlabelled, spec, seed=1)
    x, y = points(times * num_classes, spec), each_class(num_classes, times)
    loss, logged = Objective(model, config, SHARES)(x, y, x_unlabelled, seeded())
    loss.backward()
    assert loss.shape == ()
    assert all(math.isfinite(float(value)) for value in logged.values())
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
    if "classes_alive" in logged:
        assert 1 <= float(logged["classes_alive"]) <= num_classes
        assert 0 <= float(logged["dropped_mass"]) <= num_classes * prune


def test_a_support_range_upside_down_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"support_max \(2\) must be at least support_min \(3\)"):
        objective_config(support_min=3, support_max=2)
