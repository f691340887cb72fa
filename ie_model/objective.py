"""The objective J: labelled and unlabelled bounds, the class sum (exact or pruned) and the classifier's terms.

    L(x, y) = E_q(v|r_y,x)[log p(x | r_y, v)] - KL(q(v | r_y, x) || N(0, I)) + log p(y)
    U(x)    = sum_y q(y|x) [L(x, y) - log q(y|x)]
    J       = sum over labelled L + sum over unlabelled U + alpha * sum over labelled log q(y|x)

One step sees a few points; each mean over a batch is weighted by the share of the DATA that it stands for, so that a
hundred labelled points that return in every batch do not outweigh the rest (ours, docs/method.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ie_model.augment import random_affine
from ie_model.config import ObjectiveConfig
from ie_model.likelihoods import bernoulli_log_prob, normal_kl
from ie_model.model import EquiVAE, class_means, leave_one_out_means, squared_distances


@dataclass(frozen=True)
class Shares:
    """How many points of the training data are labelled and unlabelled: the weights of the two bounds."""

    num_labelled: int
    num_unlabelled: int

    @property
    def labelled(self) -> float:
        return self.num_labelled / (self.num_labelled + self.num_unlabelled)

    @property
    def unlabelled(self) -> float:
        return self.num_unlabelled / (self.num_labelled + self.num_unlabelled)


@dataclass(frozen=True)
class ClassSum:
    """U(x) and what it took."""

    bound: Tensor
    """U(x) in nats, `[B]`."""

    num_alive: Tensor
    """Classes that entered the sum, `[B]`."""

    dropped_mass: Tensor
    """q(y|x) of the classes that did not, `[B]`; 0 for the exact sum."""


def labelled_bound(
    model: EquiVAE, x: Tensor, features: Tensor, r: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """L(x, y) of pairs, one sample of v each.

    Args:
        x: `[B, *shape]` in [0, 1].
        features: `model.features(x)`, `[B, H]`.
        r: representation of each x's class, `[B, R]`; without x itself where x is labelled.
        generator: source of the noise.

    Returns:
        the bound `[B]` in nats and the KL per unit of v `[B, V]`; p(y) is uniform.
    """
    mean, log_var = model.posterior(features, r)
    kl = normal_kl(mean, log_var)
    v = mean + (0.5 * log_var).exp() * noise_like(mean, generator)
    log_prob = bernoulli_log_prob(x, model.decode(r, v))
    return log_prob - kl.sum(-1) - math.log(model.spec.num_classes), kl


def unlabelled_bound(
    model: EquiVAE, x: Tensor, features: Tensor, r: Tensor, log_q: Tensor, prune: float, generator: torch.Generator
) -> ClassSum:
    """U(x) with q(y|x) restricted to its live classes and renormalised.

    Renormalising keeps U a lower bound on log p(x), whatever is dropped. Against the exact sum it is off by
    d * (U_dropped - U_kept) + h(d), with d the dropped mass, U_dropped the same bound over the dropped classes
    alone and h the binary entropy: small because d < K * prune.

    Args:
        x: `[B, *shape]`; features `[B, H]`; r the class representations `[K, R]`; log_q `[B, K]`.
        prune: classes with q(y|x) below it are dropped, never the best one; 0 keeps all.
    """
    with torch.no_grad():
        alive = log_q >= math.log(prune) if prune > 0 else torch.ones_like(log_q, dtype=torch.bool)
        alive.scatter_(1, log_q.argmax(1, keepdim=True), True)
        dropped = torch.where(alive, 0.0, log_q.exp()).sum(1)
    row, cls = alive.nonzero(as_tuple=True)
    pairs, _ = labelled_bound(model, x[row], features[row], r[cls], generator)
    log_q = log_q.masked_fill(~alive, -torch.inf).log_softmax(1)
    log_q_pairs = log_q[row, cls]
    terms = log_q_pairs.exp() * (pairs - log_q_pairs)
    bound = terms.new_zeros(x.shape[0]).index_add(0, row, terms)
    return ClassSum(bound, alive.sum(1), dropped)


def leave_one_out_log_q(model: EquiVAE, f: Tensor, f_support: Tensor, y: Tensor, r: Tensor) -> Tensor:
    """log q(y_i | x_i) `[B]` of labelled points, with each point left out of its own class's representation.

    Args:
        f: embedding that is classified (of x_i, or of a distorted x_i), `[B, R]`.
        f_support: embedding of x_i that is part of r, `[B, R]`; y `[B]`; r `[K, R]`.
    """
    if model.config.classifier == "network":
        log_q = model.classify(f, r)
    else:
        own = leave_one_out_means(f_support, y, r.shape[0])
        distances = squared_distances(f, r)
        distances = distances.scatter(1, y.unsqueeze(1), (f - own).square().mean(-1, keepdim=True))
        log_q = model.distance_logits(distances).log_softmax(-1)
    return log_q.gather(1, y.unsqueeze(1)).squeeze(1)


def noise_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise, drawn on the generator's device so that a seed means the same on any device."""
    return torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype).to(x.device)


