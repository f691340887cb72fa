"""Which code a run's identity holds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.utils.fingerprint import MEASURING, SHARDING, TRAINING, code_hash, hash_files, unit_files
from tests.helpers.project import REPOSITORY

# Of these a run's numbers do not depend: messages, reading and writing of files, names of parts, where things are.
ASIDE = (
    "pipeline.cluster",
    "pipeline.config",
    "pipeline.data.sources",
    "pipeline.errors",
    "pipeline.storage",
    "pipeline.utils",
)


ASIDE_OF_FETCH = (*ASIDE, "ie_model", "pipeline.data.example", "pipeline.data.loading", "pipeline.data.shards")


# What most modules need of others is imported once, before each is in a fork of its own.
IMPORTING = """
import importlib, json, os, sys
import pyarrow.parquet, scipy.stats, sklearn.linear_model, sklearn.neural_network, torch, webdataset
for module in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(module)
        ours = {n: m for n, m in sys.modules.items() if n.split(".")[0] in ("ie_model", "pipeline")}
        names = [n for n, m in ours.items() if not m.__spec__.submodule_search_locations]
        print(json.dumps([module, names]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""
STAGES = {
    "fetch": ASIDE_OF_FETCH,
    "report": (*ASIDE, "pipeline.data.example", "pipeline.data.shards", "ie_model"),
}
IDENTITIES = {
    "pipeline.training.trainer": TRAINING,
    "pipeline.training.data_parallel": TRAINING,
    "pipeline.evaluation.metrics": MEASURING,
    "pipeline.evaluation.oracle": MEASURING,
    "pipeline.data.sharding.tar_writer": SHARDING,
}


@pytest.fixture(scope="module")
def loaded_by() -> dict[str, list[str]]:
    """Modules of this project that importing one brings in, in a fresh interpreter; packages' own files left out."""
    command = [sys.executable, "-c", IMPORTING, *IDENTITIES, *(f"pipeline.stages.{stage}" for stage in STAGES)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def within(name: str, units: tuple[str, ...]) -> bool:
    return any(name == unit or name.startswith(f"{unit}.") for unit in units)


@pytest.mark.parametrize("module", IDENTITIES)
def test_identity_holds_all_code_that_a_module_brings_in(module: str, loaded_by: dict[str, list[str]]) -> None:
    units = IDENTITIES[module]
    aside = (*ASIDE, "pipeline.results") if units is MEASURING else ASIDE
    assert [name for name in sorted(loaded_by[module]) if not within(name, (*units, *aside))] == []


@pytest.mark.parametrize(
    ("stage", "units"), [("shard", SHARDING), ("train", TRAINING), ("sweep", MEASURING), ("evaluate", MEASURING)]
)
def test_stage_depends_on_the_packages_of_its_identity(stage: str, units: tuple[str, ...]) -> None:
    deps = set(yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"][stage]["deps"])
    for unit in units:
        path = unit.replace(".", "/")
        assert deps & {path, f"{path}.py"}, unit


@pytest.mark.parametrize("stage", STAGES)
def test_stage_depends_on_all_code_that_it_brings_in(stage: str, loaded_by: dict[str, list[str]]) -> None:
    deps = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text())["stages"][stage]["deps"]
    named = tuple(dep.removesuffix(".py").replace("/", ".") for dep in deps)
    assert [n for n in sorted(loaded_by[f"pipeline.stages.{stage}"]) if not within(n, (*named, *STAGES[stage]))] == []


SOURCE = '''"""A module."""

from pipeline.errors import DataError
from os import path


class Point:
    """A point."""

    x: int
    """Across."""


def area(width: int) -> int:
    """Width squared."""
    # As the paper has it.
    return width * width
'''


@pytest.fixture
def module(tmp_path: Path) -> Path:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Width squared."""', '"""The area of a square, in pixels."""'),
        ('    """Width squared."""\n', ""),
        ('    """Across."""\n', ""),
        ("# As the paper has it.", "# Another comment."),
        ("pipeline.errors", "pipeline.faults"),
        ("from os import path\n", "\nfrom os import (path)\n"),
        ("return width * width", "return width*width"),
    ],
)
def test_hash_of_reworded_code_is_the_same(module: Path, old: str, new: str) -> None:
    before = hash_files((module,))
    assert old in SOURCE
    module.write_text(SOURCE.replace(old, new))
    assert hash_files((module,)) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("width * width", "width * 2"),
        ("from os import path", "from posixpath import path"),
        ("import DataError", "import ParamsError as DataError"),
        ("x: int", "x: int = 0"),
        ("def area(width: int)", "def area(width: int = 1)"),
    ],
)
def test_hash_of_changed_code_is_another(module: Path, old: str, new: str) -> None:
    before = hash_files((module,))
    assert old in SOURCE
    module.write_text(SOURCE.replace(old, new))
    assert hash_files((module,)) != before


def test_hash_of_a_renamed_module_is_the_same_in_each_unit(tmp_path: Path) -> None:
    for units in (SHARDING, TRAINING, MEASURING):
        files = [path for unit in units for path in unit_files(unit)]
        copies = [tmp_path / f"{i}.py" for i in range(len(files))]
        for path, copy in zip(files, reversed(copies), strict=True):
            shutil.copyfile(path, copy)
        assert hash_files(tuple(copies)) == code_hash(units)
