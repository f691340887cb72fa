"""Which code a run's identity holds."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import yaml

from pipeline.fingerprint import MEASURING, TRAINING
from tests.project import REPOSITORY

# Of these a run's numbers do not depend: messages, reading and writing of files, raw data that has become shards.
ASIDE = {"pipeline", "ie_model", "pipeline.errors", "pipeline.files", "pipeline.progress"}
ASIDE |= {"pipeline.sources", "pipeline.sources.base"}


def loaded_by(module: str) -> set[str]:
    """Modules of this project that importing one brings in, in a fresh interpreter."""
    names = "[n for n in sys.modules if n.split('.')[0] in ('ie_model', 'pipeline')]"
    code = f"import {module}, json, sys; print(json.dumps({names}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(("module", "named"), [("pipeline.loop", TRAINING), ("pipeline.ranks", TRAINING)])
def test_a_run_is_named_by_all_code_that_its_loop_brings_in(module: str, named: tuple[str, ...]) -> None:
    sources = {name for name in loaded_by(module) if name.startswith("pipeline.sources.")}
    assert loaded_by(module) - ASIDE - sources - set(named) == set()


def test_measures_are_named_by_all_code_that_makes_them() -> None:
    # Params reach a measure by value; progress shows it; the rest of these decide where things lie.
    aside = {"pipeline.params", "pipeline.progress", "pipeline.methods", "pipeline.jobs", "pipeline.fingerprint"}
    aside |= {"pipeline.models", "pipeline.sessions", "pipeline.grid_params", "pipeline.storage", "pipeline.bucket"}
    brought = loaded_by("pipeline.scoring") | loaded_by("pipeline.oracle")
    sources = {name for name in brought if name.startswith("pipeline.sources.")}
    assert brought - ASIDE - sources - aside - set(MEASURING) == set()


@pytest.mark.parametrize(("stage", "modules"), [("train", TRAINING), ("sweep", MEASURING), ("evaluate", MEASURING)])
def test_a_stage_depends_on_all_code_that_its_numbers_depend_on(stage: str, modules: tuple[str, ...]) -> None:
    deps = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"][stage]["deps"]
    files = {name.replace(".", "/") + ".py" for name in modules if name.startswith("pipeline.")}
    assert files - set(deps) == set()
    assert "ie_model" in deps


def test_the_report_depends_on_all_code_that_it_is_made_by_and_on_each_file_that_it_reads() -> None:
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["report"]
    # From jobs it takes the shards' folder alone; provenance says where, not what.
    brought = loaded_by("pipeline.report") - loaded_by("pipeline.jobs") - ASIDE - {"pipeline.provenance"}
    files = {name.replace(".", "/") + ".py" for name in brought if name.startswith("pipeline.")}
    files = {file for file in files if not file.startswith("pipeline/page/") and file != "pipeline/page.py"}
    assert files - set(stage["deps"]) == set()
    assert "pipeline/page" in stage["deps"]
    code = (REPOSITORY / "pipeline/page/inputs.py").read_text()
    read = set(re.findall(r'(train|evaluate|folder) / "([\w.]+)"', code))
    assert len(read) > 10
    for folder, name in read:
        assert f"results/{folder.replace('folder', 'sweep')}/{name}" in stage["deps"]


def test_evaluate_depends_on_the_code_that_makes_what_the_report_shows() -> None:
    stage = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"]["evaluate"]
    assert {"pipeline/exhibits.py", "pipeline/gallery.py", "pipeline/maps.py"} <= set(stage["deps"])
    assert {f"report.{name}" for name in ("num_points", "num_errors", "seed")} <= set(stage["params"])
