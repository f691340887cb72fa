"""The bounds of the objective: L(x, y) of a pair, and U(x), their sum over the classes, exact or pruned.

L(x, y) = E_q(v|r_y,x)[log p(x | r_y, v)] - KL(q(v | r_y, x) || N(0, I)) + log p(y)
U(x)    = sum_y q(y|x) [L(x, y) - log q(y|x)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ie_model.likelihoods import normal_kl
from ie_model.model import EquiVAE, noise_like


@dataclass(frozen=True)
class Elbo:
    """L(x, y) of P pairs of an x and a class's representation, one sample of v each."""

    bound: Tensor
    """L with the KL weighted by beta, nats, `[P]`."""

    kl: Tensor
    """KL(q(v | r, x) || N(0, I)) per unit of v, nats, `[P, V]`."""

    cost: Tensor
    """What beta weighs: the KL of v and that of r where it is stochastic, nats, `[P]`."""

    mean: Tensor
    """Of q(v | r, x), `[P, V]`."""

    log_var: Tensor
    """Its log-variance, `[P, V]`."""

    def moments(self, cls: Tensor, weight: Tensor, num_codes: int) -> Tensor:
        """Sums over the pairs of each class, `[K, 1 + 2 V]`: of weights, of v, and of its squares, weighted.

        Args:
            cls: the class of each pair `[P]`; weight: what each counts, in proportion to q(y|x), `[P]`.
        """
        one = torch.ones_like(weight).unsqueeze(1)
        values = torch.cat([one, self.mean, self.mean.square() + self.log_var.exp()], dim=1)
        sums = values.new_zeros(num_codes, values.shape[1])
        return sums.index_add(0, cls, weight.detach().unsqueeze(1) * values)


@dataclass(frozen=True)
class MarginalElbo:
    """U(x) and what it took."""

    bound: Tensor
    """U(x) with the KL weighted by beta, nats, `[B]`."""

    kl: Tensor
    """KL per unit of v, averaged over the live classes by q(y|x), `[B, V]`."""

    cost: Tensor
    """What beta weighs, averaged in the same way, `[B]`."""

    num_alive: Tensor
    """Classes that entered the sum, `[B]`."""

    dropped_mass: Tensor
    """q(y|x) of the classes that did not, `[B]`; 0 for the exact sum."""

    pairs: Elbo
    """The P pairs of an x and a live class."""

    cls: Tensor
    """The class of each pair, `[P]`."""

    weight: Tensor
    """q(y|x) of each pair, `[P]`."""


def class_divergence(moments: Tensor) -> Tensor:
    """Mean over points of KL(q(v|y) || N(0, I)), nats, a scalar, from `Elbo.moments` `[K, 1 + 2 V]`.

    q(v|y) is taken for a normal with independent units of these means and variances: 0 where each class has those of
    the prior, which a swap assumes (ours). Few points of a class make its variance too small.
    """
    count, mean, square = torch.split(moments, [1, *[(moments.shape[1] - 1) // 2] * 2], dim=1)
    there = count.squeeze(1) > 0
    count, mean, square = count[there], mean[there] / count[there], square[there] / count[there]
    return (normal_kl(mean, (square - mean.square()).clamp(min=1e-6).log()) * count / count.sum()).sum()


def elbo(
    model: EquiVAE,
    x: Tensor,
    features: Tensor,
    code: Tensor,
    log_prior: Tensor,
    generator: torch.Generator,
    beta: float = 1.0,
) -> Elbo:
    """L(x, y) of pairs.

    Args:
        x: `[P, *shape]`.
        features: `model.features(x)`, `[P, H]`.
        code: what stands for each x's class, `[P, E]`; without x itself where x is labelled.
        log_prior: log p(y) of each, `[P]`.
        generator: source of the noise.
        beta: weight of the KL; 1 is the bound.
    """
    r, kl_r = model.draw_r(code, generator)
    mean, log_var = model.posterior(features, r)
    kl = normal_kl(mean, log_var)
    v = mean + (0.5 * log_var).exp() * noise_like(mean, generator)
    cost = kl.sum(-1) + kl_r
    return Elbo(model.log_prob(x, r, v) - beta * cost + log_prior, kl, cost, mean, log_var)


def alive_classes(log_q: Tensor, prune: float) -> Tensor:
    """Which classes enter the sum: q(y|x) of at least `prune`, and always the best; `[B, K]` of booleans."""
    alive = log_q >= math.log(prune) if prune > 0 else torch.ones_like(log_q, dtype=torch.bool)
    return alive.scatter(1, log_q.argmax(1, keepdim=True), True)


def marginal_elbo(
    model: EquiVAE,
    x: Tensor,
    features: Tensor,
    codes: Tensor,
    log_q: Tensor,
    prune: float,
    generator: torch.Generator,
    beta: float = 1.0,
) -> MarginalElbo:
    """U(x) with q(y|x) restricted to its live classes and renormalised.

    Renormalising keeps U a lower bound on log p(x), whatever is dropped. Against the exact sum it is off by
    d * (U_dropped - U_kept) + h(d), with d the dropped mass, U_dropped the same bound over the dropped classes
    alone and h the binary entropy (in nats): small because d < K * prune. See `pruning.prune_gap`.

    Args:
        x: `[B, *shape]`; features `[B, H]`; codes of the classes `[K, E]`; log_q `[B, K]`.
        prune: classes with q(y|x) below it are dropped, never the best one; 0 keeps all.
        beta: weight of the KL; 1 is the bound.
    """
    with torch.no_grad():
        alive = alive_classes(log_q, prune)
        dropped = torch.where(alive, 0.0, log_q.exp()).sum(1)
    row, cls = alive.nonzero(as_tuple=True)
    # Not `features[row]`: on several threads its gradient adds up in an order of its own each time.
    features, chosen = features.index_select(0, row), codes.index_select(0, cls)
    pairs = elbo(model, x[row], features, chosen, model.log_prior[cls], generator, beta)
    log_q = log_q.masked_fill(~alive, -torch.inf).log_softmax(1)
    log_q_pairs = log_q[row, cls]
    q_pairs = log_q_pairs.exp()
    bound = q_pairs.new_zeros(x.shape[0]).index_add(0, row, q_pairs * (pairs.bound - log_q_pairs))
    kl = q_pairs.new_zeros(x.shape[0], pairs.kl.shape[1]).index_add(0, row, q_pairs.unsqueeze(1) * pairs.kl)
    cost = q_pairs.new_zeros(x.shape[0]).index_add(0, row, q_pairs * pairs.cost)
    return MarginalElbo(bound, kl, cost, alive.sum(1), dropped, pairs, cls, q_pairs)
