"""What is counted over all examples of test, as sums: those of parts add up to those of the whole."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import Encoded, class_bounds, nearest_prototype, squared_error
from ie_model.metrics import measures
from pipeline.config.params import EvaluateParams

Totals = dict[str, npt.NDArray[np.float64]]
"""Sums by name, scalars `[]` or vectors: over classes `[K]`, units of v `[V]` or bins of confidence `[B]`."""


def merged(parts: Iterable[Totals]) -> Totals:
    """Sums of the whole; in the order of the parts, so that the last digit is the same on any number of processes."""
    whole: Totals = {}
    for part in parts:
        for name, value in part.items():
            whole[name] = whole[name] + value if name in whole else value
    return whole


def count_wrong(encoded: Encoded, y: npt.NDArray[np.int64]) -> Totals:
    """`examples`, and of them the classifier's `wrong`."""
    wrong = encoded.log_q.argmax(1).cpu().numpy() != y
    return _floats({"examples": len(y), "wrong": wrong.sum()})


@torch.no_grad()
def count(
    artifact: Artifact,
    x: Tensor,
    y: npt.NDArray[np.int64],
    encoded: Encoded,
    settings: EvaluateParams,
    generator: torch.Generator,
) -> Totals:
    """Every sum that fits the model.

    Args:
        x: a batch as floats `[B, *shape]`, on the model's device; y: its classes `[B]`; encoded: `encode` of it.
    """
    model, codes, num = artifact.model, artifact.class_representations, len(y)
    sums = count_wrong(encoded, y)
    sums |= _floats({name: getattr(encoded, name).double().sum(0).cpu() for name in ("bound", "squared_error", "kl")})
    if model.num_codes > 1:
        q, bins = encoded.log_q.exp().cpu().numpy(), settings.calibration_bins
        curve = measures.calibration_curve(q, y, bins)
        sums |= _floats(
            {
                "classes": np.bincount(y, minlength=model.num_codes),
                "brier": num * measures.brier_score(q, y),
                "nll": num * measures.negative_log_likelihood(q, y),
                "bin_count": curve.count,
                "bin_confidence": np.nan_to_num(curve.confidence * curve.count),
                "bin_right": np.nan_to_num(curve.accuracy * curve.count).round(),
            }
        )
        if model.config.class_code == "embedding":
            nearest = nearest_prototype(artifact, encoded.f).cpu().numpy()
            sums |= _floats({"wrong_prototype": (nearest != y).sum()})
    if artifact.loss == "bound":
        if model.num_codes > 1:
            scores = class_bounds(artifact, x, settings.bound_samples, generator)
            sums |= _floats({"wrong_generative": (scores.argmax(1).cpu().numpy() != y).sum()})
        v = torch.zeros_like(encoded.v_mean)
        without_v = squared_error(x, model.reconstruct(codes[encoded.log_q.argmax(1)], v, x))
        sums |= _floats({"squared_error_v_zero": without_v.double().sum().cpu()})
    return sums


def _floats(sums: dict[str, object]) -> Totals:
    return {name: np.asarray(value, dtype=np.float64) for name, value in sums.items()}
