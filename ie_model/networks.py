"""Encoders and decoders, built from a `DataSpec`. Shapes: B examples, R and V sizes of r and v, H features."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ie_model.config import ModelConfig
from ie_model.spec import DataSpec
from ie_model.strided import StridedConv2d, StridedConvTranspose2d

# Side of the feature map that a wide-residual trunk hands to its dense layer: coarse, but v needs to know where.
_POOLED = 4


class ImageTrunk(nn.Module):
    """Stride-2 convolutions and one dense layer: `[B, C, H, W]` -> `[B, config.hidden]`.

    The dense layer takes the feature map with its channels last, as the convolutions leave it in memory.
    """

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        channels, height, width = spec.shape
        layers: list[nn.Module] = []
        for out_channels in config.channels:
            layers += [StridedConv2d(channels, out_channels), nn.ReLU(inplace=True)]
            channels, height, width = out_channels, _half(height), _half(width)
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * height * width, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(self.convolutions(x).permute(0, 2, 3, 1).flatten(1)), inplace=True)


class ResidualBlock(nn.Module):
    """Pre-activation block of two 3x3 convolutions.

    Normalised over groups of channels, never over the batch: a point's features must not depend on the points
    beside it, or leaving it out of r would leave its traces in.
    """

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(math.gcd(8, channels), channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(8, out_channels), out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.skip = (
            nn.Identity()
            if stride == 1 and channels == out_channels
            else nn.Conv2d(channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(F.relu(self.norm1(x)))
        result: Tensor = self.skip(x) + self.conv2(F.relu(self.norm2(inner)))
        return result


class WideResidualTrunk(nn.Module):
    """Wide residual network without its classifier: `[B, C, H, W]` -> `[B, config.hidden]`.

    channels (32, 64, 128) with 4 blocks a group are the sizes of WRN-28-2. Source: Zagoruyko and Komodakis, BMVC 2016.
    """

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        channels = 16
        layers: list[nn.Module] = [nn.Conv2d(spec.shape[0], channels, 3, 1, 1, bias=False)]
        for group, out_channels in enumerate(config.channels):
            for block in range(config.residual_blocks):
                layers.append(ResidualBlock(channels, out_channels, 2 if group > 0 and block == 0 else 1))
                channels = out_channels
        layers += [nn.GroupNorm(math.gcd(8, channels), channels), nn.ReLU(), nn.AdaptiveAvgPool2d(_POOLED)]
        self.convolutions = nn.Sequential(*layers)
        self.dense = nn.Linear(channels * _POOLED * _POOLED, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(self.convolutions(x).flatten(1)))


class SeriesTrunk(nn.Module):
    """Stride-2 convolutions over time and one dense layer: `[B, C, T]`, NaN where unknown -> `[B, config.hidden]`.

    The convolutions see values and which of them are known. After each, times past the series' end are set to zero:
    what fills them never reaches the dense layer.
    """

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        channels, length = spec.shape
        channels *= 2
        layers: list[nn.Module] = []
        for out_channels in config.channels:
            layers.append(nn.Conv1d(channels, out_channels, kernel_size=5, stride=2, padding=2))
            channels, length = out_channels, _half(length)
        self.convolutions = nn.ModuleList(layers)
        self.dense = nn.Linear(channels * length, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        known = ~x.isnan()
        inside = within_length(known)
        h = torch.cat([x.nan_to_num(), known.to(x.dtype)], dim=1)
        for convolution in self.convolutions:
            inside = inside[..., ::2]
            h = F.relu(convolution(h)) * inside
        return F.relu(self.dense(h.flatten(1)))


class VectorTrunk(nn.Module):
    """Two dense layers: `[B, D]` -> `[B, config.hidden]`."""

    def __init__(self, spec: DataSpec, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Sequential(
            nn.Linear(spec.shape[0], config.hidden), nn.ReLU(), nn.Linear(config.hidden, config.hidden), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.dense(x)
        return result


class CountsTrunk(VectorTrunk):
    """The same on log(1 + counts): `[B, W]` -> `[B, config.hidden]`."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.log1p(x))


def _initialise(config: ModelConfig, *parts: nn.Module | None) -> None:
    """Weights of layers before a ReLU, as `config.initialisation` says; He's keep the mean square of what goes in."""
    if config.initialisation == "uniform":  # PyTorch's own, as they were made
        return
    for layer in (layer for part in parts if part is not None for layer in part.modules()):
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def make_trunk(spec: DataSpec, config: ModelConfig) -> nn.Module:
    """The encoder's trunk for a kind of data: `[B, *spec.shape]` -> `[B, config.hidden]`."""
    trunks: dict[str, Callable[[DataSpec, ModelConfig], nn.Module]] = {
        "image": ImageTrunk if config.encoder == "convolutional" else WideResidualTrunk,
        "series": SeriesTrunk,
        "counts": CountsTrunk,
        "vector": VectorTrunk,
    }
    trunk = trunks[spec.kind](spec, config)
    _initialise(config, trunk)
    return trunk


