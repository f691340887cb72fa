"""Random affine maps of images, for the extended objective and for equivariance measures."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ie_model.config import AugmentConfig


def affine_matrices(rotation: Tensor, shift: Tensor, scale: Tensor, shear: Tensor) -> Tensor:
    """Matrices for `torch.nn.functional.affine_grid`.

    Args:
        rotation: radians, `[B]`.
        shift: along width and height, as a fraction of the image's side, `[B, 2]`.
        scale: relative size, 1 keeps it, `[B]`.
        shear: tangent of the angle, `[B]`.

    Returns:
        `[B, 2, 3]`.
    """
    cos, sin = rotation.cos() / scale, rotation.sin() / scale
    rows = [
        torch.stack([cos, cos * shear - sin, 2 * shift[:, 0]], dim=-1),
        torch.stack([sin, sin * shear + cos, 2 * shift[:, 1]], dim=-1),
    ]
    return torch.stack(rows, dim=1)


def random_affine(x: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """x `[B, C, H, W]` under one random affine map an image; what comes from outside the image is 0."""
    u = torch.rand(x.shape[0], 5, generator=generator, device=generator.device).to(x.device) * 2 - 1
    matrices = affine_matrices(
        rotation=u[:, 0] * math.radians(config.rotation),
        shift=u[:, 1:3] * config.shift,
        scale=1 + u[:, 3] * config.scale,
        shear=u[:, 4] * config.shear,
    )
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
