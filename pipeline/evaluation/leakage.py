"""What v tells of the class, measured on as much of train as there is."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch

from ie_model.artifact import Artifact
from ie_model.metrics import leakage
from ie_model.metrics.leakage import Leak, Posteriors
from ie_model.networks import to_float
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.splits import Split
from pipeline.results.metrics_table import Measure, measure_each
from pipeline.utils.arrays import IntArray
from pipeline.utils.key_sample import lowest
from pipeline.utils.progress import Log, silent

_CURVE = (16, 4)
"""The learning curve of the probe is over these fractions of its points, and all of them..."""

_LEAST = 500
"""...where that many points are left."""


def posteriors(artifact: Artifact, split: Split, rows: IntArray, batch_size: int, device: str) -> Posteriors:
    """q(v | r_y, x) of some of a split, y the predicted class; a batch of x is in memory at a time."""
    model, codes = artifact.model, artifact.class_representations
    parts = []
    with torch.no_grad():
        for start in range(0, len(rows), batch_size):
            batch = split.take(rows[start : start + batch_size])
            x = to_float(batch.x.to(device))
            own = codes[model.classify(model.embed(x), codes).argmax(1)]
            mean, log_var = model.posterior(model.features(x), own)
            parts.append((mean.cpu().numpy(), log_var.cpu().numpy(), batch.y))
    return Posteriors(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def leak_measures(
    artifact: Artifact, train: Split, score: Posteriors, settings: EvaluateParams, device: str, tell: Log = silent
) -> list[Measure]:
    """The class from draws of v: a probe that saturates, its learning curve, a Gaussian a class; KL of q(v|y).

    Args:
        train: fitted on the `leak_points` of its points of known class with the lowest hash.
        score: test points.
    """
    seed = settings.probe_seeds[0]
    rows = lowest(train.keys, settings.leak_points, train.y >= 0)
    fit = posteriors(artifact, train, rows, settings.batch_size, device)
    order = np.random.default_rng(seed).permutation(len(fit))

    @cache
    def probe(part: int) -> Leak:
        num = len(fit) // part
        words = f"evaluate: class from v drawn anew, {num} points"
        return leakage.fresh_probe(fit.take(order[:num]), score, seed, lambda epoch: tell(f"{words}, epoch {epoch}"))

    @cache
    def divergence() -> list[float]:
        return list(leakage.class_kl(score).values())

    def accuracy(part: int) -> float:
        return 100 * probe(part).accuracy

    values: dict[str, Callable[[], float]] = {
        f"probe_class_from_v_redrawn_of_{len(fit) // part}_mlp_pct": partial(accuracy, part)
        for part in _CURVE
        if len(fit) // part >= _LEAST
    }
    return measure_each(
        values
        | {
            "probe_class_from_v_redrawn_mlp_pct": partial(accuracy, 1),
            "mi_v_class_nats": lambda: probe(1).mi_nats,
            "probe_class_from_v_sampled_quadratic_pct": lambda: 100 * leakage.quadratic_accuracy(fit, score, seed),
            "kl_v_class_mean_nats": lambda: float(np.mean(divergence())),
            "kl_v_class_max_nats": lambda: max(divergence()),
        }
    )
