"""The page's charts, by the same code as the PNG files, and the table beside the errors by labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from ie_model.metrics.measures import mean_and_std
from pipeline.config.methods import METHODS
from pipeline.plots.error_vs_labels import Curve, curve_look, draw_curves
from pipeline.plots.figures import draw_calibration, draw_history, draw_risk, history_panels
from pipeline.plots.inline_svg import inline_svg
from pipeline.plots.palette import themed
from pipeline.plots.published_results import PUBLISHED
from pipeline.report.inputs import Inputs
from pipeline.report.metric_text import number


@dataclass(frozen=True)
class Chart:
    """A drawing with what a reader who does not see it is given."""

    name: str
    title: str
    svg: str
    how: str = ""


def small_charts(inputs: Inputs, history_csv: Path) -> list[Chart]:
    """Calibration, risk, and a chart per panel of the training's history; none that is a point or a level line."""
    confidence, accuracy, count = inputs.calibration
    filled = count > 0

    def draw_bins(ax: Axes) -> None:
        draw_calibration(ax, confidence[filled], accuracy[filled])
        ax.set(title="Calibration", xlabel="confidence")

    def draw_left(ax: Axes) -> None:
        draw_risk(ax, *inputs.risk_coverage)
        ax.set_title("Risk and coverage")

    charts = []
    if filled.sum() > 1:
        how = "On the diagonal the model is as often right as it is sure."
        charts.append(Chart("calibration", "Calibration", inline_svg(draw_bins, "calibration"), how))
    if inputs.risk_coverage[1].any():
        how = "What is left wrong when the model declines the points that it is least sure of."
        charts.append(Chart("risk", "Risk and coverage", inline_svg(draw_left, "risk"), how))
    for panel in history_panels(history_csv):
        if not any(np.unique(y[np.isfinite(y)]).size > 1 for _, y in panel.lines):
            continue
        name = panel.title.lower().replace(" ", "-")
        charts.append(Chart(name, panel.title, inline_svg(partial(draw_history, panel=panel), name)))
    return charts


@dataclass(frozen=True)
class Errors:
    """A line of the table of errors by labels."""

    name: str
    note: str
    kind: str
    colour: str
    path: str
    """Of its mark in the chart, in a box of 16."""

    cells: list[str]
    """By count of labels; empty where there is no error."""


def error_chart(inputs: Inputs) -> str:
    """This run, the sweep and published errors by number of labels; empty where there is this run alone."""
    return (
        ""
        if len(label_curves(inputs)) < 2
        else inline_svg(lambda ax: draw_curves(ax, label_curves(inputs)), "labels", (5.4, 3.3))
    )


def error_table(inputs: Inputs) -> tuple[list[int], list[Errors]]:
    """Numbers of labels, and a row per curve of `error_chart` that has an error at one of them."""
    curves = label_curves(inputs)
    counts = sorted({int(count) for curve in curves if curve.kind != "published" for count in curve.labels})
    rows = []
    for index, curve in enumerate(curves):
        look = curve_look(curves, index)
        deviations, runs = curve.deviations or (None,) * len(curve.labels), curve.runs or (1,) * len(curve.labels)
        cells = {
            int(count): number("_pct", error, deviation if n > 1 else None) + (f" (n = {n})" if n > 1 else "")
            for count, error, deviation, n in zip(curve.labels, curve.errors, deviations, runs, strict=True)
        }
        if any(count in cells for count in counts):
            shown = [cells.get(count, "") for count in counts]
            rows.append(Errors(curve.name, curve.note, curve.kind, themed(look.colour), look.path, shown))
    return counts, rows


def label_curves(inputs: Inputs) -> list[Curve]:
    """Test error by number of labels: this run, a curve per method of the sweep, and published ones."""
    labels = float(inputs.metrics["labels"])
    method = str(inputs.model["provenance"].get("method", "custom"))
    about: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    epochs = f"{inputs.train_metrics['epochs']:.0f} epochs"
    error = inputs.metrics["test_error_classifier_pct"]
    curves = [Curve(f"this run: {about.get(method, method)}", epochs, "run", (labels,), (error,))]
    if inputs.sweep is not None:
        by_method: dict[str, list[tuple[int, list[float]]]] = {}
        for (name, count), measured in inputs.sweep.measures.items():
            if errors := measured.get("test_error_classifier_pct"):
                by_method.setdefault(name, []).append((count, errors))
        for name, points in by_method.items():
            counts, spreads = zip(*((count, mean_and_std(errors)) for count, errors in sorted(points)), strict=True)
            means, deviations, runs = zip(*spreads, strict=True)
            rows = [row for row in inputs.sweep.results.rows if row["method"] == name and row["epochs"]]
            steps = sorted({f"{row['epochs']} epochs" for row in rows if row["epochs"] > 1} or {"fixed steps"})
            drawn = tuple(std if n > 1 else None for std, n in zip(deviations, runs, strict=True))
            note = "sweep, " + " or ".join(steps)
            curves.append(Curve(about.get(name, name), note, "sweep", tuple(map(float, counts)), means, drawn, runs))
    for work in PUBLISHED.get(inputs.manifest.source, ()):
        note = f"published, {work.source}"
        curves.append(Curve(work.name, note, "published", tuple(map(float, work.errors)), tuple(work.errors.values())))
    return curves
