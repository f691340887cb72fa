"""`ie` on the command line: a user's mistake is one line and an exit code of its own, never a traceback."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import stage
from pipeline.errors import PipelineError
from tests.project import run, small_params


def project(folder: Path, **sections: dict[str, Any]) -> Path:
    """A folder with params and nothing else."""
    (folder / "params.yaml").write_text(yaml.safe_dump(small_params(**sections)))
    return folder


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a user sees."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def test_wrong_params_exit_with_2(tmp_path: Path) -> None:
    done = run(project(tmp_path, train={"epochs": 0}), "ie", "fetch")
    assert done.returncode == 2
    assert "train.epochs is 0" in the_error(done)
    assert not (tmp_path / "data").exists()


def test_a_raw_file_that_cannot_be_had_exits_with_3(tmp_path: Path) -> None:
    done = run(project(tmp_path, data={"source": "mnist", "ways": ["disk"]}), "ie", "fetch")
    assert done.returncode == 3
    assert "disk: not fetched before" in the_error(done)


def test_a_damaged_raw_file_exits_with_4(tmp_path: Path, digits_project: Path) -> None:
    shutil.copytree(digits_project / "data" / "raw", tmp_path / "data" / "raw")
    (tmp_path / "data" / "raw" / "digits" / "digits-labels.npy").write_bytes(b"damage")
    done = run(project(tmp_path), "ie", "shard")
    assert done.returncode == 4
    assert "digits-labels.npy: damaged" in the_error(done)


def test_a_damaged_shard_exits_with_4_before_any_work(tmp_path: Path, digits_project: Path) -> None:
    shutil.copytree(digits_project / "data" / "shards", tmp_path / "data" / "shards")
    with (tmp_path / "data" / "shards" / "digits" / "train-000001.tar").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    done = run(project(tmp_path), "ie", "train")
    assert done.returncode == 4
    assert "train-000001.tar: damaged" in the_error(done)
    assert not (tmp_path / "results").exists()


def test_a_folder_that_cannot_be_made_exits_with_5(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    done = run(project(tmp_path), "ie", "fetch")
    assert done.returncode == 5
    assert "a file stands where a folder is needed" in the_error(done)


def test_a_stage_says_what_comes_next_but_not_under_dvc_which_does_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    params = project(tmp_path) / "params.yaml"
    with stage(params, "ie shard"):
        pass
    assert capsys.readouterr().out.splitlines() == ["next: ie shard"]
    monkeypatch.setenv("DVC_STAGE", "fetch")
    with stage(params, "ie shard"):
        pass
    assert capsys.readouterr().out == ""


def test_a_stage_that_failed_says_nothing_of_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit), stage(project(tmp_path) / "params.yaml", "ie shard"):
        raise PipelineError("no")
    assert capsys.readouterr().out == ""
