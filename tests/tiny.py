"""Models small enough to enumerate, and points for them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from ie_model.artifact import Artifact
from ie_model.config import AugmentConfig, ExtendedConfig, ModelConfig, ObjectiveConfig
from ie_model.inference import representations
from ie_model.model import EquiVAE
from ie_model.spec import DataSpec

STILL = AugmentConfig(rotation=0, shift=0, scale=0, shear=0)
MOVING = AugmentConfig(rotation=20, shift=0.1, scale=0.15, shear=0.2)


def tiny_spec(shape: tuple[int, int, int] = (1, 6, 5), num_classes: int = 3) -> DataSpec:
    classes = tuple(f"class-{c}" for c in range(num_classes))
    return DataSpec(kind="image", shape=shape, dtype="uint8", classes=classes, likelihood="bernoulli")


def tiny_model(spec: DataSpec | None = None, *, seed: int = 0, spread: float = 3.0, **changes: Any) -> EquiVAE:
    """A model with random weights, `spread` times as far apart as PyTorch's so that what goes in matters."""
    config: dict[str, Any] = {"r_dim": 3, "v_dim": 2, "channels": (4,), "hidden": 8, "decoder_hidden": (8,)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EquiVAE(spec or tiny_spec(), ModelConfig(**{**config, "classifier": "distance", **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(spread)
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(num: int, spec: DataSpec | None = None, seed: int = 0) -> Tensor:
    """Random grey images in [0, 1]."""
    return torch.rand(num, *(spec or tiny_spec()).shape, generator=seeded(seed))


def binary_points(num: int, spec: DataSpec | None = None, seed: int = 0) -> Tensor:
    return points(num, spec, seed).round()


def each_class(num_classes: int, times: int) -> Tensor:
    return torch.arange(num_classes).repeat(times)


def tiny_artifact(model: EquiVAE | None = None, seed: int = 0) -> Artifact:
    model = model or tiny_model()
    x = (255 * points(4 * model.spec.num_classes, model.spec, seed)).to(torch.uint8)
    r, counts = representations(model, x, each_class(model.spec.num_classes, 4), batch_size=5)
    return Artifact(model, r, counts, {"method": "plain"})


def objective_config(
    *, extended: bool = False, augment: AugmentConfig = MOVING, consistency: float = 2.0, **changes: Any
) -> ObjectiveConfig:
    additions = ExtendedConfig(
        enabled=extended,
        augment=augment,
        consistency=consistency,
        confidence=changes.pop("confidence", 0.5),
        ema_decay=changes.pop("ema_decay", 0.0),
    )
    config: dict[str, Any] = {"method": "equivae", "alpha": 5.0, "prune": 0.0, "support_min": 2, "support_max": 3}
    return ObjectiveConfig(**{**config, **changes}, extended=additions)


def backward(value: Any) -> None:
    """`value.backward()`, which PyTorch leaves without types."""
    value.backward()


def log_prob_of(distribution: Any, value: Tensor) -> Tensor:
    """`distribution.log_prob(value)`, which PyTorch leaves without types."""
    result: Tensor = distribution.log_prob(value)
    return result


def pair_bound(model: EquiVAE, x: Tensor, r: Tensor, noise: Tensor) -> Tensor:
    """L(x, y) of one binary image `[*shape]`, one r `[R]` and the noise of its v `[V]`, by torch.distributions."""
    mean, log_var = model.posterior(model.features(x[None]), r[None])
    posterior = Normal(mean[0], (log_var[0] / 2).exp())
    v = posterior.mean + posterior.stddev * noise
    prior = Normal(torch.zeros_like(v), torch.ones_like(v))
    log_prob = log_prob_of(Bernoulli(logits=model.decode(r[None], v[None])[0]), x).sum()
    return log_prob - kl_divergence(posterior, prior).sum() - math.log(model.spec.num_classes)
