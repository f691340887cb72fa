"""Test error against the number of labels, from a sweep's table, with published errors of others beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.plots.figures import saved_figure, shortened
from pipeline.plots.palette import COLOURS, THEME, colour, mark_path, marker
from pipeline.plots.published_results import Published
from pipeline.results.tables import numbers, read_csv

_DASHES = ("--", ":", "-.")


@dataclass(frozen=True)
class Curve:
    """Test errors, percent, at numbers of labels over all classes."""

    name: str
    note: str
    kind: Literal["run", "sweep", "published"]
    labels: tuple[float, ...]
    errors: tuple[float, ...]
    deviations: tuple[float | None, ...] = ()
    """Over runs, n - 1; empty or None where there is none."""

    runs: tuple[int, ...] = ()
    """That each error is the mean of; empty where it is not known."""


def error_against_labels(table_csv: Path, out: Path, published: Sequence[Published] = ()) -> None:
    """Test error by number of labels, a line per method: mean over seeds, bars of one standard deviation (n - 1).

    Args:
        table_csv: columns method, labels (a count over all classes), seed, test_error_pct (percent); one row a run. A
            run without an error rate (it failed) is left out.
        published: errors of others, drawn in grey and named as published, at the counts that the table spans.
    """
    table = read_csv(table_csv, ["method", "labels", "seed", "test_error_pct"])
    labels = numbers(table, "labels", table_csv)
    errors = numbers(table, "test_error_pct", table_csv, gaps=True)
    finished = np.isfinite(errors)
    if not finished.any():
        raise DataError(f"no run in the table has an error rate: {table_csv}")
    labels, errors = labels[finished], errors[finished]
    table = {name: list(itertools.compress(cells, finished)) for name, cells in table.items()}
    if labels.min() <= 0:
        raise DataError(f"column labels must hold counts above 0, got {labels.min():g}: {table_csv}")
    method = np.array(table["method"], dtype=object)
    curves = []
    for name in dict.fromkeys(table["method"]):
        mine = method == name
        x = np.unique(labels[mine])
        runs = [errors[mine & (labels == count)] for count in x]
        # One run has no spread, and so no bar.
        std = [float(run.std(ddof=1)) if len(run) > 1 else None for run in runs]
        curves.append(
            Curve(name, _seeds(runs), "sweep", tuple(x.tolist()), tuple(float(run.mean()) for run in runs), tuple(std))
        )
    for work in published:
        curves.append(Curve(work.name, work.source, "published", tuple(work.errors), tuple(work.errors.values())))
    with saved_figure(out, (11.5 if published else 7.0, 4.4)) as figure:
        ax = figure.add_subplot()
        handles = draw_curves(ax, curves)
        ax.set_title("Test error by number of labels (mean, one standard deviation over seeds)")
        names = [("published: " if c.kind == "published" else "") + f"{shortened(c.name)} ({c.note})" for c in curves]
        shown = [(handle, name) for handle, name in zip(handles, names, strict=True) if handle is not None]
        # Handed over as a list: a label of its own that starts with "_" would be left out of the legend.
        if published:
            figure.legend(*zip(*shown, strict=True), loc="outside right upper")
        else:
            ax.legend(*zip(*shown, strict=True))


def draw_curves(ax: Axes, curves: Sequence[Curve]) -> list[Any]:
    """Errors by number of labels, both axes as they need; a handle for each curve, None where nothing of it is shown.

    The axis spans the counts of this project's own runs; published errors at other counts are left out.
    """
    counts = np.unique([count for curve in curves if curve.kind != "published" for count in curve.labels])
    shown = [[i for i, n in enumerate(curve.labels) if counts[0] <= n <= counts[-1]] for curve in curves]
    every = np.array([curve.errors[i] for curve, kept in zip(curves, shown, strict=True) for i in kept])
    log_y = bool(every.min() > 0 and every.max() / every.min() > 8)
    own = sum(curve.kind == "sweep" for curve in curves)
    handles: list[Any] = []
    for index, (curve, kept) in enumerate(zip(curves, shown, strict=True)):
        x, mean = (np.array([values[i] for i in kept]) for values in (curve.labels, curve.errors))
        look = curve_look(curves, index)
        if not kept:
            handles.append(None)
        elif curve.kind == "published":
            (line,) = ax.plot(
                x, mean, color=look.colour, linewidth=1.0, markersize=5, markerfacecolor="none", marker=look.marker,
                linestyle=_DASHES[index % len(_DASHES)] if len(x) > 1 else "",
            )  # fmt: skip
            handles.append(line)
        else:
            std = np.array([curve.deviations[i] if curve.deviations else None for i in kept], dtype=np.float64)
            # On a log axis a bar must not reach 0; it is cut at a tenth of the mean.
            down = np.minimum(std, 0.9 * mean) if log_y else std
            # Methods stand a little apart, so that their bars do not hide each other.
            shifted = x * (1.035 ** (index - (own - 1) / 2) if curve.kind == "sweep" else 1)
            bars = ax.errorbar(
                shifted, mean, yerr=np.stack([down, std]), color=look.colour, capsize=3, marker=look.marker,
                markersize=5.5 if curve.kind == "sweep" else 9, linewidth=1.5,
                linestyle="-" if index < len(COLOURS) else "--",
            )  # fmt: skip
            handles.append(bars)
    ax.set_xscale("log")
    if log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylim(_step_125(every.min(), down=True), _step_125(every.max(), down=False))
    else:
        ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_locator(FixedLocator(counts.tolist()))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{count:,.0f}" for count in counts]))
    ax.set_xlim(counts[0] / 1.4, counts[-1] * 1.4)
    span = math.log(counts[-1] / counts[0] * 2)
    if len(counts) > 1 and np.diff(np.log(counts)).min() < 0.065 * span:
        ax.tick_params(axis="x", labelrotation=45)
    ax.set(xlabel="labelled examples, all classes together", ylabel="test error (%)")
    return handles


@dataclass(frozen=True)
class Look:
    """Of a curve, in the chart and in front of its name in a table."""

    colour: str
    marker: str
    path: str
    """The marker in a box of 16."""


def curve_look(curves: Sequence[Curve], index: int) -> Look:
    """Ink for this run, a colour for each method of a sweep, grey for what others published."""
    kind = curves[index].kind
    place = sum(curve.kind == kind for curve in curves[:index])
    tone = {"run": THEME["ink"][0], "sweep": colour(place), "published": THEME["quiet"][0]}[kind]
    # Shapes alone tell those in grey apart.
    place += kind == "published"
    return Look(tone, marker(place), mark_path(place))


def _seeds(runs: Sequence[NDArray[np.float64]]) -> str:
    least, most = min(map(len, runs)), max(map(len, runs))
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} seed" if number == "1" else f"{number} seeds"


def _step_125(value: float, down: bool) -> float:
    """The next of ..., 1, 2, 5, 10, 20, ... below or above."""
    decade = 10.0 ** math.floor(math.log10(value))
    steps = [decade * step for step in (0.5, 1, 2, 5, 10, 20)]
    return max(s for s in steps if s < value) if down else min(s for s in steps if s > value)
