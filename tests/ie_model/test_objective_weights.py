"""What the terms of the loss weigh: classes of unequal size, the KL's weight, free bits, class moments."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from ie_model.bounds import Elbo, class_divergence, elbo, marginal_elbo
from ie_model.likelihoods import normal_kl
from ie_model.model import class_means, class_sums, leave_one_out_means
from ie_model.objective import Objective, Shares
from ie_model.spec import Kind
from tests.helpers.steps import (
    F64,
    PARTS,
    SHARES,
    codes_of,
    examples,
    ignoring_noise,
    loss_of,
    means_of,
    with_prior,
)
from tests.helpers.tiny import (
    KINDS,
    M2,
    backward,
    binary_points,
    each_class,
    log_likelihood,
    objective_config,
    points,
    same_noise,
    seeded,
    spec_of,
    tiny_model,
)


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
