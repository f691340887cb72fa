"""Densities and divergences against torch.distributions, numerical integration and enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from torch.distributions import Bernoulli, Normal, kl_divergence

from ie_model.likelihoods import bernoulli_log_prob, bernoulli_mean, normal_kl, normal_log_prob
from tests.tiny import log_prob_of, seeded

means = st.floats(-5, 5)
log_vars = st.floats(-6, 4)


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


def test_the_bernoulli_log_probability_of_a_binary_image_is_that_of_torch_distributions() -> None:
    logits = 3 * torch.randn(5, 3, 4, 2, generator=seeded())
    x = torch.rand(5, 3, 4, 2, generator=seeded(1)).round()
    expected = log_prob_of(Bernoulli(logits=logits), x).flatten(1).sum(1)
    torch.testing.assert_close(bernoulli_log_prob(x, logits), expected)


@given(values=st.lists(st.tuples(st.floats(0, 1), st.floats(-8, 8)), min_size=3, max_size=3))
@settings(max_examples=50, deadline=None)
def test_grey_values_give_the_expectation_over_binary_images(values: list[tuple[float, float]]) -> None:
    x, logits = (torch.tensor(column, dtype=torch.float64) for column in zip(*values, strict=True))
    expected = 0.0
    for image in itertools.product((0.0, 1.0), repeat=3):
        binary = torch.tensor(image, dtype=torch.float64)
        weight = math.prod(float(p) if on else 1 - float(p) for p, on in zip(x, image, strict=True))
        expected += weight * float(log_prob_of(Bernoulli(logits=logits), binary).sum())
    actual = bernoulli_log_prob(x.reshape(1, 1, 1, 3), logits.reshape(1, 1, 1, 3))
    assert float(actual[0]) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_probabilities_of_all_binary_images_sum_to_one() -> None:
    images = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64).reshape(-1, 1, 2, 2)
    logits = (
        torch.tensor([0.3, -2.0, 4.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 2).expand(len(images), -1, -1, -1)
    )
    assert float(bernoulli_log_prob(images, logits).exp().sum()) == pytest.approx(1)


def test_extreme_logits_keep_the_log_probability_finite() -> None:
    logits = torch.tensor([[1e4, -1e4]])
    assert bernoulli_log_prob(torch.tensor([[0.0, 1.0]]), logits).item() == pytest.approx(-2e4)


def test_the_bernoulli_mean_is_the_probability_of_one() -> None:
    logits = torch.randn(7, generator=seeded())
    torch.testing.assert_close(bernoulli_mean(logits), Bernoulli(logits=logits).probs)
