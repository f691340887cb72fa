"""Encoders and decoders: sizes of all kinds of data, and what must not reach a point's features."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ie_model.bounds import marginal_elbo
from ie_model.config import ModelConfig
from ie_model.model import EquiVAE
from ie_model.networks import (
    ConvolutionalDecoder,
    ImageTrunk,
    PosteriorHead,
    SeriesTrunk,
    WideResidualTrunk,
    check_fit,
    count_parameters,
    make_decoder,
    make_trunk,
    to_float,
    within_length,
)
from tests.helpers.tiny import KINDS, M2, VAE, backward, points, seeded, spec_of, tiny_model, tiny_spec

NAN = torch.nan
CODES: list[dict[str, Any]] = [{}, M2, VAE, {"stochastic_r": True}]
ENCODERS, DECODERS = ("convolutional", "wide_residual"), ("dense", "convolutional")


def config(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**tiny_model().config.model_dump(), **changes})


def series(*lengths: int, channels: int = 2, longest: int = 12, seed: int = 0) -> Tensor:
    """Series of these lengths, NaN past the end of each."""
    x = torch.randn(len(lengths), channels, longest, generator=seeded(seed))
    ends = torch.tensor(lengths).reshape(-1, 1, 1)
    return x.masked_fill(torch.arange(longest) >= ends, NAN)


def bounds(model: EquiVAE, x: Tensor) -> Tensor:
    """U(x) with v at its mean: no noise, so that two calls can be compared."""
    codes = torch.linspace(-1, 1, model.num_codes * model.r_dim).reshape(model.num_codes, model.r_dim)
    features = model.features(x)
    log_q = model.classify(model.embed(x), codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ie_model.bounds.noise_like", lambda like, generator: torch.zeros_like(like))
        return marginal_elbo(model, x, features, codes, log_q, 0.0, seeded()).bound.detach()


# Shapes.


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 28, 28), (1, 13, 7), (3, 5, 31), (1, 1, 1)])
@pytest.mark.parametrize(("encoder", "decoder"), list(itertools.product(ENCODERS, DECODERS)))
def test_images_of_usual_odd_and_rectangular_sizes_go_in_and_come_out(
    shape: tuple[int, int, int], encoder: str, decoder: str
) -> None:
    model = tiny_model(tiny_spec(shape), encoder=encoder, decoder=decoder, channels=(4, 6))
    x = points(2, model.spec)
    assert model.embed(x).shape == (2, 3)
    assert model.features(x).shape == (2, 8)
    assert model.decode(torch.zeros(2, 3), torch.zeros(2, 2)).shape == (2, *shape)
    assert bool(bounds(model, x).isfinite().all())


@given(
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    layers=st.integers(1, 6),
    encoder=st.sampled_from(ENCODERS),
    decoder=st.sampled_from(DECODERS),
)
@settings(max_examples=80, deadline=None)
def test_any_size_of_image_fits_any_number_of_layers(
    channels: int, height: int, width: int, layers: int, encoder: str, decoder: str
) -> None:
    spec = tiny_spec((channels, height, width))
    parts = config(encoder=encoder, decoder=decoder, channels=(4,) * layers)
    assert make_trunk(spec, parts)(points(2, spec)).shape == (2, 8)
    assert make_decoder(spec, parts, 3)(torch.zeros(2, 3), torch.zeros(2, 2)).shape == (2, channels, height, width)


@pytest.mark.parametrize("layers", range(1, 7))
def test_a_convolutional_decoder_turns_the_trunks_sizes_round(layers: int) -> None:
    spec, parts = tiny_spec((3, 28, 19)), config(decoder="convolutional", channels=tuple(range(2, 2 + layers)))
    trunk, decoder = ImageTrunk(spec, parts), ConvolutionalDecoder(spec, parts, 3)
    down, up = [points(1, spec)], [torch.zeros(1, *decoder.start)]
    for layer in trunk.convolutions:
        if isinstance(layer, nn.Conv2d):
            down.append(layer(down[-1]))
    for layer in decoder.convolutions:
        if isinstance(layer, nn.ConvTranspose2d):
            up.append(layer(up[-1]))
    assert len(up) == layers + 1
    assert [x.shape for x in up] == [x.shape for x in reversed(down)]


@pytest.mark.parametrize("decoder", DECODERS)
def test_every_value_of_a_decoded_image_depends_on_r_and_on_v(decoder: str) -> None:
    model = tiny_model(tiny_spec((3, 11, 6)), decoder=decoder, channels=(4, 4), spread=5.0)
    r, v = torch.randn(2, 40, 3, generator=seeded()), torch.randn(2, 40, 2, generator=seeded(1))
    base = model.decode(r[0], v[0])
    assert bool((model.decode(r[1], v[0]) != base).any(0).all())
    assert bool((model.decode(r[0], v[1]) != base).any(0).all())


@pytest.mark.parametrize("decoder", DECODERS)
def test_r_enters_every_layer_where_it_is_asked_to(decoder: str) -> None:
    model = tiny_model(decoder=decoder, decoder_hidden=(6, 7, 8), conditioning="every_layer", spread=3.0)
    stem: Any = model.decoder.stem
    assert [layer.out_features for layer in stem.scale_and_shift] == [14, 16]
    nn.init.zeros_(stem.from_r.weight)
    r, v = torch.randn(2, 5, 3, generator=seeded()), torch.randn(5, 2, generator=seeded(1))
    for kept in range(2):
        for i, layer in enumerate(stem.scale_and_shift):
            nn.init.normal_(layer.weight, std=float(i == kept))
        assert not torch.allclose(model.decode(r[0], v), model.decode(r[1], v)), f"r of layer {kept + 1} alone"
    nn.init.zeros_(stem.scale_and_shift[1].weight)
    assert torch.equal(stem(r[0], v), stem.hidden(stem.from_v(v) + stem.from_r(r[0]))), "without r the plain layers"


def test_he_weights_keep_the_scale_that_uniform_ones_lose() -> None:
    x = torch.rand(64, 1, 28, 28, generator=seeded())
    size = {}
    for initialisation in ("uniform", "he"):
        torch.manual_seed(0)
        model = EquiVAE(tiny_spec((1, 28, 28)), ModelConfig(initialisation=initialisation))
        with torch.no_grad():
            hidden = model.decoder.stem(torch.zeros(64, 32), torch.randn(64, 16, generator=seeded(1)))  # type: ignore[operator]
            size[initialisation] = model.embed(x).square().mean(), hidden.square().mean()
    for few, kept in zip(*size.values(), strict=True):
        assert few < 0.1 < kept < 2


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_sees_where_something_is(encoder: str) -> None:
    spec = tiny_spec((1, 32, 32))
    model = tiny_model(spec, encoder=encoder, channels=(4, 4))
    left, right = torch.zeros(2, 1, 1, 32, 32)
    # Far from the borders, whose padding tells their own distance.
    left[..., 15:18, 12:15], right[..., 15:18, 18:21] = 1, 1
    assert not torch.allclose(model.features(left), model.features(right), atol=1e-2)


@pytest.mark.parametrize("changes", CODES, ids=["embedding", "one_hot", "none", "stochastic"])
@pytest.mark.parametrize(
    ("kind", "shape"), [("series", (3, 9)), ("series", (1, 1)), ("counts", (2,)), ("counts", (40,)), ("vector", (1,))]
)
def test_series_counts_and_vectors_of_any_length_go_in_and_come_out(
    kind: Any, shape: tuple[int, ...], changes: dict[str, Any]
) -> None:
    model = tiny_model(spec_of(kind, shape=shape), **changes)
    x = points(4, model.spec)
    assert model.features(x).shape == (4, 8)
    assert model.decode(torch.zeros(4, model.r_dim), torch.zeros(4, 2)).shape == (4, *shape)
    assert bool(bounds(model, x).isfinite().all())


@given(length=st.integers(1, 40), layers=st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_any_length_of_series_fits_any_number_of_layers(length: int, layers: int) -> None:
    spec = spec_of("series", shape=(2, length))
    assert make_trunk(spec, config(channels=(3,) * layers))(points(2, spec)).shape == (2, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_no_points_at_all_go_through(kind: Any) -> None:
    model = tiny_model(spec_of(kind))
    x = points(1, model.spec)[:0]
    assert model.embed(x).shape == (0, 3)
    assert model.log_prob(x, torch.zeros(0, 3), torch.zeros(0, 2)).shape == (0,)


# Series: what fills the padding, and what is missing inside.


@pytest.mark.parametrize("lengths", [(5, 12), (1, 12), (1, 2), (11, 12)])
def test_a_series_is_the_same_alone_and_beside_longer_ones(lengths: tuple[int, int]) -> None:
    model = tiny_model(spec_of("series", shape=(2, 12)), channels=(4, 4))
    x = series(*lengths)
    r, v = torch.randn(1, 3, generator=seeded()), torch.randn(1, 2, generator=seeded(1))
    for function in (model.embed, model.features, lambda x: bounds(model, x)):
        torch.testing.assert_close(function(x[:1])[0], function(x)[0])
    together = model.log_prob(x, r.expand(2, -1), v.expand(2, -1))
    torch.testing.assert_close(model.log_prob(x[:1], r, v)[0], together[0])


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_room_for_longer_series_changes_no_features(length: int, layers: int) -> None:
    """The same convolutions with twice the room, whatever weights the dense layer has for the times past the end."""
    short, long = spec_of("series", shape=(2, 8)), spec_of("series", shape=(2, 16))
    parts = config(channels=(4,) * layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small, large = SeriesTrunk(short, parts), SeriesTrunk(long, parts)
    large.convolutions.load_state_dict(small.convolutions.state_dict())
    with torch.no_grad():
        for convolution in (*small.convolutions, *large.convolutions):
            convolution.bias.fill_(1.0)  # what a convolution says where it sees nothing
        old = small.dense.weight.view(8, 4, -1)
        large.dense.weight.view(8, 4, -1)[..., : old.shape[-1]] = old
        large.dense.bias.copy_(small.dense.bias)
    x = series(length, length, longest=8)
    padded = torch.cat([x, torch.full_like(x, NAN)], dim=-1)
    assert small(x).abs().max().item() > 0
    torch.testing.assert_close(large(padded), small(x))


def test_outputs_past_the_end_of_a_series_neither_count_nor_learn() -> None:
    model = tiny_model(spec_of("series", shape=(2, 12)))
    x, out = series(5, 12), torch.randn(2, 2, 12, generator=seeded(1))
    other = out.clone()
    other[0, :, 5:] = 100
    assert torch.equal(model.likelihood.log_prob(x, out), model.likelihood.log_prob(x, other))
    other.requires_grad_()
    backward(model.likelihood.log_prob(x, other).sum())
    assert other.grad is not None
    assert other.grad[0, :, 5:].abs().max() == 0 and other.grad[0, :, :5].abs().min() > 0


def test_gradients_of_padded_series_with_gaps_are_finite() -> None:
    model = tiny_model(spec_of("series", shape=(2, 12)), channels=(4, 4)).train()
    x = series(1, 7, 12)
    x[1, :, 3], x[2, 0, 4:6], x[2, 1, 11] = NAN, NAN, NAN
    backward(
        model.embed(x).sum() + model.features(x).sum() + model.log_prob(x, torch.ones(3, 3), torch.ones(3, 2)).sum()
    )
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(gradients) > 8
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_the_trunk_tells_a_missing_value_from_a_zero_and_a_gap_from_the_end() -> None:
    model = tiny_model(spec_of("series", shape=(1, 9)))
    x = series(9, channels=1, longest=9)
    zero, gap, end = x.clone(), x.clone(), x.clone()
    zero[..., 6], gap[..., 6], end[..., 6:] = 0, NAN, NAN
    features = [model.features(case) for case in (x, zero, gap, end)]
    for first, second in itertools.combinations(features, 2):
        assert not torch.allclose(first, second, atol=1e-4)


@given(known=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_inside_are_all_times_up_to_the_last_that_any_channel_knows(known: list[list[bool]]) -> None:
    last = max((t for row in known for t, value in enumerate(row) if value), default=-1)
    inside = within_length(torch.tensor([known]))
    assert inside.dtype == torch.bool
    assert inside.tolist() == [[[t <= last for t in range(6)]]]


def test_each_series_of_a_batch_has_an_end_of_its_own() -> None:
    x = series(1, 4, 12, 0)
    x[2, :, 3:6] = NAN  # a gap stays inside
    x[1, 0, 3] = NAN  # the other channel still has a value
    assert within_length(~x.isnan()).sum(-1).flatten().tolist() == [1, 4, 12, 0]


def test_a_series_without_any_value_has_finite_features_and_costs_nothing() -> None:
    model = tiny_model(spec_of("series", shape=(2, 12)))
    x = torch.full((1, 2, 12), NAN)
    assert bool(model.features(x).isfinite().all())
    assert model.log_prob(x, torch.ones(1, 3), torch.ones(1, 2)).item() == 0


# Counts.


def test_an_empty_text_has_finite_features_and_bound_and_costs_nothing() -> None:
    model = tiny_model(spec_of("counts"))
    x = torch.zeros(2, 6)
    assert bool(model.features(x).isfinite().all()) and bool(bounds(model, x).isfinite().all())
    assert model.log_prob(x, torch.ones(2, 3), torch.ones(2, 2)).tolist() == [0, 0]


def test_a_very_long_text_has_features_of_a_usual_size() -> None:
    model = tiny_model(spec_of("counts"), spread=1.0)
    assert model.features(torch.full((1, 6), 1e6)).abs().max().item() < 100


# A point's features are its own.


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_points_features_do_not_depend_on_its_batch(encoder: str, training: bool) -> None:
    model = tiny_model(tiny_spec((3, 12, 9)), encoder=encoder, channels=(8, 16)).train(training)
    x, others = points(1, model.spec), 5 * points(7, model.spec, seed=1)
    for function in (model.embed, model.features):
        torch.testing.assert_close(function(torch.cat([x, others]))[:1], function(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_a_points_features_stays_within_the_point(kind: Any) -> None:
    model = tiny_model(spec_of(kind), encoder="wide_residual" if kind == "image" else "convolutional").train()
    x = points(5, model.spec).requires_grad_()
    backward(model.features(x)[2].sum() + model.embed(x)[2].sum())
    assert x.grad is not None
    reached = x.grad.nan_to_num().flatten(1).abs().amax(1) > 0
    assert reached.tolist() == [False, False, True, False, False]


def test_no_part_keeps_statistics_of_batches() -> None:
    model = tiny_model(encoder="wide_residual", channels=(4, 4))
    assert [name for name, _ in model.named_buffers()] == ["log_prior"]


# What q(v | .) sees, what fits, and sizes.


def test_the_head_of_an_x_only_posterior_ignores_r() -> None:
    head, projected = PosteriorHead(config(posterior="x"), 3), torch.randn(4, 8, generator=seeded())
    r = torch.randn(2, 4, 3, generator=seeded(1))
    first, second = (head.combine(projected, head.project_r(one)) for one in r)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert head.project_r(r).shape == (2, 4, 8)


def test_the_usual_head_sees_r() -> None:
    head, projected = PosteriorHead(config(), 3), torch.randn(4, 8, generator=seeded())
    first, second = (head.combine(projected, head.project_r(r)) for r in torch.randn(2, 4, 3, generator=seeded(1)))
    assert not torch.allclose(first[0], second[0]) and not torch.allclose(first[1], second[1])


def test_the_log_variance_of_a_posterior_stays_where_its_exponential_is_finite() -> None:
    head = PosteriorHead(config(), 3)
    _, log_var = head.combine(torch.full((1, 8), 1e6), torch.zeros(1, 8))
    assert log_var.abs().max().item() == 10


@pytest.mark.parametrize("kind", ["series", "counts", "vector"])
@pytest.mark.parametrize(
    ("key", "value", "allowed"), [("encoder", "wide_residual", "convolutional"), ("decoder", "convolutional", "dense")]
)
def test_parts_for_images_are_refused_for_other_data(kind: Any, key: str, value: str, allowed: str) -> None:
    said = rf"^model.{key} is '{value}', which is for images; allowed for {kind}: {allowed}$"
    parts = config(**{key: value})
    with pytest.raises(ValueError, match=said):
        check_fit(spec_of(kind), parts)
    with pytest.raises(ValueError, match=said):
        EquiVAE(spec_of(kind), parts)


@pytest.mark.parametrize(("encoder", "decoder"), list(itertools.product(ENCODERS, DECODERS)))
def test_images_allow_every_part(encoder: str, decoder: str) -> None:
    check_fit(tiny_spec(), config(encoder=encoder, decoder=decoder))


@pytest.mark.parametrize("changes", CODES, ids=["embedding", "one_hot", "none", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_has_parameters_that_are_counted_once(kind: Any, changes: dict[str, Any]) -> None:
    model = tiny_model(spec_of(kind), **changes)
    assert count_parameters(model) == sum(
        p.numel() for p in model.state_dict(keep_vars=True).values() if p.requires_grad
    )
    assert count_parameters(model.decoder) > 0 and count_parameters(model.posterior_trunk) > 0
    model.posterior_trunk.requires_grad_(False)
    assert count_parameters(model.posterior_trunk) == 0


def test_a_wide_residual_trunk_can_have_the_size_of_wrn_28_2_without_taking_memory() -> None:
    parts = config(encoder="wide_residual", channels=(32, 64, 128), residual_blocks=4, hidden=128)
    with torch.device("meta"):
        trunk = WideResidualTrunk(tiny_spec((3, 32, 32)), parts)
        assert trunk(torch.empty(2, 3, 32, 32)).shape == (2, 128)
    convolutions = [m for m in trunk.modules() if isinstance(m, nn.Conv2d)]
    # 28 layers: the first convolution, 2 in each of 3 * 4 blocks, one skip in each group, and a dense layer.
    assert len(convolutions) == 1 + 24 + 3
    assert all(p.is_meta for p in trunk.parameters())
    assert 1.4e6 < sum(count_parameters(c) for c in convolutions) < 1.5e6


def test_stored_bytes_become_floats_from_0_to_1_and_other_values_keep_their_size() -> None:
    stored = torch.tensor([0, 51, 255], dtype=torch.uint8)
    torch.testing.assert_close(to_float(stored), torch.tensor([0.0, 0.2, 1.0]))
    assert stored.tolist() == [0, 51, 255]
    assert to_float(torch.tensor([0, 7, 300], dtype=torch.int32)).tolist() == [0, 7, 300]
    values = torch.tensor([-2.5, NAN])
    torch.testing.assert_close(to_float(values), values, equal_nan=True)
