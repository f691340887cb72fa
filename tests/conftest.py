"""What several test files share: one thread each, and digits' shards made once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.fetch import fetch
from pipeline.params import parse_params
from pipeline.shard import shard
from tests.project import small_params


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Tests share the machine's cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project's folder with the shards of `small_params()`. Not to be written to."""
    folder = tmp_path_factory.mktemp("digits-project")
    params = parse_params(small_params())
    fetch(params, folder, _silent)
    shard(params, folder, _silent)
    return folder


def _silent(line: str) -> None:
    """No log."""
