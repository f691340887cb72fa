"""Models small enough to enumerate, and points for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Multinomial, Normal, kl_divergence

from ie_model.artifact import Artifact
from ie_model.config import AugmentConfig, ExtendedConfig, ModelConfig, ObjectiveConfig
from ie_model.inference import representations
from ie_model.model import EquiVAE
from ie_model.spec import DataSpec, Kind, LikelihoodName

STILL = AugmentConfig(rotation=0, shift=0, scale=0, shear=0, drop=0, drop_features=0, noise=0)
MOVING = AugmentConfig(rotation=20, shift=0.1, scale=0.15, shear=0.2, drop=0.3, drop_features=0.3, noise=0.2)

KINDS: tuple[Kind, ...] = ("image", "series", "counts", "vector")
_CONFIG: dict[str, Any] = {
    "r_dim": 3,
    "v_dim": 2,
    "class_code": "embedding",
    "posterior": "r_and_x",
    "stochastic_r": False,
    "classifier": "distance",
    "encoder": "convolutional",
    "channels": (4,),
    "residual_blocks": 1,
    "hidden": 8,
    "decoder": "dense",
    "decoder_hidden": (8,),
}
# What makes the other two models of the same parts.
M2: dict[str, Any] = {"class_code": "one_hot", "classifier": "network"}
VAE: dict[str, Any] = {"class_code": "none", "classifier": "none"}


def tiny_spec(shape: tuple[int, int, int] = (1, 6, 5), num_classes: int = 3) -> DataSpec:
    classes = tuple(f"class-{c}" for c in range(num_classes))
    return DataSpec(kind="image", shape=shape, dtype="uint8", classes=classes, likelihood="bernoulli")


def spec_of(kind: Kind, num_classes: int = 3, shape: tuple[int, ...] | None = None) -> DataSpec:
    """A data set of any kind with its usual likelihood."""
    usual: dict[Kind, tuple[tuple[int, ...], Any, LikelihoodName]] = {
        "image": ((1, 6, 5), "uint8", "bernoulli"),
        "series": ((2, 7), "float32", "gaussian"),
        "counts": ((6,), "int32", "multinomial"),
        "vector": ((5,), "float32", "gaussian"),
    }
    usual_shape, dtype, likelihood = usual[kind]
    classes = tuple(f"class-{c}" for c in range(num_classes))
    return DataSpec(kind=kind, shape=shape or usual_shape, dtype=dtype, classes=classes, likelihood=likelihood)


def tiny_model(spec: DataSpec | None = None, *, seed: int = 0, spread: float = 3.0, **changes: Any) -> EquiVAE:
    """A model with random weights, `spread` times as far apart as PyTorch's so that what goes in matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = EquiVAE(spec or tiny_spec(), ModelConfig(**{**_CONFIG, **changes}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(spread)
    return model.eval()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(num: int, spec: DataSpec | None = None, seed: int = 0) -> Tensor:
    """Random grey images in [0, 1], series that end early or have gaps, or texts of up to 40 words."""
    spec = spec or tiny_spec()
    generator = seeded(seed)
    x = torch.rand(num, *spec.shape, generator=generator)
    if spec.kind == "counts":
        return (x * 40 / spec.shape[0]).round()
    if spec.kind in ("series", "vector"):
        x = 4 * x - 2
    if spec.kind == "series":
        length = spec.shape[-1]
        # At least the first value of each is known.
        ends = torch.randint(1, length + 1, (num, 1, 1), generator=generator)
        gaps = torch.rand(num, *spec.shape, generator=generator) < 0.1
        gaps[..., 0] = False
        x = x.masked_fill((torch.arange(length) >= ends) | gaps, torch.nan)
    return x


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
        align=changes.pop("align", False),
    )
    config: dict[str, Any] = {
        "loss": "bound",
        "alpha": 5.0,
        "label_prior": "uniform",
        "prune": 0.0,
        "support_min": 2,
        "support_max": 3,
        "self_included": False,
        "kl_warmup": 0.0,
        "free_bits": 0.0,
        "kl_start": 0.0,
        "class_moments": 0.0,
    }
    return ObjectiveConfig(**{**config, **changes}, extended=additions)


def backward(value: Any) -> None:
    """`value.backward()`, which PyTorch leaves without types."""
    value.backward()


def log_prob_of(distribution: Any, value: Tensor) -> Tensor:
    """`distribution.log_prob(value)`, which PyTorch leaves without types."""
    result: Tensor = distribution.log_prob(value)
    return result


def known_noise(x: Tensor, generator: torch.Generator) -> Tensor:
    """Stands for `noise_like`: no noise at all, but a function of x, so that a row has the same wherever it stands."""
    return 1.3 * torch.sin(9 * x.detach() + 1)


def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of v and r becomes `known_noise`."""
    for module in ("ie_model.model", "ie_model.bounds"):
        monkeypatch.setattr(f"{module}.noise_like", known_noise)


def log_likelihood(model: EquiVAE, x: Tensor, out: Tensor) -> Tensor:
    """log p(x | r, v) of one example from the decoder's output for it, both `[*shape]`, by torch.distributions."""
    if model.spec.kind == "image":
        return log_prob_of(Bernoulli(logits=out, validate_args=False), x).sum()
    if model.spec.kind == "counts":
        return log_prob_of(Multinomial(int(x.sum()), logits=out), x)
    scale: Any = model.likelihood.log_scale
    known = ~x.isnan()
    return log_prob_of(Normal(out[known], scale.exp().expand_as(x)[known]), x[known]).sum()


def pair_bound(model: EquiVAE, x: Tensor, r: Tensor, noise: Tensor, log_prior: Tensor | None = None) -> Tensor:
    """L(x, y) of one example `[*shape]`, one r `[R]` and the noise of its v `[V]`, by torch.distributions.

    p(y) is uniform unless log p(y) is given.
    """
    mean, log_var = model.posterior(model.features(x[None]), r[None])
    posterior = Normal(mean[0], (log_var[0] / 2).exp())
    v = posterior.mean + posterior.stddev * noise
    prior = Normal(torch.zeros_like(v), torch.ones_like(v))
    log_prob = log_likelihood(model, x, model.decode(r[None], v[None])[0])
    return (
        log_prob
        - kl_divergence(posterior, prior).sum()
        + (-math.log(model.num_codes) if log_prior is None else log_prior)
    )
