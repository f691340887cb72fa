"""docs/experiments.md: every command in it is run as it stands, in order, on digits."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.project import REPOSITORY, copy_project, environment, succeed

PAGE = (REPOSITORY / "docs" / "experiments.md").read_text()


def commands() -> list[str]:
    """The lines of the page's `sh` blocks."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_the_page_shows_what_users_of_dvc_look_for() -> None:
    shown = "\n".join(commands())
    for command in (
        "dvc exp run evaluate --name",
        "-S labels.count=",
        "--queue",
        "dvc exp show",
        "dvc metrics diff",
        "dvc plots diff",
        "dvc exp apply",
        "$(ie preset quick)",
    ):
        assert command in shown


def test_the_page_names_every_preset() -> None:
    listed = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, flags=re.MULTILINE))
    assert {path.stem for path in (REPOSITORY / "presets").glob("*.yaml")} <= listed


def in_shell(project: Path, tools: Path, command: str) -> str:
    """A command as typed, with an `ie` that runs the project's own code."""
    variables = environment()
    variables["PATH"] = f"{tools}:{variables['PATH']}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=project, env=variables, capture_output=True, text=True, timeout=1500, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", train={"epochs": 2}, sweep={"methods": ["supervised"], "epochs": 1})
    (tmp_path / "tools").mkdir()
    ie = tmp_path / "tools" / "ie"
    ie.write_text('#!/bin/sh\nexec python -m pipeline "$@"\n')
    ie.chmod(0o755)
    for key, value in (("email", "someone@example.org"), ("name", "Someone")):
        succeed(project, "git", "init", "--quiet", "--initial-branch=main")
        succeed(project, "git", "config", f"user.{key}", value)
    (project / "dvc.lock").unlink(missing_ok=True)
    succeed(project, "dvc", "repro", timeout=900)
    succeed(project, "git", "add", "--all")
    succeed(project, "git", "commit", "--quiet", "--message", "first")

    output = {command: in_shell(project, tmp_path / "tools", command) for command in commands()}

    shown = list(csv.DictReader(io.StringIO(succeed(project, "dvc", "exp", "show", "--csv"))))
    assert {"more-labels", "subset-1", "subset-2", "quick"} <= {row["Experiment"] for row in shown}
    assert re.search(r"labels +100 +600 +500", output["dvc metrics diff"])
    assert "bound_nats" in output["dvc metrics diff subset-1 subset-2"]
    (project_plots,) = (project / "plots").glob("index.html")
    assert "Validation error (%) by epoch" in project_plots.read_text()
    listed = output["ie preset"]
    assert "quick" in listed and "paper-scale" in listed
    # `quick` was the last to run, in the workspace.
    params = yaml.safe_load((project / "params.yaml").read_text())
    assert params["train"]["epochs"] == 8 and params["model"]["r_dim"] == 16
    metrics = json.loads((project / "results/train/metrics.json").read_text())
    assert metrics["epochs"] == 8
