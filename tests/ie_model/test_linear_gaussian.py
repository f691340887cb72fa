"""The bounds of a linear-Gaussian model, whose evidence, posterior and maximum-likelihood weights are known.

    x = W v + m_y + s e,   v and e standard normal:   log p(x | y) = log N(x; m_y, W W^T + s^2 I)

With orthogonal columns of W the posterior of v is normal with independent units, which is what q(v | r, x) can be.
x is a series of D times in one channel, so that one s holds for all values. Sizes: D of x, V of v, K classes.

Source of the closed forms: Tipping and Bishop, J. R. Statist. Soc. B 61 (1999), probabilistic PCA.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from ie_model.artifact import Artifact
from ie_model.bounds import Elbo, elbo, marginal_elbo
from ie_model.inference import class_bounds, importance_weighted_bound
from ie_model.model import EquiVAE
from ie_model.objective import Objective, Shares
from tests.helpers.tiny import M2, VAE, backward, log_prob_of, objective_config, seeded, spec_of, tiny_model

F64 = torch.float64
D, V, K = 6, 2, 3


@dataclass(frozen=True)
class Truth:
    """What the model of the module's text is made of."""

    w: Tensor
    """W `[D, V]`, its columns orthogonal."""

    means: Tensor
    """m_y `[K, D]`."""

    s: float
    log_prior: Tensor

    def evidence(self, x: Tensor) -> Tensor:
        """log p(x | y) `[B, K]` of x `[B, D]`."""
        covariance = self.w @ self.w.T + self.s**2 * torch.eye(D, dtype=F64)
        return torch.stack([log_prob_of(MultivariateNormal(m, covariance), x) for m in self.means], dim=1)

    def posterior(self, x: Tensor, y: Tensor) -> Normal:
        """p(v | x, y) of x `[B, D]`."""
        precision = self.w.T @ self.w + self.s**2 * torch.eye(V, dtype=F64)
        assert float((precision - precision.diag().diag()).abs().max()) < 1e-12
        mean = (x - self.means[y]) @ self.w @ precision.inverse()
        return Normal(mean, (self.s**2 / precision.diag()).sqrt().expand_as(mean))

    def draw(self, y: Tensor, seed: int) -> Tensor:
        generator = seeded(seed)
        v = torch.randn(len(y), V, generator=generator, dtype=F64)
        e = torch.randn(len(y), D, generator=generator, dtype=F64)
        return v @ self.w.T + self.means[y] + self.s * e


def truth(seed: int = 0) -> Truth:
    generator = seeded(seed)
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator, dtype=F64)).Q
    means = torch.randn(K, D, generator=generator, dtype=F64)
    log_prior = torch.tensor([0.5, 0.3, 0.2], dtype=F64).log()
    return Truth(basis[:, :V] * torch.tensor([2.0, 0.8], dtype=F64), means, 0.5, log_prior)


def both_signs(rows: Tensor) -> Tensor:
    """Rows and minus the rows: what a rectified layer needs to let a linear map through."""
    return torch.cat([rows, -rows])


@torch.no_grad()
def exact_model(t: Truth) -> EquiVAE:
    """The networks of EquiVAE themselves, their weights such that decoder and posterior are those of the truth.

    A rectified layer lets h through as relu(h) and relu(-h). r of a class is its unit vector.
    """
    spec = spec_of("series", num_classes=K, shape=(1, D))
    model = tiny_model(spec, r_dim=K, v_dim=V, channels=(4,), hidden=2 * V, decoder_hidden=(2 * D,)).double()
    for parameter in model.parameters():
        parameter.zero_()
    part: Any = model
    part.log_prior.copy_(t.log_prior)
    # Decoder.
    part.decoder.stem.from_v.weight.copy_(both_signs(t.w))
    part.decoder.stem.from_r.weight.copy_(both_signs(t.means.T))
    part.decoder.out.weight.copy_(torch.cat([torch.eye(D), -torch.eye(D)], dim=1))
    part.likelihood.log_scale.fill_(math.log(t.s))
    # Posterior: mean = a (x - m_y), the log-variance does not depend on x. The convolution, of stride 2, hands on
    # times 2j and 2j + 1, each with both signs, in channels of their own.
    variance = t.s**2 / (t.w.square().sum(0) + t.s**2)
    a = variance.unsqueeze(1) * t.w.T / t.s**2
    convolution = part.posterior_trunk.convolutions[0]
    for channel, (position, sign) in enumerate([(2, 1.0), (2, -1.0), (3, 1.0), (3, -1.0)]):
        convolution.weight[channel, 0, position] = sign
    half = torch.stack([a[:, 0::2], -a[:, 0::2], a[:, 1::2], -a[:, 1::2]], dim=1).flatten(1)
    part.posterior_trunk.dense.weight.copy_(both_signs(half))
    head = part.posterior_head
    through = both_signs(torch.cat([torch.eye(V), -torch.eye(V)], dim=1).to(F64))
    head.from_features.weight.copy_(through)
    head.from_r.weight.copy_(both_signs(-a @ t.means.T))
    head.out.weight[:V] = through[:V]
    head.out.bias[V:] = variance.log()
    return model


