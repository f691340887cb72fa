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
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.files import atomic_file
from pipeline.maps import pca, tsne
from pipeline.tables import numbers, read_csv, read_images, read_test_latents

DPI = 150

LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours, told apart by readers with any colour vision."""

_CLASSES = (
    "#332288", "#DDAA33", "#117733", "#CC3311", "#88CCEE", "#AA4499", "#999933", "#EE99AA", "#000000", "#44AA99",
)  # fmt: skip
"""Paul Tol's muted colours with three swapped for contrast; classes 10..19 repeat them with another marker."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_STYLE: Any = {
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "figure.titlesize": 12.0,
    "legend.fontsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.constrained_layout.h_pad": 0.08,
    "text.parse_math": False,
}

CURVES: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("Validation error", "error (%)", (("val_error", "validation"),)),
    ("Training loss", "loss (nats per example)", (("loss", "loss"),)),
    (
        "Bounds",
        "bound (nats per example)",
        (("bound_labelled", "labelled"), ("bound_unlabelled", "unlabelled"), ("val_bound", "validation")),
    ),
    ("What v carries", "KL to the prior (nats per example)", (("kl", "KL"),)),
    ("Classes in the class sum", "live classes per example", (("classes_alive", "classes"),)),
    ("Share of confident points", "share of unlabelled points", (("confident", "confident"),)),
)
"""Title, y label and (column, name) of each panel of the training curves."""


def training_curves(history_csv: Path, out: Path) -> None:
    """Curves over epochs, one panel for each measure that the history holds; empty cells are skipped.

    Args:
        history_csv: column `epoch` and any of val_error (percent), loss, bound_labelled, bound_unlabelled,
            val_bound, kl (nats per example), classes_alive, confident (0..1); one row an epoch.
    """
    table = read_csv(history_csv, ["epoch"])
    epoch = numbers(table, "epoch", history_csv)
    panels = []
    for title, ylabel, lines in CURVES:
        drawn = []
        for column, name in lines:
            y = numbers(table, column, history_csv, gaps=True) if column in table else np.full(len(epoch), np.nan)
            if np.isfinite(y).any():
                drawn.append((name, y))
        if drawn:
            panels.append((title, ylabel, drawn))
    if not panels:
        known = ", ".join(column for _, _, lines in CURVES for column, _ in lines)
        raise DataError(f"history has numbers in none of the columns {known}: {history_csv}")
    num_columns = min(3, len(panels)) if len(panels) != 4 else 2
    num_rows = math.ceil(len(panels) / num_columns)
    with saved_figure(out, (4.0 * num_columns, 3.1 * num_rows)) as figure:
        for index, (title, ylabel, drawn) in enumerate(panels):
            ax = figure.add_subplot(num_rows, num_columns, index + 1)
            for line, (name, y) in enumerate(drawn):
                seen = np.isfinite(y)
                marker = MARKERS[line] if seen.sum() <= 40 else None
                ax.plot(epoch[seen], y[seen], color=LINES[line], marker=marker, markersize=3.5, label=name)
            if len(drawn) > 1:
                ax.legend()
            ax.set(title=title, xlabel="epoch", ylabel=ylabel)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            if title in ("Validation error", "Share of confident points"):
                ax.set_ylim(bottom=0)


def confusion_matrix(confusion_csv: Path, out: Path) -> None:
    """Counts of actual (row) by predicted (column) class, coloured by their share of the row.

    The colour scale is a square root, so that one error in a hundred can be seen. Up to 20 classes have their counts
    written in the cells, no number where there is no point.

    Args:
        confusion_csv: columns actual, predicted (class names); one row a test point.
    """
    table = read_csv(confusion_csv, ["actual", "predicted"])
    actual, predicted = table["actual"], table["predicted"]
    classes = _ordered({*actual, *predicted})
    place = {name: index for index, name in enumerate(classes)}
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, ([place[name] for name in actual], [place[name] for name in predicted]), 1)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    error = 100 * (1 - np.trace(counts) / counts.sum())
    side = min(9.0, max(4.2, 0.46 * len(classes) + 1.6))
    with saved_figure(out, (side + 1.0, side)) as figure:
        ax = figure.add_subplot()
        ax.grid(False)
        image = ax.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1))
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
        ax.set_title(f"Confusion matrix: {counts.sum():,} test points, {error:.2f} % wrong")
        bar = figure.colorbar(image, ax=ax, shrink=0.8, label="share of the actual class")
        bar.set_ticks([0, 0.01, 0.05, 0.1, 0.25, 0.5, 1], labels=["0", "0.01", "0.05", "0.1", "0.25", "0.5", "1"])
        bar.minorticks_off()


