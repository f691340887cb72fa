"""Stage `report`: one HTML page and a model card from the tables that the other stages left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError
from pipeline.report.context import page_context
from pipeline.report.inputs import read_inputs
from pipeline.report.model_card import model_card
from pipeline.report.render import render
from pipeline.results.origin import belonging
from pipeline.results.verdict import verdict
from pipeline.utils.files import atomic_file
from pipeline.utils.progress import Log, working


def report(params: Params, project: Path, log: Log, with_sweep: bool = True) -> Path:
    """Writes results/report/index.html and model_card.md.

    Args:
        with_sweep: False leaves out what the sweep measured. Without a sweep, or with one of other data or params, it
            is left out too, with a note on the page.

    Raises:
        DataError: a result is missing or damaged, or they are not of one run; the message names it.
    """
    read_manifest(shards_folder(params, project))  # a damaged one is named as that
    found = belonging(params, project)
    for line in found.left_out:
        if not line.startswith("results/sweep"):
            raise DataError(f"{line}; run `dvc repro evaluate`, then `ie report`")
    left_out = [*found.left_out, *found.notes]
    if not with_sweep:
        left_out.append("without the sweep, as --without-sweep asks")
    elif "sweep" not in found.origins:
        with_sweep = False
        left_out.append("without methods and label counts side by side: run `ie sweep`, then `ie report`")
    for line in left_out:
        log(f"report: {line}")
    inputs = read_inputs(project, shards_folder(params, project), with_sweep)
    inputs = replace(inputs, left_out=tuple(left_out), data=found.origins["train"].data)
    out = project / "results" / "report"
    with working(log) as part:
        part("report: maps and charts")
        html = render(page_context(inputs, params, project))
    for name, text in (("index.html", html), ("model_card.md", model_card(inputs))):
        with atomic_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    log(f"report: {out / 'index.html'} ({len(html.encode()) / 1e6:.1f} MB) and model_card.md beside it")
    log(f"report: {verdict(inputs.metrics).text}")
    return out
