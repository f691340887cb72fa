"""Using a trained model: classify three ways, encode, reconstruct, swap, sample, bound.

All functions take one batch of floats in [0, 1] on the model's device and compute no gradients; `in_batches` runs
them over stored data. Shapes: B examples, K classes, R and V sizes of r and v.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.likelihoods import bernoulli_log_prob, bernoulli_mean, normal_kl, normal_log_prob
from ie_model.model import EquiVAE, class_sums, squared_distances
from ie_model.networks import to_float
from ie_model.objective import noise_like, unlabelled_bound


@dataclass(frozen=True)
class Encoded:
    """What the model says of a batch."""

    f: Tensor
    """f_inv(x), the single-example embedding, `[B, R]`."""

    log_q: Tensor
    """log q(y | x), `[B, K]`."""

    v_mean: Tensor
    """Mean of q(v | r_y, x), y the predicted class, `[B, V]`."""

    v_log_var: Tensor
    """Its log-variance, `[B, V]`."""

    kl: Tensor
    """KL to the prior per unit of v, nats, `[B, V]`."""

    bound: Tensor
    """U(x), one sample of v per class, nats, `[B]`."""

    reconstruction: Tensor
    """E[x | r_y, v_mean], `[B, *shape]`."""


def in_batches(x: Tensor, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Stored examples `[N, *shape]` as float batches in [0, 1] on a device."""
    for batch in torch.split(x, batch_size):
        yield to_float(batch.to(device))


@torch.no_grad()
def representations(
    model: EquiVAE, x: Tensor, y: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """r_y over a whole labelled set, in one streaming pass.

    Args:
        x: stored examples `[N, *shape]`; y: their classes `[N]`.

    Returns:
        means `[K, R]` and counts `[K]`.

    Raises:
        ValueError: a class has no labelled point.
    """
    num_classes = model.spec.num_classes
    sums = torch.zeros(num_classes, model.config.r_dim, device=device)
    counts = torch.zeros(num_classes, device=device)
    for batch, labels in zip(in_batches(x, batch_size, device), torch.split(y, batch_size), strict=True):
        batch_sums, batch_counts = class_sums(model.embed(batch), labels.to(device), num_classes)
        sums += batch_sums
        counts += batch_counts
    if bool((counts < 1).any()):
        raise ValueError(f"no labelled point of class {torch.nonzero(counts < 1).flatten().tolist()}")
    return sums / counts.unsqueeze(1), counts


@torch.no_grad()
def classify(artifact: Artifact, x: Tensor) -> Tensor:
    """Rule 1: log q(y | x) `[B, K]`."""
    return artifact.model.classify(artifact.model.embed(x), artifact.class_representations)


@torch.no_grad()
def nearest_prototype(artifact: Artifact, f: Tensor) -> Tensor:
    """Rule 3: the class whose r_y is nearest to f_inv(x) `[B, R]`, as class indices `[B]`."""
    return squared_distances(f, artifact.class_representations).argmin(1)


@torch.no_grad()
def class_bounds(artifact: Artifact, x: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Rule 2 is the argmax of these: an L-sample importance-weighted bound on log p(x | y) + log p(y), `[B, K]`.

    Args:
        num_samples: L, samples of v per class.
    """
    num_classes = artifact.model.spec.num_classes
    features = artifact.model.features(x)
    columns = []
    for c in range(num_classes):
        r = artifact.class_representations[c].expand(x.shape[0], -1)
        columns.append(_weighted_bound(artifact.model, x, features, r, num_samples, generator))
    return torch.stack(columns, dim=1) - math.log(num_classes)


@torch.no_grad()
def importance_weighted_bound(
    artifact: Artifact, x: Tensor, num_samples: int, prune: float, generator: torch.Generator
) -> Tensor:
    """A bound on log p(x) `[B]` in nats: num_samples weights for each class with q(y|x) >= prune, summed over y.

    Leaving classes out only lowers the sum, so it stays a bound.
    """
    model = artifact.model
    log_q = classify(artifact, x)
    alive = log_q >= math.log(prune) if prune > 0 else torch.ones_like(log_q, dtype=torch.bool)
    alive.scatter_(1, log_q.argmax(1, keepdim=True), True)
    row, cls = alive.nonzero(as_tuple=True)
    features = model.features(x)
    pairs = _weighted_bound(model, x[row], features[row], artifact.class_representations[cls], num_samples, generator)
    scores = torch.full_like(log_q, -torch.inf)
    scores[row, cls] = pairs - math.log(model.spec.num_classes)
    return scores.logsumexp(1)


def _weighted_bound(
    model: EquiVAE, x: Tensor, features: Tensor, r: Tensor, num_samples: int, generator: torch.Generator
) -> Tensor:
    """log (1/L) sum over L samples of p(x | r, v) p(v) / q(v | r, x), `[B]` (Burda et al. 2016, equation 8)."""
    mean, log_var = model.posterior(features, r)
    log_weights = []
    for _ in range(num_samples):
        v = mean + (0.5 * log_var).exp() * noise_like(mean, generator)
        prior = normal_log_prob(v, torch.zeros_like(mean), torch.zeros_like(log_var))
        log_prob = bernoulli_log_prob(x, model.decode(r, v))
        log_weights.append(log_prob + prior - normal_log_prob(v, mean, log_var))
    return torch.stack(log_weights).logsumexp(0) - math.log(num_samples)


@torch.no_grad()
def encode(artifact: Artifact, x: Tensor, prune: float, generator: torch.Generator) -> Encoded:
    """Embedding, class, posterior of v given the PREDICTED class, bound and reconstruction.

    The predicted class conditions v, not the true one: a true label could itself carry the class into v.
    """
    model, r = artifact.model, artifact.class_representations
    f, features = model.embed(x), model.features(x)
    log_q = model.classify(f, r)
    r_predicted = r[log_q.argmax(1)]
    mean, log_var = model.posterior(features, r_predicted)
    bound = unlabelled_bound(model, x, features, r, log_q, prune, generator).bound
    reconstruction = bernoulli_mean(model.decode(r_predicted, mean))
    return Encoded(f, log_q, mean, log_var, normal_kl(mean, log_var), bound, reconstruction)


@torch.no_grad()
def swap(artifact: Artifact, x: Tensor) -> Tensor:
    """The class-swap: v of each x decoded with the r of every class, `[B, K, *shape]` in [0, 1]."""
    model, r = artifact.model, artifact.class_representations
    features = model.features(x)
    v, _ = model.posterior(features, r[classify(artifact, x).argmax(1)])
    columns = [bernoulli_mean(model.decode(r[c].expand(len(v), -1), v)) for c in range(len(r))]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def sample(artifact: Artifact, num: int, generator: torch.Generator) -> Tensor:
    """New examples: num draws of v ~ N(0, I), each decoded with the r of every class, `[K, num, *shape]`."""
    model, r = artifact.model, artifact.class_representations
    v = noise_like(torch.empty(num, model.config.v_dim, device=r.device), generator)
    return torch.stack([bernoulli_mean(model.decode(r[c].expand(num, -1), v)) for c in range(len(r))])


def collect(batches: Iterator[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of every batch, concatenated on the CPU."""
    return torch.cat([function(batch).cpu() for batch in batches])
