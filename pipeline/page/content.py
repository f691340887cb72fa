"""What the page says: tables and numbers for its template, and the data that its script draws from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ie_model.measures import mean_and_std
from pipeline.figures import CURVES
from pipeline.maps import neighbours, pca, tsne
from pipeline.methods import METHODS
from pipeline.page.inputs import Floats, Inputs
from pipeline.page.measured import number, sweep_controls
from pipeline.page.sprites import series_scale, sheet
from pipeline.published import PUBLISHED

_NEIGHBOURS = 6
_GRIDS = ("traversal", "interpolation_r", "interpolation_v", "interpolation_both", "samples")


@dataclass(frozen=True)
class Tile:
    """A headline number beside what it is to be read against."""

    title: str
    number: str
    unit: str
    about: str
    beside: list[tuple[str, str]]
    code: str = ""
    """`r` or `v`, whichever it speaks of."""


def headline(inputs: Inputs) -> list[Tile]:
    """The numbers that say whether the method did what it is for, as far as they were measured."""
    values = {row.name: row.value for row in inputs.measures}
    others = sweep_controls(inputs.sweep, int(inputs.metrics["labels"]))
    chance = ("chance", f"{100 / inputs.manifest.spec.num_classes:.3g} %")

    def beside(*pairs: tuple[str, str]) -> list[tuple[str, str]]:
        return [(label, number(name, values[name])) for label, name in pairs if name in values]

    tiles = [
        ("Test error", "test_error_classifier_pct", "argmax q(y|x)", "", others.get("test_error_classifier_pct", [])),
        (
            "Class from r",
            "probe_class_from_r_linear_pct",
            "linear probe on r of one example; should be high",
            "r",
            [*others.get("probe_class_from_r_linear_pct", []), chance],
        ),
        (
            "Class from v",
            "probe_class_from_v_sampled_mlp_pct",
            "MLP probe on sampled v; should be at chance",
            "v",
            [
                chance,
                *beside(("v shuffled", "probe_class_from_v_shuffled_linear_pct")),
                *others.get("probe_class_from_v_sampled_mlp_pct", []),
            ],
        ),
        (
            "Rotation from v",
            "r2_rotation_sin_from_v_mlp",
            "R² of its sine; should be high",
            "v",
            beside(("from r", "r2_rotation_sin_from_r_mlp"), ("constant", "r2_rotation_sin_constant")),
        ),
        (
            "Class swap is seen",
            "swap_oracle_pct",
            "by an independent classifier",
            "r",
            beside(("v = 0", "swap_oracle_v_zero_pct")),
        ),
        (
            "v is kept in a swap",
            "swap_v_hit_at_1_of_100_pct",
            "found again among 100",
            "v",
            beside(("v = 0", "swap_v_hit_at_1_of_100_v_zero_pct")),
        ),
        ("Bound on log p(x)", "bound_nats", "one sample of v", "", others.get("bound_nats", [])),
        ("Active units of v", "active_units", f"of {len(inputs.gallery.arrays['unit_kl'])}", "v",
         beside(("KL, all units", "kl_nats"))),
    ]  # fmt: skip
    return [
        Tile(title, *number(name, values[name]).partition(" ")[::2], about, compared, code)
        for title, name, about, code, compared in tiles
        if name in values
    ]


def errors_beside(inputs: Inputs) -> tuple[list[int], list[dict[str, Any]]]:
    """Numbers of labels, and a row per method: this run, the sweep's, and published ones, a text per number or ""."""
    labels = int(inputs.metrics["labels"])
    curves = label_curves(inputs)
    counts = sorted({labels, *(count for curve in curves if curve["kind"] != "published" for count in curve["x"])})
    rows = []
    for curve in curves:
        cells = {
            count: number("_pct", y, sd if n and n > 1 else None) + (f" (n = {n})" if n and n > 1 else "")
            for count, y, sd, n in zip(curve["x"], curve["y"], curve["sd"], curve["n"], strict=True)
        }
        if any(count in cells for count in counts):
            rows.append({**curve, "cells": [cells.get(count, "") for count in counts]})
    return counts, rows


