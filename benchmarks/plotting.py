"""Twelve charts, four of them of 400 points, drawn by BokehJS and by plotly.js in a page without a network.

    pip install plotly==7.1.0 && python benchmarks/plotting.py

Prints the page's bytes and the milliseconds from its start until all charts are drawn, the median of five loads. Needs
chromium.
"""

from __future__ import annotations

import json
import shutil
import statistics
import tempfile
from importlib.resources import files
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, sync_playwright

_BOKEH = """
for (let i = 0; i < 12; i++) {
  const figure = Bokeh.Plotting.figure({ width: 480, height: 320, toolbar_location: null, tools: [] });
  for (const points of data[i]) {
    const [x, y] = [points.map((p) => p[0]), points.map((p) => p[1])];
    if (i >= 4) figure.line(x, y);
    figure.scatter(x, y, { size: 8 });
  }
  await Bokeh.Plotting.show(figure, document.getElementById("c" + i));
}
"""
_PLOTLY = """
for (let i = 0; i < 12; i++) {
  const traces = data[i].map((points) => ({
    x: points.map((p) => p[0]), y: points.map((p) => p[1]), mode: i < 4 ? "markers" : "lines+markers",
  }));
  await Plotly.newPlot("c" + i, traces, { showlegend: false }, { displayModeBar: false });
}
"""
_LIBRARIES = {
    "bokeh": (("server/static/js/bokeh.min.js", "server/static/js/bokeh-api.min.js"), _BOKEH),
    "plotly": (("package_data/plotly.min.js",), _PLOTLY),
}


def page(package: str) -> str:
    """The page that draws with one library."""
    names, drawing = _LIBRARIES[package]
    rng = np.random.default_rng(0)
    sizes = [(10, 40) if i < 4 else (2, 12) for i in range(12)]
    data = [rng.normal(size=(lines, points, 2)).round(3).tolist() for lines, points in sizes]
    places = "".join(f'<div id="c{i}" style="width:480px;height:320px"></div>' for i in range(12))
    done = "document.documentElement.dataset.ready = performance.now();"
    scripts = [*((files(package) / name).read_text(encoding="utf-8") for name in names)]
    scripts.append(f"const data = {json.dumps(data)}; (async () => {{{drawing}{done}}})()")
    tags = "".join(f"<script>{script}</script>" for script in scripts)
    return f"<!doctype html><meta charset='utf-8'><title>{package}</title><body>{places}{tags}"


def milliseconds(browser: Browser, path: Path) -> float:
    """Until all is drawn."""
    opened = browser.new_page()
    opened.goto(path.as_uri())
    opened.wait_for_selector("html[data-ready]", state="attached")
    found = float(opened.evaluate("document.documentElement.dataset.ready"))
    opened.close()
    return found


def main() -> None:
    """Prints a line per library."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for package in _LIBRARIES:
            path = Path(folder) / f"{package}.html"
            path.write_text(page(package), encoding="utf-8")
            taken = statistics.median(milliseconds(browser, path) for _ in range(5))
            print(f"{package:<8} {path.stat().st_size:>9,} bytes {taken:>7.0f} ms")
        browser.close()


if __name__ == "__main__":
    main()
