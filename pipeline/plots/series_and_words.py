"""Examples of series and of counts as pictures, from saved tables only: what `figures.image_grid` is for images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.plots.figures import DPI, check_labels, saved_figure, shortened
from pipeline.plots.palette import THEME
from pipeline.results.tables import read_grid

_COLOURS = 4
_WORDS = 12
_MARGIN = 0.06
"""Around a curve, of its cell's side."""


def curve_grid(
    npz: Path,
    key: str,
    out: Path,
    title: str,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
) -> None:
    """A grid of small plots of series, all on one scale; the first channels of each.

    Args:
        npz: holds `key`, floats of shape `[rows, columns, C, T]`, NaN past a series' end.
        row_labels: one for each row; column_labels: one for each column, above it.
    """
    series = read_grid(npz, key, 4)
    rows, columns, channels, length = series.shape
    check_labels(npz, key, rows, row_labels, columns, column_labels)
    shown = series[:, :, :_COLOURS]
    low, high = (float(np.nanquantile(shown, q)) for q in (0.002, 0.998))
    if low == high:
        low, high = low - 1, high + 1
    # All in one axes: a thousand of them would take minutes.
    cell = np.arange(columns) + _MARGIN, np.arange(rows)[::-1] + _MARGIN
    inside = 1 - 2 * _MARGIN
    x = cell[0][:, None] + inside * np.arange(length) / max(1, length - 1)
    y = cell[1][:, None, None, None] + inside * (np.clip(shown, low, high) - low) / (high - low)
    # A gap ends each curve.
    apart = [(0, 0), (0, 0), (0, 1)]
    x = np.pad(np.broadcast_to(x, (rows, columns, length)), apart, constant_values=np.nan)
    with saved_figure(out, (columns * 110 / DPI, rows * 90 / DPI), crop=True) as figure:
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        for channel in range(shown.shape[2]):
            curves = np.pad(y[:, :, channel], apart, constant_values=np.nan)
            # A line needs two points: a series of one would be invisible.
            ax.plot(x.ravel(), curves.ravel(), linewidth=0.9, marker="." if length == 1 else None)
        ax.set(xlim=(0, columns), ylim=(0, rows), xticks=[], yticks=[])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        ax.vlines(range(columns + 1), 0, rows, color=THEME["line"][0], linewidth=0.6)
        ax.hlines(range(rows + 1), 0, columns, color=THEME["line"][0], linewidth=0.6)
        for row, label in enumerate(row_labels or ()):
            ax.text(-0.05, rows - row - 0.5, shortened(label), ha="right", va="center")
        for column, label in enumerate(column_labels or ()):
            ax.text(column + 0.5, rows + 0.05, shortened(label), ha="center", va="bottom", fontsize="small")
        more = f" (channels 1 to {_COLOURS} of {channels})" if channels > _COLOURS else ""
        above = 0.35 if column_labels is not None else 0.1
        ax.text(columns / 2, rows + above, title + more, ha="center", va="bottom", fontsize="large")


def as_series(examples: NDArray[Any], spec: DataSpec) -> NDArray[Any]:
    """Vectors `[..., D]` as series of one channel `[..., 1, D]`, to be drawn as these; others as they are."""
    return examples[..., None, :] if spec.kind == "vector" else examples


def word_lists(npz: Path, vocabulary: Sequence[str], out: Path, classes: Sequence[str]) -> None:
    """For each class the words that its samples have more often than those of the other classes.

    Args:
        npz: holds `samples`, expected proportions of words `[K, samples, W]`.
        vocabulary: the W words.
    """
    samples = read_grid(npz, "samples", 3)
    if samples.shape[0] != len(classes) or samples.shape[2] != len(vocabulary):
        expected = f"{len(classes)} classes of {len(vocabulary)} words"
        raise DataError(f"array samples {list(samples.shape)} is not of {expected}: {npz}")
    log_share = np.log(samples.mean(1) + 1e-8)
    excess = log_share - log_share.mean(0, keepdims=True)
    # Weighted by how frequent the word is: a rare word's ratio alone means little.
    score = samples.mean(1) * excess
    with saved_figure(out, (len(classes) * 150 / DPI, (_WORDS + 2) * 30 / DPI), crop=True) as figure:
        ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        ax.set_axis_off()
        for column, name in enumerate(classes):
            x = (column + 0.5) / len(classes)
            ax.text(x, 1.0, shortened(name), ha="center", va="top", weight="bold", transform=ax.transAxes)
            for rank, word in enumerate(np.argsort(-score[column], kind="stable")[:_WORDS]):
                y = 1.0 - (rank + 1.5) / (_WORDS + 2)
                ax.text(x, y, shortened(vocabulary[word]), ha="center", va="top", transform=ax.transAxes)
        ax.set_title("Words that r of each class makes frequent (v drawn from the prior)")
