"""What the page says of a run: verdict, classes, downloads, names of own data."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest

from ie_model.metrics.baselines import wilson_interval
from pipeline.config.params import Params
from pipeline.plots.palette import COLOURS, THEME, colour, mark_path, marker, themed
from pipeline.report.class_errors import class_errors, confusion_cells
from pipeline.report.inputs import read_inputs
from pipeline.results.origin import Stage, make_origin, write_origin
from pipeline.stages.report import report
from pipeline.utils.checksums import write_checksums
from pipeline.utils.rounding import percent
from tests.helpers.run_results import make_results

NAMES = ("круг", "正方形", "🙂 <b>bold</b> & a long name of a class that goes on and on and on")


def made_page(project: Path, params: Params, with_sweep: bool = True) -> str:
    report(params, project, lambda line: None, with_sweep)
    return (project / "results/report/index.html").read_text(encoding="utf-8")


def change_metrics(project: Path, **values: float) -> None:
    path = project / "results/evaluate/metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    write_checksums(project / "results/evaluate")


def text_of(page: str, start: str, end: str) -> str:
    found = page.partition(start)[2].partition(end)[0]
    return html.unescape(re.sub(r"<[^>]+>", " ", found))


def test_a_run_worse_than_simple_classifiers_says_so_before_anything_else(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    baselines = {"baseline_1nn_error_pct": 7.5, "baseline_1nn_mcnemar_p": 1e-9, "baseline_logistic_error_pct": 9.8}
    change_metrics(tmp_path, **baselines)
    page = made_page(tmp_path, params)
    main = page.partition('<main id="main">')[2]
    assert main.index('class="verdict is-worse"') < main.index("<h2")
    assert "Worse than 1-NN" in text_of(page, 'class="verdict', "</p>")


def test_the_error_has_its_interval_and_number_of_examples(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    change_metrics(tmp_path, test_error_classifier_low_pct=15.8, test_error_classifier_high_pct=37.2)
    assert "95 % interval 15.80 to 37.20 %, 60 test examples" in text_of(
        made_page(tmp_path, params), "Test error</h2>", "</div>"
    )


def test_each_class_has_its_errors_with_an_interval_and_its_examples(tmp_path: Path) -> None:
    make_results(tmp_path)
    inputs = read_inputs(tmp_path, tmp_path / "data/shards/digits", with_sweep=False)
    rows = class_errors(inputs)
    assert [row.name for row in rows] == list(inputs.manifest.spec.classes)
    assert sum(row.wrong for row in rows) == inputs.confusion.sum() - np.trace(inputs.confusion) > 0
    first = rows[0]
    low, high = wilson_interval(first.wrong, 20)
    assert first.error == f"{5 * first.wrong:.1f} % ({100 * low:.1f} to {100 * high:.1f})"
    assert first.cells()[:5] == ("zero", "4", "30", "10", "20")
    cells = dict(confusion_cells(inputs))
    assert sum(cell.count for cell in cells["zero"]) == 20


def test_tables_are_in_the_page_and_large_files_are_beside_it(tmp_path: Path) -> None:
    params = make_results(tmp_path, classes=NAMES)
    page = made_page(tmp_path, params)
    links = re.findall(r'<a href="(data:[^"]+|\.\.[^"]+|model_card[^"]+)"(?: download="([^"]+)")?', page)
    embedded = {name: base64.b64decode(href.partition("base64,")[2]).decode() for href, name in links if name}
    made = {"measures.csv", "classes.csv", "confusion.csv", "labels.csv", "history.csv", "factors.csv"}
    assert set(embedded) == made
    assert embedded["measures.csv"] == (tmp_path / "results/evaluate/measures.csv").read_bytes().decode()
    classes = list(csv.DictReader(io.StringIO(embedded["classes.csv"], newline="")))
    assert [row["class"] for row in classes] == list(NAMES)
    beside = [href for href, name in links if not name]
    assert beside == ["model_card.md", "../evaluate/latents", "../sweep/results.parquet"]
    assert all((tmp_path / "results/report" / href).exists() for href in beside)


def test_own_data_is_named_by_its_folder_and_the_run_by_its_date(tmp_path: Path) -> None:
    params = make_results(tmp_path, "series")
    timing = tmp_path / "results/evaluate/timing.json"
    timing.write_text(json.dumps(json.loads(timing.read_text()) | {"finished": "2026-11-26T06:40Z"}))
    own = params.model_copy(update={"data": params.data.model_copy(update={"folder": "/data/my <waves>/"})})
    shards = tmp_path / "data/shards/series"
    stages: tuple[Stage, ...] = ("train", "sweep", "evaluate")
    for stage in stages:
        write_origin(
            tmp_path / "results" / stage, make_origin(stage, own, shards, "" if stage == "sweep" else "f" * 16)
        )
        write_checksums(tmp_path / "results" / stage)
    page = made_page(tmp_path, own)
    assert "2026-11-26 06:40 UTC" in text_of(page, "<header>", "</header>")
    assert "my &lt;waves&gt;</h1>" in page


@pytest.mark.parametrize("number", [2, 60])
def test_few_and_many_classes_have_a_page(tmp_path: Path, number: int) -> None:
    params = make_results(tmp_path, classes=tuple(f"class {i:02d}" for i in range(number)))
    page = made_page(tmp_path, params)
    assert len(re.findall(r'<tr><th scope="row">class \d\d</th>', page)) == number
    assert ("Confusion matrix of 60 classes" in page) == (number > 20)


def test_charts_hold_no_style_or_id_that_another_chart_has(tmp_path: Path) -> None:
    page = made_page(tmp_path, make_results(tmp_path))
    charts = re.findall(r'<div class="chart".*?</svg>', page, re.DOTALL)
    assert len(charts) >= 6
    ids = [found for chart in charts for found in re.findall(r' id="([^"]+)"', chart)]
    assert len(ids) == len(set(ids))
    assert not any(
        "<style" in chart or "xmlns" in chart or re.search(r"#[0-9a-f]{6}\b(?!\")", chart) for chart in charts
    )


def test_a_chart_without_content_is_left_out(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    (tmp_path / "results/train/history.csv").write_text("epoch,loss,val_error\n1,9.0,3.0\n")
    (tmp_path / "results/evaluate/risk_coverage.csv").write_text("coverage,risk\n0.5,0\n1,0\n")
    for stage in ("train", "evaluate"):
        write_checksums(tmp_path / "results" / stage)
    page = made_page(tmp_path, params, with_sweep=False)
    assert re.findall(r'id="chart-(\w+)"', page) == ["calibration"]


def test_the_palette_tells_70_classes_apart_and_names_each_colour_once() -> None:
    assert len({(colour(i), marker(i)) for i in range(70)}) == 70
    assert len({(colour(i), mark_path(i)) for i in range(70)}) == 70
    light = [pair[0] for pair in (*THEME.values(), *COLOURS)]
    assert len(set(light)) == len(light), "a chart's colours are found again by their light value"
    assert themed(f"fill: {colour(3)}") == "fill: var(--c3)"


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(100, 1, "100.0 %"), (99.96, 1, "> 99.9 %"), (99.94, 1, "99.9 %"), (0, 1, "0.0 %"), (0.04, 1, "< 0.1 %")],
)
def test_percent_that_is_not_whole_is_not_written_as_whole(value: float, digits: int, shown: str) -> None:
    assert percent(value, digits) == shown
