"""The objective J: labelled and unlabelled bounds (bounds.py) and the classifier's terms.

    J = sum over labelled L + sum over unlabelled U + alpha * sum over labelled log q(y|x)

One step sees a few points; each mean over a batch is weighted by the share of the DATA that it stands for, so that a
hundred labelled points that return in every batch do not outweigh the rest (ours, docs/method.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ie_model.augment import augment
from ie_model.bounds import class_divergence, elbo, marginal_elbo
from ie_model.config import ObjectiveConfig
from ie_model.model import EquiVAE, class_means, class_sums, leave_one_out_means, squared_distances
from ie_model.pruning import prune_gap

_LEAST_SCALE = 784 * math.log(2)
_LEAST_SHARE = 1e-6


def is_balanced(class_sizes: Sequence[int]) -> bool:
    """Whether no class has more than twice the points of another."""
    return not class_sizes or max(class_sizes) <= 2 * min(class_sizes)


@dataclass(frozen=True)
class Shares:
    """How many points of the training data are labelled and unlabelled: the weights of the two bounds."""

    num_labelled: int
    num_unlabelled: int
    by_class: tuple[int, ...] = ()
    """Of the labelled points, `[K]`; empty: as many of each class."""

    def weights(self, counts: Tensor, y: Tensor) -> Tensor:
        """Of a step's labelled points `[M]` of classes y, `counts` `[K]` of each class over all ranks.

        A step takes about as many points of each class, the data may not: class c weighs n_c / N_l, as in J, where its
        part of the step is m_c / M. The mean of a term with these weights is then, over the steps, that of all labelled
        points.
        """
        if not self.by_class:
            return torch.ones_like(counts)[y]
        return ((counts.new_tensor(self.by_class) * counts.sum()) / (self.num_labelled * counts).clamp(min=1))[y]

    @property
    def labelled(self) -> float:
        return self.num_labelled / (self.num_labelled + self.num_unlabelled)

    @property
    def unlabelled(self) -> float:
        return self.num_unlabelled / (self.num_labelled + self.num_unlabelled)


@dataclass(frozen=True)
class Ranks:
    """The ranks of a data-parallel step. r is of the support of all ranks, and means are over the points of all."""

    world_size: int
    begin: Callable[[Tensor], Callable[[], Tensor]]
    """Begins a sum over the ranks; what it returns is called once, waits for it and gives it.

    Differentiable: the gradient of a rank's term is the sum of all ranks' gradients. What is computed between the two
    calls runs beside the exchange, in the backward pass too.
    """

    def sum(self, values: Tensor) -> Tensor:
        """Begins a sum and waits for it."""
        return self.begin(values)()


SINGLE = Ranks(1, lambda values: lambda: values)


def leave_one_out_log_q(model: EquiVAE, f: Tensor, y: Tensor, r: Tensor, r_own: Tensor) -> Tensor:
    """log q(y_i | x_i) `[B]` of labelled points, each compared with its own class by r_own.

    Args:
        f: embedding that is classified (of x_i, or of a distorted x_i), `[B, R]`; y `[B]`.
        r: class representations `[K, R]`; r_own: that of each point's class without the point, `[B, R]`.
    """
    if model.config.classifier == "none":
        return f.new_zeros(f.shape[0])
    if model.config.classifier == "network":
        log_q = model.classify(f, r)
    else:
        distances = squared_distances(f, r)
        distances = distances.scatter(1, y.unsqueeze(1), (f - r_own).square().mean(-1, keepdim=True))
        log_q = model.distance_logits(distances).log_softmax(-1)
    return log_q.gather(1, y.unsqueeze(1)).squeeze(1)


@torch.no_grad()
def uninformed_nats(model: EquiVAE, x: Tensor) -> float:
    """What a decoder that knows nothing pays for a point, the mean over x `[N, *shape]`: the scale of the bound."""
    return float(model.likelihood.uninformed(x).mean())


def weight_scale(model: EquiVAE, x: Tensor) -> float:
    """Nats that alpha and consistency are shares of for data like x `[N, *shape]`: `uninformed_nats`, at least 543.

    Labels do not matter less where an x has fewer values: series of 170 nats had twice the error with a third of this.
    """
    return max(uninformed_nats(model, x), _LEAST_SCALE)


class Objective(nn.Module):
    """-J / N as a module, so that a wrapper for data-parallel training sees one forward pass a step.

    The mean over ranks of the losses, and of their gradients, is that of one rank with all the points.
    """

    def __init__(
        self, model: EquiVAE, config: ObjectiveConfig, shares: Shares, ranks: Ranks = SINGLE, scale: float = 1.0
    ) -> None:
        """
        Args:
            scale: nats that alpha and consistency are shares of, see `weight_scale`.
        """
        super().__init__()
        align = config.extended.align
        self.align = align if isinstance(align, bool) else is_balanced(shares.by_class)
        self.alpha, self.consistency = scale * config.alpha, scale * config.extended.consistency
        self.model = model
        self.config = config
        self.shares = shares
        self.ranks = ranks

    @classmethod
    def of(cls, model: EquiVAE, x: Tensor, y: Tensor, config: ObjectiveConfig | None = None) -> Objective:
        """The objective on data in memory, which gives the weights of its terms; None: the default configuration.

        Args:
            x: floats, `[N, *shape]`.
            y: classes, -1 where they are not known, `[N]`.

        Raises:
            ValueError: a class has fewer than two labelled points.
        """
        known = y[y >= 0]
        by_class = known.bincount(minlength=model.spec.num_classes)
        if by_class.min() < 2 or len(by_class) > model.spec.num_classes:
            allowed = f"two or more of each of {model.spec.num_classes}"
            raise ValueError(f"labelled points of each class: {by_class.tolist()}; allowed: {allowed}")
        shares = Shares(len(known), len(y) - len(known), tuple(by_class.tolist()))
        return cls(model, config or ObjectiveConfig(), shares, scale=weight_scale(model, x[y >= 0]))

    def draw(
        self, x: Tensor, y: Tensor, generator: torch.Generator, batch_size: int = 256
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Points of one step, as `forward` takes them: of each class m labelled ones, m from `support_min` to
        `support_max` (all that a class with fewer has), and `batch_size` of the others.

        Args:
            x, y: as for `of`.
        """
        low, high = self.config.support_min, self.config.support_max
        m = int(torch.randint(low, high + 1, (), generator=generator))
        members = [torch.nonzero(y == c).squeeze(1) for c in range(self.model.spec.num_classes)]
        support = torch.cat([c[torch.randperm(len(c), generator=generator)[:m]] for c in members])
        others = torch.nonzero(y < 0).squeeze(1)
        if not len(others):
            return x[support], y[support], None
        others = others[torch.randint(len(others), (batch_size,), generator=generator)]
        return x[support], y[support], x[others]

    def forward(
        self,
        x_labelled: Tensor,
        y: Tensor,
        x_unlabelled: Tensor | None,
        generator: torch.Generator,
        beta: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one step.

        Args:
            x_labelled: this rank's labelled points, `[M, *shape]`; those of all ranks are the support of the r_y and
                hold at least two of each class. M may be 0 on a rank.
            y: their classes, `[M]`.
            x_unlabelled: `[B, *shape]`, or None when every point is labelled.
            generator: source of all noise of the step.
            beta: weight of the KL, 1 outside a warm-up.

        Returns:
            the loss, a scalar in nats per data point, and detached values to log, whose means over ranks are means
            over points.

        Raises:
            ValueError: a class has fewer than two points in the support.
        """
        if self.config.loss == "cross_entropy":
            return self._cross_entropy(x_labelled, y, generator)
        if self.config.loss == "consistency":
            return self._without_bound(x_labelled, y, x_unlabelled, generator)
        model, config = self.model, self.config
        m = x_labelled.shape[0]
        x = x_labelled if x_unlabelled is None else torch.cat([x_labelled, x_unlabelled])
        f = model.embed_support(x)
        # One exchange for all that a step needs to know of the other ranks; v's features are computed meanwhile.
        finish = self._begin_support(f[:m], y, x.shape[0] - m)
        features = model.features(x)
        codes, codes_own, counts, num_unlabelled = self._support(f[:m], y, finish())

        pairs = elbo(model, x_labelled, features[:m], codes_own, self._prior_of(y), generator, beta)
        r, r_own = model.mean_r(codes), model.mean_r(codes_own)
        f_query = f[:m, : model.config.r_dim]
        if config.extended.enabled and model.config.classifier != "none":
            f_query = self._distorted(x_labelled, generator)
        log_q_own = self._labelled_mean(leave_one_out_log_q(model, f_query, y, r, r_own), counts, y)
        kl, bound = self._labelled_mean(pairs.kl, counts, y), self._labelled_mean(pairs.bound, counts, y)
        loss = -self.shares.labelled * bound - self.alpha * log_q_own
        loss = loss + self.shares.labelled * beta * self._free(kl)
        cost = self._labelled_mean(pairs.cost, counts, y)
        logged = {"bound_labelled": bound - (1 - beta) * cost, "log_q_labelled": log_q_own, "kl": kl.sum()}
        weight = self.shares.labelled * self.shares.weights(counts, y) / counts.sum()
        posteriors = [(pairs, self._code_of(y), weight)]
        if x_unlabelled is not None:
            log_q = model.classify(f[m:, : model.config.r_dim], r)
            u = marginal_elbo(model, x_unlabelled, features[m:], codes, log_q, config.prune, generator, beta)
            kl, bound = self._mean(u.kl, num_unlabelled), self._mean(u.bound, num_unlabelled)
            loss = loss + self.shares.unlabelled * (beta * self._free(kl) - bound)
            posteriors.append((u.pairs, u.cls, self.shares.unlabelled * u.weight / num_unlabelled))
            whole = (u.bound - (1 - beta) * u.cost).detach()
            gap = prune_gap(whole, u.dropped_mass, model.likelihood.max_log_prob(x_unlabelled).detach())
            logged |= {
                "bound_unlabelled": self._mean(whole, num_unlabelled),
                "classes_alive": self._mean(u.num_alive.float(), num_unlabelled),
                "dropped_mass": self._mean(u.dropped_mass, num_unlabelled),
                "prune_gap": self._mean(gap, num_unlabelled),
            }
            if config.extended.enabled and self.consistency > 0 and model.config.classifier != "none":
                terms = self._consistency(x_unlabelled, log_q, r, num_unlabelled, generator)
                loss, logged = loss + self.consistency * terms["consistency"], logged | terms
        if config.class_moments > 0:
            moments = [pairs.moments(cls, weight, model.num_codes) for pairs, cls, weight in posteriors]
            logged["class_divergence"] = class_divergence(self.ranks.sum(torch.stack(moments).sum(0)))
            loss = loss + config.class_moments * logged["class_divergence"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logged.items()}

    def _mean(self, values: Tensor, total: Tensor) -> Tensor:
        """Of points of this rank, so scaled that the mean over ranks is the mean over all `total` points."""
        return values.sum(0) * (self.ranks.world_size / total)

    def _labelled_mean(self, values: Tensor, counts: Tensor, y: Tensor) -> Tensor:
        """As `_mean`, of labelled points `[M, ...]`, each with the weight that its class has in J."""
        weights = self.shares.weights(counts, y).to(values.dtype)
        return self._mean(values * weights.view(-1, *[1] * (values.ndim - 1)), counts.sum())

    def _begin_support(self, f: Tensor, y: Tensor, num_unlabelled: int) -> Callable[[], Tensor]:
        """Begins to sum over the ranks what `_support` needs, `[K * E + K + 1]`."""
        sums, counts = class_sums(f, y, self.model.spec.num_classes)
        return self.ranks.begin(torch.cat([sums.flatten(), counts, counts.new_tensor([num_unlabelled])]))

    def _support(self, f: Tensor, y: Tensor, packed: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Codes of the classes `[K, E]` and of each labelled point `[M, E]`; of all ranks the labelled points of each
        class `[K]`, and the unlabelled ones, a scalar.
        """
        num_classes = self.model.spec.num_classes
        sums, counts, totals = torch.split(packed, [num_classes * f.shape[1], num_classes, 1])
        sums, counts, totals = sums.view(num_classes, -1), counts.detach(), totals.detach().squeeze(0)
        codes = self.model.codes(class_means(sums, counts))
        if self.model.config.class_code == "embedding":
            own = leave_one_out_means(f, y, sums, counts)
            if self.config.self_included:
                own = codes.index_select(0, y)
        else:
            own = codes.index_select(0, self._code_of(y))
        return codes, own, counts, totals

    def _prior_of(self, y: Tensor) -> Tensor:
        return self.model.log_prior[self._code_of(y)]

    def _code_of(self, y: Tensor) -> Tensor:
        """The code that stands for each class of `[B]`: its own, or the only one."""
        return y if self.model.num_codes > 1 else torch.zeros_like(y)

    def _free(self, kl: Tensor) -> Tensor:
        """What free bits add to the loss: units `[V]` below the free amount cost that amount, whatever they do."""
        if self.config.free_bits == 0:
            return kl.new_zeros(())
        # `_mean` has scaled by world_size: the sum over ranks of these is world_size times the mean over all points.
        kl = self.ranks.sum(kl) / self.ranks.world_size
        return F.relu(self.config.free_bits - kl).sum()

    def _cross_entropy(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if self.config.extended.enabled:
            x = augment(x, self.model.spec, self.config.extended.augment, generator)
        f = self.model.embed_support(x)
        codes, own, counts, _ = self._support(f, y, self._begin_support(f, y, 0)())
        r, r_own = self.model.mean_r(codes), self.model.mean_r(own)
        log_q = leave_one_out_log_q(self.model, f[:, : self.model.config.r_dim], y, r, r_own)
        loss = -self._labelled_mean(log_q, counts, y)
        return loss, {"loss": loss.detach(), "log_q_labelled": -loss.detach()}

    def _without_bound(
        self, x_labelled: Tensor, y: Tensor, x_unlabelled: Tensor | None, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The extended objective's terms of q(y|x) alone."""
        model, m = self.model, x_labelled.shape[0]
        f = model.embed_support(x_labelled if x_unlabelled is None else torch.cat([x_labelled, x_unlabelled]))
        packed = self._begin_support(f[:m], y, f.shape[0] - m)()
        codes, own, counts, num_unlabelled = self._support(f[:m], y, packed)
        r, r_own = model.mean_r(codes), model.mean_r(own)
        log_q_own = leave_one_out_log_q(model, self._distorted(x_labelled, generator), y, r, r_own)
        logged = {"log_q_labelled": self._labelled_mean(log_q_own, counts, y)}
        loss = -self.alpha * logged["log_q_labelled"]
        if x_unlabelled is not None:
            log_q = model.classify(f[m:, : model.config.r_dim], r)
            logged |= self._consistency(x_unlabelled, log_q, r, num_unlabelled, generator)
            loss = loss + self.consistency * logged["consistency"]
        return loss, {"loss": loss.detach()} | {name: value.detach() for name, value in logged.items()}

    def _distorted(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """f_inv of a random distortion of each x, `[B, R]`."""
        return self.model.embed(augment(x, self.model.spec, self.config.extended.augment, generator))

    def _consistency(
        self, x: Tensor, log_q: Tensor, r: Tensor, total: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Cross-entropy of the distorted view against the undistorted view's class, where that one is confident (after
        alignment, see `ExtendedConfig.align`), and the share of such points."""
        q = log_q.detach().exp()
        if self.align:
            mean = self.ranks.sum(self._mean(q, total)) / self.ranks.world_size
            q = q * (self.model.log_prior.exp() / mean.clamp(min=_LEAST_SHARE))
            q = q / q.sum(1, keepdim=True)
        confidence, guess = q.max(1)
        mask = (confidence >= self.config.extended.confidence).to(x.dtype)
        log_q_distorted = self.model.classify(self._distorted(x, generator), r)
        surprise = F.nll_loss(log_q_distorted, guess, reduction="none") * mask
        return {"consistency": self._mean(surprise, total), "confident": self._mean(mask, total)}
