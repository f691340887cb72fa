"""A model of images of which everything is known: a bright spot, the class its light, v its place."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.spec import DataSpec
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData

SETTINGS = EvaluateParams(
    batch_size=64,
    bound_samples=1,
    iw_samples=1,
    iw_points=1,
    probe_points=100,
    leak_points=100,
    probe_seeds=(0,),
    style_points=400,
    swap_points=300,
    oracle_steps=1,
    calibration_bins=10,
    seed=0,
)


def blob(height: int, width: int, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> Tensor:
    """Images `[N, 1, height, width]` with a bright spot x pixels to the right of the centre and y below it."""
    rows = torch.arange(height, dtype=torch.float64) - (height - 1) / 2
    columns = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    across = (columns - torch.from_numpy(x)[:, None]).square()[:, None, :]
    down = (rows - torch.from_numpy(y)[:, None]).square()[:, :, None]
    return torch.exp(-(across + down) / (2 * 1.5**2)).float().unsqueeze(1)


def place(images: Tensor) -> npt.NDArray[np.float64]:
    """Where the light of each image lies, `[N, 2]`: pixels to the right of the centre, and below it."""
    light = images.double().sum(1)
    height, width = light.shape[1:]
    rows, columns = torch.arange(height) - (height - 1) / 2, torch.arange(width) - (width - 1) / 2
    total = light.sum((1, 2))
    found = torch.stack([(light.sum(1) * columns).sum(1) / total, (light.sum(2) * rows).sum(1) / total], dim=1)
    return np.asarray(found.numpy())


class Spots:
    """Reads an image of one bright spot: the class from its light, v from its place. The decoder draws it again.

    Stands for an EquiVAE. The spot lies `unit` pixels from the centre for each unit of v; class c has c + 1 times the
    light of class 0. Its r is a row of the identity and does not depend on where the spot is.
    """

    unit = 3.0

    def __init__(self, side: int = 25, num_classes: int = 5) -> None:
        classes = tuple(str(c) for c in range(num_classes))
        self.spec = DataSpec(
            kind="image", shape=(1, side, side), dtype="uint8", classes=classes, likelihood="bernoulli"
        )
        self.num_codes = num_classes
        self.codes = torch.eye(num_classes)

    def draw(self, y: npt.NDArray[np.int64], v: npt.NDArray[np.float64]) -> Tensor:
        height, width = self.spec.shape[1:]
        light = torch.from_numpy((y + 1) / self.num_codes).float().view(-1, 1, 1, 1)
        return light * blob(height, width, self.unit * v[:, 0], self.unit * v[:, 1])

    def embed(self, x: Tensor) -> Tensor:
        whole = 2 * math.pi * 1.5**2 / self.num_codes
        found = (x.flatten(1).sum(1) / whole).round().long() - 1
        return self.codes[found.clamp(0, self.num_codes - 1)]

    def classify(self, f: Tensor, r: Tensor) -> Tensor:
        return (20 * f @ r.T).log_softmax(-1)

    def features(self, x: Tensor) -> Tensor:
        return x

    def posterior(self, features: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        v = torch.from_numpy(place(features) / self.unit).float()
        return v, torch.full_like(v, -5.0)

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        return self.draw(r.argmax(1).numpy(), v.double().numpy())

    def artifact(self) -> Artifact:
        return Artifact(cast(Any, self), self.codes, torch.ones(self.num_codes), {})

    def split(self, num: int, seed: int) -> SplitData:
        rng = np.random.default_rng(seed)
        y = np.arange(num) % self.num_codes
        radius, angle = rng.uniform(0.5, 1.5, num), rng.uniform(0, 2 * math.pi, num)
        v = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        x = (255 * self.draw(y, v)).round().to(torch.uint8)
        return SplitData(self.spec, [f"{i:05d}" for i in range(num)], x, y)
