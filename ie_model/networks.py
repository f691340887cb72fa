"""Encoders and decoders, built from a `DataSpec`. Shapes: B examples, R and V sizes of r and v, H features."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ie_model.config import ModelConfig
from ie_model.spec import DataSpec


class ImageTrunk(nn.Module):
    """Stride-2 convolutions and one dense layer: `[B, C, H, W]` -> `[B, config.hidden]`."""

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        channels, height, width = spec.shape
        layers: list[nn.Module] = []
        for out_channels in config.channels:
            layers += [nn.Conv2d(channels, out_channels, kernel_size=5, stride=2, padding=2), nn.ReLU()]
            channels, height, width = out_channels, (height + 1) // 2, (width + 1) // 2
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * height * width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(self.convolutions(x).flatten(1)))


class PosteriorHead(nn.Module):
    """Mean and log-variance of q(v | r, x) from the trunk's features and r.

    Only this head sees r. Its first layer is linear in the pair, so a class sum pays for the features once
    per example and for r once per class (`project_features`, `project_r`), and per pair for the rest only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.from_features = nn.Linear(config.hidden, config.hidden)
        self.from_r = nn.Linear(config.r_dim, config.hidden, bias=False)
        self.out = nn.Linear(config.hidden, 2 * config.v_dim)

    def project_features(self, features: Tensor) -> Tensor:
        """`[B, H]` -> `[B, H]`."""
        return self.from_features(features)

    def project_r(self, r: Tensor) -> Tensor:
        """`[..., R]` -> `[..., H]`."""
        return self.from_r(r)

    def combine(self, projected_features: Tensor, projected_r: Tensor) -> tuple[Tensor, Tensor]:
        """Two `[B, H]` -> mean and log-variance, each `[B, V]`."""
        mean, log_var = self.out(F.relu(projected_features + projected_r)).chunk(2, dim=-1)
        # A log-variance outside this range is never needed and its exponential would overflow early in training.
        return mean, log_var.clamp(-10.0, 10.0)


class DenseDecoder(nn.Module):
    """Dense network from r and v to the parameters of p(x | r, v), in the shape of x."""

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        self.shape = spec.shape
        self.from_v = nn.Linear(config.v_dim, config.decoder_hidden[0])
        self.from_r = nn.Linear(config.r_dim, config.decoder_hidden[0], bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        width = config.decoder_hidden[0]
        for next_width in config.decoder_hidden[1:]:
            layers += [nn.Linear(width, next_width), nn.ReLU()]
            width = next_width
        self.hidden = nn.Sequential(*layers)
        self.out = nn.Linear(width, spec.num_values)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r `[B, R]`, v `[B, V]` -> logits `[B, *spec.shape]`."""
        hidden = self.hidden(self.from_v(v) + self.from_r(r))
        return self.out(hidden).unflatten(-1, self.shape)


def count_parameters(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def to_float(x: Tensor) -> Tensor:
    """Stored `uint8` values -> floats in [0, 1]."""
    return x.to(torch.float32).div_(255.0)
