"""Random distortions that keep the class, for the extended objective and for equivariance measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ie_model.config import AugmentConfig
from ie_model.model import noise_like
from ie_model.networks import within_length
from ie_model.spec import DataSpec


def affine_matrices(rotation: Tensor, shift: Tensor, scale: Tensor, shear: Tensor, height: int, width: int) -> Tensor:
    """Matrices for `torch.nn.functional.affine_grid`.

    Args:
        rotation: radians, `[B]`.
        shift: along width and height, as a fraction of the image's side, `[B, 2]`.
        scale: relative size, 1 keeps it, `[B]`.
        shear: tangent of the angle, `[B]`.
        height, width: of the image. The grid's coordinates run from -1 to 1 along both sides: on a rectangle they
            are stretched, and without their ratio a rotation would shear.

    Returns:
        `[B, 2, 3]`.
    """
    cos, sin = rotation.cos() / scale, rotation.sin() / scale
    rows = [
        torch.stack([cos, (cos * shear - sin) * (height / width), 2 * shift[:, 0]], dim=-1),
        torch.stack([sin * (width / height), sin * shear + cos, 2 * shift[:, 1]], dim=-1),
    ]
    return torch.stack(rows, dim=1)


def affine(x: Tensor, matrices: Tensor) -> Tensor:
    """x `[B, C, H, W]` under one affine map an image `[B, 2, 3]`; what comes from outside has the border's values.

    Zeros would be black areas on a light picture, whose shape alone reveals the map.
    """
    if len(x) == 0:
        return x
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_affine(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """x `[B, C, H, W]` under one random affine map an image."""
    u = _uniform(x, 5, generator)
    matrices = affine_matrices(
        rotation=u[:, 0] * math.radians(config.rotation),
        shift=u[:, 1:3] * config.shift,
        scale=1 + u[:, 3] * config.scale,
        shear=u[:, 4] * config.shear,
        height=x.shape[-2],
        width=x.shape[-1],
    )
    return affine(x, matrices)


def random_series(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Series `[B, C, T]`, each moved in time and stretched in value; what moves past either end of it is lost.

    The series keeps its length: times that nothing moves to repeat its first or last value.
    """
    u = _uniform(x, 2, generator)
    steps = (u[:, 0] * config.shift * x.shape[-1]).round().long()
    inside = within_length(~x.isnan())
    last = (inside.sum(-1) - 1).clamp(min=0)
    time = torch.arange(x.shape[-1], device=x.device)
    source = torch.minimum((time - steps.unsqueeze(1)).clamp(min=0), last)
    moved = x.gather(-1, source.unsqueeze(1).expand_as(x))
    # Where a gap would come to lie at the end, and so shorten the series, its last values stay.
    gap = (time == last).unsqueeze(1) & moved.isnan().all(dim=1, keepdim=True)
    moved = torch.where(gap, x, moved) * (1 + u[:, 1] * config.scale).view(-1, 1, 1)
    return torch.where(inside, moved, x)


def random_counts(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Counts `[B, W]`, a random share of each text's words left out: each word stays with the same probability."""
    keep = 1 - config.drop * torch.rand(x.shape[0], 1, generator=generator, device=generator.device)
    kept = torch.binomial(x.to(generator.device), keep.expand_as(x), generator=generator)
    return kept.to(x.device)


def random_vector(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Vectors `[B, D]`, each with noise on its features and a random share of them set to their mean, 0."""
    dropped, noisy = ((_uniform(x, 2, generator) + 1) / 2).chunk(2, dim=1)
    kept = (_uniform(x, x.shape[1], generator) + 1) / 2 >= config.drop_features * dropped
    return (x + config.noise * noisy * noise_like(x, generator)) * kept


def augment(x: Tensor, spec: DataSpec, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """The random distortion for a kind of data, one for each example of x `[B, *spec.shape]`."""
    if spec.kind == "image":
        return random_affine(x, config, generator)
    others = {"series": random_series, "counts": random_counts, "vector": random_vector}
    return others[spec.kind](x, config, generator)


def _uniform(x: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """`[B, num]`, each uniform in -1..1."""
    return torch.rand(x.shape[0], num, generator=generator, device=generator.device).to(x.device) * 2 - 1
