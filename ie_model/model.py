"""EquiVAE: an invariant representation r of the class and an equivariant representation v of the transformation.

Source: I. Feige, "Invariant-Equivariant Representation Learning for Multi-Class Data", ICML 2019. What follows is the
model's form as generally understood; docs/method.md says which choices are this project's own.

Shapes: B examples, K classes, R and V sizes of r and v, H features of a trunk.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ie_model.config import ModelConfig
from ie_model.networks import DenseDecoder, ImageTrunk, PosteriorHead
from ie_model.spec import DataSpec


class EquiVAE(nn.Module):
    """The networks f_inv, q(v | r, x), p(x | r, v) and q(y | x)."""

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        self.spec = spec
        self.config = config
        self.invariant_trunk = ImageTrunk(spec, config)
        self.invariant_out = nn.Linear(config.hidden, config.r_dim)
        self.posterior_trunk = ImageTrunk(spec, config)
        self.posterior_head = PosteriorHead(config)
        self.decoder = DenseDecoder(spec, config)
        if config.classifier == "distance":
            # The scale of the distances; its logarithm is learned so that it stays positive.
            self.log_scale = nn.Parameter(torch.tensor(math.log(config.r_dim)))
        else:
            self.class_logits = nn.Linear(config.r_dim, spec.num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """f_inv(x): `[B, *shape]` floats -> `[B, R]`."""
        return self.invariant_out(self.invariant_trunk(x))

    def features(self, x: Tensor) -> Tensor:
        """The part of q(v | r, x) that does not depend on r, once per x: `[B, *shape]` -> `[B, H]`."""
        return self.posterior_head.project_features(self.posterior_trunk(x))

    def posterior(self, features: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(v | r, x), each `[B, V]`, from `features(x)` `[B, H]` and r `[B, R]`."""
        return self.posterior_head.combine(features, self.posterior_head.project_r(r))

    def decode(self, r: Tensor, v: Tensor) -> Tensor:
        """Parameters of p(x | r, v): r `[B, R]`, v `[B, V]` -> `[B, *shape]`."""
        return self.decoder(r, v)

    def classify(self, f: Tensor, r: Tensor) -> Tensor:
        """log q(y | x) `[B, K]` from f = f_inv(x) `[B, R]` and the class representations r `[K, R]`."""
        if self.config.classifier == "network":
            return self.class_logits(f).log_softmax(-1)
        return self.distance_logits(squared_distances(f, r)).log_softmax(-1)

    def distance_logits(self, distances: Tensor) -> Tensor:
        """Squared distances -> unnormalised log q(y | x) of the distance classifier, the same shape."""
        return -self.log_scale.exp() * distances


def squared_distances(f: Tensor, r: Tensor) -> Tensor:
    """Mean squared difference of every pair: f `[B, R]`, r `[K, R]` -> `[B, K]`.

    The mean over R, not the sum: the learned scale then starts in the same place for any R.
    """
    return (f.unsqueeze(1) - r.unsqueeze(0)).square().mean(-1)


def class_sums(f: Tensor, y: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """S_y = sum of the embeddings of class y `[K, R]` and n_y, their number `[K]`, from f `[B, R]` and y `[B]`."""
    sums = f.new_zeros(num_classes, f.shape[1]).index_add(0, y, f)
    counts = f.new_zeros(num_classes).index_add(0, y, torch.ones_like(y, dtype=f.dtype))
    return sums, counts


def class_means(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """r_y, the mean embedding of each class `[K, R]`.

    Raises:
        ValueError: a class has no point in the support.
    """
    sums, counts = class_sums(f, y, num_classes)
    if bool((counts < 1).any()):
        missing = torch.nonzero(counts < 1).flatten().tolist()
        raise ValueError(f"no labelled point of class {missing}: its representation r is undefined")
    return sums / counts.unsqueeze(1)


def leave_one_out_means(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """r_-i = (S_y - f(x_i)) / (n_y - 1): the representation of x_i's class without x_i, `[B, R]`.

    One pass over the support, no resampling (method.md section 4).

    Raises:
        ValueError: a class is present with a single point, which has no complement.
    """
    sums, counts = class_sums(f, y, num_classes)
    if bool((counts == 1).any()):
        single = torch.nonzero(counts == 1).flatten().tolist()
        raise ValueError(
            f"class {single} has a single labelled point: without it nothing is left to represent the class"
        )
    return (sums[y] - f) / (counts[y] - 1).unsqueeze(1)
