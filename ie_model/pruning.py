"""What leaving classes out of the class sum costs: measured on a batch, and bounded for every step."""

from __future__ import annotations

import torch
from torch import Tensor

from ie_model.bounds import alive_classes, elbo
from ie_model.model import EquiVAE


@torch.no_grad()
def prune_error(
    model: EquiVAE,
    x: Tensor,
    features: Tensor,
    codes: Tensor,
    log_q: Tensor,
    prune: float,
    generator: torch.Generator,
) -> Tensor:
    """Exact less pruned class sum, from the same samples of v, nats, `[B]`. Arguments as in `marginal_elbo`."""
    num_codes = codes.shape[0]
    row, cls = torch.ones_like(log_q, dtype=torch.bool).nonzero(as_tuple=True)
    pairs = elbo(model, x[row], features[row], codes[cls], model.log_prior[cls], generator)
    bounds = pairs.bound.view(-1, num_codes)
    kept = log_q.masked_fill(~alive_classes(log_q, prune), -torch.inf).log_softmax(1)
    return _weighted(log_q, bounds) - _weighted(kept, bounds)


def _weighted(log_q: Tensor, bounds: Tensor) -> Tensor:
    """sum_y q (L - log q), `[B]`; classes of q = 0 do not count."""
    q = log_q.exp()
    return torch.where(q > 0, q * (bounds - log_q), 0.0).sum(1)


def prune_gap(bound: Tensor, dropped_mass: Tensor, ceiling: Tensor) -> Tensor:
    """By how many nats the exact class sum can lie above the pruned one at most, `[B]`.

    d * (U_dropped - U_kept) + h(d) with U_dropped at its ceiling, the largest log p(x | r, v) that there is. The exact
    sum can also lie below: then the pruned one is the better bound on log p(x).

    Args:
        bound: U_kept `[B]`; dropped_mass: d `[B]`; ceiling: `Likelihood.max_log_prob(x)` `[B]`.
    """
    d = dropped_mass.clamp(0.0, 1.0)
    entropy = -torch.xlogy(d, d) - torch.xlogy(1 - d, 1 - d)
    return d * (ceiling - bound) + entropy
