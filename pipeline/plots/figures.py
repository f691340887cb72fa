"""Every plot, drawn from saved tables only: CSV, Parquet, and npz without pickled objects.

The same table gives the same bytes. Names of classes and methods are drawn as they are written, never as mathematics.
A table that is missing, damaged or lacks a column is a DataError that names the file.
"""

from __future__ import annotations

import contextlib
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.plots.palette import COLOURS, THEME, colour, marker
from pipeline.plots.projections import pca, tsne
from pipeline.results.history import CURVES
from pipeline.results.tables import count_pairs, latent_classes, numbers, read_csv, read_images, read_test_latents
from pipeline.utils.files import atomic_file
from pipeline.utils.rounding import percent

DPI = 150

_SHADES = LinearSegmentedColormap.from_list("shades", ["#ffffff", colour(0)])

_INK, _QUIET = THEME["ink"][0], THEME["quiet"][0]

_STYLE: Any = {
    "text.color": _INK,
    "axes.labelcolor": _QUIET,
    "axes.edgecolor": _QUIET,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "axes.prop_cycle": cycler(color=[light for light, _ in COLOURS]),
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "figure.titlesize": 12.0,
    "legend.fontsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": THEME["line"][0],
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "text.parse_math": False,
}


def training_curves(history_csv: Path, out: Path) -> None:
    """Curves over epochs, one panel for each measure that the history holds; empty cells are skipped.

    Args:
        history_csv: column `epoch` and any of val_error (percent), loss, bound_labelled, bound_unlabelled,
            val_bound, kl (nats per example), classes_alive, confident (0..1); one row an epoch.
    """
    panels = history_panels(history_csv)
    if not panels:
        known = ", ".join(column for _, _, lines in CURVES for column, _ in lines)
        raise DataError(f"history has numbers in none of the columns {known}: {history_csv}")
    num_columns = min(3, len(panels)) if len(panels) != 4 else 2
    num_rows = math.ceil(len(panels) / num_columns)
    with saved_figure(out, (4.0 * num_columns, 3.1 * num_rows)) as figure:
        for index, panel in enumerate(panels):
            draw_history(figure.add_subplot(num_rows, num_columns, index + 1), panel)


@dataclass(frozen=True)
class HistoryPanel:
    """Curves over epochs that share a unit."""

    title: str
    unit: str
    epoch: NDArray[np.float64]
    lines: tuple[tuple[str, NDArray[np.float64]], ...]
    """Name and values, NaN where there is none; at least one of them is finite."""


def history_panels(history_csv: Path) -> list[HistoryPanel]:
    """The panels that a training's history has numbers for; see `training_curves`."""
    table = read_csv(history_csv, ["epoch"])
    epoch = numbers(table, "epoch", history_csv)
    panels = []
    for title, unit, columns in CURVES:
        lines = [(name, numbers(table, column, history_csv, gaps=True)) for column, name in columns if column in table]
        seen = tuple((name, y) for name, y in lines if np.isfinite(y).any())
        if seen:
            panels.append(HistoryPanel(title, unit, epoch, seen))
    return panels


def draw_history(ax: Axes, panel: HistoryPanel) -> None:
    """One panel."""
    for line, (name, y) in enumerate(panel.lines):
        seen = np.isfinite(y)
        mark = marker(line) if seen.sum() <= 40 else None
        ax.plot(panel.epoch[seen], y[seen], color=colour(line), marker=mark, markersize=3.5, label=name)
    if len(panel.lines) > 1:
        ax.legend()
    ax.set(title=panel.title, xlabel="epoch", ylabel=panel.unit)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if panel.unit.startswith(("error", "share")):
        ax.set_ylim(bottom=0)