class PosteriorHead(nn.Module):
    """Mean and log-variance of q(v | r, x) from the trunk's features and r.

    Only this head sees r. Its first layer is linear in the pair, so a class sum pays for the features once
    per example and for r once per class (`project_features`, `project_r`), and per pair for the rest only.
    """

    def __init__(self, config: ModelConfig, r_dim: int) -> None:
        super().__init__()
        self.from_features = nn.Linear(config.hidden, config.hidden)
        self.from_r = nn.Linear(r_dim, config.hidden, bias=False) if config.posterior == "r_and_x" else None
        self.out = nn.Linear(config.hidden, 2 * config.v_dim)
        _initialise(config, self.from_features, self.from_r)

    def project_features(self, features: Tensor) -> Tensor:
        """`[B, H]` -> `[B, H]`."""
        result: Tensor = self.from_features(features)
        return result

    def project_r(self, r: Tensor) -> Tensor:
        """`[..., R]` -> `[..., H]`; zero where q(v | x) does not see r."""
        if self.from_r is None:
            return r.new_zeros(*r.shape[:-1], self.out.in_features)
        result: Tensor = self.from_r(r)
        return result

    def combine(self, projected_features: Tensor, projected_r: Tensor) -> tuple[Tensor, Tensor]:
        """Two `[B, H]` -> mean and log-variance, each `[B, V]`."""
        mean, log_var = self.out(F.relu(projected_features + projected_r)).chunk(2, dim=-1)
        # A log-variance outside this range is never needed and its exponential would overflow early in training.
        return mean, log_var.clamp(-10.0, 10.0)


class DenseDecoder(nn.Module):
    """Dense network from r and v to the parameters of p(x | r, v), in the shape of x."""

    def __init__(self, spec: DataSpec, config: ModelConfig, r_dim: int) -> None:
        super().__init__()
        self.shape = spec.shape
        self.stem = _Stem(config, r_dim)
        self.out = nn.Linear(config.decoder_hidden[-1], spec.num_values)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r `[B, R]`, v `[B, V]` -> `[B, *spec.shape]`."""
        return self.out(self.stem(r, v)).unflatten(-1, self.shape)


class ConvolutionalDecoder(nn.Module):
    """Dense layers, then the trunk's stride-2 convolutions turned round, to any size of image."""

    def __init__(self, spec: DataSpec, config: ModelConfig, r_dim: int) -> None:
        super().__init__()
        channels, height, width = spec.shape
        sizes = [(height, width)]
        for _ in config.channels:
            sizes.append((_half(sizes[-1][0]), _half(sizes[-1][1])))
        self.stem = _Stem(config, r_dim)
        self.start = (config.channels[-1], *sizes[-1])
        self.dense = nn.Linear(config.decoder_hidden[-1], math.prod(self.start))
        _initialise(config, self.dense)
        layers: list[nn.Module] = []
        outputs = [channels, *config.channels[:-1]]
        for i in reversed(range(len(config.channels))):
            layers += [nn.ReLU(), StridedConvTranspose2d(config.channels[i], outputs[i], sizes[i])]
        self.convolutions = nn.Sequential(*layers)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        """r `[B, R]`, v `[B, V]` -> `[B, *spec.shape]`."""
        channels, height, width = self.start
        start = self.dense(self.stem(r, v)).unflatten(-1, (height, width, channels)).permute(0, 3, 1, 2)
        result: Tensor = self.convolutions(start)
        return result


class _Stem(nn.Module):
    """Dense layers from r and v: the first is linear in the pair."""

    def __init__(self, config: ModelConfig, r_dim: int) -> None:
        super().__init__()
        widths = config.decoder_hidden
        self.from_v = nn.Linear(config.v_dim, widths[0])
        self.from_r = nn.Linear(r_dim, widths[0], bias=False)
        layers: list[nn.Module] = [nn.ReLU()]
        for width, next_width in itertools.pairwise(widths):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        _initialise(config, self.from_v, self.from_r, self.hidden)
        modulated = widths[1:] if config.conditioning == "every_layer" else ()
        self.scale_and_shift = nn.ModuleList(nn.Linear(r_dim, 2 * width, bias=False) for width in modulated)

    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        h: Tensor = self.from_v(v) + self.from_r(r)
        if not self.scale_and_shift:
            result: Tensor = self.hidden(h)
            return result
        layers = [layer for layer in self.hidden if isinstance(layer, nn.Linear)]
        for layer, of_r in zip(layers, self.scale_and_shift, strict=True):
            scale, shift = of_r(r).chunk(2, dim=-1)
            h = layer(F.relu(h)) * (1 + scale) + shift
        return F.relu(h)


def make_decoder(spec: DataSpec, config: ModelConfig, r_dim: int) -> nn.Module:
    """The decoder for a kind of data: r `[B, R]`, v `[B, V]` -> `[B, *spec.shape]`."""
    return (DenseDecoder if config.decoder == "dense" else ConvolutionalDecoder)(spec, config, r_dim)


def check_fit(spec: DataSpec, config: ModelConfig) -> None:
    """Refuses a model's configuration that the data does not allow.

    Raises:
        ValueError: names the key, its value and what is allowed.
    """
    if spec.kind != "image":
        for key, allowed in (("encoder", "convolutional"), ("decoder", "dense")):
            if (chosen := getattr(config, key)) != allowed:
                raise ValueError(f"model.{key} is {chosen!r}, which is for images; allowed for {spec.kind}: {allowed}")


def within_length(known: Tensor) -> Tensor:
    """Which times are not past a series' end: known values `[B, C, T]` -> `[B, 1, T]`, both of booleans.

    The end is the last time with a known value in any channel, so a gap inside a series stays inside.
    """
    seen = known.any(dim=1, keepdim=True)
    return (seen.flip(-1).cumsum(-1) > 0).flip(-1)


def count_parameters(module: nn.Module) -> int:
    """Number of trained scalars."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def to_float(x: Tensor) -> Tensor:
    """Stored values as floats: `uint8` 0..255 -> [0, 1]; others keep their size."""
    return x.to(torch.float32).div_(255.0) if x.dtype == torch.uint8 else x.to(torch.float32)


def _half(size: int) -> int:
    """Size of what a stride-2 convolution makes of `size`."""
    return (size + 1) // 2
