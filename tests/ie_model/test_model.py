"""Class representations, the distance classifier and the networks' shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from ie_model.likelihoods import normal_kl
from ie_model.model import class_means, class_sums, leave_one_out_means, squared_distances
from ie_model.networks import count_parameters, to_float
from ie_model.spec import DataSpec, Kind
from tests.helpers.tiny import KINDS, M2, VAE, backward, each_class, points, seeded, spec_of, tiny_model, tiny_spec

WIDE: dict[str, Any] = {"encoder": "wide_residual", "channels": (4, 6), "residual_blocks": 2}


def support(seed: int = 0, num_classes: int = 3, times: int = 4, r_dim: int = 5) -> tuple[Tensor, Tensor]:
    """Embeddings of unequally large classes, mixed, at least two each."""
    y = torch.cat([each_class(num_classes, times), torch.zeros(3, dtype=torch.long)])
    y = y[torch.randperm(len(y), generator=seeded(seed))]
    return torch.randn(len(y), r_dim, generator=seeded(seed), dtype=torch.float64), y


def whole_numbers(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Embeddings whose sums are exact in floating point."""
    f, y = support(seed)
    return (100 * f).round(), y


def means_of(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """r_y of a support that is all here."""
    return class_means(*class_sums(f, y, num_classes))


def left_out(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """r_-i of each point of a support that is all here."""
    return leave_one_out_means(f, y, *class_sums(f, y, num_classes))


@given(seed=st.integers(0, 1000), num_classes=st.integers(2, 5), times=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_leave_one_out_means_are_those_of_a_loop_over_the_others(seed: int, num_classes: int, times: int) -> None:
    f, y = support(seed, num_classes, times)
    expected = []
    for i in range(len(y)):
        others = [f[j] for j in range(len(y)) if j != i and y[j] == y[i]]
        expected.append(torch.stack(others).mean(0))
    torch.testing.assert_close(left_out(f, y, num_classes), torch.stack(expected))


@given(seed=st.integers(0, 1000), here=st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_points_elsewhere_in_the_support_count_as_others(seed: int, here: int) -> None:
    """Of a support that is spread over ranks each sees some points and the sums of all."""
    f, y = support(seed)
    sums, counts = class_sums(f, y, 3)
    torch.testing.assert_close(leave_one_out_means(f[:here], y[:here], sums, counts), left_out(f, y, 3)[:here])


def test_class_means_are_those_of_a_loop_over_classes() -> None:
    f, y = support()
    torch.testing.assert_close(means_of(f, y, 3), torch.stack([f[y == c].mean(0) for c in range(3)]))


def test_class_sums_of_batches_add_up_to_those_of_the_whole() -> None:
    f, y = whole_numbers()
    first, second = class_sums(f[:4], y[:4], 3), class_sums(f[4:], y[4:], 3)
    sums, counts = class_sums(f, y, 3)
    assert torch.equal(first[0] + second[0], sums)
    assert torch.equal(first[1] + second[1], counts)


def test_a_class_with_a_single_point_is_an_error_that_names_it() -> None:
    f, _ = support()
    with pytest.raises(ValueError, match=r"class \[1\] has a single labelled point"):
        left_out(f[:5], torch.tensor([0, 0, 1, 2, 2]), 3)


def test_every_class_with_a_single_point_is_named() -> None:
    with pytest.raises(ValueError, match=r"class \[0, 2\]"):
        left_out(torch.ones(4, 2), torch.tensor([0, 1, 1, 2]), 3)


def test_an_absent_class_does_not_hinder_leaving_points_of_others_out() -> None:
    means = left_out(torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0]), 2)
    assert means.flatten().tolist() == [3.0, 1.0]


def test_class_means_without_a_class_are_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"no labelled point of class \[2\]"):
        means_of(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), 3)


def test_the_order_of_the_support_changes_no_class_mean() -> None:
    f, y = support()
    order = torch.randperm(len(y), generator=seeded(9))
    torch.testing.assert_close(means_of(f[order], y[order], 3), means_of(f, y, 3))