def confusion_matrix(confusion_csv: Path, out: Path) -> None:
    """Counts of actual (row) by predicted (column) class, coloured by their share of the row.

    The colour scale is a square root, so that one error in a hundred can be seen. Up to 20 classes have their counts
    written in the cells, no number where there is no point.

    Args:
        confusion_csv: columns actual, predicted (class names); one row a test point.
    """
    pairs = count_pairs(confusion_csv, "actual", "predicted")
    classes = _ordered({name for pair in pairs for name in pair})
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    place = {name: index for index, name in enumerate(classes)}
    for (actual, predicted), num in pairs.items():
        counts[place[actual], place[predicted]] = num
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    error = 100 * (1 - np.trace(counts) / counts.sum())
    side = min(9.0, max(4.2, 0.46 * len(classes) + 1.6))
    with saved_figure(out, (side + 1.0, side)) as figure:
        ax = figure.add_subplot()
        ax.grid(False)
        image = ax.imshow(share, cmap=_SHADES, norm=PowerNorm(0.5, 0, 1))
        if len(classes) <= 20:
            size = 9.0 if counts.max() < 1000 or len(classes) <= 10 else 7.0
            for row, column in np.argwhere(counts > 0):
                dark = share[row, column] > 0.35
                ax.text(
                    column, row, str(counts[row, column]), ha="center", va="center", fontsize=size,
                    color="white" if dark else "black",
                )  # fmt: skip
        step = math.ceil(len(classes) / 40)
        ticks = list(range(0, len(classes), step))
        names = [shortened(classes[tick]) for tick in ticks]
        size = 10.0 if len(ticks) <= 20 else 7.0
        ax.set_yticks(ticks, names, fontsize=size)
        upright = max(len(name) for name in names) <= 3 and len(ticks) <= 20
        ax.set_xticks(ticks, names, fontsize=size, rotation=0 if upright else 90)
        ax.set(xlabel="predicted class", ylabel="actual class")
        ax.set_title(f"Confusion matrix: {counts.sum():,} test points, {percent(float(error))} wrong")
        bar = figure.colorbar(image, ax=ax, shrink=0.8, label="share of the actual class")
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "0.01", "0.05", "0.1", "0.25", "0.5", "1"])
        bar.minorticks_off()


def latent_map(
    latents_parquet: Path, column: Literal["r", "v_mean"], out: Path, max_points: int = 2000, seed: int = 0
) -> None:
    """Test points in two dimensions, by PCA and by t-SNE, coloured by class.

    t-SNE shows neighbours, not distances: sizes of clusters and gaps between them mean nothing.

    Args:
        latents_parquet: a file, or a folder of them; columns key, split, label (class names) and `column`, a
            fixed-size list of floats.
        max_points: at most so many points of split `test` are drawn, chosen by a hash of their key.
        seed: the start of t-SNE.
    """
    x, labels = read_test_latents(latents_parquet, column, max_points)
    if x.shape[1] == 1:
        x = np.pad(x, ((0, 0), (0, 1)))
    flat, explained = pca(x)
    maps = [
        ("PCA", flat, [f"component {i + 1} ({100 * explained[i]:.0f} % of the variance)" for i in range(2)]),
        ("t-SNE", tsne(x, seed), ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]),
    ]
    name = {"r": "r, invariant: should cluster by class", "v_mean": "v, equivariant: should not cluster by class"}
    classes = latent_classes(latents_parquet) or _ordered(set(labels))
    index = np.array([classes.index(label) for label in labels])
    with saved_figure(out, (11.0, 4.9)) as figure:
        for panel, (title, points, axis_names) in enumerate(maps):
            ax = figure.add_subplot(1, 2, panel + 1)
            ax.grid(False)
            _scatter_classes(ax, points, index, len(classes))
            ax.set(title=title, xlabel=axis_names[0], ylabel=axis_names[1])
            if title == "t-SNE":
                ax.set(xticks=[], yticks=[])
        figure.suptitle(f"{name[column]} ({len(x):,} test points)")
        if len(classes) <= 20:
            handles = [Line2D([], [], linestyle="", marker=marker(i), color=colour(i)) for i in range(len(classes))]
            names = [shortened(label) for label in classes]
            figure.legend(handles, names, loc="outside right center", title="class", markerscale=1.1)
        else:
            figure.supxlabel(f"{len(classes)} classes; the page of `ie report` names their marks", fontsize=9)


def check_labels(
    npz: Path, key: str, rows: int, row_labels: Sequence[str] | None, columns: int, column_labels: Sequence[str] | None
) -> None:
    """Whether a grid has as many labels as rows and columns.

    Raises:
        DataError: it has not; names the file.
    """
    for what, labels, number in (("row", row_labels, rows), ("column", column_labels, columns)):
        if labels is not None and len(labels) != number:
            raise DataError(f"array {key} has {number} {what}s but {len(labels)} {what} labels were given: {npz}")


