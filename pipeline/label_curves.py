"""Test error against the number of labels, from a sweep's table, with published errors of others beside it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.figures import LINES, MARKERS, saved_figure, shortened
from pipeline.published import Published
from pipeline.tables import numbers, read_csv

_DASHES = ("--", ":", "-.")


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
    methods = list(dict.fromkeys(table["method"]))
    method = np.array(table["method"], dtype=object)
    counts = np.unique(labels)
    references = [(work, {n: e for n, e in work.errors.items() if counts[0] <= n <= counts[-1]}) for work in published]
    references = [(work, shown) for work, shown in references if shown]
    every = np.concatenate([errors, *(list(shown.values()) for _, shown in references)])
    log_y = every.min() > 0 and every.max() / every.min() > 8
    with saved_figure(out, (11.5 if references else 7.0, 4.4)) as figure:
        ax = figure.add_subplot()
        handles: list[Any] = []
        names: list[str] = []
        for index, name in enumerate(methods):
            mine = method == name
            x = np.unique(labels[mine])
            runs = [errors[mine & (labels == count)] for count in x]
            mean = np.array([run.mean() for run in runs])
            # One run has no spread, and so no bar.
            std = np.array([run.std(ddof=1) if len(run) > 1 else np.nan for run in runs])
            # On a log axis a bar must not reach 0; it is cut at a tenth of the mean.
            down = np.minimum(std, 0.9 * mean) if log_y else std
            # Methods stand a little apart, so that their bars do not hide each other.
            shifted = x * 1.035 ** (index - (len(methods) - 1) / 2)
            bars = ax.errorbar(
                shifted, mean, yerr=np.stack([down, std]), color=LINES[index % len(LINES)], capsize=3,
                marker=MARKERS[index % len(MARKERS)], markersize=5.5, linewidth=1.5,
                linestyle="-" if index < len(LINES) else "--",
            )  # fmt: skip
            handles.append(bars)
            names.append(f"{shortened(name)} ({_seeds(runs)})")
        for index, (work, shown) in enumerate(references):
            (line,) = ax.plot(
                list(shown), list(shown.values()), color="#888888", linewidth=1.0, markersize=5, markerfacecolor="none",
                linestyle=_DASHES[index % len(_DASHES)] if len(shown) > 1 else "", marker=MARKERS[index % len(MARKERS)],
            )  # fmt: skip
            handles.append(line)
            names.append(f"published: {work.name} ({work.source})")
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
        ax.set(
            title="Test error by number of labels (mean, one standard deviation over seeds)",
            xlabel="labelled examples, all classes together",
            ylabel="test error (%)",
        )
        # Handed over as a list: a label of its own that starts with "_" would be left out of the legend.
        if references:
            figure.legend(handles, names, loc="outside right upper")
        else:
            ax.legend(handles, names)


def _seeds(runs: Sequence[NDArray[np.float64]]) -> str:
    least, most = min(map(len, runs)), max(map(len, runs))
    number = str(most) if least == most else f"{least} to {most}"
    return f"{number} seed" if number == "1" else f"{number} seeds"


def _step_125(value: float, down: bool) -> float:
    """The next of ..., 1, 2, 5, 10, 20, ... below or above."""
    decade = 10.0 ** math.floor(math.log10(value))
    steps = [decade * step for step in (0.5, 1, 2, 5, 10, 20)]
    return max(s for s in steps if s < value) if down else min(s for s in steps if s > value)
