"""`ie compare`: differences, directions, what is missing, and a page on which names are text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.compare import compare, comparison, table
from pipeline.compare_page import page, ticks
from pipeline.errors import DataError
from pipeline.experiments import Experiment, flatten, parse_experiment

PICTURE = b"\x89PNG\r\n\x1a\n"
MEASURES = """group,name,value,better,control
class,test_error_classifier_pct,0,lower,
generation,bound_nats,0,higher,
generation,kl_nats,0,,
leakage,probe_class_from_v_sampled_mlp_pct,0,lower,chance
"""


def files(
    error: float = 10.0, bound: float = -90.0, leak: float = 30.0, epochs: int = 3, count: int = 100
) -> dict[str, bytes]:
    """A run's files, as the stages write them."""
    metrics = {
        "test_error_classifier_pct": error,
        "bound_nats": bound,
        "kl_nats": 5.0,
        "probe_class_from_v_sampled_mlp_pct": leak,
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


def run(name: str, changed: dict[str, bytes | None] | None = None, **values: float) -> Experiment:
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
    with pytest.raises(DataError, match="lies in no DVC repository"):
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
    assert parser.sources and all(source.startswith("data:image/png;base64,") for source in parser.sources)
    assert "default-src 'none'" in text
    assert not re.search(r"@import|url\(", text)


def test_each_runs_curve_lies_within_its_chart() -> None:
    text = page(comparison([run("a", epochs=3), run("b", epochs=5)]))
    lines = re.findall(r'<polyline class="s(\d)" points="([^"]+)"', text)
    assert [(name, len(points.split())) for name, points in lines] == [("0", 3), ("1", 5)] * 4
    for _, points in lines:
        for point in points.split():
            x, y = map(float, point.split(","))
            assert 52 <= x <= 370
            assert 10 <= y <= 200


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-45.2, -25.1, [-50, -45, -40, -35, -30, -25]),
        (3, 3, [2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6]),
    ],
)
def test_ticks_are_round_and_enclose_the_values(low: float, high: float, expected: list[float]) -> None:
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high
    assert found == pytest.approx(expected)


def test_sections_are_flattened_to_dotted_keys_in_yaml_of_one_line() -> None:
    assert flatten({"a": {"b": [1, {"c": None}], "d": True}, "e": "x: y"}) == {
        "a.b": "[1, {c: null}]",
        "a.d": "true",
        "e": "'x: y'",
    }
