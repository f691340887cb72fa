"""docs/experiments.md: every command in it is run as it stands, in order, on digits."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml

from tests.helpers.pages import Shell, commands, copied, text
from tests.helpers.project import REPOSITORY, run, succeed

PAGE = "docs/experiments.md"


def test_the_page_shows_what_users_of_dvc_look_for() -> None:
    shown = "\n".join(commands(PAGE))
    for command in (
        "dvc exp run evaluate --name",
        "-S labels.count=",
        "--queue",
        "dvc exp show",
        "dvc metrics diff",
        "dvc plots diff",
        "ie apply",
        "$(ie preset plain)",
    ):
        assert command in shown


def test_the_page_names_every_preset() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", text(PAGE), flags=re.MULTILINE))
    assert {path.stem for path in (REPOSITORY / "presets").glob("*.yaml")} <= listed


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_of_the_page_does_what_it_says(tutorial_project: Path, tmp_path: Path) -> None:
    project = copied(tutorial_project, tmp_path / "project")

    output = Shell(project, tmp_path / "tools").run_all(commands(PAGE))

    shown = list(csv.DictReader(io.StringIO(succeed(project, "dvc", "exp", "show", "--csv"))))
    assert {"more-labels", "subset-1", "subset-2", "plain"} <= {row["Experiment"] for row in shown}
    assert re.search(r"labels +100 +600 +500", output["dvc metrics diff"])
    assert "bound_nats" in output["dvc metrics diff subset-1 subset-2"]
    assert not [name for name in metrics_of(project, "more-labels") if "." in name], "flat names"
    assert any("test_error_classifier_pct" in column for column in shown[0])
    (project_plots,) = (project / "plots").glob("index.html")
    assert "Validation error (%) by epoch" in project_plots.read_text()
    listed = output["ie preset"]
    assert "quick" in listed and "paper-scale" in listed
    # `plain` was the last to run, in the workspace, on top of what `ie apply` brought.
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert params["objective"]["extended"]["enabled"] is False and params["labels"]["seed"] == 1
    metrics = json.loads((project / "results/train/metrics.json").read_text())
    assert metrics["epochs"] == params["train"]["epochs"]

    compares_side_by_side(project, output["ie compare subset-1 subset-2"])


def compares_side_by_side(project: Path, printed: str) -> None:
    """What `ie compare` says of the experiments that the page has run, and of what is not there."""
    header, *lines = printed.splitlines()
    assert header.split() == ["subset-1", "subset-2"]
    assert any(line.split() == ["labels.seed", "1", "2"] for line in lines)
    measured = {name: metrics_of(project, name) for name in ("subset-1", "more-labels")}
    done = run(project, "ie", "compare", "subset-1", "more-labels", "HEAD", "workspace", "--out", "page.html")
    assert done.returncode == 0, done.stderr
    (error,) = (line for line in done.stdout.splitlines() if line.startswith("test error, %"))
    first, second = (measured[name]["test_error_classifier_pct"] for name in ("subset-1", "more-labels"))
    assert f"{first:.2f}" in error and f"{second:.2f} ({second - first:+.2f}, " in error
    page = (project / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 4
    assert "The sweep is the same in all" in page  # the target `evaluate` leaves it out

    unknown = run(project, "ie", "compare", "subset-1", "nothing-of-the-sort")
    assert unknown.returncode == 4
    (line,) = unknown.stderr.splitlines()
    assert "'nothing-of-the-sort'" in line and "workspace" in line and "more-labels, " in line and "subset-1" in line
    succeed(project, "git", "rm", "--quiet", "--force", "dvc.lock")
    succeed(project, "git", "commit", "--quiet", "--message", "nothing measured")
    missing = run(project, "ie", "compare", "subset-1", "HEAD")
    assert missing.returncode == 4
    (line,) = missing.stderr.splitlines()
    assert line.startswith("error: HEAD has no results/evaluate/metrics.json")


def metrics_of(project: Path, name: str) -> dict[str, float]:
    """An experiment's metrics, by DVC's own command."""
    shown = json.loads(succeed(project, "dvc", "exp", "show", "--json"))
    for row in shown:
        for experiment in row["experiments"] or []:
            if experiment["name"] == name:
                data: dict[str, float] = experiment["revs"][0]["data"]["metrics"]["results/evaluate/metrics.json"][
                    "data"
                ]
                return data
    raise AssertionError(f"dvc exp show lists no {name}")