class Objective(nn.Module):
    """-J / N as a module, so that a wrapper for data-parallel training sees one forward pass a step."""

    def __init__(self, model: EquiVAE, config: ObjectiveConfig, shares: Shares) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.shares = shares

    def forward(
        self, x_labelled: Tensor, y: Tensor, x_unlabelled: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one step.

        Args:
            x_labelled: labelled points, which are also the support of the r_y, `[M, *shape]` in [0, 1]; at least
                two of each class.
            y: their classes, `[M]`.
            x_unlabelled: `[B, *shape]`, or None when every point is labelled.
            generator: source of all noise of the step.

        Returns:
            the loss, a scalar in nats per data point, and detached means to log.
        """
        if self.config.method == "supervised":
            return self._supervised(x_labelled, y, generator)
        model, config = self.model, self.config
        m = x_labelled.shape[0]
        x = x_labelled if x_unlabelled is None else torch.cat([x_labelled, x_unlabelled])
        f, features = model.embed(x), model.features(x)
        r = class_means(f[:m], y, model.spec.num_classes)
        r_own = leave_one_out_means(f[:m], y, model.spec.num_classes)
        bound, kl = labelled_bound(model, x_labelled, features[:m], r_own, generator)
        f_query = f[:m]
        if config.extended.enabled:
            f_query = model.embed(random_affine(x_labelled, config.extended.augment, generator))
        log_q_own = leave_one_out_log_q(model, f_query, f[:m], y, r)

        loss = -self.shares.labelled * bound.mean() - config.alpha * log_q_own.mean()
        logged = {"bound_labelled": bound.mean(), "log_q_labelled": log_q_own.mean(), "kl": kl.sum(-1).mean()}
        if x_unlabelled is not None:
            log_q = model.classify(f[m:], r)
            u = unlabelled_bound(model, x_unlabelled, features[m:], r, log_q, config.prune, generator)
            loss = loss - self.shares.unlabelled * u.bound.mean()
            logged |= {
                "bound_unlabelled": u.bound.mean(),
                "classes_alive": u.num_alive.float().mean(),
                "dropped_mass": u.dropped_mass.mean(),
            }
            if config.extended.enabled and config.extended.consistency > 0:
                agreement, confident = self._consistency(x_unlabelled, log_q, r, generator)
                loss = loss + config.extended.consistency * agreement
                logged |= {"consistency": agreement, "confident": confident}
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logged.items()}

    def _supervised(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.extended.enabled:
            x = random_affine(x, self.config.extended.augment, generator)
        f = self.model.embed(x)
        r = class_means(f, y, self.model.spec.num_classes)
        log_q = leave_one_out_log_q(self.model, f, f, y, r)
        loss = -log_q.mean()
        return loss, {"loss": loss.detach(), "log_q_labelled": -loss.detach()}

    def _consistency(self, x: Tensor, log_q: Tensor, r: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the distorted view against the undistorted view's class, where that one is confident."""
        confidence, guess = log_q.detach().exp().max(1)
        mask = (confidence >= self.config.extended.confidence).to(x.dtype)
        distorted = self.model.embed(random_affine(x, self.config.extended.augment, generator))
        log_q_distorted = self.model.classify(distorted, r)
        return (F.nll_loss(log_q_distorted, guess, reduction="none") * mask).mean(), mask.mean()
