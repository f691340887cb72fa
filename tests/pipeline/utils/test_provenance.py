"""Commit and hardware that stand beside figures."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from pipeline.utils.hardware import hardware
from pipeline.utils.provenance import commit


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Someone", "-c", "user.email=someone@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(autouse=True)
def _no_repository_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lies above the temporary folder, git does not look there; nor does it see a hook's variables."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.resolve()))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git repository with one commit of one file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    (folder / "file.txt").write_text("first\n")
    git(folder, "add", "file.txt")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def test_a_clean_repository_is_its_commit(repository: Path) -> None:
    assert re.fullmatch("[0-9a-f]{12}", commit(repository))
    assert git(repository, "rev-parse", "HEAD").startswith(commit(repository))


def test_a_folder_inside_the_repository_has_its_commit(repository: Path) -> None:
    (repository / "inner").mkdir()
    assert commit(repository / "inner") == commit(repository)


def test_a_second_commit_is_another_one(repository: Path) -> None:
    first = commit(repository)
    (repository / "file.txt").write_text("second\n")
    git(repository, "commit", "--quiet", "--all", "--message", "second")
    assert commit(repository) != first
    assert git(repository, "rev-parse", "HEAD").startswith(commit(repository))


@pytest.mark.parametrize("staged", [False, True])
def test_a_changed_file_makes_it_dirty(repository: Path, staged: bool) -> None:
    clean = commit(repository)
    (repository / "file.txt").write_text("changed\n")
    if staged:
        git(repository, "add", "file.txt")
    assert commit(repository) == f"{clean}-dirty"


def test_a_removed_file_makes_it_dirty(repository: Path) -> None:
    clean = commit(repository)
    (repository / "file.txt").unlink()
    assert commit(repository) == f"{clean}-dirty"


def test_what_the_pipeline_writes_does_not_make_it_dirty(repository: Path) -> None:
    for name in ("dvc.lock", "results/train/metrics.json", "docs/results/table.csv"):
        (repository / name).parent.mkdir(parents=True, exist_ok=True)
        (repository / name).write_text("old\n")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "results")
    clean = commit(repository)
    (repository / "dvc.lock").write_text("new\n")
    (repository / "results/train/metrics.json").write_text("new\n")
    assert commit(repository) == commit(repository / "results") == clean
    (repository / "docs/results/table.csv").write_text("new\n")
    assert commit(repository) == commit(repository / "results") == f"{clean}-dirty"


def test_a_file_that_git_does_not_track_does_not_make_it_dirty(repository: Path) -> None:
    clean = commit(repository)
    (repository / "result.csv").write_text("new\n")
    assert commit(repository) == clean


def test_a_tag_does_not_stand_for_the_commit(repository: Path) -> None:
    clean = commit(repository)
    git(repository, "tag", "--annotate", "v1.0", "--message", "release")
    assert commit(repository) == clean


def test_without_a_repository_or_a_commit_it_is_empty(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    folder.mkdir()
    assert commit(folder) == ""
    git(folder, "init", "--quiet", "--initial-branch=main")
    assert commit(folder) == ""


def test_hardware_names_cores_processor_and_gpu() -> None:
    text = hardware()
    assert text == hardware()
    cores, rest = text.split(" cores, ")
    assert int(cores) == os.cpu_count()
    processor, _, gpu = rest.rpartition(", ")
    assert processor.strip() != ""
    assert gpu == (torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")