def latent_map(
    latents_parquet: Path, column: Literal["r", "v_mean"], out: Path, max_points: int = 2000, seed: int = 0
) -> None:
    """Test points in two dimensions, by PCA and by t-SNE, coloured by class.

    t-SNE shows neighbours, not distances: sizes of clusters and gaps between them mean nothing.

    Args:
        latents_parquet: columns split, label (class names) and `column`, a fixed-size list of floats.
        max_points: at most so many points of split `test` are drawn.
        seed: which ones, and the start of t-SNE.
    """
    x, labels = read_test_latents(latents_parquet, column)
    if len(x) > max_points:
        keep = np.sort(np.random.default_rng(seed).choice(len(x), max_points, replace=False))
        x, labels = x[keep], [labels[index] for index in keep]
    if x.shape[1] == 1:
        x = np.pad(x, ((0, 0), (0, 1)))
    flat, explained = pca(x)
    maps = [
        ("PCA", flat, [f"component {i + 1} ({100 * explained[i]:.0f} % of the variance)" for i in range(2)]),
        ("t-SNE", tsne(x, seed), ["t-SNE 1 (no unit)", "t-SNE 2 (no unit)"]),
    ]
    name = {"r": "r, invariant: should cluster by class", "v_mean": "v, equivariant: should not cluster by class"}
    classes = _ordered(set(labels))
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
            handles = [
                Line2D([], [], linestyle="", marker=MARKERS[i // len(_CLASSES)], color=_CLASSES[i % len(_CLASSES)])
                for i in range(len(classes))
            ]
            names = [shortened(label) for label in classes]
            figure.legend(handles, names, loc="outside right center", title="class", markerscale=1.1)
        else:
            figure.supxlabel(f"colour: {len(classes)} classes in the order of their names", fontsize=9)


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
        top.plot([0, 1], [0, 1], color="#777777", linestyle="--", label="perfectly calibrated")
        top.plot(confidence[filled], accuracy[filled], color=LINES[0], marker="o", markersize=5, label="this model")
        top.set(ylabel="accuracy (share right)", xlim=(0, 1), ylim=(0, 1.03))
        top.set_title(f"Calibration: ECE {ece:.4f} in {bins} bins")
        top.legend(loc="best")
        bottom.bar((edges[:-1] + edges[1:])[filled] / 2, count[filled], width=0.9 / bins, color=LINES[0])
        bottom.set_yscale("log")
        bottom.set_ylim(0.7, 10 ** math.ceil(math.log10(count.max()) + 0.1))
        bottom.yaxis.set_major_locator(LogLocator(numticks=5))
        bottom.yaxis.set_minor_locator(NullLocator())
        bottom.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        bottom.set(xlabel="confidence: q(y|x) of the predicted class", ylabel="test points")


@contextlib.contextmanager
def saved_figure(out: Path, size: tuple[float, float], crop: bool = False) -> Iterator[Figure]:
    """A figure of so many inches, saved to `out` when the block ends well; `crop` fits the file to what is drawn."""
    with matplotlib.rc_context():
        # A user's own matplotlibrc must not change the bytes.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(figsize=size, dpi=DPI, layout=None if crop else "constrained")
        FigureCanvasAgg(figure)
        yield figure
        with atomic_file(out) as part, warnings.catch_warnings():
            # A class name may hold a letter that the font lacks; it is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
            figure.savefig(
                part, format="png", metadata={"Software": None}, bbox_inches="tight" if crop else None, pad_inches=0.08
            )


def _scatter_classes(ax: Axes, points: NDArray[np.float64], index: NDArray[np.int64], num_classes: int) -> None:
    """Points `[N, 2]` by class; all classes of one marker in one call, so that none lies on top of the others."""
    size = 10.0 if len(points) > 500 else 22.0
    if num_classes > 20:
        ax.scatter(points[:, 0], points[:, 1], s=size, c=index, cmap="viridis", alpha=0.75, linewidths=0)
        return
    colours = np.array(_CLASSES)[index % len(_CLASSES)]
    for group, marker in enumerate(MARKERS[: math.ceil(num_classes / len(_CLASSES))]):
        mine = index // len(_CLASSES) == group
        ax.scatter(points[mine, 0], points[mine, 1], s=size, c=colours[mine], marker=marker, alpha=0.75, linewidths=0)


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
