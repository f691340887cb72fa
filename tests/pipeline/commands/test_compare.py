"""`ie compare`: differences, directions, what is missing, and a page on which names are text."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ie_model.checksums import seal
from pipeline.commands.compare import compare
from pipeline.errors import DataError
from pipeline.report.comparison import comparison, table
from pipeline.report.comparison_page import page
from pipeline.report.experiments import Experiment, flatten, parse_experiment
from pipeline.results.origin import Origin, Stage

PICTURE = b"\x89PNG\r\n\x1a\n"
MEASURES = """group,name,value,better,control
class,test_error_classifier_pct,0,lower,
generation,bound_nats,0,higher,
generation,kl_nats,0,,
leakage,probe_class_from_v_redrawn_mlp_pct,0,lower,chance
"""


def files(
    error: float = 10.0, bound: float = -90.0, leak: float = 30.0, epochs: int = 3, count: int = 100
) -> dict[str, bytes]:
    """A run's files, as the stages write them."""
    metrics = {
        "test_error_classifier_pct": error,
        "bound_nats": bound,
        "kl_nats": 5.0,
        "probe_class_from_v_redrawn_mlp_pct": leak,
    }
    history = "epoch,val_error,val_bound,loss,kl\n"
    history += "".join(f"{i},{50 / i},{bound - 10 / i},{100 / i},{i}\n" for i in range(1, epochs + 1))
    texts = {
        "params.yaml": f"labels:\n  count: {count}\ntrain:\n  epochs: {epochs}\n  sizes: [1, 2]\n",
        "results/evaluate/metrics.json": json.dumps(metrics),
        "results/evaluate/measures.csv": MEASURES,
        "results/evaluate/confusion.csv": "actual,predicted\na,a\nb,a\nc,c\nd,d\n",
        "results/train/metrics.json": json.dumps({"val_error_pct": error + 1, "epochs": epochs}),
        "results/train/history.csv": history,
        "results/sweep/table.csv": "method,labels,seed,test_error_pct,status\n"
        f"plain,100,0,{error},finished\nplain,100,1,{error + 2},finished\nvae,100,0,,finished\nm2,100,0,,failed\n",
    }
    return {path: text.encode() for path, text in texts.items()} | {"results/evaluate/figures/swap.png": PICTURE}


def origin_files(stage: Stage, source: str = "images", manifest: str = "a" * 64, **changed: Any) -> dict[str, bytes]:
    """origin.json of a stage's results."""
    model = "" if stage == "sweep" else "f" * 16
    origin = Origin(stage=stage, source=source, folder="mine", manifest_sha256=manifest, model=model, params={})
    record = seal({"format": 1} | origin.model_copy(update=changed).model_dump(mode="json"))
    return {f"results/{stage}/origin.json": json.dumps(record).encode()}


def of(manifest: str = "a" * 64, **sweep: Any) -> dict[str, bytes]:
    """Those of all stages; `sweep` changes the sweep's."""
    one, two = (origin_files(stage, manifest=manifest) for stage in ("train", "evaluate"))
    return one | two | origin_files("sweep", manifest=manifest, **sweep)


def test_runs_of_different_data_have_no_differences_and_a_note() -> None:
    found = comparison([run("a", of()), run("b", of("b" * 64), error=8.0)])
    assert {cell.verdict for line in (*found.headline, *found.sweep) for cell in line.cells} == {""}
    (note,) = (note for note in found.notes if "checksums" not in note)
    assert note.startswith("b is of images in mine") and "a of" in note
    assert note in html.unescape(page(found))


def test_a_sweep_of_other_data_or_params_is_left_out_and_named() -> None:
    other = of(manifest_sha256="c" * 64, source="mnist", folder="")
    found = comparison([run("a", of()), run("b", other)])
    assert found.runs[1].sweep == () and found.runs[0].sweep
    assert any("results/sweep is of other data" in note for note in found.notes)


def test_an_evaluation_of_another_model_is_refused() -> None:
    with pytest.raises(DataError, match="^b: results/evaluate is of model 0{16}"):
        run("b", of() | origin_files("evaluate", model="0" * 16))


def test_results_of_other_data_than_the_run_s_params_are_refused() -> None:
    params = b"data:\n  source: mnist\n"
    with pytest.raises(DataError, match="^b: results are of images in mine, params.yaml has mnist"):
        run("b", of() | {"params.yaml": params})


def run(name: str, changed: Mapping[str, bytes | None] | None = None, **values: float) -> Experiment:
    """A run whose files were read."""
    held: dict[str, bytes | None] = {**files(**values), **(changed or {})}  # type: ignore[arg-type]
    return parse_experiment(name, "1234567", held.get)


def test_a_difference_is_better_or_worse_by_the_measures_own_direction() -> None:
    found = comparison([run("a"), run("b", error=8.0, bound=-95.0)])
    cells = {line.name: line.cells[1] for line in (*found.headline, *found.others)}
    assert (cells["test_error_classifier_pct"].difference, cells["test_error_classifier_pct"].verdict) == (
        "-2.00",
        "better",
    )
    assert (cells["bound_nats"].difference, cells["bound_nats"].verdict) == ("-5.00", "worse")
    assert cells["val_error_pct"].verdict == "better"
    assert cells["kl_nats"].verdict == "same"


def test_a_measure_without_a_direction_is_neither_better_nor_worse() -> None:
    changed = files()["results/evaluate/metrics.json"].replace(b'"kl_nats": 5.0', b'"kl_nats": 7.5')
    found = comparison([run("a"), run("b", {"results/evaluate/metrics.json": changed})])
    (kl,) = (line for line in found.others if line.name == "kl_nats")
    assert (kl.cells[1].difference, kl.cells[1].verdict) == ("+2.50", "")


