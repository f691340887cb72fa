"""The bounds against brute force with torch.distributions, and what the loss is made of."""

from __future__ import annotations

import itertools
import math
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from ie_model.bounds import Elbo, alive_classes, class_divergence, elbo, marginal_elbo
from ie_model.config import ObjectiveConfig
from ie_model.likelihoods import normal_kl
from ie_model.model import EquiVAE, class_means, class_sums, leave_one_out_means, noise_like
from ie_model.objective import Objective, Shares, leave_one_out_log_q
from ie_model.pruning import prune_error, prune_gap
from ie_model.spec import DataSpec, Kind
from tests.helpers.tiny import (
    KINDS,
    M2,
    MOVING,
    STILL,
    VAE,
    backward,
    binary_points,
    each_class,
    log_likelihood,
    objective_config,
    pair_bound,
    points,
    same_noise,
    seeded,
    spec_of,
    tiny_model,
    tiny_spec,
)

SHARES = Shares(num_labelled=3, num_unlabelled=17)
F64 = torch.float64
# Every model that the parts make.
PARTS: dict[str, dict[str, Any]] = {
    "distance": {},
    "network": {"classifier": "network"},
    "stochastic_r": {"stochastic_r": True},
    "v_from_x": {"posterior": "x"},
    "m2": M2,
    "vae": VAE,
}


def examples(num: int, spec: DataSpec, seed: int = 0) -> Tensor:
    """Points that the likelihood is a distribution over: images are black and white."""
    return binary_points(num, spec, seed) if spec.kind == "image" else points(num, spec, seed)


def codes_of(model: EquiVAE) -> Tensor:
    """Made-up codes of the classes, `[K, R]`."""
    return torch.randn(model.num_codes, model.r_dim, generator=seeded(5)).to(model.log_prior.dtype)


def with_prior(model: EquiVAE, seed: int = 0) -> EquiVAE:
    """The model with classes of unequal probability."""
    model.log_prior.copy_(torch.randn(model.num_codes, generator=seeded(seed)).log_softmax(0))
    return model


def log_q_of(num: int, num_classes: int, seed: int, spread: float = 3.0) -> Tensor:
    """Made-up log q(y|x), `[num, num_classes]`."""
    return (spread * torch.randn(num, num_classes, generator=seeded(seed), dtype=F64)).log_softmax(1)


