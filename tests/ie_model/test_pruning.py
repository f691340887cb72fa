"""What leaving classes out of the class sum costs, against brute force."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ie_model.bounds import alive_classes, marginal_elbo
from ie_model.pruning import prune_error, prune_gap
from ie_model.spec import Kind
from tests.helpers.steps import (
    F64,
    codes_of,
    enumerated_bound,
    examples,
    ignoring_noise,
    log_q_of,
    with_prior,
)
from tests.helpers.tiny import (
    KINDS,
    backward,
    binary_points,
    pair_bound,
    points,
    seeded,
    spec_of,
    tiny_model,
    tiny_spec,
)


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
