"""One step of the objective on fixed points and noise, and its bounds by brute force."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from ie_model.config import ObjectiveConfig
from ie_model.model import EquiVAE, class_means, class_sums
from ie_model.objective import Objective, Shares
from ie_model.spec import DataSpec
from tests.helpers.tiny import (
    M2,
    VAE,
    binary_points,
    each_class,
    log_likelihood,
    pair_bound,
    points,
    seeded,
    tiny_model,
)

SHARES = Shares(num_labelled=3, num_unlabelled=17)
F64 = torch.float64
# Every model that the parts make.
PARTS: dict[str, dict[str, Any]] = {
    "distance": {},
    "network": {"classifier": "network"},
    "stochastic_r": {"stochastic_r": True},
    "v_from_x": {"posterior": "x"},
    "m2": M2,
    "vae": VAE,
}


def examples(num: int, spec: DataSpec, seed: int = 0) -> Tensor:
    """Points that the likelihood is a distribution over: images are black and white."""
    return binary_points(num, spec, seed) if spec.kind == "image" else points(num, spec, seed)


def codes_of(model: EquiVAE) -> Tensor:
    """Made-up codes of the classes, `[K, R]`."""
    return torch.randn(model.num_codes, model.r_dim, generator=seeded(5)).to(model.log_prior.dtype)


def with_prior(model: EquiVAE, seed: int = 0) -> EquiVAE:
    """The model with classes of unequal probability."""
    model.log_prior.copy_(torch.randn(model.num_codes, generator=seeded(seed)).log_softmax(0))
    return model


def log_q_of(num: int, num_classes: int, seed: int, spread: float = 3.0) -> Tensor:
    """Made-up log q(y|x), `[num, num_classes]`."""
    return (spread * torch.randn(num, num_classes, generator=seeded(seed), dtype=F64)).log_softmax(1)


def means_of(f: Tensor, y: Tensor, num_classes: int) -> Tensor:
    return class_means(*class_sums(f, y, num_classes))


def loss_of(
    config: ObjectiveConfig,
    shares: Shares = SHARES,
    model: EquiVAE | None = None,
    unlabelled: int | None = 4,
    beta: float = 1.0,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and log of one step on fixed points and noise."""
    model = model or tiny_model()
    num_classes, dtype = model.spec.num_classes, model.log_prior.dtype
    x_unlabelled = None if unlabelled is None else examples(unlabelled, model.spec, seed=1).to(dtype)
    x = examples(3 * num_classes, model.spec).to(dtype)
    objective = Objective(model, config, shares)
    y = each_class(num_classes, 3)
    return cast(tuple[Tensor, dict[str, Tensor]], objective(x, y, x_unlabelled, seeded(2), beta))


def ignoring_noise(model: EquiVAE) -> EquiVAE:
    """A model whose decoder does not see v: the value of a pair then does not depend on which noise it meets."""
    decoder: Any = model.decoder
    nn.init.zeros_(decoder.stem.from_v.weight)
    return model


@torch.no_grad()
def enumerated_bound(model: EquiVAE, x: Tensor, r: Tensor, log_q: Tensor, noise: Tensor) -> Tensor:
    """U(x) as the formula says it: for each point, over each class; noise `[B, K, V]`."""
    bounds = []
    for b in range(len(x)):
        bound = torch.zeros((), dtype=x.dtype)
        for c in range(len(r)):
            q = log_q[b, c].exp()
            if q > 0:
                bound += q * (pair_bound(model, x[b], r[c], noise[b, c], model.log_prior[c]) - log_q[b, c])
        bounds.append(bound)
    return torch.stack(bounds)


@torch.no_grad()
def log_evidence(model: EquiVAE, x: Tensor, r: Tensor) -> Tensor:
    """log p(x) `[B]` of a model whose decoder does not see v."""
    v = r.new_zeros(1, model.config.v_dim)
    columns = []
    for c in range(len(r)):
        out = model.decode(r[c : c + 1], v)[0]
        columns.append(torch.stack([log_likelihood(model, point, out) for point in x]) + model.log_prior[c])
    return torch.stack(columns, dim=1).logsumexp(1)
