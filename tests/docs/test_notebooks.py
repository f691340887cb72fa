"""The notebooks of docs/ run from their first cell to the last, in a copy of the project."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.project import REPOSITORY, copy_repository, environment

NOTEBOOKS = sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb"))


def code_of(notebook: Path) -> str:
    cells = json.loads(notebook.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    content = json.loads(notebook.read_text())
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    cells = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    project = copy_repository(tmp_path / "project")
    code = 'import matplotlib\nmatplotlib.use("agg")\n\n' + code_of(notebook)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, env=environment(), capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout
    if notebook.stem == "vectors":
        assert "'ours': " in said
        assert "of the nines of test are found" in said
    else:
        with (project / "build/notebook/new.csv").open(newline="") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        assert len(rows) == 7
        assert float(rows["noise.png"]["val_below_pct"]) == 0, "unlike anything that was seen"
