"""What several test files share: one thread each, and digits' shards made once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from pipeline.config.params import parse_params
from pipeline.stages.fetch import fetch
from pipeline.stages.shard import shard
from tests.helpers.pages import Shell, commands
from tests.helpers.project import copy_repository, small_params, succeed
from tests.helpers.s3 import Door, s3
from tests.helpers.waiting import silent


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests share the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    """An S3 server with nothing in it but an empty bucket."""
    with s3(monkeypatch) as opened:
        yield opened


@pytest.fixture(scope="session")
def digits_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with the shards of `small_params()`. Not to be written to."""
    folder = tmp_path_factory.mktemp("digits-project")
    params = parse_params(small_params())
    fetch(params, folder, silent)
    shard(params, folder, silent)
    return folder


@pytest.fixture(scope="session")
def tutorial_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the first step of docs/tutorial.md has been done: digits, `dvc repro`, committed.

    Minutes, once for all pages and processes of pytest. Not to be written to: `tests.helpers.pages.copied` makes a copy
    to continue in.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "tutorial"
    project, done = folder / "project", folder / "done"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            assert not folder.exists(), "it failed in another process"
            copy_repository(project)
            succeed(project, "git", "init", "--quiet", "--initial-branch=main")
            succeed(project, "git", "config", "user.email", "someone@example.org")
            succeed(project, "git", "config", "user.name", "Someone")
            Shell(project, folder / "tools").run_all(commands("docs/tutorial.md")[:4])
            done.touch()
    return project
