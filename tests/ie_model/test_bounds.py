"""The labelled and unlabelled bounds against brute force with torch.distributions."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ie_model.bounds import alive_classes, elbo, marginal_elbo
from ie_model.config import ObjectiveConfig
from ie_model.likelihoods import normal_kl
from ie_model.model import EquiVAE
from ie_model.objective import Objective
from ie_model.spec import Kind
from tests.helpers.steps import (
    F64,
    PARTS,
    SHARES,
    codes_of,
    enumerated_bound,
    examples,
    ignoring_noise,
    log_evidence,
    log_q_of,
    with_prior,
)
from tests.helpers.tiny import (
    KINDS,
    each_class,
    log_likelihood,
    objective_config,
    pair_bound,
    points,
    seeded,
    spec_of,
    tiny_model,
    tiny_spec,
)


@torch.no_grad()
def log_evidence_of_class(model: EquiVAE, x: Tensor, r: Tensor, c: int) -> Tensor:
    """log p(x, y = c) `[B]` of a model whose decoder does not see v and whose q(v | r, x) is the prior."""
    out = model.decode(r[c : c + 1], r.new_zeros(1, model.config.v_dim))[0]
    return torch.stack([log_likelihood(model, point, out) for point in x]) + model.log_prior[c]


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
    names |= {"decoder.stem.from_v.weight", "decoder.out.bias", "log_inverse_temperature", "likelihood.log_scale"}
    gradients = torch.autograd.grad(loss(), list(model.parameters()), allow_unused=True)
    reached = {name for (name, _), g in zip(model.named_parameters(), gradients, strict=True) if g is not None}
    weights = [p for name, p in model.named_parameters() if name in names and name in reached]
    assert len(weights) >= (3 if config.loss == "bound" else 2)
    assert torch.autograd.gradcheck(loss, weights)
