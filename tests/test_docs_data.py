"""What docs/data.md tells a user to do works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.params import parse_params
from pipeline.shards import read_manifest
from tests.project import REPOSITORY, copy_project, run, succeed

PAGE = (REPOSITORY / "docs/data.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("command", [line for block in blocks("sh") for line in block.splitlines()])
def test_each_command_sets_parameters_that_exist(command: str) -> None:
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"]
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for setting in (word for word in words[3:] if word != "-S"):
        path, _, value = setting.partition("=")
        *parents, last = path.split(".")
        section = raw
        for name in parents:
            section = section[name]
        assert last in section
        section[last] = yaml.safe_load(value)
    if raw["data"]["source"] != "patches":
        parse_params(raw)


@pytest.mark.slow
def test_the_source_on_the_page_is_fetched_and_sharded_as_it_stands_there(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", data={"source": "patches", "val_size": 0.1})
    (code,) = (block for block in blocks("python") if "PlainSource" in block)
    place, _, code = code.partition("\n")
    (project / place.removeprefix("# ")).write_text(code)
    (diff,) = blocks("diff")
    name, *lines = diff.splitlines()
    registry = project / name.removeprefix("--- ")
    text = registry.read_text()
    for added, before in zip(lines[::2], lines[1::2], strict=True):
        assert text.count(before[1:] + "\n") == 1
        text = text.replace(before[1:], f"{added[1:]}\n{before[1:]}")
    registry.write_text(text)
    succeed(project, "ie", "fetch")
    succeed(project, "ie", "shard")
    manifest = read_manifest(project / "data/shards/patches")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 374, "val": 42, "test": 104}
    assert manifest.spec.classes == ("china", "flower")
    assert "all whole" in succeed(project, "ie", "shards", "verify")


def test_own_data_is_read_by_the_commands_and_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", data={"source": "images"})
    done = run(project, "ie", "fetch")
    assert done.returncode == 4
    assert done.stderr.strip().splitlines() == [
        f"error: {project.resolve()}/data/own: no classes; at least two are needed"
    ]
