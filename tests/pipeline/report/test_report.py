"""The page and the model card as files: what they hold, what they refuse, what can become markup in them."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from ie_model.spec import Kind
from pipeline.errors import DataError
from pipeline.report.inputs import Measured, read_inputs
from pipeline.report.metric_text import grouped, number
from pipeline.report.model_card import LOADING, text
from pipeline.stages.report import report
from tests.helpers.project import REPOSITORY
from tests.helpers.run_results import FACTOR, HOSTILE, made_params, make_results
from tests.helpers.sealed import edit_sealed
from tests.helpers.tiny import KINDS
from tests.helpers.waiting import silent


def page_of(project: Path) -> str:
    return (project / "results/report/index.html").read_text(encoding="utf-8")


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data-json">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of images whose classes have hostile names. Not to be written to."""
    folder = tmp_path_factory.mktemp("report")
    report(make_results(folder, classes=HOSTILE), folder, silent)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results without a report. Not to be written to."""
    folder = tmp_path_factory.mktemp("built")
    make_results(folder)
    return folder


def test_the_policy_allows_the_page_s_own_script_by_its_hash_and_no_request(project: Path) -> None:
    page = page_of(project)
    found = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert found is not None
    policy = html.unescape(found[1])
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in hashes]


def test_the_page_asks_for_nothing_outside_itself(project: Path) -> None:
    without_scripts = re.sub(r"<script>.*?</script>", "", page_of(project), flags=re.DOTALL)
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", without_scripts)
    assert "@import" not in without_scripts
    assert "url(" not in without_scripts


def test_hostile_names_are_text_in_the_page_and_whole_in_its_data(project: Path) -> None:
    page = page_of(project)
    assert data_of(page)["classes"] == list(HOSTILE)
    for name in HOSTILE[:2]:
        assert name not in page
        assert str(escape(name)) in page
    assert "<script>window" not in page
    assert "<img" not in page


def test_hostile_names_are_text_in_the_card(project: Path) -> None:
    card = (project / "results/report/model_card.md").read_text()
    assert "<img" not in card
    assert "<script" not in card
    assert "a&#124;b &#42;c&#42; &#96;d&#96;" in card
    assert html.unescape(text(HOSTILE[0])) == HOSTILE[0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_has_a_page_with_all_panels(tmp_path: Path, kind: Kind) -> None:
    params = make_results(tmp_path, kind)
    report(params, tmp_path, silent)
    page = page_of(tmp_path)
    ids = set(re.findall(r'<section id="(\w+)"', page))
    assert ids == {"overview", "labels", "maps", "made", "errors", "training", "measures", "provenance"}
    grids = set(re.findall(r'id="grid-(\w+)"', page))
    assert grids == {"first", "swap", "traversal", "interpolation", "samples"}
    data = data_of(page)
    assert data["kind"] == kind
    assert set(data["points"]) >= {{"image": "png", "counts": "words"}.get(kind, "bytes")}
    for name in ("r", "v"):
        assert len(data["maps"][name]["tsne"]) == len(data["maps"][name]["pca"]) == data["sampled"] == 30
        assert all(len(near) == 6 and i not in near for i, near in enumerate(data["near"][name]))
    assert len(data["errors"]) == 6
    assert len(data["keys"]) > 30, "errors that are not in the sample are there as well"
    assert all(data["predicted"][i] != data["label"][i] for i in data["errors"])


def test_a_sprite_sheet_holds_each_example_where_the_script_looks_for_it(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    report(params, tmp_path, silent)
    data = data_of(page_of(tmp_path))
    inputs = read_inputs(tmp_path, tmp_path / "data/shards/digits", with_sweep=True)
    sheet = data["points"]
    with Image.open(io.BytesIO(base64.b64decode(sheet["png"].partition(",")[2]))) as opened:
        pixels = np.asarray(opened)
    i, c = 7, 2
    index = i * data["per_point"] + 2 + c
    row, column = divmod(index, sheet["columns"])
    height, width = sheet["height"], sheet["width"]
    found = pixels[row * height : (row + 1) * height, column * width : (column + 1) * width]
    np.testing.assert_array_equal(found, inputs.gallery.arrays["swap"][i, c, 0])


def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    files = [tmp_path / "results/report" / name for name in ("index.html", "model_card.md")]
    report(params, tmp_path, silent)
    first = [file.read_bytes() for file in files]
    report(params, tmp_path, silent)
    assert [file.read_bytes() for file in files] == first


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("data/shards/digits/manifest.json", "ie shard"),
        ("results/train/model/config.json", "ie train"),
        ("results/train/history.csv", ""),
        ("results/train/metrics.json", "ie train"),
        ("results/train/timing.json", "ie train"),
        ("results/evaluate/gallery.safetensors", ""),
        ("results/evaluate/latents/test-000001.parquet", "ie evaluate"),
        ("results/evaluate/measures.csv", ""),
        ("results/evaluate/factors.csv", "ie evaluate"),
        ("results/evaluate/metrics.json", "ie evaluate"),
        ("results/evaluate/timing.json", "ie evaluate"),
        ("results/evaluate/confusion.csv", ""),
        ("results/evaluate/calibration.csv", ""),
        ("results/evaluate/risk_coverage.csv", ""),
        ("results/sweep/results.parquet", ""),
        ("results/sweep/timing.json", "ie sweep"),
    ],
)
@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_file_that_is_missing_or_damaged_is_named(
    built: Path, tmp_path: Path, name: str, command: str, damage: str
) -> None:
    shutil.copytree(built, tmp_path, dirs_exist_ok=True)
    params, path = made_params(), tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"\x00\xff not what it was")
    with pytest.raises(DataError, match=re.escape(name.removeprefix("data/shards/"))) as caught:
        report(params, tmp_path, silent)
    if damage == "missing":
        assert command in str(caught.value)
    assert not (tmp_path / "results/report/index.html").exists()


def test_results_of_two_runs_are_refused(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    config = tmp_path / "results/train/model/config.json"
    edit_sealed(config, lambda content: content["provenance"].update(fingerprint="0" * 16))
    with pytest.raises(DataError, match="not of one run; run `ie evaluate` again"):
        report(params, tmp_path, silent)


def command(project: Path, *options: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "pipeline", "report", "--params", str(project / "params.yaml"), *options]
    return subprocess.run(arguments, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_command_ends_with_one_line_and_a_code(tmp_path: Path) -> None:
    make_results(tmp_path)
    (tmp_path / "results/sweep/results.parquet").unlink()
    done = command(tmp_path)
    assert done.returncode == 4
    assert re.fullmatch(r"error: .*missing.* \S+/results/sweep/results.parquet\n", done.stderr)


@pytest.mark.slow
def test_the_command_makes_a_page_where_no_sweep_was_run(tmp_path: Path) -> None:
    make_results(tmp_path)
    shutil.rmtree(tmp_path / "results/sweep")
    done = command(tmp_path, "--without-sweep")
    assert done.returncode == 0, done.stderr
    assert "index.html" in done.stdout
    assert "Verdict" in page_of(tmp_path)


def test_the_card_s_five_lines_load_the_model(project: Path) -> None:
    assert len([line for line in LOADING.splitlines() if line]) == 5
    assert f"```python\n{LOADING}```" in (project / "results/report/model_card.md").read_text()
    code = LOADING + "print(tuple(q.shape))\n"
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "(2, 3)\n", done.stderr


def test_the_card_passes_the_project_s_own_format(project: Path) -> None:
    card = project / "results/report/model_card.md"
    command = [sys.executable, "-m", "ruff", "format", "--check", "--isolated", "--line-length", "120", str(card)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_factors_of_the_data_are_in_page_and_card(project: Path) -> None:
    row = ["R²", "test", "v sampled", "0.88", "", "0.50", "0.25", ""]
    assert "".join(f'<td class="n">{cell}</td>' for cell in row) in page_of(project)
    card = (project / "results/report/model_card.md").read_text()
    assert f"| {text(FACTOR)} | {' | '.join(row)} |" in card
    assert html.unescape(text(FACTOR)) == FACTOR


def test_the_card_has_numbers_with_deviation_and_n_and_the_limits_that_were_measured(project: Path) -> None:
    card = (project / "results/report/model_card.md").read_text()
    assert "| `probe_class_from_v_sampled_mlp_pct` | 40.00 ± 1.50 % | v shuffled: 33.00 %; chance: 33.3 % |" in card
    assert "| supervised | 12 | 40.50 ± 0.71 % | 2 |" in card
    assert "an MLP reads it from v, drawn from q(v|r,x), in 41.00 % of the test points" in card
    assert "rotation" not in card, "what was not measured is not told"


def test_a_measure_stands_beside_its_control_and_its_deviation() -> None:
    rows = [
        Measured("leakage", "probe_class_from_v_sampled_mlp_pct", 22.8, "lower", "v shuffled"),
        Measured("leakage", "probe_class_from_v_sampled_mlp_std", 0.27, "", "over probe seeds"),
        Measured("leakage", "probe_class_from_v_shuffled_linear_pct", 10.5, "", "chance"),
        Measured("equivariance", "rotation_action_r2", 0.78, "higher", "identity map"),
        Measured("equivariance", "rotation_action_r2_identity", 0.54, "", ""),
        Measured("mine", "unheard_of", 1.0, "", "nothing"),
    ]
    tables = {title: rows for title, _, rows in grouped(rows, 10, None, 100)}
    probe, shuffled = tables["Leakage"]
    assert (probe.value, probe.controls) == ("22.80 ± 0.27 %", [("v shuffled", "10.50 %"), ("chance", "10 %")])
    assert shuffled.words.endswith("(the control)")
    assert tables["Equivariance"][0].controls == [("identity", "0.540")]
    assert tables["mine"][0].words == "unheard_of"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("test_error_classifier_pct", 1.444, "1.44 %"),
        ("bound_nats", -107.87, "\N{MINUS SIGN}107.87 nats"),
        ("r2_shear_constant", -0.0001, "0.000"),
        ("active_units", 7.0, "7"),
        ("ece", 0.00929, "0.0093"),
        ("test_error_classifier_pct", 99.996, "> 99.99 %"),
        ("swap_oracle_pct", 100.0, "100.00 %"),
        ("test_error_classifier_pct", 0.004, "< 0.01 %"),
        ("test_error_classifier_pct", 0.0, "0.00 %"),
        ("baseline_1nn_mcnemar_p", 2e-5, "< 0.001"),
    ],
)
def test_a_number_has_the_digits_and_the_unit_that_its_name_tells(name: str, value: float, shown: str) -> None:
    assert number(name, value) == shown


def test_a_price_gives_a_cost_and_no_price_none(tmp_path: Path) -> None:
    make_results(tmp_path)
    report(made_params(price_per_hour=3.6), tmp_path, silent)
    page = page_of(tmp_path)
    assert '<th scope="row">train</th><td class="n">1 h 1 min</td><td class="n">3.70</td>' in page
    report(made_params(), tmp_path, silent)
    assert ">cost<" not in page_of(tmp_path)


def test_without_a_sweep_the_page_has_this_run_alone(tmp_path: Path) -> None:
    params = make_results(tmp_path)
    report(params, tmp_path, silent, with_sweep=False)
    table = page_of(tmp_path).partition('id="labels"')[2].partition("</table>")[0]
    assert re.findall(r'<tr class="(\w+)">', table) == ["run"]
    assert "results.parquet" not in page_of(tmp_path)


def test_measures_without_a_value_say_why_in_their_group() -> None:
    rows = [Measured("style", "r2_scale_constant", 0.0, "", "")]
    missing = [Measured("style", "r2_scale_from_v_mlp", math.nan, "", "", "too few points")]
    ((_, _, found),) = grouped(rows, 10, None, 100, missing)
    assert (found[1].words, found[1].value) == ("scale from v, MLP probe", "not measured: too few points")
