"""The page of `ie compare`: one HTML file with its styles, curves and pictures in it, and no script.

Names and values are text: the template escapes all of them.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.compare import Comparison, Line
from pipeline.experiments import Experiment

_CURVES = (
    ("val_error", "val error", "%", "lower is better"),
    ("val_bound", "val bound", "nats", "higher is better"),
    ("loss", "loss", "nats", "of each epoch's steps; compares only where the objective is the same"),
    ("kl", "KL of v", "nats", "what v costs; 0 is a v that carries nothing"),
)
_WIDTH, _HEIGHT = 380, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 30


@dataclass(frozen=True)
class Trace:
    """A run's line in a chart."""

    run: int
    points: str
    """Of an SVG polyline; empty where the run has no such column."""

    last: tuple[float, float] | None


@dataclass(frozen=True)
class Chart:
    """A quantity by epoch, one line a run, in the units of the SVG's own box."""

    title: str
    unit: str
    note: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    traces: tuple[Trace, ...]


def page(found: Comparison) -> str:
    """The HTML."""
    here = Path(__file__).parent
    templates = Environment(
        loader=FileSystemLoader(here), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    swaps = [(i, base64.b64encode(run.swap).decode()) for i, run in enumerate(found.runs) if run.swap is not None]
    return templates.get_template("compare.html").render(
        style=(here / "compare.css").read_text(),
        found=found,
        charts=[chart for chart in (_chart(found.runs, *curve) for curve in _CURVES) if chart is not None],
        groups=_grouped([line for line in found.others if line.group]),
        swaps=swaps,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_WIDTH - _RIGHT,
        bottom=_HEIGHT - _BOTTOM,
    )


def _grouped(lines: Sequence[Line]) -> dict[str, list[Line]]:
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.group, []).append(line)
    return groups


def _chart(runs: Sequence[Experiment], column: str, title: str, unit: str, note: str) -> Chart | None:
    """A chart of one column of history.csv; None where fewer than two runs have it."""
    series = [_points(run, column) for run in runs]
    every = [point for points in series for point in points]
    if sum(bool(points) for points in series) < 2:
        return None
    x_last = max(x for x, _ in every)
    x_first = min(x for x, _ in every)
    y_ticks = ticks(min(y for _, y in every), max(y for _, y in every))
    low, high = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_first) / (x_last - x_first or 1)
        up = (y - low) / (high - low)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    traces = []
    for i, points in enumerate(series):
        placed = [place(x, y) for x, y in points]
        traces.append(Trace(i, " ".join(f"{x},{y}" for x, y in placed), placed[-1] if placed else None))
    epochs = [x for x in ticks(x_first, x_last) if x == int(x) and x_first <= x <= x_last] or [x_first]
    step = ticks(low, high)[1] - low
    digits = max(0, -math.floor(math.log10(step))) if step < 1 else 0
    return Chart(
        title,
        unit,
        note,
        tuple((place(x, low)[0], f"{x:.0f}") for x in epochs),
        tuple((place(x_first, y)[1], f"{y:.{digits}f}") for y in y_ticks),
        tuple(traces),
    )


def _points(run: Experiment, column: str) -> list[tuple[float, float]]:
    if column not in run.history or "epoch" not in run.history:
        return []
    pairs = zip(run.history["epoch"], run.history[column], strict=True)
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def ticks(low: float, high: float, at_most: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`, evenly spaced."""
    if high - low < 1e-12 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    size = 10 ** math.floor(math.log10((high - low) / at_most))
    step = next(size * factor for factor in (1, 2, 5, 10, 20) if (high - low) / (size * factor) <= at_most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
