"""The page of `ie compare`: one HTML file with its styles, curves and pictures in it, and no script.

Names and values are text: the template escapes all of them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.plots.inline_svg import inline_svg
from pipeline.plots.palette import COLOURS, THEME
from pipeline.report.comparison import Comparison
from pipeline.report.experiments import Experiment
from pipeline.report.render import fill_template
from pipeline.results.metric import Metric
from pipeline.results.metric_catalog import TRAINED

_CURVES = [metric for metric in TRAINED if metric.column in ("val_error", "val_bound", "loss", "kl")]
# Of each run, as comparison.css has them.
_COLOURS = [THEME["ink"][0], *(COLOURS[i][0] for i in (0, 1, 2, 6, 4, 3, 7))]
_DASHES = ["-", (0, (3.5, 2)), (0, (1, 2)), (0, (4.5, 2, 1, 2))] * 2


def page(found: Comparison) -> str:
    """The HTML."""
    charts = [(metric, svg) for metric in _CURVES if (svg := _chart(found.runs, metric))]
    swaps = [(i, base64.b64encode(run.swap).decode()) for i, run in enumerate(found.runs) if run.swap is not None]
    return fill_template("comparison", {"found": found, "charts": charts, "swaps": swaps})


def _chart(runs: Sequence[Experiment], metric: Metric) -> str:
    """A column of history.csv by epoch, a line each run; empty where fewer than two runs have it."""
    curves = []
    for i, run in enumerate(runs):
        epoch, values = (np.array(run.history.get(name, ())) for name in ("epoch", metric.column))
        if len(epoch) == len(values) and (seen := np.isfinite(epoch) & np.isfinite(values)).any():
            curves.append((i, epoch[seen], values[seen]))

    def draw(ax: Axes) -> None:
        for i, epoch, values in curves:
            name = f"{metric.column}-{i}"
            ax.plot(epoch, values, color=_COLOURS[i], linestyle=_DASHES[i], marker="o", markevery=[-1], gid=name)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        ax.set_xlabel("epoch")

    return inline_svg(draw, f"curve-{metric.column}", (4.2, 2.5)) if len(curves) > 1 else ""