def test_the_order_of_the_support_only_reorders_leave_one_out_means() -> None:
    f, y = support()
    order = torch.randperm(len(y), generator=seeded(9))
    torch.testing.assert_close(left_out(f[order], y[order], 3), left_out(f, y, 3)[order])


def test_changing_a_point_leaves_its_own_representation_as_it_was() -> None:
    f, y = whole_numbers()
    changed = f.clone()
    changed[2] += 1000
    assert torch.equal(left_out(changed, y, 3)[2], left_out(f, y, 3)[2])


def test_changing_a_point_changes_the_representation_of_all_others_of_its_class_and_of_no_other_class() -> None:
    f, y = whole_numbers()
    changed = f.clone()
    changed[2] += 1000
    differs = (left_out(changed, y, 3) != left_out(f, y, 3)).any(1)
    expected = y == y[2]
    expected[2] = False
    assert torch.equal(differs, expected)


def test_no_gradient_reaches_a_point_from_its_own_representation() -> None:
    f, y = support()
    f.requires_grad_()
    backward(left_out(f, y, 3)[2].square().sum())
    assert f.grad is not None
    assert f.grad[2].abs().max() == 0
    others = (y == y[2]).nonzero().flatten()
    assert bool((f.grad[others[others != 2]].abs().sum(1) > 0).all())


def test_no_pixel_of_a_point_has_a_gradient_from_its_own_representation() -> None:
    model, x, y = tiny_model().double(), points(6).double().requires_grad_(), each_class(3, 2)
    backward(left_out(model.embed(x), y, 3)[4].sum())
    assert x.grad is not None
    assert x.grad[4].abs().max() == 0
    assert x.grad[1].abs().max() > 0


def test_squared_distances_are_those_of_cdist_over_the_size_of_r() -> None:
    f, _ = support()
    r = torch.randn(4, 5, generator=seeded(1), dtype=torch.float64)
    torch.testing.assert_close(squared_distances(f, r), torch.cdist(f, r).square() / 5)


def test_the_distance_classifier_prefers_the_nearest_prototype() -> None:
    model = tiny_model()
    f, r = torch.randn(50, 3, generator=seeded()), torch.randn(3, 3, generator=seeded(1))
    assert torch.equal(model.classify(f, r).argmax(1), torch.cdist(f, r).argmin(1))


def test_the_distance_classifiers_odds_are_the_scaled_difference_of_distances() -> None:
    model = tiny_model()
    f, r = torch.randn(9, 3, generator=seeded()), torch.randn(3, 3, generator=seeded(1))
    log_q, distances = model.classify(f, r), squared_distances(f, r)
    scale = float(model.log_inverse_temperature.detach().exp())
    torch.testing.assert_close(log_q[:, 0] - log_q[:, 1], scale * (distances[:, 1] - distances[:, 0]))


def test_the_network_classifier_does_not_look_at_the_representations() -> None:
    model = tiny_model(classifier="network")
    f = torch.randn(4, 3, generator=seeded())
    assert torch.equal(model.classify(f, torch.zeros(3, 3)), model.classify(f, torch.full((3, 3), 7.0)))


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_class_probabilities_sum_to_one(classifier: str) -> None:
    model = tiny_model(classifier=classifier)
    log_q = model.classify(model.embed(points(7)), torch.randn(3, 3, generator=seeded()))
    torch.testing.assert_close(log_q.exp().sum(1), torch.ones(7))


def test_the_features_do_not_depend_on_r_and_the_posterior_does() -> None:
    model = tiny_model()
    features = model.features(points(2))
    mean, _ = model.posterior(features, torch.zeros(2, 3))
    other, _ = model.posterior(features, torch.ones(2, 3))
    assert not torch.allclose(mean, other)