def label_curves(inputs: Inputs) -> list[dict[str, Any]]:
    """Test error by number of labels: this run, a curve per method of the sweep, and published ones."""
    labels = int(inputs.metrics["labels"])
    method = str(inputs.model["provenance"].get("method", "custom"))
    about: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    curves = [
        {
            "name": f"this run: {about.get(method, method)}",
            "note": f"{inputs.train_metrics['epochs']:.0f} epochs",
            "kind": "run",
            "x": [labels],
            "y": [inputs.metrics["test_error_classifier_pct"]],
            "sd": [None],
            "n": [None],
        }
    ]
    if inputs.sweep is not None:
        by_method: dict[str, list[tuple[int, list[float]]]] = {}
        for (name, count), measured in inputs.sweep.measures.items():
            if errors := measured.get("test_error_classifier_pct"):
                by_method.setdefault(name, []).append((count, errors))
        for name, points in by_method.items():
            spreads = [(count, *mean_and_std(errors)) for count, errors in sorted(points)]
            rows = [row for row in inputs.sweep.results.rows if row["method"] == name and row["epochs"]]
            steps = sorted({f"{row['epochs']} epochs" for row in rows if row["epochs"] > 1} or {"fixed steps"})
            curves.append(
                {
                    "name": about.get(name, name),
                    "note": "sweep, " + " or ".join(steps),
                    "kind": "sweep",
                    "x": [count for count, *_ in spreads],
                    "y": [mean for _, mean, _, _ in spreads],
                    "sd": [std for _, _, std, _ in spreads],
                    "n": [n for *_, n in spreads],
                }
            )
    for work in PUBLISHED.get(inputs.manifest.source, ()):
        curves.append(
            {
                "name": work.name,
                "note": f"published, {work.source}",
                "kind": "published",
                "x": list(work.errors),
                "y": list(work.errors.values()),
                "sd": [None] * len(work.errors),
                "n": [None] * len(work.errors),
            }
        )
    return curves


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
    scale = series_scale(arrays["x"]) if text.spec.kind == "series" else None
    shape = arrays["x"].shape[1:]
    # One sheet for the examples: x, reconstruction, then the swaps of each.
    points = np.concatenate([arrays["x"][:, None], arrays["reconstruction"][:, None], arrays["swap"]], axis=1)
    grids, start = {}, 0
    for name in _GRIDS:
        axes = arrays[name].shape[: -len(shape)]
        grids[name] = {"start": start, "shape": list(axes)}
        start += math.prod(axes)
    flat = [arrays[name].reshape(-1, *shape) for name in _GRIDS]
    coverage, risk = inputs.risk_coverage
    confidence_bins, accuracy, count = inputs.calibration
    return {
        "kind": text.spec.kind,
        "classes": list(text.spec.classes),
        "words": list(text.words),
        "keys": list(text.keys),
        "label": [class_of[latents.labels[row]] for row in rows],
        "predicted": [class_of[latents.predictions[row]] for row in rows],
        "confidence": confidence.round(4).tolist(),
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
        "unit_kl": arrays["unit_kl"].round(3).tolist(),
        "values": arrays["values"].round(2).tolist(),
        "pairs": [list(pair) for pair in text.pairs],
        "labels": label_curves(inputs),
        "calibration": [
            {"x": _round(x), "y": _round(y), "n": int(n)}
            for x, y, n in zip(confidence_bins.tolist(), accuracy.tolist(), count.tolist(), strict=True)
        ],
        "risk": {"x": (100 * coverage).round(3).tolist(), "y": (100 * risk).round(4).tolist()},
        "history": _history(inputs),
    }


def _round(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 5)


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


def _history(inputs: Inputs) -> list[dict[str, Any]]:
    """A panel per group of curves that the training's history holds."""
    history = inputs.history
    panels = []
    for title, unit, lines in CURVES:
        shown = []
        for column, name in lines:
            cells = [float(cell) if cell.strip() else None for cell in history.get(column, [])]
            if any(cell is not None for cell in cells):
                shown.append({"name": name, "y": [None if c is None else round(c, 5) for c in cells]})
        if shown:
            epochs = [float(cell) for cell in history["epoch"]]
            panels.append({"title": title, "unit": unit, "x": epochs, "lines": shown})
    return panels
