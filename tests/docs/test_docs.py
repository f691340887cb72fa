"""Docs that are made from the code are what the code says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import faults, publish
from docs import pages


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.name)
def test_page_holds_what_code_and_published_results_say(page: Path) -> None:
    assert page.read_text() == pages.pages()[page], "run: python docs/pages.py"


def test_pages_are_those_with_tables_of_parameters_metrics_and_results() -> None:
    names = {"README.md", "params.md", "metrics.md", "method.md", "benchmarks.md", "scale.md", "cluster.md"}
    names.add("gallery.md")
    assert {page.name for page in pages.pages()} == names


def test_every_benchmark_file_has_command_commit_hardware_and_rows() -> None:
    files = sorted(publish.RESULTS.glob("*.json"))
    assert files
    for path in files:
        record = json.loads(path.read_text())
        assert {"command", "commit", "hardware", "rows"} <= set(record), path.name
        names = {row["name"] for row in record["rows"]}
        for row in record["rows"]:
            assert {"name", "value", "unit", "n"} <= set(row), path.name
            assert row.get("against") in {None, *names}, f"{path.name}: {row['name']}"


def test_table_of_a_benchmark_sets_cases_beside_peers_and_names_missed_targets() -> None:
    rows = [
        publish.row("ours", 10, "ms", 3, "at least 3", against="theirs", ratio=2.5),
        publish.row("theirs", 25, "ms", 3),
        publish.row("plan, 10 rows: time", 1.5, "s", target="at most 2"),
    ]
    made = publish.table({"command": "run", "commit": "c0ffee", "hardware": "a machine", "rows": rows})
    assert "| ours | 10 ms | theirs: 25 ms | 2.5 |" in made
    assert "| plan, 10 rows | 1.5 s |" in made
    assert "1 of 2" in made and "ours, beside theirs is 2.5, the target was at least 3" in made


@pytest.mark.parametrize(
    ("value", "target", "met"),
    [(2, "at most 2", True), (2, "below 2", False), (2, "at least 2", True), (1.9, "at least 2", False)],
)
def test_met_at_the_limit_follows_the_word(value: float, target: str, met: bool) -> None:
    assert publish.met(value, target) is met


def test_met_of_a_target_without_a_known_word_raises_value_error() -> None:
    with pytest.raises(ValueError, match="around 2"):
        publish.met(1, "around 2")


def test_merged_fault_runs_keep_each_value_and_publish_median_gap_and_most_epochs_lost() -> None:
    record: dict[str, Any] = {}
    for commit, gap, lost in (("a", 30.0, 0), ("b", 10.0, 1), ("a", 20.0, 0)):
        found = {"gap_s": gap, "epochs_trained_twice": lost, "target_s": 40}
        record = faults.merged(record, {"commit": commit, "hardware": "m", "faults": {"power_off": found}})
    rows = {row["name"]: row for row in record["rows"]}
    assert rows["power off: gap"]["values"] == [30.0, 10.0, 20.0]
    assert (rows["power off: gap"]["value"], rows["power off: lost"]["value"]) == (20.0, 1)
    assert (rows["power off: gap"]["n"], record["commit"]) == (3, "a, b")
