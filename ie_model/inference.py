"""Using a trained model: classify three ways, encode, reconstruct, swap, interpolate, sample, bound, add classes.

All functions take one batch of floats on the model's device (`to_float` of stored values) and compute no gradients;
`in_batches` runs them over stored data. Shapes: B examples, K classes, R and V sizes of r and v.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.bounds import alive_classes, marginal_elbo
from ie_model.likelihoods import normal_kl, normal_log_prob
from ie_model.model import EquiVAE, class_means, class_sums, noise_like, squared_distances
from ie_model.networks import to_float


@dataclass(frozen=True)
class Encoded:
    """A model's outputs for a batch."""

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

    squared_error: Tensor
    """Mean over values of (x - reconstruction)^2, `[B]`."""


def in_batches(x: Tensor, batch_size: int, device: torch.device | str = "cpu") -> Iterator[Tensor]:
    """Stored examples `[N, *shape]` as float batches on a device."""
    for batch in torch.split(x, batch_size):
        yield to_float(batch.to(device))


@torch.no_grad()
def representations(
    model: EquiVAE, x: Tensor, y: Tensor, batch_size: int, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """r_y over a whole labelled set, in one streaming pass; fixed codes where the model has those.

    Args:
        x: stored examples `[N, *shape]`; y: their classes `[N]`.

    Returns:
        class representations `[K, R]` and labelled points of each class.

    Raises:
        ValueError: a class has no labelled point.
    """
    batches = zip(in_batches(x, batch_size, device), torch.split(y.to(device), batch_size), strict=True)
    return streamed_representations(model, batches, device)


@torch.no_grad()
def streamed_representations(
    model: EquiVAE, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """As `representations`, of batches of examples as floats `[B, *shape]` and their classes `[B]`, on the device."""
    num_classes = model.spec.num_classes
    counts = torch.zeros(num_classes, device=device)
    embeds = model.config.class_code == "embedding"
    sums = torch.zeros(num_classes, model.r_dim, device=device)
    for x, y in batches:
        if embeds:
            batch_sums, batch_counts = class_sums(model.embed(x), y, num_classes)
            sums += batch_sums
            counts += batch_counts
        else:
            counts += torch.bincount(y, minlength=num_classes)
    return class_means(sums, counts) if embeds else model.fixed_codes().to(device), counts


@torch.no_grad()
def classify(artifact: Artifact, x: Tensor) -> Tensor:
    """Rule 1: log q(y | x) `[B, K]`."""
    return artifact.model.classify(artifact.model.embed(x), artifact.class_representations)


@torch.no_grad()
def nearest_prototype(artifact: Artifact, f: Tensor) -> Tensor:
    """Rule 3: the class whose r_y is nearest to f_inv(x) `[B, R]`, as class indices `[B]`.

    Raises:
        ValueError: the model's class codes are no embeddings (M2, plain VAE).
    """
    _needs_embedding(artifact.model, "the nearest prototype")
    return squared_distances(f, artifact.class_representations).argmin(1)


@torch.no_grad()
def class_bounds(artifact: Artifact, x: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Rule 2 is the argmax of these: an L-sample importance-weighted bound on log p(x | y) + log p(y), `[B, K]`.

    Args:
        num_samples: L, samples of v per class.
    """
    codes = artifact.class_representations
    features = artifact.model.features(x)
    columns = []
    for c in range(len(codes)):
        r = codes[c].expand(x.shape[0], -1)
        columns.append(_weighted_bound(artifact.model, x, features, r, num_samples, generator))
    return torch.stack(columns, dim=1) + artifact.model.log_prior


@torch.no_grad()
def importance_weighted_bound(
    artifact: Artifact, x: Tensor, num_samples: int, prune: float, generator: torch.Generator
) -> Tensor:
    """A bound on log p(x) `[B]` in nats: num_samples weights for each class with q(y|x) >= prune, summed over y.

    Leaving classes out only lowers the sum, so it stays a bound.
    """
    model = artifact.model
    log_q = classify(artifact, x)
    row, cls = alive_classes(log_q, prune).nonzero(as_tuple=True)
    features = model.features(x)
    pairs = _weighted_bound(model, x[row], features[row], artifact.class_representations[cls], num_samples, generator)
    scores = torch.full_like(log_q, -torch.inf)
    scores[row, cls] = pairs + model.log_prior[cls]
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
        log_weights.append(model.log_prob(x, r, v) + prior - normal_log_prob(v, mean, log_var))
    return torch.stack(log_weights).logsumexp(0) - math.log(num_samples)


@torch.no_grad()
def encode(
    artifact: Artifact, x: Tensor, prune: float, generator: torch.Generator, condition: Tensor | None = None
) -> Encoded:
    """Embedding, class, posterior of v given the PREDICTED class, bound and reconstruction.

    The predicted class conditions v, not the true one: a true label could itself carry the class into v.

    Args:
        condition: other classes to condition v on, `[B]`, to tell what v carries from what its condition does.
    """
    model, r = artifact.model, artifact.class_representations
    f, features = model.embed(x), model.features(x)
    log_q = model.classify(f, r)
    r_predicted = r[log_q.argmax(1) if condition is None else condition]
    mean, log_var = model.posterior(features, r_predicted)
    bound = marginal_elbo(model, x, features, r, log_q, prune, generator).bound
    reconstruction = model.reconstruct(r_predicted, mean, x)
    error = squared_error(x, reconstruction)
    return Encoded(f, log_q, mean, log_var, normal_kl(mean, log_var), bound, reconstruction, error)


def squared_error(x: Tensor, reconstruction: Tensor) -> Tensor:
    """Mean over an example's values of (x - reconstruction)^2, `[B]`; values that are NaN do not count."""
    return (x - reconstruction).square().flatten(1).nanmean(1)


@torch.no_grad()
def posterior_mean(artifact: Artifact, x: Tensor) -> Tensor:
    """The mean of q(v | r_y, x), y the predicted class, `[B, V]`."""
    model, r = artifact.model, artifact.class_representations
    mean, _ = model.posterior(model.features(x), r[classify(artifact, x).argmax(1)])
    return mean


@torch.no_grad()
def swap(artifact: Artifact, x: Tensor) -> Tensor:
    """The class-swap: v of each x decoded with the r of every class, `[B, K, *shape]`."""
    model, r = artifact.model, artifact.class_representations
    v = posterior_mean(artifact, x)
    columns = [model.reconstruct(r[c].expand(len(v), -1), v, x) for c in range(len(r))]
    return torch.stack(columns, dim=1)


@torch.no_grad()
def interpolate(artifact: Artifact, x_from: Tensor, x_to: Tensor, num_steps: int, *, along: str = "both") -> Tensor:
    """Straight lines between pairs of examples in r, in v or in both, decoded, `[B, num_steps, *shape]`.

    Args:
        x_from, x_to: `[B, *shape]`; r of each is the representation of its predicted class.
        num_steps: points of a line with both ends, at least 2.
        along: `r` keeps the v of x_from, `v` keeps its r, `both` moves both.

    Raises:
        ValueError: too few steps, or another word for `along`.
    """
    if num_steps < 2 or along not in ("r", "v", "both"):
        raise ValueError(f"num_steps must be at least 2 and along r, v or both; got {num_steps} and {along!r}")
    model, codes = artifact.model, artifact.class_representations
    ends = [(codes[classify(artifact, x).argmax(1)], posterior_mean(artifact, x)) for x in (x_from, x_to)]
    (r0, v0), (r1, v1) = ends
    columns = []
    for t in torch.linspace(0, 1, num_steps).tolist():
        r = torch.lerp(r0, r1, t) if along != "v" else r0
        v = torch.lerp(v0, v1, t) if along != "r" else v0
        columns.append(model.reconstruct(r, v, x_from))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def traverse(artifact: Artifact, r: Tensor, v: Tensor, unit: int, values: Tensor) -> Tensor:
    """One unit of v set to each of `values` `[T]`, the rest kept: r `[B, R]`, v `[B, V]` -> `[B, T, *shape]`."""
    columns = []
    for value in values:
        moved = v.clone()
        moved[:, unit] = value
        columns.append(artifact.model.reconstruct(r, moved))
    return torch.stack(columns, dim=1)


@torch.no_grad()
def sample(artifact: Artifact, num: int, generator: torch.Generator) -> Tensor:
    """New examples: num draws of v ~ N(0, I), each decoded with the r of every class, `[K, num, *shape]`."""
    model, r = artifact.model, artifact.class_representations
    v = noise_like(torch.empty(num, model.config.v_dim, device=r.device), generator)
    return torch.stack([model.reconstruct(r[c].expand(num, -1), v) for c in range(len(r))])


@torch.no_grad()
def add_classes(artifact: Artifact, names: Sequence[str], x: Tensor, y: Tensor) -> Artifact:
    """The model with NEW classes, from a handful of examples of each and no training (few-shot use).

    A new class's r is the mean of f_inv over its examples; it is then classified, swapped to and sampled like any
    other. The weights are shared with the given artifact, not copied. p(y) gives each class the same weight.

    Args:
        names: of the new classes.
        x: their examples, `[N, *shape]`; y: index into `names` of each, `[N]`; at least one of each.

    Raises:
        ValueError: a name that is there already or occurs twice, a class without an example, a model whose classes
            are not means of embeddings or whose classifier knows its training classes only.
    """
    _needs_embedding(artifact.model, "a new class")
    if artifact.model.config.classifier != "distance":
        raise ValueError("a new class needs the distance classifier; this model's q(y|x) is a network of its own")
    if len(x) != len(y) or len(y) == 0 or int(y.min()) < 0 or int(y.max()) >= len(names):
        raise ValueError(f"y must name one of {len(names)} new classes for each of {len(x)} examples")
    sums, counts = class_sums(artifact.model.embed(x), y.to(x.device), len(names))
    classes = (*artifact.model.spec.classes, *names)
    if len(set(classes)) != len(classes):
        raise ValueError(f"class names must differ from each other, got {list(names)} beside those of the model")
    model = copy.copy(artifact.model)  # shallow: the same parameters
    model._buffers = dict(model._buffers)
    model.spec = artifact.model.spec.model_copy(update={"classes": classes})
    model.num_codes = len(classes)
    model.log_prior = torch.full((len(classes),), -math.log(len(classes)), device=x.device)
    return replace(
        artifact,
        model=model,
        class_representations=torch.cat([artifact.class_representations, class_means(sums, counts)]),
        class_counts=torch.cat([artifact.class_counts, counts]),
    )


def _needs_embedding(model: EquiVAE, what: str) -> None:
    if model.config.class_code != "embedding":
        raise ValueError(f"{what} needs class_code 'embedding'; this model has {model.config.class_code!r}")


def collect(batches: Iterator[Tensor], function: Callable[[Tensor], Tensor]) -> Tensor:
    """`function` of every batch, concatenated on the CPU."""
    return torch.cat([function(batch).cpu() for batch in batches])