def means_of(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    return class_means(*class_sums(f, y, num_classes))


def loss_of(
    config: ObjectiveConfig,
    shares: Shares = SHARES,
    model: EquiVAE | None = None,
    unlabelled: int | None = 4,
    beta: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and log of one step on fixed points and noise."""
    model = model or tiny_model()
    num_classes, dtype = model.spec.num_classes, model.log_prior.dtype
    x_unlabelled = None if unlabelled is None else examples(unlabelled, model.spec, seed=1).to(dtype)
    x = examples(3 * num_classes, model.spec).to(dtype)
    objective = Objective(model, config, shares)
    y = each_class(num_classes, 3)
    return cast(tuple[Tensor, dict[str, Tensor]], objective(x, y, x_unlabelled, seeded(2), beta))


def ignoring_noise(model: EquiVAE) -> EquiVAE:
    """A model whose decoder does not see v: the value of a pair then does not depend on which noise it meets."""
    decoder: Any = model.decoder
    nn.init.zeros_(decoder.stem.from_v.weight)
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
                bound += q * (pair_bound(model, x[b], r[c], noise[b, c], model.log_prior[c]) - log_q[b, c])
        bounds.append(bound)
    return torch.stack(bounds)


@torch.no_grad()
def log_evidence(model: EquiVAE, x: Tensor, r: Tensor) -> Tensor:
    """log p(x) `[B]` of a model whose decoder does not see v."""
    v = r.new_zeros(1, model.config.v_dim)
    columns = []
    for c in range(len(r)):
        out = model.decode(r[c : c + 1], v)[0]
        columns.append(torch.stack([log_likelihood(model, point, out) for point in x]) + model.log_prior[c])
    return torch.stack(columns, dim=1).logsumexp(1)


class TestBounds:
    @pytest.mark.parametrize("kind", KINDS)
    def test_the_labelled_bound_is_that_of_torch_distributions(self, kind: Kind) -> None:
        model = with_prior(tiny_model(spec_of(kind)))
        x, y = examples(6, model.spec), each_class(3, 2)
        r = codes_of(model)[y]
        pairs = elbo(model, x, model.features(x), r, model.log_prior[y], seeded(7))
        noise = torch.randn(6, 2, generator=seeded(7))
        expected = [pair_bound(model, x[i], r[i], noise[i], model.log_prior[y[i]]) for i in range(6)]
        torch.testing.assert_close(pairs.bound, torch.stack(expected))
        torch.testing.assert_close(pairs.kl, normal_kl(*model.posterior(model.features(x), r)))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("classifier", ["distance", "network"])
    def test_the_exact_unlabelled_bound_is_the_enumeration_of_classes(self, kind: Kind, classifier: str) -> None:
        model = with_prior(tiny_model(spec_of(kind, num_classes=4), classifier=classifier))
        x, r = examples(7, model.spec), codes_of(model)
        log_q = model.classify(model.embed(x), r)
        actual = marginal_elbo(model, x, model.features(x), r, log_q, 0.0, seeded(3))
        noise = torch.randn(7 * 4, 2, generator=seeded(3)).reshape(7, 4, 2)
        torch.testing.assert_close(actual.bound, enumerated_bound(model, x, r, log_q, noise))
        assert actual.num_alive.tolist() == [4] * 7
        assert actual.dropped_mass.tolist() == [0] * 7

    @pytest.mark.parametrize("prune", [0.0, 0.2])
    def test_the_kl_of_the_class_sum_is_that_of_the_live_classes_weighed_by_q(self, prune: float) -> None:
        model = tiny_model().double()
        x, r, log_q = examples(5, model.spec).double(), codes_of(model), log_q_of(5, 3, 1)
        actual = marginal_elbo(model, x, model.features(x), r, log_q, prune, seeded())
        q = log_q.exp() * alive_classes(log_q, prune)
        q = q / q.sum(1, keepdim=True)
        expected = torch.zeros(5, 2, dtype=F64)
        for c in range(3):
            expected += q[:, c : c + 1] * normal_kl(*model.posterior(model.features(x), r[c].expand(5, -1)))
        torch.testing.assert_close(actual.kl, expected)
        assert prune == 0 or 5 < int(actual.num_alive.sum()) < 15

    @given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), prune=st.just(0.0) | st.floats(0.001, 0.9))
    @settings(max_examples=30, deadline=None)
    def test_the_class_sum_is_below_log_p_of_x_whatever_is_pruned(self, seed: int, kind: Kind, prune: float) -> None:
        model = with_prior(ignoring_noise(tiny_model(spec_of(kind, num_classes=4), seed=seed)), seed).double()
        x, r = examples(5, model.spec, seed).double(), codes_of(model)
        bound = marginal_elbo(model, x, model.features(x), r, log_q_of(5, 4, seed), prune, seeded()).bound
        assert bool((bound <= log_evidence(model, x, r) + 1e-9).all())

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_class_sum_with_exact_posteriors_is_log_p_of_x(self, kind: Kind) -> None:
        """The bound of the test above is reached, so it is not a bound only because it is far too low."""
        model = with_prior(ignoring_noise(tiny_model(spec_of(kind)))).double()
        nn.init.zeros_(model.posterior_head.out.weight)
        nn.init.zeros_(model.posterior_head.out.bias)
        x, r = examples(5, model.spec).double(), codes_of(model)
        scores = [log_evidence_of_class(model, x, r, c) for c in range(3)]
        log_q = torch.stack(scores, dim=1).log_softmax(1)
        bound = marginal_elbo(model, x, model.features(x), r, log_q, 0.0, seeded()).bound
        torch.testing.assert_close(bound.detach(), log_evidence(model, x, r))


@torch.no_grad()
def log_evidence_of_class(model: EquiVAE, x: Tensor, r: Tensor, c: int) -> Tensor:
    """log p(x, y = c) `[B]` of a model whose decoder does not see v and whose q(v | r, x) is the prior."""
    out = model.decode(r[c : c + 1], r.new_zeros(1, model.config.v_dim))[0]
    return torch.stack([log_likelihood(model, point, out) for point in x]) + model.log_prior[c]


class TestPruning:
    def test_the_pruned_bound_is_the_enumeration_of_the_classes_that_live(self) -> None:
        model, x = tiny_model(), binary_points(5)
        r = codes_of(model)
        q = torch.tensor([[0.9, 0.06, 0.04], [0.2, 0.5, 0.3], [0.04, 0.02, 0.94], [0.05, 0.9, 0.05], [0.4, 0.04, 0.56]])
        alive = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 1, 1], [1, 0, 1]]).bool()
        actual = marginal_elbo(model, x, model.features(x), r, q.log(), 0.0499, seeded(3))
        noise = torch.zeros(5, 3, 2)
        noise[alive] = torch.randn(int(alive.sum()), 2, generator=seeded(3))
        kept = q * alive
        log_q = (kept / kept.sum(1, keepdim=True)).log()
        torch.testing.assert_close(actual.bound, enumerated_bound(model, x, r, log_q, noise))
        assert torch.equal(alive_classes(q.log(), 0.0499), alive)
        assert torch.equal(actual.num_alive, alive.sum(1))
        torch.testing.assert_close(actual.dropped_mass, (q * ~alive).sum(1))

    @pytest.mark.parametrize("seed", range(4))
    def test_the_gradient_that_pruning_loses_is_the_one_that_the_method_states(self, seed: int) -> None:
        spec = spec_of("image", num_classes=4)
        model, x = with_prior(ignoring_noise(tiny_model(spec))).double(), examples(3, spec, seed).double()
        r, log_q, features = codes_of(model), log_q_of(3, 4, seed), model.features(x)
        alive = alive_classes(log_q, 0.2)
        assert not alive.all()
        # The logits of the dropped classes, all raised together.
        raised = torch.zeros(3, 1, dtype=F64, requires_grad=True)
        moved = (log_q + raised * ~alive).log_softmax(1)
        exact = marginal_elbo(model, x, features, r, moved, 0.0, seeded()).bound
        found = torch.autograd.grad(exact.sum(), raised, retain_graph=True)[0].squeeze(1)
        kept = marginal_elbo(model, x, features, r, log_q, 0.2, seeded())
        rest = log_q.masked_fill(alive, -torch.inf).log_softmax(1)
        for b in range(3):
            d = kept.dropped_mass[b]
            if d == 0:
                continue
            dropped = enumerated_bound(model, x[b : b + 1], r, rest[b : b + 1], torch.zeros(1, 4, 2))[0]
            stated = d * (1 - d) * (dropped - kept.bound[b] + ((1 - d) / d).log())
            torch.testing.assert_close(found[b], stated, rtol=1e-9, atol=1e-12)
        pruned = marginal_elbo(model, x, features, r, moved, 0.2, seeded()).bound
        lost = torch.autograd.grad(pruned.sum(), raised)[0]
        torch.testing.assert_close(lost, torch.zeros_like(lost), rtol=0, atol=1e-12)

    def test_the_stated_example_of_a_lost_gradient_is_right(self) -> None:
        assert 0.009 * 0.991 * (30 + math.log(0.991 / 0.009)) == pytest.approx(0.31, abs=0.001)

    @given(
        seed=st.integers(0, 10_000),
        kind=st.sampled_from(KINDS),
        num_classes=st.integers(2, 5),
        prune=st.floats(0.001, 0.5),
    )
    @settings(max_examples=30, deadline=None)
    def test_the_exact_bound_is_the_mixture_of_the_kept_and_the_dropped_one_plus_an_entropy(
        self, seed: int, kind: Kind, num_classes: int, prune: float
    ) -> None:
        spec = spec_of(kind, num_classes=num_classes)
        model, x = with_prior(ignoring_noise(tiny_model(spec))).double(), examples(3, spec, seed).double()
        r, log_q = codes_of(model), log_q_of(3, num_classes, seed)
        features, noise = model.features(x), torch.zeros(3, num_classes, 2)
        exact = marginal_elbo(model, x, features, r, log_q, 0.0, seeded()).bound
        pruned = marginal_elbo(model, x, features, r, log_q, prune, seeded())
        alive = (log_q.exp() >= prune) | (log_q == log_q.max(1, keepdim=True).values)
        dropped = enumerated_bound(model, x, r, log_q.masked_fill(alive, -torch.inf).log_softmax(1), noise)
        d = pruned.dropped_mass
        for b in range(3):
            if alive[b].all():
                assert float(d[b]) == 0
                torch.testing.assert_close(pruned.bound[b], exact[b])
            else:
                entropy = -d[b] * d[b].log() - (1 - d[b]) * (1 - d[b]).log()
                difference = d[b] * (dropped[b] - pruned.bound[b]) + entropy
                torch.testing.assert_close(exact[b], pruned.bound[b] + difference)

    @given(seed=st.integers(0, 10_000), kind=st.sampled_from(KINDS), prune=st.floats(0.001, 0.9))
    @settings(max_examples=30, deadline=None)
    def test_the_exact_bound_is_at_most_the_gap_above_the_pruned_one(self, seed: int, kind: Kind, prune: float) -> None:
        spec = spec_of(kind, num_classes=4)
        model = with_prior(ignoring_noise(tiny_model(spec, seed=seed)), seed).double()
        x, r, log_q = examples(4, spec, seed).double(), codes_of(model), log_q_of(4, 4, seed)
        features = model.features(x)
        exact = marginal_elbo(model, x, features, r, log_q, 0.0, seeded()).bound
        pruned = marginal_elbo(model, x, features, r, log_q, prune, seeded())
        gap = prune_gap(pruned.bound, pruned.dropped_mass, model.likelihood.max_log_prob(x))
        assert bool((exact <= pruned.bound + gap + 1e-9).all())
        assert bool((gap[pruned.num_alive == 4] == 0).all())

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_gap_is_reached_by_a_decoder_that_knows_the_point(self, kind: Kind) -> None:
        """All classes then say the ceiling, and what is left of the gap is the entropy and d times their log p(y)."""
        model = ignoring_noise(tiny_model(spec_of(kind, num_classes=2))).double()
        x = examples(1, model.spec).double()
        decoder: Any = model.decoder
        for layer in (decoder.out, model.posterior_head.out):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        best = {"image": 60 * (2 * x - 1), "series": x.nan_to_num(), "counts": (x + 1e-30).log(), "vector": x}[kind]
        decoder.out.bias.data.copy_(best.flatten())
        log_q = torch.tensor([[0.99, 0.01]], dtype=F64).log()
        ceiling = model.likelihood.max_log_prob(x).detach()
        with torch.no_grad():
            exact = marginal_elbo(model, x, model.features(x), codes_of(model), log_q, 0.0, seeded()).bound
            pruned = marginal_elbo(model, x, model.features(x), codes_of(model), log_q, 0.1, seeded())
        torch.testing.assert_close(pruned.bound, ceiling - math.log(2))
        entropy = -0.01 * math.log(0.01) - 0.99 * math.log(0.99)
        gap = prune_gap(pruned.bound, pruned.dropped_mass, ceiling)
        assert float(exact - pruned.bound) == pytest.approx(entropy)
        assert float(gap) == pytest.approx(entropy + 0.01 * math.log(2))

    @given(d=st.floats(0, 1), bound=st.floats(-1000, 0), ceiling=st.floats(-500, 500))
    @settings(max_examples=50, deadline=None)
    def test_the_gap_is_the_dropped_mass_times_the_way_to_the_ceiling_plus_an_entropy(
        self, d: float, bound: float, ceiling: float
    ) -> None:
        actual = prune_gap(*(torch.tensor([value], dtype=F64) for value in (bound, d, ceiling)))
        entropy = sum(-p * math.log(p) for p in (d, 1 - d) if p > 0)
        assert float(actual) == pytest.approx(d * (ceiling - bound) + entropy, rel=1e-9, abs=1e-9)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_prune_error_is_the_exact_less_the_pruned_sum_of_the_same_noise(self, kind: Kind) -> None:
        model = with_prior(tiny_model(spec_of(kind))).double()
        x, r, log_q = examples(6, model.spec).double(), codes_of(model), log_q_of(6, 3, 4)
        noise = torch.randn(18, 2, generator=seeded(3), dtype=F64).reshape(6, 3, 2)
        actual = prune_error(model, x, model.features(x), r, log_q, 0.2, seeded(3))
        q = log_q.exp()
        kept = torch.where((q >= 0.2) | (q == q.max(1, keepdim=True).values), q, 0.0)
        kept = (kept / kept.sum(1, keepdim=True)).log()
        exact, pruned = (enumerated_bound(model, x, r, each, noise) for each in (log_q, kept))
        torch.testing.assert_close(actual, exact - pruned)
        assert bool((actual.abs() > 1e-3).any())
        assert not actual.requires_grad

    def test_the_prune_error_of_the_exact_sum_is_zero(self) -> None:
        model, x = tiny_model(), binary_points(4)
        log_q = log_q_of(4, 3, 0).float()
        error = prune_error(model, x, model.features(x), codes_of(model), log_q, 0.0, seeded())
        torch.testing.assert_close(error, torch.zeros(4), atol=1e-4, rtol=0)

    @given(seed=st.integers(0, 10_000), num_classes=st.integers(2, 8), prune=st.floats(0, 0.999))
    @settings(max_examples=40, deadline=None)
    def test_the_dropped_mass_is_below_classes_times_prune(self, seed: int, num_classes: int, prune: float) -> None:
        spec = tiny_spec(num_classes=num_classes)
        model, x = tiny_model(spec), points(4, spec)
        log_q = log_q_of(4, num_classes, seed, 2.0).float()
        result = marginal_elbo(model, x, model.features(x), codes_of(model), log_q, prune, seeded())
        assert bool((result.dropped_mass <= num_classes * prune).all())
        assert bool((result.num_alive >= 1).all())

    def test_the_best_class_is_never_dropped(self) -> None:
        model, x = tiny_model(), binary_points(1)
        r, q = codes_of(model), torch.tensor([[0.3, 0.4, 0.3]])
        result = marginal_elbo(model, x, model.features(x), r, q.log(), 0.9, seeded(3))
        alone = pair_bound(model, x[0], r[1], torch.randn(1, 2, generator=seeded(3))[0])
        assert result.num_alive.tolist() == [1]
        assert float(result.dropped_mass) == pytest.approx(0.6)
        assert float(result.bound.detach()) == pytest.approx(float(alone.detach()), rel=1e-5)

    def test_no_gradient_of_a_dropped_class_becomes_nan(self) -> None:
        model, x = tiny_model(), points(2)
        logits = torch.tensor([[50.0, 0.0, -50.0], [0.0, 1.0, 2.0]], requires_grad=True)
        r = codes_of(model)
        backward(marginal_elbo(model, x, model.features(x), r, logits.log_softmax(1), 0.2, seeded()).bound.sum())
        assert logits.grad is not None
        assert bool(logits.grad.isfinite().all())
        assert logits.grad[1].abs().max() > 0


LIKELIHOODS = {
    "bernoulli": tiny_spec(),
    "discretized_logistic": tiny_spec().model_copy(update={"likelihood": "discretized_logistic"}),
    "gaussian": tiny_spec().model_copy(update={"likelihood": "gaussian"}),
    "series": spec_of("series"),
    "counts": spec_of("counts"),
}


class TestGradients:
    def test_the_gradient_of_the_labelled_bound_is_that_of_finite_differences(self) -> None:
        model = tiny_model(spread=1.0).double()
        x, r = points(2).double().requires_grad_(), torch.randn(2, 3, generator=seeded(), dtype=F64)
        r.requires_grad_()

        def bound(x: Tensor, r: Tensor) -> Tensor:
            return elbo(model, x, model.features(x), r, model.log_prior[:2], seeded(4)).bound

        assert torch.autograd.gradcheck(bound, (x, r))

    @pytest.mark.parametrize("prune", [0.0, 0.2])
    def test_the_gradient_of_the_unlabelled_bound_is_that_of_finite_differences(self, prune: float) -> None:
        model = tiny_model(spread=1.0).double()
        x, r = points(2).double(), codes_of(model).requires_grad_()
        logits = torch.tensor([[2.0, 1.5, -1.0], [0.1, 0.3, 0.2]], dtype=F64, requires_grad=True)

        def bound(r: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
            result = marginal_elbo(model, x, model.features(x), r, logits.log_softmax(1), prune, seeded(4))
            return result.bound, result.kl

        assert torch.autograd.gradcheck(bound, (r, logits))

    @pytest.mark.parametrize("name", LIKELIHOODS)
    def test_the_gradient_of_the_loss_is_that_of_finite_differences_for_every_likelihood(self, name: str) -> None:
        model = tiny_model(LIKELIHOODS[name], spread=1.0, hidden=4, decoder_hidden=(5,)).double()
        check_gradients(model, objective_config())

    @pytest.mark.parametrize("name", PARTS)
    def test_the_gradient_of_the_loss_is_that_of_finite_differences_for_every_model(self, name: str) -> None:
        model = tiny_model(spec_of("counts"), spread=1.0, hidden=4, decoder_hidden=(5,), **PARTS[name]).double()
        check_gradients(model, objective_config(), 0.7)

    @pytest.mark.parametrize(
        "changes",
        [
            {"prune": 0.3},
            {"free_bits": 0.02},
            {"class_moments": 3.0},
            {"self_included": True},
            {"loss": "cross_entropy"},
            {"extended": True, "confidence": 0.01},
            {"extended": True, "confidence": 0.01, "loss": "consistency"},
        ],
        ids=str,
    )
    def test_the_gradient_of_the_loss_is_that_of_finite_differences_for_every_objective(
        self, changes: dict[str, Any]
    ) -> None:
        model = tiny_model(spec_of("series"), spread=1.0, hidden=4, decoder_hidden=(5,)).double()
        check_gradients(model, objective_config(**changes))


def check_gradients(model: EquiVAE, config: ObjectiveConfig, beta: float = 1.0) -> None:
    """Of the whole loss in weights of every part of the model that it has one for, at fixed noise."""
    x, y, x_unlabelled = (examples(6, model.spec), each_class(3, 2), examples(2, model.spec, seed=1))
    objective = Objective(with_prior(model), config, SHARES)

    def loss(*_: Tensor) -> Tensor:
        return cast(Tensor, objective(x.double(), y, x_unlabelled.double(), seeded(4), beta)[0])

    names = {"invariant_out.weight", "posterior_head.from_r.weight", "posterior_head.out.bias", "class_logits.bias"}
    names |= {"decoder.stem.from_v.weight", "decoder.out.bias", "log_scale", "likelihood.log_scale"}
    gradients = torch.autograd.grad(loss(), list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None}
    weights = [p for name, p in model.named_parameters() if name in names and name in reached]
    assert len(weights) >= (3 if config.loss == "bound" else 2)
    assert torch.autograd.gradcheck(loss, weights)


class TestSupport:
    """r of labelled points, as the labelled bound meets it in a step."""

    @staticmethod
    def codes(monkeypatch: pytest.MonkeyPatch, model: EquiVAE, x: Tensor, y: Tensor, **changes: Any) -> Tensor:
        met: list[Tensor] = []

        def spy(model: EquiVAE, x: Tensor, features: Tensor, code: Tensor, *rest: Any) -> Elbo:
            met.append(code.detach())
            return elbo(model, x, features, code, *rest)

        monkeypatch.setattr("ie_model.objective.elbo", spy)
        Objective(model, objective_config(**changes), SHARES)(x, y, None, seeded())
        (code,) = met
        return code

    @pytest.mark.parametrize("stochastic_r", [False, True])
    def test_each_labelled_point_meets_the_mean_of_the_others_of_its_class(
        self, monkeypatch: pytest.MonkeyPatch, stochastic_r: bool
    ) -> None:
        model, y = tiny_model(stochastic_r=stochastic_r).double(), torch.tensor([0, 2, 1, 1, 0, 2, 1])
        x = points(7).double()
        f = model.embed_support(x).detach()
        expected = [torch.stack([f[j] for j in range(7) if j != i and y[j] == y[i]]).mean(0) for i in range(7)]
        torch.testing.assert_close(self.codes(monkeypatch, model, x, y), torch.stack(expected))

    def test_changing_a_point_moves_the_r_of_the_others_of_its_class_and_not_its_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, x, y = tiny_model().double(), points(9).double(), each_class(3, 3)
        changed = x.clone()
        changed[4] = 1 - changed[4]
        moved = self.codes(monkeypatch, model, changed, y) - self.codes(monkeypatch, model, x, y)
        assert (moved.abs().max(1).values > 1e-6).nonzero().flatten().tolist() == [1, 7]

    def test_a_point_that_is_part_of_its_own_r_moves_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x, y = tiny_model().double(), points(9).double(), each_class(3, 3)
        changed = x.clone()
        changed[4] = 1 - changed[4]
        before, after = (self.codes(monkeypatch, model, each, y, self_included=True) for each in (x, changed))
        assert ((after - before).abs().max(1).values > 1e-6).nonzero().flatten().tolist() == [1, 4, 7]
        torch.testing.assert_close(before, means_of(model.embed(x), y, 3)[y].detach())

    @pytest.mark.parametrize("name", PARTS)
    def test_the_order_of_the_labelled_points_changes_nothing(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        same_noise(monkeypatch)
        objective = Objective(tiny_model(**PARTS[name]).double(), objective_config(prune=0.1), SHARES)
        x, y, x_unlabelled = points(9).double(), each_class(3, 3), points(4, seed=1).double()
        order = torch.randperm(9, generator=seeded(8))
        loss, logged = objective(x, y, x_unlabelled, seeded())
        other, other_logged = objective(x[order], y[order], x_unlabelled, seeded())
        torch.testing.assert_close(other, loss)
        torch.testing.assert_close(other_logged, logged)


class TestLoss:
    @pytest.mark.parametrize("classifier", ["distance", "network"])
    def test_the_labelled_class_probability_leaves_each_point_out_of_its_own_class_only(self, classifier: str) -> None:
        model = tiny_model(classifier=classifier)
        f, y = torch.randn(9, 3, generator=seeded()), each_class(3, 3)
        sums, counts = class_sums(f, y, 3)
        r = class_means(sums, counts)
        expected = []
        for i in range(9):
            r_i = r.clone()
            r_i[y[i]] = torch.stack([f[j] for j in range(9) if j != i and y[j] == y[i]]).mean(0)
            expected.append(model.classify(f[i : i + 1], r_i)[0, y[i]])
        r_own = leave_one_out_means(f, y, sums, counts)
        torch.testing.assert_close(leave_one_out_log_q(model, f, y, r, r_own), torch.stack(expected))

    def test_the_plain_loss_is_the_weighted_sum_of_its_three_parts(self) -> None:
        model, config = tiny_model(), objective_config(alpha=5.0)
        x, x_unlabelled, y = binary_points(9), binary_points(4, seed=1), each_class(3, 3)
        loss, _ = loss_of(config, SHARES, model)

        noise = seeded(2)
        f = model.embed(x)
        r, r_own = means_of(f, y, 3), leave_one_out_means(f, y, *class_sums(f, y, 3))
        noise_labelled = torch.randn(9, 2, generator=noise)
        labelled = torch.stack([pair_bound(model, x[i], r_own[i], noise_labelled[i]) for i in range(9)])
        log_q = model.classify(model.embed(x_unlabelled), r)
        noise_unlabelled = torch.randn(12, 2, generator=noise).reshape(4, 3, 2)
        unlabelled = enumerated_bound(model, x_unlabelled, r, log_q, noise_unlabelled)
        log_q_own = leave_one_out_log_q(model, f, y, r, r_own)
        torch.testing.assert_close(loss, -(0.15 * labelled.mean() + 0.85 * unlabelled.mean() + 5.0 * log_q_own.mean()))

    def test_with_one_hot_codes_the_loss_is_that_of_m2(self) -> None:
        """Kingma et al. 2014: q(z | x, y), p(x | y, z) with y a unit vector, and a classifier of its own."""
        model = with_prior(tiny_model(**M2))
        x, x_unlabelled, y = binary_points(9), binary_points(4, seed=1), each_class(3, 3)
        loss, logged = loss_of(objective_config(alpha=5.0), SHARES, model)

        noise, unit = seeded(2), torch.eye(3)
        first = torch.randn(9, 2, generator=noise)
        labelled = [pair_bound(model, x[i], unit[y[i]], first[i], model.log_prior[y[i]]) for i in range(9)]
        second = torch.randn(12, 2, generator=noise).reshape(4, 3, 2)
        q = model.class_logits(model.embed(x_unlabelled)).softmax(1)
        unlabelled = []
        for i in range(4):
            pairs = torch.stack([pair_bound(model, x_unlabelled[i], unit[c], second[i, c]) for c in range(3)])
            pairs = pairs + math.log(3) + model.log_prior
            unlabelled.append((q[i] * pairs).sum() - (q[i] * q[i].log()).sum())
        log_q = -nn.functional.cross_entropy(model.class_logits(model.embed(x)), y)
        expected = 0.15 * torch.stack(labelled).mean() + 0.85 * torch.stack(unlabelled).mean() + 5.0 * log_q
        torch.testing.assert_close(loss, -expected)
        torch.testing.assert_close(logged["log_q_labelled"], log_q.detach())

    def test_without_class_codes_the_loss_is_the_bound_of_a_plain_vae(self) -> None:
        model = tiny_model(**VAE)
        x, x_unlabelled = binary_points(9), binary_points(4, seed=1)
        loss, logged = loss_of(objective_config(alpha=5.0), SHARES, model)
        noise, r = seeded(2), torch.zeros(1)
        zero = torch.zeros(())
        bounds = []
        for batch in (x, x_unlabelled):
            drawn = torch.randn(len(batch), 2, generator=noise)
            bounds.append(torch.stack([pair_bound(model, batch[i], r, drawn[i], zero) for i in range(len(batch))]))
        torch.testing.assert_close(loss, -(0.15 * bounds[0].mean() + 0.85 * bounds[1].mean()))
        assert float(logged["log_q_labelled"]) == 0
        assert float(logged["classes_alive"]) == 1

    def test_without_class_codes_labels_change_nothing(self) -> None:
        objective = Objective(tiny_model(**VAE), objective_config(), SHARES)
        x, x_unlabelled = binary_points(9), binary_points(4, seed=1)
        first, _ = objective(x, each_class(3, 3), x_unlabelled, seeded())
        second, _ = objective(x, each_class(3, 3).sort().values, x_unlabelled, seeded())
        assert torch.equal(first, second)

    def test_the_probability_of_the_classes_enters_both_bounds(self) -> None:
        uniform, logged = loss_of(objective_config(), model=tiny_model())
        model = with_prior(tiny_model())
        loss, other = loss_of(objective_config(), model=model)
        change = model.log_prior + math.log(3)
        q = model.classify(
            model.embed(binary_points(4, seed=1)), means_of(model.embed(binary_points(9)), each_class(3, 3), 3)
        )
        labelled, unlabelled = change.mean(), (q.exp() * change).sum(1).mean().detach()
        torch.testing.assert_close(other["bound_labelled"] - logged["bound_labelled"], labelled, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(
            other["bound_unlabelled"] - logged["bound_unlabelled"], unlabelled, rtol=1e-3, atol=1e-4
        )
        torch.testing.assert_close(loss - uniform, -(0.15 * labelled + 0.85 * unlabelled), rtol=1e-3, atol=1e-4)

    def test_a_stochastic_r_is_drawn_and_pays_its_kl_in_both_bounds(self) -> None:
        model = tiny_model(stochastic_r=True, spread=1.0)
        code = torch.randn(3, 6, generator=seeded(5))
        x, generator = binary_points(3), seeded(3)
        r = code[:, :3] + (code[:, 3:] / 2).exp() * torch.randn(3, 3, generator=generator)
        noise = torch.randn(3, 2, generator=generator)
        kl_r = normal_kl(code[:, :3], code[:, 3:]).sum(1)
        expected = torch.stack([pair_bound(model, x[i], r[i], noise[i]) for i in range(3)]) - kl_r
        pairs = elbo(model, x, model.features(x), code, model.log_prior, seeded(3))
        torch.testing.assert_close(pairs.bound, expected)

        one = x[:1].expand(3, -1, -1, -1)
        pairs = elbo(model, one, model.features(one), code, model.log_prior, seeded(3))
        log_q = torch.tensor([[0.5, 0.3, 0.2]]).log()
        actual = marginal_elbo(model, x[:1], model.features(x[:1]), code, log_q, 0.0, seeded(3))
        torch.testing.assert_close(actual.bound[0], (log_q.exp() * (pairs.bound - log_q)).sum())

    def test_shares_are_those_of_the_data_and_sum_to_one(self) -> None:
        shares = Shares(num_labelled=100, num_unlabelled=59_900)
        assert shares.labelled == pytest.approx(1 / 600)
        assert shares.labelled + shares.unlabelled == pytest.approx(1)

    @pytest.mark.parametrize("unlabelled", [1, 9])
    def test_each_bound_weighs_its_share_of_the_data_whatever_the_batch(self, unlabelled: int) -> None:
        config = objective_config(alpha=0.0)
        labelled_only, _ = loss_of(config, Shares(1, 0), unlabelled=unlabelled)
        unlabelled_only, _ = loss_of(config, Shares(0, 1), unlabelled=unlabelled)
        loss, _ = loss_of(config, Shares(1, 3), unlabelled=unlabelled)
        torch.testing.assert_close(loss, 0.25 * labelled_only + 0.75 * unlabelled_only)

    def test_alpha_weighs_the_labelled_class_term_independently_of_the_shares(self) -> None:
        for shares in (Shares(1, 3), Shares(9, 1)):
            without, logged = loss_of(objective_config(alpha=0.0), shares)
            with_alpha, _ = loss_of(objective_config(alpha=7.0), shares)
            torch.testing.assert_close(with_alpha, without - 7.0 * logged["log_q_labelled"])

    @pytest.mark.parametrize("name", PARTS)
    def test_the_log_agrees_with_the_loss(self, name: str) -> None:
        loss, logged = loss_of(objective_config(alpha=5.0), model=tiny_model(**PARTS[name]))
        parts = -0.15 * logged["bound_labelled"] - 0.85 * logged["bound_unlabelled"] - 5.0 * logged["log_q_labelled"]
        torch.testing.assert_close(parts, loss.detach())
        torch.testing.assert_close(logged["loss"], loss.detach())
        assert not any(value.requires_grad for value in logged.values())

    def test_the_logged_gap_and_dropped_mass_are_the_means_over_the_unlabelled_points(self) -> None:
        model = ignoring_noise(tiny_model(spread=2.0))
        _, logged = loss_of(objective_config(prune=0.3), model=model)
        x = binary_points(4, seed=1)
        r = means_of(model.embed(binary_points(9)), each_class(3, 3), 3)
        u = marginal_elbo(model, x, model.features(x), r, model.classify(model.embed(x), r), 0.3, seeded())
        gap = prune_gap(u.bound, u.dropped_mass, model.likelihood.max_log_prob(x)).mean().detach()
        torch.testing.assert_close(logged["prune_gap"], gap)
        torch.testing.assert_close(logged["dropped_mass"], u.dropped_mass.mean())
        torch.testing.assert_close(logged["classes_alive"], u.num_alive.float().mean())
        assert float(gap) > 0

    def test_the_plain_objective_logs_nothing_of_the_extended_one(self) -> None:
        _, logged = loss_of(objective_config(extended=False))
        names = {"loss", "bound_labelled", "log_q_labelled", "kl", "bound_unlabelled", "classes_alive"}
        assert set(logged) == names | {"dropped_mass", "prune_gap"}

    @pytest.mark.parametrize("extended", [False, True])
    def test_without_unlabelled_points_only_labelled_terms_are_there(self, extended: bool) -> None:
        loss, logged = loss_of(objective_config(extended=extended), Shares(9, 0), unlabelled=None)
        assert set(logged) == {"loss", "bound_labelled", "log_q_labelled", "kl"}
        expected = -logged["bound_labelled"] - 5.0 * logged["log_q_labelled"]
        torch.testing.assert_close(loss.detach(), expected)

    @pytest.mark.parametrize("name", PARTS)
    def test_every_weight_of_the_whole_objective_gets_a_gradient(self, name: str) -> None:
        model = tiny_model(**PARTS[name])
        backward(loss_of(objective_config(), model=model)[0])
        without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        # The plain VAE's r is zero.
        assert without == ({"posterior_head.from_r.weight", "decoder.stem.from_r.weight"} if name == "vae" else set())

    @pytest.mark.parametrize("classifier", ["distance", "network"])
    def test_the_supervised_objective_trains_the_embedding_and_the_classifier_alone(self, classifier: str) -> None:
        model = tiny_model(classifier=classifier)
        backward(loss_of(objective_config(loss="cross_entropy"), model=model)[0])
        trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        scale = "log_scale" if classifier == "distance" else "class_logits"
        assert trained == {"invariant_trunk", "invariant_out", scale}

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_loss_without_bounds_is_what_the_extended_one_adds_to_them(self, kind: Kind) -> None:
        model = tiny_model(spec_of(kind))
        changes: dict[str, Any] = {"extended": True, "confidence": 0.01}
        loss, logged = loss_of(objective_config(loss="consistency", **changes), model=model)
        backward(loss)
        trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert trained == {"invariant_trunk", "invariant_out", "log_scale"}
        config = objective_config(**changes)
        expected = -config.alpha * logged["log_q_labelled"] + config.extended.consistency * logged["consistency"]
        torch.testing.assert_close(loss.detach(), expected)
        assert set(logged) == {"loss", "log_q_labelled", "consistency", "confident"}

    def test_the_loss_without_bounds_needs_a_consistency_term(self) -> None:
        with pytest.raises(ValueError, match=r"loss is 'consistency', which needs extended\.enabled"):
            objective_config(loss="consistency")

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_supervised_loss_is_the_cross_entropy_of_the_labelled_points(self, kind: Kind) -> None:
        model = tiny_model(spec_of(kind), classifier="network")
        loss, logged = loss_of(objective_config(loss="cross_entropy"), model=model)
        logits = model.class_logits(model.embed(examples(9, model.spec)))
        torch.testing.assert_close(loss, nn.functional.cross_entropy(logits, each_class(3, 3)))
        assert set(logged) == {"loss", "log_q_labelled"}

    def test_the_supervised_loss_of_distances_leaves_each_point_out_of_its_class(self) -> None:
        model, y = tiny_model(), each_class(3, 3)
        loss, _ = loss_of(objective_config(loss="cross_entropy"), model=model)
        f = model.embed(binary_points(9))
        sums, counts = class_sums(f, y, 3)
        log_q = leave_one_out_log_q(model, f, y, class_means(sums, counts), leave_one_out_means(f, y, sums, counts))
        torch.testing.assert_close(loss, -log_q.mean())

    def test_the_supervised_loss_sees_distorted_points_when_extended(self) -> None:
        plain, _ = loss_of(objective_config(loss="cross_entropy"))
        extended, _ = loss_of(objective_config(loss="cross_entropy", extended=True))
        assert not torch.allclose(plain, extended)


class TestUnbalancedLabels:
    """A step has as many points of each class as of any other; J has the data's."""

    SIZES = (7, 3, 2)

    @pytest.mark.parametrize("loss", ["bound", "cross_entropy"])
    def test_over_all_supports_the_mean_of_a_step_is_that_of_all_labelled_points(
        self, monkeypatch: pytest.MonkeyPatch, loss: str
    ) -> None:
        # Codes that do not depend on the support, noise that does not depend on the draw: the mean is exact then.
        same_noise(monkeypatch)
        model = tiny_model(spread=2.0, **M2).double()
        config = objective_config(loss=loss)
        y = torch.repeat_interleave(torch.arange(3), torch.tensor(self.SIZES))
        x = binary_points(len(y), model.spec).double()

        def step(rows: list[int], shares: Shares) -> tuple[Tensor, dict[str, Tensor]]:
            objective = Objective(model, config, shares, scale=30.0)
            model.zero_grad()
            value, logged = objective(x[rows], y[rows], None, seeded())
            value.backward()
            gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            return gradient, {name: item.double() for name, item in logged.items()}

        shares = Shares(len(y), 0, self.SIZES)
        members = [torch.nonzero(y == c).flatten().tolist() for c in range(3)]
        supports = [sum(parts, ()) for parts in itertools.product(*(itertools.combinations(c, 2) for c in members))]
        steps = [step(list(support), shares) for support in supports]
        gradient, logged = step(list(range(len(y))), shares)
        torch.testing.assert_close(torch.stack([g for g, _ in steps]).mean(0), gradient, rtol=1e-12, atol=1e-12)
        for name, value in logged.items():
            mean = torch.stack([found[name] for _, found in steps]).mean()
            torch.testing.assert_close(mean, value, rtol=1e-12, atol=1e-12)
        # Counting each class alike is another objective.
        alike = torch.stack([step(list(support), Shares(len(y), 0))[0] for support in supports]).mean(0)
        assert not torch.allclose(alike, gradient, rtol=0.01)

    def test_balanced_classes_weigh_one_to_the_last_bit(self) -> None:
        y = torch.arange(3).repeat(5)
        for each in (5, 33, 5500, 1_000_000):
            assert torch.equal(Shares(3 * each, 0, (each,) * 3).weights(torch.full((3,), 5.0), y), torch.ones(15))

    def test_a_class_counts_as_much_as_it_has_labels(self) -> None:
        counts, y = torch.tensor([4.0, 4.0, 2.0]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
        weights = Shares(100, 900, (90, 8, 2)).weights(counts, y)
        sums = torch.zeros(3).index_add(0, y, weights) / len(y)
        torch.testing.assert_close(sums, torch.tensor([0.9, 0.08, 0.02]))


class TestKlWeight:
    @pytest.mark.parametrize("kind", KINDS)
    def test_a_weight_of_zero_leaves_the_likelihood_and_the_class_probability(self, kind: Kind) -> None:
        model = with_prior(tiny_model(spec_of(kind)))
        x, y = examples(6, model.spec), each_class(3, 2)
        r = codes_of(model)[y]
        pairs = elbo(model, x, model.features(x), r, model.log_prior[y], seeded(7), 0.0)
        mean, log_var = model.posterior(model.features(x), r)
        v = mean + (log_var / 2).exp() * torch.randn(6, 2, generator=seeded(7))
        expected = torch.stack([log_likelihood(model, x[i], model.decode(r, v)[i]) for i in range(6)])
        torch.testing.assert_close(pairs.bound, expected + model.log_prior[y])

    @pytest.mark.parametrize("stochastic_r", [False, True])
    def test_a_weight_of_zero_leaves_no_gradient_of_a_kl(self, stochastic_r: bool) -> None:
        model = ignoring_noise(tiny_model(stochastic_r=stochastic_r))
        backward(loss_of(objective_config(), model=model, beta=0.0)[0])
        assert all(p.grad is None or not p.grad.any() for p in model.posterior_head.parameters())
        backward(loss_of(objective_config(), model=model, beta=0.5)[0])
        assert all(p.grad is not None and p.grad.any() for p in model.posterior_head.parameters())

    def test_the_loss_is_linear_in_the_weight_and_carries_the_logged_kl(self) -> None:
        config = objective_config(prune=0.1)
        (none, _), (half, _), (whole, _) = (loss_of(config, Shares(1, 0), beta=beta) for beta in (0.0, 0.5, 1.0))
        _, logged = loss_of(config, Shares(1, 0), unlabelled=None)
        torch.testing.assert_close(whole - none, logged["kl"])
        torch.testing.assert_close(half, (none + whole) / 2)

    @pytest.mark.parametrize("beta", [0.0, 0.3])
    @pytest.mark.parametrize("prune", [0.0, 0.3])
    @pytest.mark.parametrize("name", PARTS)
    def test_what_is_logged_are_the_bounds_whatever_the_weight(self, name: str, prune: float, beta: float) -> None:
        results = []
        for weight in (1.0, beta):
            model = tiny_model(seed=1, **PARTS[name]).double()
            results.append(loss_of(objective_config(prune=prune, free_bits=0.2), model=model, beta=weight)[1])
        whole, other = results
        assert not torch.allclose(whole.pop("loss"), other.pop("loss"))
        torch.testing.assert_close(other, whole)


class TestFreeBits:
    """On a model whose decoder does not see v, the KL is all that the posterior's output layer has a gradient from."""

    @staticmethod
    def gradient(free_bits: float, unlabelled: bool, beta: float = 1.0) -> tuple[Tensor, Tensor]:
        """Gradient in mean and log-variance of the two units of v, `[2, 2]`; KL of each unit, mean over points."""
        model = ignoring_noise(tiny_model(spread=1.0)).double()
        model.posterior_head.out.bias.data.copy_(torch.tensor([0.1, 2.0, 0.0, 0.0]))
        kls: dict[bool, Tensor] = {}
        x, y, x_unlabelled = points(9).double(), each_class(3, 3), points(4, seed=1).double()
        f = model.embed(x)
        sums, counts = class_sums(f, y, 3)
        r, features = class_means(sums, counts), model.features(x_unlabelled)
        kls[False] = normal_kl(*model.posterior(model.features(x), leave_one_out_means(f, y, sums, counts))).mean(0)
        log_q = model.classify(model.embed(x_unlabelled), r)
        kls[True] = marginal_elbo(model, x_unlabelled, features, r, log_q, 0.0, seeded()).kl.mean(0)
        shares = Shares(0, 1) if unlabelled else Shares(1, 0)
        objective = Objective(model, objective_config(free_bits=free_bits), shares)
        backward(objective(x, y, x_unlabelled, seeded(), beta)[0])
        gradient = model.posterior_head.out.bias.grad
        assert gradient is not None
        return gradient.view(2, 2), kls[unlabelled].detach()

    @pytest.mark.parametrize("beta", [1.0, 0.25])
    @pytest.mark.parametrize("unlabelled", [False, True])
    def test_a_unit_below_the_free_amount_has_no_gradient_of_its_kl_and_one_above_the_full_one(
        self, unlabelled: bool, beta: float
    ) -> None:
        whole, kl = self.gradient(0.0, unlabelled, beta)
        assert float(kl[0]) < 0.5 < float(kl[1])
        assert bool((whole[0].abs() > 1e-4).all())
        part, _ = self.gradient(0.5, unlabelled, beta)
        torch.testing.assert_close(part[:, 0], torch.zeros(2, dtype=F64), atol=1e-12, rtol=0)
        torch.testing.assert_close(part[:, 1], whole[:, 1])

    @pytest.mark.parametrize("free_bits", [0.01, 0.5, 50.0])
    def test_units_below_the_free_amount_cost_that_amount(self, free_bits: float) -> None:
        model = tiny_model().double()
        x, y = binary_points(9).double(), each_class(3, 3)
        f = model.embed(x)
        r_own = leave_one_out_means(f, y, *class_sums(f, y, 3))
        kl = normal_kl(*model.posterior(model.features(x), r_own)).mean(0)
        loss, logged = loss_of(objective_config(alpha=0.0, free_bits=free_bits), Shares(1, 0), model, unlabelled=None)
        torch.testing.assert_close(loss, -logged["bound_labelled"] - kl.sum() + kl.clamp(min=free_bits).sum())
        torch.testing.assert_close(logged["kl"], kl.sum().detach())

    def test_without_free_bits_the_loss_is_minus_the_bound(self) -> None:
        loss, logged = loss_of(objective_config(alpha=0.0, free_bits=0.0))
        torch.testing.assert_close(loss.detach(), -0.15 * logged["bound_labelled"] - 0.85 * logged["bound_unlabelled"])

    def test_the_class_divergence_is_the_kl_of_each_class_s_normal_weighed_by_its_points(self) -> None:
        """Two classes, the second with half of one point's weight; the third has none."""
        mean, log_var = torch.randn(4, 2, generator=seeded(0)), torch.randn(4, 2, generator=seeded(1))
        pairs = Elbo(mean[:, 0], mean, mean[:, 0], mean, log_var)
        weight = torch.tensor([1.0, 1.0, 1.0, 0.5])
        moments = pairs.moments(torch.tensor([0, 0, 1, 1]), weight, 3)
        expected = torch.zeros(())
        for rows in ([0, 1], [2, 3]):
            share = (weight[rows] / weight[rows].sum()).unsqueeze(1)
            m = (share * mean[rows]).sum(0)
            s = (share * (log_var[rows].exp() + mean[rows] ** 2)).sum(0) - m**2
            q, p = (torch.distributions.Normal(*of) for of in ((m, s.sqrt()), (torch.zeros(2), torch.ones(2))))
            expected += torch.distributions.kl_divergence(q, p).sum() * weight[rows].sum() / weight.sum()
        torch.testing.assert_close(class_divergence(moments), expected)

    def test_the_class_divergence_weighs_points_by_the_data_and_moves_v_alone(self) -> None:
        without, (weighed, logged) = loss_of(objective_config())[0], loss_of(objective_config(class_moments=3.0))
        torch.testing.assert_close(weighed, without + 3.0 * logged["class_divergence"])
        model = tiny_model()
        x, y = examples(9, model.spec), each_class(3, 3)
        f = model.embed(x)
        r = means_of(f, y, 3)
        x_unlabelled = examples(4, model.spec, seed=1)
        q = model.classify(model.embed(x_unlabelled), r).exp()
        pairs = [(x, y, leave_one_out_means(f, y, *class_sums(f, y, 3)), torch.full((9,), SHARES.labelled / 9))]
        pairs += [
            (x_unlabelled, torch.full((4,), c), r[c].expand(4, -1), SHARES.unlabelled / 4 * q[:, c]) for c in range(3)
        ]
        moments = torch.zeros(3, 5)
        for points_of, cls, own, weight in pairs:
            mean, log_var = model.posterior(model.features(points_of), own)
            moments += Elbo(weight, mean, weight, mean, log_var).moments(cls, weight, 3)
        torch.testing.assert_close(logged["class_divergence"], class_divergence(moments).detach())
        u = marginal_elbo(model, x, model.features(x), r, model.classify(f, r), 0, seeded())
        count = u.pairs.moments(u.cls, u.weight, 3)[:, 0].sum()
        gradients = torch.autograd.grad(count, list(model.parameters()), allow_unused=True)
        assert not any(g is not None and g.any() for g in gradients), "q(y|x) is not asked to help"

    def test_the_logged_bounds_give_nothing_away(self) -> None:
        _, plain = loss_of(objective_config())
        _, free = loss_of(objective_config(free_bits=30.0))
        assert float(plain.pop("loss")) < float(free.pop("loss"))
        torch.testing.assert_close(free, plain)


class TestExtended:
    def test_the_plain_loss_does_not_depend_on_the_extended_settings(self) -> None:
        first, _ = loss_of(objective_config(extended=False, augment=MOVING, consistency=2.0, confidence=0.1))
        second, _ = loss_of(objective_config(extended=False, augment=STILL, consistency=9.0, confidence=1.0))
        assert torch.equal(first, second)

    @pytest.mark.parametrize("kind", KINDS)
    def test_augmentation_changes_the_extended_loss(self, kind: Kind) -> None:
        spec = spec_of(kind)
        moving, _ = loss_of(objective_config(extended=True, augment=MOVING, consistency=0.0), model=tiny_model(spec))
        still, _ = loss_of(objective_config(extended=True, augment=STILL, consistency=0.0), model=tiny_model(spec))
        assert not torch.allclose(moving, still)

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_extended_objective_without_distortion_and_consistency_classifies_as_the_plain_one(
        self, kind: Kind
    ) -> None:
        spec = spec_of(kind)
        _, plain = loss_of(objective_config(extended=False), model=tiny_model(spec))
        config = objective_config(extended=True, augment=STILL, consistency=0.0)
        _, extended = loss_of(config, model=tiny_model(spec))
        torch.testing.assert_close(extended["log_q_labelled"], plain["log_q_labelled"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(extended["bound_labelled"], plain["bound_labelled"])

    def test_consistency_is_zero_where_nothing_is_confident(self) -> None:
        _, logged = loss_of(objective_config(extended=True, confidence=1.0), model=tiny_model(spread=0.5))
        assert float(logged["consistency"]) == 0
        assert float(logged["confident"]) == 0

    def test_consistency_where_all_are_confident_is_the_distorted_views_cross_entropy(self) -> None:
        model = tiny_model()
        _, logged = loss_of(objective_config(extended=True, augment=STILL, confidence=1e-6), model=model)
        r = means_of(model.embed(binary_points(9)), each_class(3, 3), 3)
        best = model.classify(model.embed(binary_points(4, seed=1)), r).max(1).values
        torch.testing.assert_close(logged["consistency"], -best.mean().detach(), rtol=1e-3, atol=1e-5)
        assert float(logged["confident"]) == 1

    def test_consistency_enters_the_loss_with_its_weight(self) -> None:
        once, logged = loss_of(objective_config(extended=True, consistency=1.0, confidence=1e-6))
        thrice, _ = loss_of(objective_config(extended=True, consistency=3.0, confidence=1e-6))
        torch.testing.assert_close(thrice - once, 2 * logged["consistency"], rtol=1e-3, atol=1e-4)

    def test_without_classes_there_is_nothing_to_extend(self) -> None:
        plain, logged = loss_of(objective_config(), model=tiny_model(**VAE))
        extended, other = loss_of(objective_config(extended=True, confidence=1e-6), model=tiny_model(**VAE))
        assert torch.equal(plain, extended)
        assert set(other) == set(logged)


class TestStep:
    def test_noise_is_a_function_of_the_generators_state(self) -> None:
        x = torch.empty(3, 4)
        assert torch.equal(noise_like(x, seeded(1)), noise_like(x, seeded(1)))
        assert not torch.equal(noise_like(x, seeded(1)), noise_like(x, seeded(2)))

    def test_the_same_step_gives_the_same_loss_and_other_noise_another(self) -> None:
        objective = Objective(tiny_model(), objective_config(extended=True), SHARES)
        arguments = binary_points(9), each_class(3, 3), binary_points(4, seed=1)
        assert torch.equal(objective(*arguments, seeded(2))[0], objective(*arguments, seeded(2))[0])
        assert not torch.equal(objective(*arguments, seeded(2))[0], objective(*arguments, seeded(3))[0])

    def test_a_single_labelled_point_of_a_class_stops_the_step(self) -> None:
        objective = Objective(tiny_model(), objective_config(), SHARES)
        with pytest.raises(ValueError, match=r"class \[2\] has a single labelled point"):
            objective(points(5), torch.tensor([0, 0, 1, 1, 2]), None, seeded())

    @pytest.mark.parametrize("name", ["m2", "vae"])
    def test_codes_that_are_no_means_need_no_second_point(self, name: str) -> None:
        objective = Objective(tiny_model(**PARTS[name]), objective_config(), SHARES)
        loss, _ = objective(points(5), torch.tensor([0, 0, 1, 1, 2]), points(2), seeded())
        assert bool(loss.isfinite())

    @given(
        kind=st.sampled_from(KINDS),
        times=st.lists(st.integers(0, 3), min_size=2, max_size=5),
        name=st.sampled_from(["distance", "network", "stochastic_r", "v_from_x"]),
        loss=st.sampled_from(["bound", "cross_entropy"]),
        unlabelled=st.booleans(),
        seed=st.integers(0, 99),
    )
    @settings(max_examples=60, deadline=None)
    def test_a_step_needs_two_points_of_every_class_and_says_which_lack_them(
        self, kind: Kind, times: list[int], name: str, loss: str, unlabelled: bool, seed: int
    ) -> None:
        num_classes = len(times)
        model = tiny_model(spec_of(kind, num_classes), **PARTS[name])
        y = torch.arange(num_classes).repeat_interleave(torch.tensor(times))
        y = y[torch.randperm(len(y), generator=seeded(seed))]
        x, x_unlabelled = points(len(y), model.spec), points(3, model.spec) if unlabelled else None
        objective = Objective(model, objective_config(loss=loss), SHARES)
        absent, single = ([c for c in range(num_classes) if times[c] == n] for n in (0, 1))
        if absent:
            with pytest.raises(ValueError, match=f"no labelled point of class {absent}".replace("[", r"\[")):
                objective(x, y, x_unlabelled, seeded())
        elif single:
            with pytest.raises(ValueError, match=f"class {single} has a single labelled".replace("[", r"\[")):
                objective(x, y, x_unlabelled, seeded())
        else:
            assert bool(objective(x, y, x_unlabelled, seeded())[0].isfinite())

    def test_a_support_of_one_class_alone_names_all_the_others(self) -> None:
        objective = Objective(tiny_model(), objective_config(), SHARES)
        with pytest.raises(ValueError, match=r"no labelled point of class \[0, 2\]"):
            objective(points(4), torch.ones(4, dtype=torch.long), points(3), seeded())

    def test_with_nothing_labelled_but_the_support_the_class_sum_is_nearly_all_of_the_loss(self) -> None:
        loss, logged = loss_of(objective_config(alpha=0.0), Shares(9, 10**9))
        torch.testing.assert_close(loss.detach(), -logged["bound_unlabelled"])

    @given(
        kind=st.sampled_from(KINDS),
        size=st.tuples(st.sampled_from([1, 3]), st.integers(5, 13), st.integers(5, 13)),
        times=st.lists(st.integers(2, 4), min_size=2, max_size=5),
        unlabelled=st.none() | st.integers(1, 6),
        name=st.sampled_from(sorted(PARTS)),
        method=st.sampled_from(["plain", "extended", "supervised"]),
        prune=st.sampled_from([0.0, 0.01, 0.3]),
        free_bits=st.sampled_from([0.0, 0.5]),
        beta=st.sampled_from([0.0, 0.5, 1.0]),
    )
    @settings(max_examples=80, deadline=None)
    def test_loss_log_and_gradients_are_finite_for_any_shape_model_and_label_pattern(
        self,
        kind: Kind,
        size: tuple[int, int, int],
        times: list[int],
        unlabelled: int | None,
        name: str,
        method: str,
        prune: float,
        free_bits: float,
        beta: float,
    ) -> None:
        if name == "vae" and method == "supervised":
            name = "m2"
        num_classes = len(times)
        spec = spec_of(kind, num_classes, {"image": size, "series": size[:2]}.get(kind, size[1:2]))
        model = tiny_model(spec, **PARTS[name])
        config = objective_config(
            extended=method == "extended",
            prune=prune,
            free_bits=free_bits,
            loss="cross_entropy" if method == "supervised" else "bound",
        )
        y = torch.arange(num_classes).repeat_interleave(torch.tensor(times))
        x, x_unlabelled = points(len(y), spec), None if unlabelled is None else points(unlabelled, spec, seed=1)
        loss, logged = Objective(model, config, SHARES)(x, y, x_unlabelled, seeded(), beta)
        loss.backward()
        assert loss.shape == ()
        assert all(math.isfinite(float(value)) for value in logged.values())
        assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)
        if "classes_alive" in logged:
            assert 1 <= float(logged["classes_alive"]) <= num_classes
            assert 0 <= float(logged["dropped_mass"]) <= num_classes * prune

    def test_a_support_range_upside_down_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"support_max \(2\) must be at least support_min \(3\)"):
            objective_config(support_min=3, support_max=2)
