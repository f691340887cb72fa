"""A chart as SVG inside of an HTML page: text stays text, colours follow the page's scheme."""

from __future__ import annotations

import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes

from pipeline.plots.figures import styled_figure
from pipeline.plots.palette import themed


def inline_svg(draw: Callable[[Axes], object], name: str, size: tuple[float, float] = (3.5, 2.6)) -> str:
    """What `draw` draws on its axes, as one `<svg>` element; the same drawing gives the same text.

    Args:
        name: parts the element's ids from those of other charts of the page.
        size: inches; the page scales it.
    """
    file = io.StringIO()
    with styled_figure(size) as figure:
        draw(figure.add_subplot())
        matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    text = file.getvalue()
    svg = text[text.index("<svg") :]
    # Its style would hold for the whole page, and its names of groups occur in every chart.
    svg = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    # Nothing is drawn outside of the axes; without `url(` it is plain that the page loads nothing.
    svg = re.sub(r"<clipPath.*?</clipPath>| clip-path=\"[^\"]*\"", "", svg, flags=re.DOTALL)
    svg = re.sub(r" id=\"[A-Za-z0-9.]+_\d+\"", "", svg)
    svg = re.sub(r" (?:width|height)=\"[\d.]+pt\"| xmlns(?::xlink)?=\"[^\"]*\"| version=\"[\d.]+\"", "", svg)
    svg = re.sub(r"font-family: [^;\"]*; ", "", svg)
    svg = re.sub(r"\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", svg)
    return themed(re.sub(r">\s+<", "><", re.sub(r"\s*\n\s*", " ", svg)).strip())