def image_grid(
    npz: Path,
    key: str,
    out: Path,
    title: str,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> None:
    """A grid of images with thin gaps, each pixel drawn as a block of equal size: reconstructions, swaps, samples.

    Args:
        npz: holds `key`, floats 0..1 of shape `[rows, columns, C, H, W]`, C 1 (grey) or 3 (RGB).
        row_labels: one for each row; column_labels: one for each column, above it.
    """
    images = read_images(npz, key)
    rows, columns, channels, height, width = images.shape
    check_labels(npz, key, rows, row_labels, columns, column_labels)
    # Whole screen pixels per image pixel, and cells of at least about half a centimetre.
    scale = max(1, math.ceil(52 / max(height, width)))
    gap = 3
    step_y, step_x = height * scale + gap, width * scale + gap
    canvas = np.ones((rows * step_y - gap, columns * step_x - gap, channels))
    for row in range(rows):
        for column in range(columns):
            block = images[row, column].transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
            y, x = row * step_y, column * step_x
            canvas[y : y + height * scale, x : x + width * scale] = block
    size = (canvas.shape[1] / DPI, canvas.shape[0] / DPI)
    with saved_figure(out, size, crop=True) as figure:
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.grid(False)
        ax.imshow(canvas.repeat(3 // channels, axis=2), interpolation="none", aspect="auto")
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set(xticks=[], yticks=[])
        ax.tick_params(length=0, labeltop=True, labelbottom=False)
        if row_labels is not None:
            centres = [row * step_y + height * scale / 2 for row in range(rows)]
            ax.set_yticks(centres, [shortened(label) for label in row_labels])
        if column_labels is not None:
            names = [shortened(label) for label in column_labels]
            wide = max(len(name) for name in names) * 12 > step_x
            centres = [column * step_x + width * scale / 2 for column in range(columns)]
            ax.set_xticks(centres, names, rotation=90 if wide else 0)
        ax.set_title(title, pad=8)


def calibration(calibration_csv: Path, out: Path) -> None:
    """Reliability diagram: accuracy against confidence per bin, and how many points each bin holds.

    Args:
        calibration_csv: columns confidence, accuracy (0..1, empty in an empty bin) and count; one row per
            equal-width bin of confidence, from 0 to 1, empty bins too.
    """
    table = read_csv(calibration_csv, ["confidence", "accuracy", "count"])
    confidence = numbers(table, "confidence", calibration_csv, gaps=True)
    accuracy = numbers(table, "accuracy", calibration_csv, gaps=True)
    count = numbers(table, "count", calibration_csv)
    bins = len(count)
    filled = count > 0
    if not filled.any():
        raise DataError(f"calibration table holds no points: {calibration_csv}")
    edges = np.linspace(0, 1, bins + 1)
    for index in np.flatnonzero(filled):
        inside = edges[index] - 1e-6 <= confidence[index] <= edges[index + 1] + 1e-6
        if not (inside and 0 <= accuracy[index] <= 1):
            raise DataError(
                f"calibration table needs one row per equal-width bin, but bin {index + 1} of {bins} has confidence "
                f"{confidence[index]:g} and accuracy {accuracy[index]:g}: {calibration_csv}"
            )
    gap = np.abs(accuracy - confidence)[filled]
    ece = float(np.sum(gap * count[filled]) / count.sum())
    with saved_figure(out, (5.2, 6.0)) as figure:
        axes = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        top, bottom = axes
        draw_calibration(top, confidence[filled], accuracy[filled])
        top.set_title(f"Calibration: ECE {ece:.4f} in {bins} bins")
        bottom.bar((edges[:-1] + edges[1:])[filled] / 2, count[filled], width=0.9 / bins, color=colour(0))
        bottom.set_yscale("log")
        bottom.set_ylim(0.7, 10 ** math.ceil(math.log10(count.max()) + 0.1))
        bottom.yaxis.set_major_locator(LogLocator(numticks=5))
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        bottom.set(xlabel="confidence: q(y|x) of the predicted class", ylabel="test points")


def leak_against_bound(measures_csv: Path, out: Path) -> None:
    """What v tells of the class against how good the generative model is: a point a trial, of those that have both.

    Args:
        measures_csv: of a sweep: method, labels, seed, measure, value.
    """
    table = read_csv(measures_csv, ("method", "labels", "seed", "measure", "value"))
    trials: dict[tuple[str, str, str], dict[str, float]] = {}
    for method, labels, seed, measure, value in zip(*table.values(), strict=True):
        trials.setdefault((method, labels, seed), {})[measure] = float(value)
    x, y, units = "bound_nats", "mi_v_class_nats", "active_units"
    drawn = {key: found for key, found in trials.items() if {x, y, units} <= found.keys()}
    if not drawn:
        raise DataError(f"{measures_csv}: no trial with {x}, {y} and {units}")
    names = list(dict.fromkeys(method for method, _, _ in drawn))
    with saved_figure(out, (8.0, 4.6)) as figure:
        ax = figure.add_subplot()
        for i, name in enumerate(names):
            mine = [found for (method, _, _), found in drawn.items() if method == name]
            active = "; ".join(f"{found[units]:.0f}" for found in mine)
            ax.plot(
                [found[x] for found in mine], [found[y] for found in mine], linestyle="", color=colour(i),
                marker=marker(i), label=f"{shortened(name)} ({active} units)",
            )  # fmt: skip
        ax.set_ylim(bottom=0)
        ax.set(xlabel="bound on log p(x), nats", ylabel="I(v; y), lower bound, nats")
        ax.set_title("The class in v against the bound, and active units of v")
        figure.legend(loc="outside right upper")


def draw_calibration(ax: Axes, confidence: NDArray[np.float64], accuracy: NDArray[np.float64]) -> None:
    """Accuracy against confidence (0..1) of the bins that hold points, and the diagonal."""
    ax.plot([0, 1], [0, 1], color=_QUIET, linestyle="--", label="perfectly calibrated")
    ax.plot(confidence, accuracy, color=colour(0), marker=marker(0), markersize=5, label="this model")
    ax.set(ylabel="accuracy (share right)", xlim=(0, 1), ylim=(0, 1.03))
    ax.legend(loc="best")


def draw_risk(ax: Axes, coverage: NDArray[np.float64], risk: NDArray[np.float64]) -> None:
    """Error against the share of test points that are answered, the most confident first; both 0..1."""
    ax.plot(100 * coverage, 100 * risk, color=colour(0))
    ax.set(xlabel="answered (% of the test points)", ylabel="error (%)", xlim=(0, 101))
    ax.set_ylim(bottom=0)


@contextlib.contextmanager
def styled_figure(size: tuple[float, float], constrained: bool = True) -> Iterator[Figure]:
    """A figure of so many inches in the project's style. What is to be in that style is saved inside of the block."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A user's own matplotlibrc must not change the bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        # A class name may hold a letter that the font lacks; it is drawn as a box.
        for message in ("Glyph .* missing from", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message=message, category=UserWarning)
        figure = Figure(figsize=size, dpi=DPI, layout="constrained" if constrained else None)
        FigureCanvasAgg(figure)
        yield figure


@contextlib.contextmanager
def saved_figure(out: Path, size: tuple[float, float], crop: bool = False) -> Iterator[Figure]:
    """A figure that is saved to `out`, a PNG, when the block ends well; `crop` fits the file to what is drawn."""
    with styled_figure(size, constrained=not crop) as figure:
        yield figure
        with atomic_file(out) as part:
            figure.savefig(
                part, format="png", metadata={"Software": None}, bbox_inches="tight" if crop else None, pad_inches=0.08
            )


def _scatter_classes(ax: Axes, points: NDArray[np.float64], index: NDArray[np.int64], num_classes: int) -> None:
    """Points `[N, 2]` by class; all classes of one marker in one call, so that none is on top of the others."""
    size = 10.0 if len(points) > 500 else 22.0
    colours = np.array([colour(i) for i in range(num_classes)])[index]
    marks = np.array([marker(i) for i in range(num_classes)])[index]
    for mark in np.unique(marks):
        mine = marks == mark
        ax.scatter(points[mine, 0], points[mine, 1], s=size, c=colours[mine], marker=mark, alpha=0.75, linewidths=0)


def _ordered(names: set[str]) -> list[str]:
    """By alphabet, but with whole numbers in a name by their value: class2 before class10."""

    def key(name: str) -> tuple[list[Any], str]:
        # Text and digits take turns, so that like meets like.
        return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name

    return sorted(names, key=key)


def shortened(name: str) -> str:
    """One line of at most 24 letters."""
    line = " ".join(name.split())
    return line if len(line) <= 24 else line[:23] + "…"
