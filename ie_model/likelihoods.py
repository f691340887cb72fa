"""p(x | r, v): what the decoder's output means."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_2PI = 1.8378770664093453


def bernoulli_log_prob(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x | r, v) in nats per example, one independent Bernoulli per value.

    For grey values in [0, 1] this is the expectation over images drawn pixel by pixel with x as the
    probabilities, so a bound made of it is a bound on the expected log-likelihood of such an image.

    Args:
        x: values in [0, 1], shape `[B, ...]`.
        logits: the decoder's output, the same shape.

    Returns:
        shape `[B]`.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def bernoulli_mean(logits: Tensor) -> Tensor:
    """E[x | r, v], the same shape as `logits`."""
    return torch.sigmoid(logits)


def normal_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, diag exp(log_var)) || N(0, I)) per unit, in nats; the shape of the arguments."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1.0)


def normal_log_prob(z: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(z; mean, diag exp(log_var)) in nats, summed over the last dimension."""
    return -0.5 * (LOG_2PI + log_var + (z - mean).square() * (-log_var).exp()).sum(-1)