def test_probes_of_v_below_chance_are_as_good_as_each_other() -> None:
    found = comparison([run("a", leak=24.0), run("b", leak=20.0), run("c", leak=26.0)])
    (leak,) = (line for line in found.headline if line.name.startswith("probe_class_from_v"))
    assert [cell.verdict for cell in leak.cells] == ["", "both chance", "worse"]  # chance is 25 % of four classes


def test_only_the_parameters_that_differ_are_shown_also_those_that_one_run_lacks() -> None:
    other = b"labels:\n  count: 600\ntrain:\n  epochs: 3\n  sizes: [1, 2]\n  extra: null\n"
    found = comparison([run("a"), run("b", {"params.yaml": other})])
    assert {line.name: [cell.value for cell in line.cells] for line in found.params} == {
        "labels.count": ["100", "600"],
        "train.extra": ["", "null"],
    }


def test_sweeps_are_compared_by_the_mean_over_seeds_of_finished_trials() -> None:
    found = comparison([run("a"), run("b", error=8.0)])
    (line,) = found.sweep
    assert (line.text, line.group) == ("plain", "100")
    assert [cell.value for cell in line.cells] == ["11.00 ± 1.41 (n=2)", "9.00 ± 1.41 (n=2)"]
    assert line.cells[1].verdict == "better"
    assert not found.same_sweep
    assert comparison([run("a"), run("b")]).same_sweep


def test_the_terminals_table_has_values_differences_and_changes_in_columns() -> None:
    lines = table(comparison([run("first"), run("second", error=8.0, count=600)]))
    assert lines[0].split() == ["first", "second"]
    assert "8.00 (-2.00, better)" in next(line for line in lines if line.startswith("test error"))
    assert "labels.count" in lines[-2]
    assert lines[0].index("second") == next(line for line in lines if line.startswith("test error")).index("8.00")


@pytest.mark.parametrize(
    ("path", "content", "message"),
    [
        ("results/evaluate/metrics.json", None, "b has no results/evaluate/metrics.json; it was not run to its end"),
        ("results/evaluate/metrics.json", b"{", "b: results/evaluate/metrics.json is damaged"),
        ("results/evaluate/metrics.json", b'{"bound_nats": NaN}', "not finite"),
        ("results/evaluate/measures.csv", b"group,value\n1,2\n", "measures.csv is damaged"),
        ("results/train/history.csv", b"epoch,loss\n1,x\n", "history.csv is damaged"),
        ("results/sweep/table.csv", b"\xff\xfe", "table.csv is damaged (not text)"),
        ("params.yaml", b"- 1\n", "params.yaml is damaged (sections and keys were expected, found list)"),
    ],
)
def test_missing_or_damaged_results_are_one_line_that_names_run_and_file(
    path: str, content: bytes | None, message: str
) -> None:
    with pytest.raises(DataError) as error:
        run("b", {path: content})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_runs_without_curves_sweep_or_swaps_are_compared_by_what_they_have() -> None:
    absent: dict[str, bytes | None] = {
        "results/train/history.csv": None,
        "results/sweep/table.csv": None,
        "results/evaluate/figures/swap.png": None,
    }
    text = page(comparison([run("a"), run("b", absent), run("c", absent)]))
    assert "While training" not in text
    assert "Error against labels" not in text
    assert text.count("data:image/png") == 1


@pytest.mark.parametrize("names", [[], ["a"], ["a", "a"], [str(i) for i in range(9)]])
def test_too_few_or_too_many_runs_are_refused(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two to 8 different runs"):
        compare(names, tmp_path, tmp_path / "out.html", print)


def test_a_folder_without_a_dvc_repository_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is in no DVC repository"):
        compare(["a", "b"], tmp_path, tmp_path / "out.html", print)


class _Page(HTMLParser):
    """Elements, and all attributes that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "xlink:href")]
        assert not [key for key, _ in attrs if key.startswith("on")]


def test_names_and_values_are_text_on_the_page_and_it_loads_nothing() -> None:
    evil = '<script>alert("1")</script>'
    sweep = f'method,labels,seed,test_error_pct,status\n"{evil.replace(chr(34), "")}",100,0,1.0,finished\n'.encode()
    params = b'labels: {count: "<img src=x onerror=alert(1)>"}\n'
    held: dict[str, bytes | None] = {"params.yaml": params, "results/sweep/table.csv": sweep}
    text = page(comparison([run(evil), run('"><b>', held), run("c", {"results/sweep/table.csv": sweep})]))
    parser = _Page()
    parser.feed(text)
    assert "script" not in parser.tags
    assert "&lt;script&gt;" in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    # `b` marks the first run, and the titles of the four charts.
    assert parser.tags.count("b") == 5
    assert parser.sources and all(source.startswith(("data:image/png;base64,", "#")) for source in parser.sources)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(", text)


def test_charts_have_a_line_for_each_run_with_the_column() -> None:
    text = page(comparison([run("a", epochs=3), run("b", {"results/train/history.csv": None}), run("c", epochs=5)]))
    assert re.findall(r'id="val_error-(\d)"', text) == ["0", "2"]
    assert len(re.findall(r'id="\w+-\d"', text)) == 8


def test_sections_are_flattened_to_dotted_keys_in_yaml_of_one_line() -> None:
    assert flatten({"a": {"b": [1, {"c": None}], "d": True}, "e": "x: y"}) == {
        "a.b": "[1, {c: null}]",
        "a.d": "true",
        "e": "'x: y'",
    }