def test_the_posteriors_log_variance_stays_where_its_exponential_is_finite() -> None:
    model = tiny_model()
    _, log_var = model.posterior(1e6 * model.features(points(20)), torch.ones(20, 3))
    assert log_var.abs().max() == 10


@st.composite
def data_specs(draw: st.DrawFn) -> DataSpec:
    kind: Kind = draw(st.sampled_from(KINDS))
    size = st.integers(1, 13)
    shape = {
        "image": st.tuples(st.sampled_from([1, 3]), size, size),
        "series": st.tuples(st.integers(1, 3), size),
        "counts": st.tuples(st.integers(2, 13)),
        "vector": st.tuples(size),
    }[kind]
    return spec_of(kind, draw(st.integers(2, 5)), draw(shape))


@given(
    spec=data_specs(),
    parts=st.sampled_from([{}, M2, VAE, {"stochastic_r": True}, {"posterior": "x"}]),
    wide=st.booleans(),
    decoder=st.sampled_from(["dense", "convolutional"]),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_of_any_kind_goes_in_and_comes_out(
    spec: DataSpec, parts: dict[str, Any], wide: bool, decoder: str
) -> None:
    images: dict[str, Any] = {"decoder": decoder} | (WIDE if wide else {})
    model = tiny_model(spec, **{"channels": (2, 3), **parts, **(images if spec.kind == "image" else {})})
    x, num_codes = points(2, spec), 1 if parts == VAE else spec.num_classes
    codes = model.codes(torch.zeros(spec.num_classes, model.embed_support(x).shape[1]))
    f, features, r = model.embed(x), model.features(x), model.mean_r(codes)
    assert r.shape == (num_codes, {"embedding": 3, "one_hot": num_codes, "none": 1}[model.config.class_code])
    mean, log_var = model.posterior(features, r[:1].expand(2, -1))
    assert mean.shape == log_var.shape == (2, 2)
    assert model.classify(f, r).shape == (2, num_codes)
    out = model.decode(r[:1].expand(2, -1), mean)
    assert out.shape == x.shape
    assert bool(out.isfinite().all())
    assert model.log_prob(x, r[:1].expand(2, -1), mean).shape == (2,)


@pytest.mark.parametrize(
    ("kind", "changes"), [("image", {}), ("image", WIDE), ("series", {}), ("counts", {}), ("vector", {})], ids=str
)
def test_a_points_outputs_do_not_depend_on_the_rest_of_its_batch(kind: Kind, changes: dict[str, Any]) -> None:
    """Nor on training mode: normalising over the batch would carry a point into the r it is left out of."""
    spec = spec_of(kind)
    model, x = tiny_model(spec, **changes).train(), points(6, spec)
    torch.testing.assert_close(model.embed(x)[2:3], model.embed(x[2:3]))
    torch.testing.assert_close(model.features(x)[2:3], model.features(x[2:3]))


def test_the_posterior_of_x_alone_has_no_weight_for_r_and_ignores_it() -> None:
    model = tiny_model(posterior="x")
    features = model.features(points(2))
    mean, log_var = model.posterior(features, torch.zeros(2, 3))
    other_mean, other_log_var = model.posterior(features, torch.full((2, 3), 9.0))
    assert torch.equal(mean, other_mean) and torch.equal(log_var, other_log_var)
    assert not any("from_r" in name for name, _ in model.posterior_head.named_parameters())
    assert not torch.allclose(model.decode(torch.zeros(2, 3), mean), model.decode(torch.ones(2, 3), mean))


def test_the_codes_of_the_classes_are_their_means_their_unit_vectors_or_a_single_zero() -> None:
    means = torch.randn(3, 3, generator=seeded())
    assert torch.equal(tiny_model().codes(means), means)
    assert tiny_model(**M2).codes(means).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert tiny_model(**VAE).codes(torch.zeros(3, 1)).tolist() == [[0]]


def test_without_classes_there_is_one_class_of_probability_one() -> None:
    model = tiny_model(**VAE)
    assert model.classify(model.embed(points(4)), torch.zeros(1, 1)).tolist() == [[0.0]] * 4
    assert model.log_prior.tolist() == [0.0]


def test_the_classes_are_equally_likely_until_told_otherwise_and_that_is_stored_with_the_weights() -> None:
    model = tiny_model(tiny_spec(num_classes=4))
    torch.testing.assert_close(model.log_prior.exp(), torch.full((4,), 0.25))
    assert "log_prior" in model.state_dict()
    assert "log_prior" not in dict(model.named_parameters())


def test_a_stochastic_r_has_the_mean_and_the_spread_of_its_code_and_pays_their_kl() -> None:
    model = tiny_model(stochastic_r=True).double()
    code = torch.tensor([[0.5, -1.0, 2.0, 0.0, -2.0, 1.0]], dtype=torch.float64)
    r, cost = model.draw_r(code.expand(40_000, -1), seeded())
    # Five standard errors of a mean and of a variance over 40,000 draws.
    variance = code[0, 3:].exp()
    assert bool(((r.mean(0) - code[0, :3]).abs() < 5 * (variance / 40_000).sqrt()).all())
    assert bool(((r.var(0) / variance - 1).abs() < 5 * (2 / 40_000) ** 0.5).all())
    assert float(cost[0]) == pytest.approx(float(normal_kl(code[0, :3], code[0, 3:]).sum()))
    assert float(cost[0]) > 1


def test_the_gradient_of_a_stochastic_r_runs_through_its_mean_and_its_spread() -> None:
    model = tiny_model(stochastic_r=True).double()
    code = torch.randn(4, 6, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda code: model.draw_r(code, seeded(3)), code)
    r, _ = model.draw_r(code, seeded(3))
    noise = torch.randn(4, 3, generator=seeded(3), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(r.sum(), code)
    torch.testing.assert_close(gradient[:, :3], torch.ones(4, 3, dtype=torch.float64))
    torch.testing.assert_close(gradient[:, 3:], (code[:, 3:] / 2).exp().detach() * noise / 2)


@pytest.mark.parametrize("stochastic_r", [False, True])
def test_an_r_that_is_known_is_neither_drawn_nor_paid_for(stochastic_r: bool) -> None:
    r = torch.randn(4, 3, generator=seeded())
    drawn, cost = tiny_model(stochastic_r=stochastic_r).draw_r(r, seeded())
    assert torch.equal(drawn, r)
    assert cost.tolist() == [0] * 4


def test_the_embedding_of_a_stochastic_r_is_its_mean() -> None:
    model, x = tiny_model(stochastic_r=True), points(4)
    code = model.embed_support(x)
    assert code.shape == (4, 6)
    assert torch.equal(model.embed(x), code[:, :3])
    assert torch.equal(model.mean_r(code), code[:, :3])


def test_stored_bytes_become_floats_from_zero_to_one() -> None:
    assert to_float(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0, 0.2, 1])


def test_counting_parameters_passes_over_frozen_ones() -> None:
    model = tiny_model()
    whole = count_parameters(model)
    model.decoder.requires_grad_(False)
    assert count_parameters(model) == whole - sum(p.numel() for p in model.decoder.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (28, 28)}, r"shape \[C, H, W\]"),
        ({"shape": (2, 28, 28)}, "1 or 3 channels"),
        ({"shape": (1, 0, 28)}, "at least 1 each"),
        ({"classes": ("a", "a")}, "differ"),
        ({"classes": ("a",)}, "classes"),
        ({"size": 3}, "size"),
    ],
)
def test_a_wrong_data_spec_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSpec.model_validate(tiny_spec().model_dump() | changes)


@pytest.mark.parametrize("name", ["channels", "decoder_hidden"])
def test_a_layer_without_units_is_refused(name: str) -> None:
    changes: dict[str, Any] = {name: (4, 0)}
    with pytest.raises(ValidationError, match=f"{name} must all be at least 1"):
        tiny_model(**changes)
