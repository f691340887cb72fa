"""Densities and divergences against torch.distributions, numerical integration and enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import dblquad, quad
from torch import Tensor, nn
from torch.distributions import Bernoulli as TorchBernoulli
from torch.distributions import Multinomial as TorchMultinomial
from torch.distributions import Normal, kl_divergence

from ie_model.likelihoods import (
    Bernoulli,
    DiscretizedLogistic,
    Gaussian,
    Likelihood,
    Multinomial,
    make_likelihood,
    normal_kl,
    normal_log_prob,
)
from ie_model.spec import DataSpec
from tests.helpers.tiny import backward, log_prob_of, seeded

NAN = math.nan
means = st.floats(-5, 5)
log_vars = st.floats(-6, 4)
LEVELS = torch.arange(256, dtype=torch.float64) / 255


def named_spec(kind: str, likelihood: str, shape: tuple[int, ...]) -> DataSpec:
    dtype = {"image": "uint8", "series": "float32", "counts": "int32", "vector": "float32"}[kind]
    values: dict[str, Any] = {"kind": kind, "likelihood": likelihood, "shape": shape, "dtype": dtype}
    return DataSpec(classes=("a", "b"), **values)


def logistic(log_scale: float, channels: int = 1) -> DiscretizedLogistic:
    family = DiscretizedLogistic(channels).double()
    torch.nn.init.constant_(family.log_scale, log_scale)
    return family


def gaussian(*log_scales: float, shape: tuple[int, ...] = (5,)) -> Gaussian:
    family = Gaussian(named_spec("series", "gaussian", (len(log_scales), *shape))).double()
    with torch.no_grad():
        family.log_scale.copy_(torch.tensor(log_scales, dtype=torch.float64).reshape(family.log_scale.shape))
    return family


class _LogProb(nn.Module):
    """`log_prob` as a forward pass, which is what PyTorch can call with other parameters."""

    def __init__(self, family: Likelihood) -> None:
        super().__init__()
        self.family = family

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        return self.family.log_prob(x, out)


def with_scale(family: Likelihood, log_scale: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """log_prob with another scale, differentiable in it."""
    result: Tensor = torch.func.functional_call(_LogProb(family), {"family.log_scale": log_scale}, (x, out))
    return result


def texts(num_words: int, total: int) -> Tensor:
    """Every way to spread `total` counts over the words, `[N, num_words]`."""
    every = itertools.product(range(total + 1), repeat=num_words)
    return torch.tensor([counts for counts in every if sum(counts) == total], dtype=torch.float64)


# The divergence and the density of the normal.


@given(mean=means, log_var=log_vars)
@settings(max_examples=50, deadline=None)
def test_the_kl_to_the_prior_is_that_of_torch_distributions(mean: float, log_var: float) -> None:
    m, s = torch.tensor([mean], dtype=torch.float64), torch.tensor([log_var], dtype=torch.float64)
    expected = kl_divergence(Normal(m, (s / 2).exp()), Normal(torch.zeros_like(m), torch.ones_like(m)))
    torch.testing.assert_close(normal_kl(m, s), expected)


@pytest.mark.parametrize(("mean", "log_var"), [(0.0, 0.0), (1.3, -2.0), (-2.0, 1.0), (0.4, -5.0)])
def test_the_kl_to_the_prior_is_its_integral(mean: float, log_var: float) -> None:
    deviation = math.exp(log_var / 2)

    def integrand(z: float) -> float:
        log_q = -0.5 * (math.log(2 * math.pi) + log_var + ((z - mean) / deviation) ** 2)
        log_p = -0.5 * (math.log(2 * math.pi) + z**2)
        return math.exp(log_q) * (log_q - log_p)

    integral, _ = quad(integrand, mean - 12 * deviation, mean + 12 * deviation)
    kl = normal_kl(torch.tensor(mean, dtype=torch.float64), torch.tensor(log_var, dtype=torch.float64))
    assert float(kl) == pytest.approx(integral, abs=1e-8)


def test_the_kl_is_zero_at_the_prior_and_kept_per_unit() -> None:
    kl = normal_kl(torch.zeros(4, 3), torch.zeros(4, 3))
    assert kl.shape == (4, 3)
    assert kl.abs().max() == 0


def test_the_normal_log_density_is_that_of_torch_distributions_summed_over_units() -> None:
    z, mean, log_var = torch.randn(3, 5, 4, generator=seeded(), dtype=torch.float64)
    expected = log_prob_of(Normal(mean, (log_var / 2).exp()), z).sum(-1)
    torch.testing.assert_close(normal_log_prob(z, mean, log_var), expected)


def test_the_normal_density_integrates_to_one() -> None:
    def density(z: float) -> float:
        value = normal_log_prob(torch.tensor([z], dtype=torch.float64), torch.tensor([0.7]), torch.tensor([-1.2]))
        return math.exp(float(value))

    assert quad(density, -10, 10, points=[0.7])[0] == pytest.approx(1, abs=1e-6)


# Bernoulli.


def test_the_bernoulli_log_probability_of_a_binary_image_is_that_of_torch_distributions() -> None:
    logits = 3 * torch.randn(5, 3, 4, 2, generator=seeded())
    x = torch.rand(5, 3, 4, 2, generator=seeded(1)).round()
    expected = log_prob_of(TorchBernoulli(logits=logits), x).flatten(1).sum(1)
    torch.testing.assert_close(Bernoulli().log_prob(x, logits), expected)


@given(values=st.lists(st.tuples(st.floats(0, 1), st.floats(-8, 8)), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_grey_values_give_the_expectation_over_binary_images(values: list[tuple[float, float]]) -> None:
    x, logits = (torch.tensor(column, dtype=torch.float64) for column in zip(*values, strict=True))
    expected = 0.0
    for image in itertools.product((0.0, 1.0), repeat=3):
        binary = torch.tensor(image, dtype=torch.float64)
        weight = math.prod(float(p) if on else 1 - float(p) for p, on in zip(x, image, strict=True))
        expected += weight * float(log_prob_of(TorchBernoulli(logits=logits), binary).sum())
    actual = Bernoulli().log_prob(x.reshape(1, 1, 1, 3), logits.reshape(1, 1, 1, 3))
    assert float(actual[0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_probabilities_of_all_binary_images_sum_to_one() -> None:
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(-1, 1, 2, 2)
    logits = torch.tensor([0.3, -2.0, 4.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2).expand(len(images), 1, 2, 2)
    assert float(Bernoulli().log_prob(images, logits).exp().sum()) == pytest.approx(1)


def test_extreme_logits_keep_the_log_probability_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]])
    assert Bernoulli().log_prob(torch.tensor([[0.0, 1.0]]), logits).item() == pytest.approx(-2e4)


def test_the_bernoulli_mean_is_the_probability_of_one() -> None:
    logits = torch.randn(7, generator=seeded())
    torch.testing.assert_close(Bernoulli().mean(logits), TorchBernoulli(logits=logits).probs)


# Discretised logistic.


@given(out=st.floats(-30, 30), log_scale=st.floats(-12, 6))
@settings(max_examples=200, deadline=None)
def test_the_256_grey_levels_have_probabilities_that_sum_to_one(out: float, log_scale: float) -> None:
    levels = LEVELS.reshape(256, 1, 1, 1)
    total = logistic(log_scale).log_prob(levels, torch.full_like(levels, out)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-12)


@given(out=st.floats(-4, 4), log_scale=st.floats(-4, 3))
@settings(max_examples=100, deadline=None)
def test_a_grey_levels_probability_is_a_difference_of_the_logistics_distribution(out: float, log_scale: float) -> None:
    mean, scale = torch.sigmoid(torch.tensor(out, dtype=torch.float64)), math.exp(log_scale)
    edges = torch.cat([torch.tensor([-torch.inf]), (LEVELS[:-1] + LEVELS[1:]) / 2, torch.tensor([torch.inf])])
    expected = torch.sigmoid((edges - mean) / scale).diff()
    levels = LEVELS.reshape(256, 1, 1, 1)
    actual = logistic(log_scale).log_prob(levels, torch.full_like(levels, out)).exp()
    # The difference itself cancels in the tails: there it is known to about 1e-16 only.
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-15)


def test_stored_levels_in_single_precision_fall_into_their_own_bins() -> None:
    stored = (torch.arange(256, dtype=torch.uint8).float() / 255).reshape(256, 1, 1, 1)
    out = torch.full_like(stored, 0.4)
    single = DiscretizedLogistic(1).log_prob(stored, out)
    double = DiscretizedLogistic(1).double().log_prob(LEVELS.reshape(256, 1, 1, 1), out.double())
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


def test_each_channel_of_a_discretised_logistic_has_its_own_scale() -> None:
    family = DiscretizedLogistic(3).double()
    scales = (-3.0, -1.0, 0.5)
    with torch.no_grad():
        family.log_scale.copy_(torch.tensor(scales).reshape(3, 1, 1))
    x = LEVELS[torch.randint(256, (2, 3, 4, 5), generator=seeded())]
    out = torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    parts = [logistic(s).log_prob(x[:, c : c + 1], out[:, c : c + 1]) for c, s in enumerate(scales)]
    torch.testing.assert_close(family.log_prob(x, out), torch.stack(parts).sum(0))


@pytest.mark.parametrize("log_scale", [-50.0, -7.0, -3.0, 0.0, 10.0])
@pytest.mark.parametrize("out", [-1e4, -40.0, 0.0, 40.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_tails_and_tiny_scales_keep_value_and_gradient_finite(
    log_scale: float, out: float, dtype: torch.dtype
) -> None:
    family = logistic(log_scale).to(dtype)
    levels = LEVELS.to(dtype).reshape(256, 1, 1, 1)
    output = torch.full_like(levels, out).requires_grad_()
    log_prob = family.log_prob(levels, output)
    backward(log_prob.sum())
    assert bool(log_prob.isfinite().all())
    assert output.grad is not None and bool(output.grad.isfinite().all())
    assert family.log_scale.grad is not None and bool(family.log_scale.grad.isfinite().all())


def test_a_far_tails_log_probability_falls_with_the_distance_instead_of_staying_at_a_floor() -> None:
    family, x = logistic(-6.0), LEVELS[[40, 50]].reshape(2, 1, 1, 1)
    near, nearer = family.log_prob(x, torch.full_like(x, 40.0))
    # In the lower tail the logistic's logarithm is linear: ten levels are 10 / 255 / scale nats.
    assert (nearer - near).item() == pytest.approx(10 / 255 * math.exp(6.0), rel=1e-6)


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 1.0])
def test_the_discretised_logistics_gradients_are_those_of_finite_differences(log_scale: float) -> None:
    family = logistic(log_scale, channels=2)
    x = LEVELS[torch.tensor([0, 1, 100, 254, 255, 30])].reshape(1, 2, 3, 1)
    out = torch.randn(1, 2, 3, 1, generator=seeded(), dtype=torch.float64).requires_grad_()

    scale = family.log_scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda o, s: with_scale(family, s, x, o), (out, scale))


def test_the_discretised_logistics_mean_lies_in_the_grey_range() -> None:
    out = torch.tensor([[-100.0, 0.0, 100.0]])
    torch.testing.assert_close(DiscretizedLogistic(1).mean(out), torch.tensor([[0.0, 0.5, 1.0]]))


# Gaussian.


def test_the_gaussian_log_probability_is_that_of_torch_distributions_with_a_scale_per_channel() -> None:
    family, scales = gaussian(-1.0, 0.0, 0.7), torch.tensor([-1.0, 0.0, 0.7], dtype=torch.float64).exp()
    x, out = torch.randn(2, 4, 3, 5, generator=seeded(), dtype=torch.float64)
    expected = log_prob_of(Normal(out, scales[:, None]), x).sum((1, 2))
    torch.testing.assert_close(family.log_prob(x, out), expected)


def test_the_gaussian_of_an_image_has_a_scale_per_channel() -> None:
    family = make_likelihood(named_spec("image", "gaussian", (3, 4, 2)))
    x, out = torch.rand(2, 5, 3, 4, 2, generator=seeded())
    expected = log_prob_of(Normal(out, 1.0), x).flatten(1).sum(1)
    torch.testing.assert_close(family.log_prob(x, out), expected)
    assert [tuple(p.shape) for p in family.parameters()] == [(3, 1, 1)]


@pytest.mark.parametrize(("out", "log_scale"), [(0.0, 0.0), (1.5, -1.0), (-2.0, 0.8)])
def test_the_gaussian_density_integrates_to_one(out: float, log_scale: float) -> None:
    family = gaussian(log_scale, shape=(1,))

    def density(x: float) -> float:
        value = family.log_prob(
            torch.full((1, 1, 1), x, dtype=torch.float64), torch.full((1, 1, 1), out, dtype=torch.float64)
        )
        return math.exp(value.item())

    reach = 12 * math.exp(log_scale)
    assert quad(density, out - reach, out + reach)[0] == pytest.approx(1, abs=1e-8)


def test_the_gaussian_density_of_two_values_integrates_to_one() -> None:
    family, out = gaussian(-0.5, 0.3, shape=(1,)), torch.tensor([[[0.2], [-0.4]]], dtype=torch.float64)

    def density(first: float, second: float) -> float:
        return math.exp(family.log_prob(torch.tensor([[[second], [first]]], dtype=torch.float64), out).item())

    assert dblquad(density, -5, 5, -9, 9, epsabs=1e-4)[0] == pytest.approx(1, abs=1e-3)


@given(length=st.integers(0, 5), gap=st.integers(0, 4), fill=st.floats(-1e3, 1e3))
@settings(max_examples=60, deadline=None)
def test_unknown_values_do_not_count_in_the_gaussian_whatever_the_decoder_says_there(
    length: int, gap: int, fill: float
) -> None:
    family = gaussian(-0.5, 0.3)
    x, out = torch.randn(2, 1, 2, 5, generator=seeded(), dtype=torch.float64)
    known = (torch.arange(5) < length).repeat(2, 1)
    known[0, gap] = False
    scales = torch.tensor([-0.5, 0.3], dtype=torch.float64).exp()[:, None].expand(2, 5)
    expected = log_prob_of(Normal(out[0][known], scales[known]), x[0][known]).sum()
    actual = family.log_prob(x.masked_fill(~known, NAN), out.masked_fill(~known, fill))
    assert actual.item() == pytest.approx(float(expected), abs=1e-9)
    best = log_prob_of(Normal(x[0][known], scales[known]), x[0][known]).sum()
    assert family.max_log_prob(x.masked_fill(~known, NAN)).item() == pytest.approx(float(best), abs=1e-9)


def test_unknown_values_leave_the_gradient_finite_and_give_none_to_the_outputs_there() -> None:
    family, x = gaussian(0.2, -0.3), torch.randn(3, 2, 5, generator=seeded(), dtype=torch.float64)
    x[0, :, 2:], x[1, 0, 1], x[2] = NAN, NAN, NAN
    out = torch.randn(3, 2, 5, generator=seeded(1), dtype=torch.float64).requires_grad_()
    backward(family.log_prob(x, out).sum())
    assert out.grad is not None and family.log_scale.grad is not None
    assert bool(out.grad.isfinite().all()) and bool(family.log_scale.grad.isfinite().all())
    assert torch.equal(out.grad == 0, x.isnan())


def test_the_gaussians_gradients_are_those_of_finite_differences_with_unknown_values_too() -> None:
    family, x = gaussian(0.2, -0.3), torch.randn(2, 2, 5, generator=seeded(), dtype=torch.float64)
    x[0, :, 3:], x[1, 0, 1] = NAN, NAN
    out = torch.randn(2, 2, 5, generator=seeded(1), dtype=torch.float64).requires_grad_()
    scale = family.log_scale.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda o, s: with_scale(family, s, x, o), (out, scale))


def test_a_channel_that_never_varies_cannot_drive_the_gaussians_density_to_infinity() -> None:
    family, x = gaussian(-1e4), torch.zeros(1, 1, 5, dtype=torch.float64)
    assert family.log_prob(x, x).item() == pytest.approx(5 * (5.0 - 0.5 * math.log(2 * math.pi)))


def test_the_gaussians_mean_is_the_decoders_output() -> None:
    out = torch.randn(2, 1, 5, generator=seeded(), dtype=torch.float64)
    assert torch.equal(gaussian(0.4).mean(out), out)


# Multinomial.


@given(logits=st.lists(st.floats(-8, 8), min_size=2, max_size=6), total=st.integers(0, 40), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_multinomial_log_probability_is_that_of_torch_distributions(
    logits: list[float], total: int, seed: int
) -> None:
    out = torch.tensor([logits], dtype=torch.float64)
    words = torch.randint(len(logits), (total,), generator=seeded(seed))
    x = torch.bincount(words, minlength=len(logits)).double()[None]
    expected = log_prob_of(TorchMultinomial(total, logits=out[0]), x[0])
    assert float(Multinomial().log_prob(x, out)) == pytest.approx(float(expected), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("num_words", "total"), [(2, 0), (2, 7), (3, 1), (3, 6), (4, 5), (5, 3)])
def test_the_probabilities_of_all_texts_of_a_length_sum_to_one(num_words: int, total: int) -> None:
    x = texts(num_words, total)
    assert len(x) == math.comb(total + num_words - 1, total)
    out = (2 * torch.randn(1, num_words, generator=seeded(), dtype=torch.float64)).expand_as(x)
    assert float(Multinomial().log_prob(x, out).exp().sum()) == pytest.approx(1, abs=1e-9)


def test_the_multinomials_mean_is_its_expectation_over_all_texts_and_has_the_total_of_x() -> None:
    x, out = texts(3, 5), torch.tensor([[0.3, -1.0, 2.0]], dtype=torch.float64)
    probabilities = Multinomial().log_prob(x, out.expand_as(x)).exp()
    mean = Multinomial().mean(out, x[:1])
    torch.testing.assert_close(mean[0], (probabilities[:, None] * x).sum(0))
    assert float(mean.sum()) == pytest.approx(5)


def test_the_multinomials_mean_without_x_is_that_of_one_word() -> None:
    out = torch.randn(4, 6, generator=seeded())
    torch.testing.assert_close(Multinomial().mean(out), out.softmax(-1))


def test_an_empty_text_is_certain_and_gives_no_gradient() -> None:
    x, out = torch.zeros(2, 3), torch.randn(2, 3, generator=seeded()).requires_grad_()
    log_prob = Multinomial().log_prob(x, out)
    backward(log_prob.sum())
    assert log_prob.tolist() == [0, 0] and Multinomial().max_log_prob(x).tolist() == [0, 0]
    assert out.grad is not None and out.grad.abs().max() == 0
    assert Multinomial().mean(out, x).abs().max() == 0


# The ceiling: no output does better, and the best one reaches it.


@given(seed=st.integers(0, 10_000), spread=st.floats(0.01, 20), binary=st.booleans())
@settings(max_examples=60, deadline=None)
def test_no_output_lifts_the_log_probability_over_the_ceiling(seed: int, spread: float, binary: bool) -> None:
    generator = seeded(seed)
    image = torch.randint(256, (6, 1, 3, 2), generator=generator).double() / 255
    series = torch.randn(6, 2, 5, generator=generator, dtype=torch.float64)
    series[0, :, 3:], series[1, 0, 2], series[2] = NAN, NAN, NAN
    counts = torch.randint(4, (6, 7), generator=generator).double()
    cases = [
        (Bernoulli(), image.round() if binary else image),
        (logistic(spread - 8), image),
        (gaussian(0.5, spread - 6), series),
        (Multinomial(), counts),
    ]
    for family, x in cases:
        near = x.nan_to_num()  # a bad bound shows itself close to the best output
        for centre in (torch.zeros_like(x), near, near.clamp(1e-3, 0.999).logit(), near.clamp(min=1e-3).log()):
            out = centre + spread * torch.randn(x.shape, generator=generator, dtype=torch.float64)
            slack = family.max_log_prob(x) - family.log_prob(x, out)
            assert slack.shape == (6,) and slack.min().item() >= -1e-9, type(family).__name__


def test_the_best_output_reaches_the_ceiling() -> None:
    grey = torch.rand(4, 1, 3, 2, generator=seeded(), dtype=torch.float64)
    torch.testing.assert_close(Bernoulli().log_prob(grey, grey.logit()), Bernoulli().max_log_prob(grey))
    binary = grey.round()
    torch.testing.assert_close(Bernoulli().log_prob(binary, 100 * binary - 50), Bernoulli().max_log_prob(binary))
    # The means 0 and 1 are limits of a logistic's; every level in between is its own best mean.
    levels, outs = LEVELS.reshape(256, 1, 1, 1), LEVELS.clamp(1e-9, 1 - 1e-9).logit().reshape(256, 1, 1, 1)
    for log_scale in (-9.0, -5.0, -2.3, 1.0):
        dl = logistic(log_scale)
        torch.testing.assert_close(dl.log_prob(levels, outs), dl.max_log_prob(levels), rtol=0, atol=1e-5)
    series = torch.randn(4, 2, 5, generator=seeded(), dtype=torch.float64)
    series[0, :, 2:] = NAN
    family = gaussian(-1.0, 0.5)
    torch.testing.assert_close(family.log_prob(series, series.nan_to_num()), family.max_log_prob(series))
    counts = torch.tensor([[3.0, 0.0, 1.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    torch.testing.assert_close(
        Multinomial().log_prob(counts, (counts + 1e-30).log()), Multinomial().max_log_prob(counts)
    )


@pytest.mark.parametrize(
    ("kind", "likelihood", "shape", "expected"),
    [
        ("image", "bernoulli", (1, 4, 4), Bernoulli),
        ("image", "discretized_logistic", (3, 4, 4), DiscretizedLogistic),
        ("image", "gaussian", (3, 4, 4), Gaussian),
        ("series", "gaussian", (2, 9), Gaussian),
        ("counts", "multinomial", (6,), Multinomial),
        ("vector", "gaussian", (6,), Gaussian),
    ],
)
def test_the_spec_names_the_family(kind: str, likelihood: str, shape: tuple[int, ...], expected: type) -> None:
    assert type(make_likelihood(named_spec(kind, likelihood, shape))) is expected
