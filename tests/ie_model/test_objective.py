"""What the loss of a step is made of."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor, nn

from ie_model.bounds import Elbo, elbo, marginal_elbo
from ie_model.likelihoods import normal_kl
from ie_model.model import EquiVAE, class_means, class_sums, leave_one_out_means, noise_like
from ie_model.objective import Objective, Shares, leave_one_out_log_q
from ie_model.pruning import prune_gap
from ie_model.spec import Kind
from tests.helpers.steps import (
    PARTS,
    SHARES,
    enumerated_bound,
    examples,
    ignoring_noise,
    loss_of,
    means_of,
    with_prior,
)
from tests.helpers.tiny import (
    KINDS,
    M2,
    MOVING,
    STILL,
    VAE,
    backward,
    binary_points,
    each_class,
    objective_config,
    pair_bound,
    points,
    same_noise,
    seeded,
    spec_of,
    tiny_model,
)


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
        scale = "log_inverse_temperature" if classifier == "distance" else "class_logits"
        assert trained == {"invariant_trunk", "invariant_out", scale}

    @pytest.mark.parametrize("kind", KINDS)
    def test_the_loss_without_bounds_is_what_the_extended_one_adds_to_them(self, kind: Kind) -> None:
        model = tiny_model(spec_of(kind))
        changes: dict[str, Any] = {"extended": True, "confidence": 0.01}
        loss, logged = loss_of(objective_config(loss="consistency", **changes), model=model)
        backward(loss)
        trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        assert trained == {"invariant_trunk", "invariant_out", "log_inverse_temperature"}
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

    def test_aligned_guesses_are_as_many_of_each_class_as_the_prior_says(self) -> None:
        model = with_prior(tiny_model())
        _, logged = loss_of(objective_config(extended=True, augment=STILL, confidence=1e-6, align=True), model=model)
        r = means_of(model.embed(binary_points(9)), each_class(3, 3), 3)
        log_q = model.classify(model.embed(binary_points(4, seed=1)), r).detach()
        q = log_q.exp() * model.log_prior.exp() / log_q.exp().mean(0)
        guess = q.argmax(1)
        assert not torch.equal(guess, log_q.argmax(1))
        expected = -log_q.gather(1, guess.unsqueeze(1)).mean()
        torch.testing.assert_close(logged["consistency"], expected, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize(("sizes", "aligned"), [((), True), ((5, 10), True), ((5, 11), False)])
    def test_alignment_is_for_classes_of_about_one_size(self, sizes: tuple[int, ...], aligned: bool) -> None:
        model, shares = tiny_model(), Shares(16, 4, sizes)
        for asked, is_aligned in (("auto", aligned), (True, True), (False, False)):
            assert Objective(model, objective_config(extended=True, align=asked), shares).align == is_aligned

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
