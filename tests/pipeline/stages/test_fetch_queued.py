"""Own data in a queued experiment, which DVC runs in a checkout of what git tracks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.params import Params, parse_params
from pipeline.errors import DataError
from pipeline.stages.fetch import fetch
from tests.helpers.own import write_digits
from tests.helpers.project import small_params


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The user's project with data of its own, and a checkout without it, as DVC names them to its stages."""
    project, checkout = tmp_path / "project", tmp_path / "project/.dvc/tmp/exps/one"
    write_digits(project / "data/own", 60)
    for folder in (project, checkout):
        (folder / "data/own").mkdir(parents=True, exist_ok=True)
        (folder / "data/own/README.md").write_text("yours\n")
    monkeypatch.setenv("DVC_ROOT", str(project))
    return project, checkout


def own(source: str = "images", folder: str = "data/own") -> Params:
    return parse_params(small_params(data={"source": source, "folder": folder}))


@pytest.mark.parametrize("source", ["images", "tars"])
def test_data_that_git_does_not_track_is_refused_with_its_absolute_path(
    folders: tuple[Path, Path], source: str
) -> None:
    project, checkout = folders
    with pytest.raises(DataError, match=f"data.folder={(project / 'data/own').resolve()}$"):
        fetch(own(source), checkout, print)
    assert not (checkout / "data/raw").exists()


def test_an_absolute_path_is_read_in_a_checkout(folders: tuple[Path, Path]) -> None:
    project, checkout = folders
    assert (fetch(own(folder=str(project / "data/own")), checkout, print) / "files.json").is_file()


def test_data_that_git_tracks_is_read_in_the_checkout(folders: tuple[Path, Path]) -> None:
    project, checkout = folders
    shutil.copytree(project / "data/own", checkout / "data/own", dirs_exist_ok=True)
    assert (fetch(own(), checkout, print) / "files.json").is_file()


def test_own_data_in_the_project_itself_is_read(folders: tuple[Path, Path]) -> None:
    project, _ = folders
    assert (fetch(own(), project, print) / "files.json").is_file()
