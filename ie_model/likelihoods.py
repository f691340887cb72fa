"""p(x | r, v): what the decoder's output means. Shapes: B examples; `out` and x have the spec's shape after B."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ie_model.spec import DataSpec

LOG_2PI = 1.8378770664093453


class Likelihood(nn.Module, ABC):
    """One family of p(x | r, v). Parameters that are not the decoder's (a scale) are its own."""

    @abstractmethod
    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        """log p(x | r, v) in nats, `[B]`, from x `[B, *shape]` and the decoder's output `[B, *shape]`."""

    @abstractmethod
    def mean(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        """E[x | r, v], the shape of `out`; x gives what the family takes as known (a text's or a series' length)."""

    @abstractmethod
    def max_log_prob(self, x: Tensor) -> Tensor:
        """The largest log p(x | r, v) that any decoder's output can give, `[B]`; bounds what pruning leaves out."""

    @abstractmethod
    def uninformed(self, x: Tensor) -> Tensor:
        """Nats that a decoder which knows nothing of x pays for it, `[B]`: the scale of the bound on this data."""


class Bernoulli(Likelihood):
    """Independent Bernoullis with `out` as logits.

    For grey values in [0, 1] log_prob is the expectation over images drawn pixel by pixel with x as the
    probabilities, so a bound made of it is a bound on the expected log-likelihood of such an image.
    """

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return -F.binary_cross_entropy_with_logits(out, x, reduction="none").flatten(1).sum(1)

    def mean(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        return torch.sigmoid(out)

    def max_log_prob(self, x: Tensor) -> Tensor:
        return -(_entropy_term(x) + _entropy_term(1 - x)).flatten(1).sum(1)

    def uninformed(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), x[0].numel() * math.log(2))


class DiscretizedLogistic(Likelihood):
    """Logistic of mean sigmoid(out) and a learned scale per channel, integrated over each of 256 grey levels.

    A distribution over the stored values, so that bits per dimension compare with other work. The lowest and the
    highest level take the tails. Source: Kingma et al., NeurIPS 2016 (inverse autoregressive flow), equation 13.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A tenth of the range to begin with; the logarithm keeps the scale positive.
        self.log_scale = nn.Parameter(torch.full((channels, 1, 1), math.log(0.1)))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        scale = self.log_scale.clamp(min=-7.0).exp()
        distance, half = x - torch.sigmoid(out), 0.5 / 255
        upper, lower = (distance + half) / scale, (distance - half) / scale
        # sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)): nothing cancels, however far the tail.
        width = torch.log(-torch.expm1(-2 * half / scale))
        # The ends of the range have one factor alone. Products, where torch.where would take half of a training step.
        above, below = (x > half).to(x.dtype), (x < 1 - half).to(x.dtype)
        log_prob = below * F.logsigmoid(upper) + above * F.logsigmoid(-lower) + (above * below) * width
        return log_prob.flatten(1).sum(1)

    def mean(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        return torch.sigmoid(out)

    def max_log_prob(self, x: Tensor) -> Tensor:
        # The best mean is x itself; a level at either end of the range has a whole tail to itself.
        half = 0.5 / 255
        reach = half / self.log_scale.clamp(min=-7.0).exp()
        edge = F.logsigmoid(reach)
        inside = 2 * edge + torch.log(-torch.expm1(-2 * reach))
        return torch.where((x <= half) | (x >= 1 - half), edge, inside).flatten(1).sum(1)

    def uninformed(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), x[0].numel() * math.log(256))


class Gaussian(Likelihood):
    """Normal of mean `out` and a learned scale per channel, or per feature of a vector.

    Values that are NaN (padding, missing) do not count.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(spec.shape[0], *(1 for _ in spec.shape[1:])))

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        known, log_scale = ~x.isnan(), self._log_scale()
        squared = (torch.where(known, x - out, 0.0) * (-log_scale).exp()).square()
        return (-0.5 * (LOG_2PI + squared) - log_scale).mul(known).flatten(1).sum(1)

    def mean(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        """The mean, and NaN where x is: a series as long as x, with its gaps."""
        return out if x is None else out.masked_fill(x.isnan(), torch.nan)

    def max_log_prob(self, x: Tensor) -> Tensor:
        return (-0.5 * LOG_2PI - self._log_scale()).mul(~x.isnan()).flatten(1).sum(1)

    def uninformed(self, x: Tensor) -> Tensor:
        # The entropy of a standard normal: sources standardise each channel and feature.
        return 0.5 * (LOG_2PI + 1) * (~x.isnan()).flatten(1).sum(1)

    def _log_scale(self) -> Tensor:
        # A value that is the same in all data would drive its scale to 0 and the density to infinity.
        return self.log_scale.clamp(min=-5.0)


class Multinomial(Likelihood):
    """A text of n words drawn from softmax(out), n given: counts x `[B, W]`."""

    def log_prob(self, x: Tensor, out: Tensor) -> Tensor:
        return self._log_orders(x) + (x * out.log_softmax(-1)).sum(-1)

    def mean(self, out: Tensor, x: Tensor | None = None) -> Tensor:
        """Expected counts of a text as long as x; of one word without x."""
        proportions = out.softmax(-1)
        return proportions if x is None else proportions * x.sum(-1, keepdim=True)

    def max_log_prob(self, x: Tensor) -> Tensor:
        share = x / x.sum(-1, keepdim=True).clamp(min=1)
        return self._log_orders(x) + torch.xlogy(x, share).sum(-1)

    def uninformed(self, x: Tensor) -> Tensor:
        # Of the words in their order, all equally likely; how many orders there are is no matter of the decoder.
        return x.sum(-1) * math.log(x.shape[-1])

    def _log_orders(self, x: Tensor) -> Tensor:
        """log n! / (x_1! ... x_W!), `[B]`."""
        return torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)


def _entropy_term(p: Tensor) -> Tensor:
    """-p log p, and 0 at 0: `torch.xlogy` is not vectorised on CPUs."""
    return -p * p.clamp(min=torch.finfo(p.dtype).tiny).log()


def make_likelihood(spec: DataSpec) -> Likelihood:
    """The family that the spec names."""
    if spec.likelihood == "bernoulli":
        return Bernoulli()
    if spec.likelihood == "discretized_logistic":
        return DiscretizedLogistic(spec.shape[0])
    return Gaussian(spec) if spec.likelihood == "gaussian" else Multinomial()


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_var)) || N(0, I)) per unit, in nats; the shape of the arguments."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1.0)


def normal_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mean, diag exp(log_var)) in nats, summed over the last dimension."""
    return -0.5 * (LOG_2PI + log_var + (z - mean).square() * (-log_var).exp()).sum(-1)
