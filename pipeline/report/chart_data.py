"""What the page's script draws, as plain JSON: examples, their swaps, grids, and maps of r and v."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.plots.palette import COLOURS, mark_path
from pipeline.plots.projections import neighbours, pca, tsne
from pipeline.report.inputs import Floats, Inputs
from pipeline.report.sprites import series_scale, sheet
from pipeline.utils.rounding import percent

_NEIGHBOURS = 6
_GRIDS = ("traversal", "interpolation_r", "interpolation_v", "interpolation_both", "samples")


def drawn(inputs: Inputs, seed: int) -> dict[str, Any]:
    """All that the script draws, as plain JSON."""
    text, arrays = inputs.gallery.text, inputs.gallery.arrays
    latents = inputs.latents
    place = {key: row for row, key in enumerate(latents.keys)}
    rows = np.array([place[key] for key in text.keys])
    class_of = {name: i for i, name in enumerate(text.spec.classes)}
    confidence = latents.probabilities[rows].max(1)
    sampled = text.num_sampled
    r, v = latents.r[rows], latents.v[rows]
    scale = series_scale(arrays["x"], text.spec) if text.spec.dtype == "float32" else None
    shape = arrays["x"].shape[1:]
    # One sheet for the examples: x, reconstruction, then the swaps of each.
    points = np.concatenate([arrays["x"][:, None], arrays["reconstruction"][:, None], arrays["swap"]], axis=1)
    grids, start = {}, 0
    for name in _GRIDS:
        axes = arrays[name].shape[: -len(shape)]
        grids[name] = {"start": start, "shape": list(axes)}
        start += math.prod(axes)
    flat = [arrays[name].reshape(-1, *shape) for name in _GRIDS]
    return {
        "kind": text.spec.kind,
        "classes": list(text.spec.classes),
        "paths": [mark_path(i) for i in range(text.spec.num_classes)],
        "colours": len(COLOURS),
        "words": list(text.words),
        "keys": list(text.keys),
        "label": [class_of[latents.labels[row]] for row in rows],
        "predicted": [class_of[latents.predictions[row]] for row in rows],
        "confidence": [percent(100 * share, 1 if 0.1 <= share < 0.99 else 2) for share in confidence.tolist()],
        "sampled": sampled,
        "errors": list(text.errors),
        "near": {
            "r": neighbours(r, sampled, _NEIGHBOURS).tolist(),
            "v": neighbours(v, sampled, _NEIGHBOURS).tolist(),
        },
        "maps": {name: _maps(x, rows[:sampled], seed) for name, x in (("r", latents.r), ("v", latents.v))},
        "points": sheet(points.reshape(-1, *shape), text.spec, scale),
        "per_point": 2 + len(text.spec.classes),
        "grids": grids,
        "grid_sheet": sheet(np.concatenate(flat), text.spec, scale),
        "units": list(text.units),
        "values": arrays["values"].round(2).tolist(),
        "pairs": [list(pair) for pair in text.pairs],
    }


def _maps(x: Floats, rows: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Coordinates of the points at `rows`: PCA of all test points `[N, D]`, and t-SNE of those rows alone."""
    if x.shape[1] == 1:
        x = np.pad(x, ((0, 0), (0, 1)))
    flat, explained = pca(x)
    return {
        "pca": flat[rows].round(4).tolist(),
        "explained": [round(100 * float(share)) for share in explained],
        "tsne": tsne(x[rows], seed).round(3).tolist(),
    }