def series(x: Tensor) -> Tensor:
    """`[B, D]` -> `[B, 1, D]`."""
    return x.unsqueeze(1)


CODES = torch.eye(K, dtype=F64)


def bounds(model: EquiVAE, x: Tensor, y: Tensor, seed: int = 0) -> Elbo:
    x = series(x)
    return elbo(model, x, model.features(x), CODES[y], model.log_prior[y], seeded(seed))


@pytest.fixture(scope="module")
def exact() -> tuple[Truth, EquiVAE, Tensor, Tensor]:
    t = truth()
    y = torch.tensor([0, 1, 2, 2])
    return t, exact_model(t), t.draw(y, 1), y


@pytest.fixture
def whole_expectation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each 2 V copies of a point, the noises are such that a quadratic function's mean over them is its expectation.

    They are plus and minus sqrt(V) along each unit: zero mean, unit covariance. Both bounds are quadratic in the noise.
    """
    monkeypatch.setattr("ie_model.bounds.noise_like", _spread_noise)


def _spread_noise(mean: Tensor, generator: torch.Generator) -> Tensor:
    units = both_signs(math.sqrt(V) * torch.eye(V, dtype=mean.dtype))
    return units.repeat(len(mean) // (2 * V), 1)


def expected_bounds(model: EquiVAE, x: Tensor, y: Tensor) -> Tensor:
    """E[L(x, y)] `[B]`, without any scatter; needs `whole_expectation`."""
    copies = bounds(model, x.repeat_interleave(2 * V, 0), y.repeat_interleave(2 * V, 0))
    return copies.bound.view(-1, 2 * V).mean(1)


class TestExactPosterior:
    def test_the_networks_are_those_of_the_truth(self, exact: tuple[Truth, EquiVAE, Tensor, Tensor]) -> None:
        t, model, x, y = exact
        mean, log_var = model.posterior(model.features(series(x)), CODES[y])
        expected = t.posterior(x, y)
        torch.testing.assert_close(mean, expected.mean)
        torch.testing.assert_close((log_var / 2).exp(), expected.stddev)
        v = torch.randn(4, V, generator=seeded(), dtype=F64)
        torch.testing.assert_close(model.decode(CODES[y], v), series(v @ t.w.T + t.means[y]))

    def test_the_labelled_bounds_mean_is_the_evidence(self, exact: tuple[Truth, EquiVAE, Tensor, Tensor]) -> None:
        t, model, x, y = exact
        n = 20_000
        with torch.no_grad():
            drawn = bounds(model, x.repeat_interleave(n, 0), y.repeat_interleave(n, 0)).bound.view(4, n)
        expected = t.evidence(x)[torch.arange(4), y] + t.log_prior[y]
        error = drawn.std(1) / math.sqrt(n)
        assert bool((error < 0.02).all())
        assert bool(((drawn.mean(1) - expected).abs() < 5 * error).all())

    @pytest.mark.usefixtures("whole_expectation")
    def test_the_expectation_of_the_labelled_bound_is_the_evidence_to_rounding(
        self, exact: tuple[Truth, EquiVAE, Tensor, Tensor]
    ) -> None:
        t, model, x, y = exact
        expected = t.evidence(x)[torch.arange(4), y] + t.log_prior[y]
        torch.testing.assert_close(expected_bounds(model, x, y).detach(), expected)

    def test_the_importance_weights_have_no_variance(self, exact: tuple[Truth, EquiVAE, Tensor, Tensor]) -> None:
        """p(x | r, v) p(v) / q(v | r, x) is p(x | y) whatever v is: one sample says as much as a hundred."""
        t, model, x, _ = exact
        artifact = Artifact(model, CODES, torch.ones(K), {})
        joint = t.evidence(x) + t.log_prior
        for num_samples, seed in ((1, 0), (1, 1), (100, 2)):
            actual = class_bounds(artifact, series(x), num_samples, seeded(seed))
            torch.testing.assert_close(actual, joint)
            whole = importance_weighted_bound(artifact, series(x), num_samples, 0.0, seeded(seed))
            torch.testing.assert_close(whole, joint.logsumexp(1))

    @pytest.mark.usefixtures("whole_expectation")
    def test_with_the_exact_class_probabilities_the_class_sum_is_log_p_of_x(
        self, exact: tuple[Truth, EquiVAE, Tensor, Tensor]
    ) -> None:
        t, model, x, _ = exact
        # The pairs are point by point, class by class, and meet the noises in turn: as K and 2 V have no common
        # divisor, the 2 V copies of a point meet all of them with every class.
        assert math.gcd(K, 2 * V) == 1
        repeated = series(x.repeat_interleave(2 * V, 0))
        joint = t.evidence(x) + t.log_prior
        for off in (0.0, 8.0):
            log_q = (joint + off * torch.tensor([1.0, -1.0, 0.5], dtype=F64)).log_softmax(1)
            copies = log_q.repeat_interleave(2 * V, 0)
            u = marginal_elbo(model, repeated, model.features(repeated), CODES, copies, 0.0, seeded())
            # KL(q(y|x) || p(y|x)) is what another q(y|x) costs.
            gap = (log_q.exp() * (log_q - joint.log_softmax(1))).sum(1)
            torch.testing.assert_close(u.bound.detach().view(-1, 2 * V).mean(1), joint.logsumexp(1) - gap)
            assert off == 0 or float(gap.max()) > 1


class TestOtherPosteriors:
    @given(
        shift=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
        widening=st.tuples(st.floats(-2, 2), st.floats(-2, 2)),
        c=st.integers(0, K - 1),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_other_posterior_lies_below_the_evidence_by_its_kl_to_the_exact_one(
        self, shift: tuple[float, float], widening: tuple[float, float], c: int
    ) -> None:
        t = truth()
        model, y = exact_model(t), torch.full((3,), c)
        x = t.draw(y, 4)
        with torch.no_grad():
            model.posterior_head.out.bias.add_(torch.tensor([*shift, *widening], dtype=F64))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ie_model.bounds.noise_like", _spread_noise)
            actual = expected_bounds(model, x, y).detach()
        evidence = t.evidence(x)[:, c] + t.log_prior[c]
        p = t.posterior(x, y)
        q = Normal(p.mean + torch.tensor(shift, dtype=F64), p.stddev * (torch.tensor(widening, dtype=F64) / 2).exp())
        torch.testing.assert_close(actual, evidence - kl_divergence(q, p).sum(1))
        assert bool((actual <= evidence + 1e-9).all())

    @pytest.mark.usefixtures("whole_expectation")
    def test_a_posterior_that_does_not_see_r_lies_below_where_the_class_moves_x_within_reach_of_v(self) -> None:
        t = truth()
        model, y = exact_model(t), torch.tensor([0, 1, 2])
        x = t.draw(y, 4)
        part: Any = model
        with torch.no_grad():
            part.posterior_head.from_r.weight.zero_()
        assert bool((expected_bounds(model, x, y) < t.evidence(x)[torch.arange(3), y] + t.log_prior[y] - 0.1).all())

    def test_more_samples_bring_another_posteriors_weighted_bound_up_to_the_evidence(self) -> None:
        t = truth()
        model, y = exact_model(t), torch.zeros(200, dtype=torch.long)
        x = t.draw(y, 4)
        with torch.no_grad():
            model.posterior_head.out.bias.add_(torch.tensor([0.3, 0.3, 0.5, 0.5], dtype=F64))
        artifact = Artifact(model, CODES, torch.ones(K), {})
        evidence = (t.evidence(x)[:, 0] + t.log_prior[0]).mean()
        means = [float(class_bounds(artifact, series(x), n, seeded(n))[:, 0].mean() - evidence) for n in (1, 8, 200)]
        assert means[0] < means[1] < means[2] < 0.02
        assert means[2] > -0.02


class LinearHead(nn.Module):
    """q(v | r, x) = N(A x + B r + c, diag exp(d)), in the place of `PosteriorHead`."""

    def __init__(self, r_dim: int) -> None:
        super().__init__()
        self.from_x = nn.Linear(D, V)
        self.from_r = nn.Linear(r_dim, V, bias=False)
        self.log_var = nn.Parameter(torch.zeros(V))

    def project_features(self, features: Tensor) -> Tensor:
        result: Tensor = self.from_x(features)
        return result

    def project_r(self, r: Tensor) -> Tensor:
        result: Tensor = self.from_r(r)
        return result

    def combine(self, projected_features: Tensor, projected_r: Tensor) -> tuple[Tensor, Tensor]:
        mean = projected_features + projected_r
        return mean, self.log_var.expand_as(mean)


class LinearDecoder(nn.Module):
    """W v + M r + b."""

    def __init__(self, r_dim: int) -> None:
        super().__init__()
        self.from_v = nn.Linear(V, D)
        self.from_r = nn.Linear(r_dim, D, bias=False)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        return series(self.from_v(v) + self.from_r(r))


def linear_model(parts: dict[str, Any]) -> EquiVAE:
    """EquiVAE with a linear decoder and posterior, at random weights."""
    model = tiny_model(spec_of("series", num_classes=K, shape=(1, D)), r_dim=K, v_dim=V, **parts)
    part: Any = model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        part.posterior_trunk, part.posterior_head = nn.Flatten(), LinearHead(model.r_dim)
        part.decoder = LinearDecoder(model.r_dim)
    return model.double()


def best_evidence(x: Tensor) -> float:
    """Mean over centred points `[N, D]` of log p(x) at the maximum-likelihood W and s (probabilistic PCA)."""
    eigenvalues = torch.linalg.eigvalsh(x.T @ x / len(x)).flip(0)
    noise = eigenvalues[V:].mean()
    log_det = eigenvalues[:V].log().sum() + (D - V) * noise.log()
    return float(-0.5 * (D * math.log(2 * math.pi) + log_det + D))


class TestTraining:
    @pytest.mark.usefixtures("whole_expectation")
    @pytest.mark.parametrize("name", ["vae", "classes"])
    def test_gradient_descent_reaches_the_maximum_likelihood_evidence(self, name: str) -> None:
        """Within 0.01 nats a point, and never above. The noise of a step is spread over copies of each point."""
        t, y = truth(), torch.arange(K).repeat(60)
        x = t.draw(y, 3)
        if name == "vae":
            model, expected = linear_model(VAE), best_evidence(x - x.mean(0))
        else:
            # Means of the classes are free: what is left is the scatter within them.
            model = linear_model(M2)
            means = torch.stack([x[y == c].mean(0) for c in range(K)])
            expected = best_evidence(x - means[y]) - math.log(K)
        objective = Objective(model, objective_config(alpha=0.0), Shares(1, 0))
        copies, labels = series(x.repeat_interleave(2 * V, 0)), y.repeat_interleave(2 * V, 0)
        optimizer = torch.optim.Adam([p for p in objective.parameters()], lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)
        for _ in range(600):
            loss, _ = objective(copies, labels, None, seeded())
            optimizer.zero_grad()
            backward(loss)
            optimizer.step()
            schedule.step()
        reached = -float(objective(copies, labels, None, seeded())[0].detach())
        assert reached < expected + 1e-9
        assert reached == pytest.approx(expected, abs=0.01)
