"""`ie` on the command line: a user's mistake is one line and an exit code of its own, never a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.cli import stage
from pipeline.errors import PipelineError
from tests.helpers.own import picture
from tests.helpers.project import REPOSITORY, run, small_params


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


def test_names_that_differ_in_blanks_alone_are_printed_with_their_blanks(tmp_path: Path) -> None:
    for name in ("a b", "a  b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "mine" / name / f"{i}.txt").write_text("ship")
    done = run(project(tmp_path, data={"source": "texts", "folder": "mine"}), "ie", "fetch")
    assert "'a  b' and 'a b'" in the_error(done)


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


def test_a_terminal_that_cannot_encode_a_name_gets_its_code_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("größe", "日本"):
        for i in range(6):
            picture(tmp_path / "bilder-ä" / name / f"{i}.png", i)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = run(project(tmp_path, data={"source": "images", "folder": "bilder-ä"}), "ie", "fetch")
    assert done.returncode == 0, done.stderr
    assert r"bilder-\xe4" in done.stdout
    (tmp_path / "bilder-ä" / "unknown").mkdir()
    done = run(tmp_path, "ie", "fetch")
    assert done.returncode == 4
    assert r"bilder-\xe4/unknown" in the_error(done)


def test_a_path_that_is_too_long_is_one_line(tmp_path: Path) -> None:
    done = run(project(tmp_path, data={"source": "images", "folder": "x" * 300}), "ie", "fetch")
    assert done.returncode == 5
    assert "the path is too long" in the_error(done)


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert run(tmp_path, "ie", "--version").stdout == f"ie {version('ie-pipeline')}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("train", "--epochs", "3"), "-S train.epochs=3`"),
        (("sweep", "--epochs=3"), "-S sweep.epochs=3`"),
        (("train", "--learning-rate", "1e-3"), "-S train.learning_rate=1e-3`"),
        (("evaluate", "--num-workers"), "-S train.num_workers=VALUE`"),
        (("train", "--nonsense"), "-S SECTION.NAME=VALUE`"),
    ],
)
def test_unknown_option_names_params_and_how_to_set_it(tmp_path: Path, arguments: tuple[str, ...], named: str) -> None:
    done = run(project(tmp_path), "ie", *arguments)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "params.yaml" in done.stderr and named in done.stderr


def test_option_nearly_of_the_command_is_not_taken_for_a_parameter(tmp_path: Path) -> None:
    done = run(project(tmp_path), "ie", "train", "--parms", "x")
    assert "--params" in done.stderr and "params.yaml" not in done.stderr


def test_help_imports_nothing_heavy() -> None:
    heavy = "('torch', 'ray', 'numpy', 'pydantic', 'ruamel.yaml')"
    code = f"import sys, pipeline.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run(REPOSITORY, sys.executable, "-c", code).stdout == "[]\n"


@pytest.mark.parametrize("module", ["stages.shard", "stages.fetch", "data.sharding.tar_writer"])
def test_sharding_imports_no_torch(module: str) -> None:
    code = f"import sys, pipeline.{module}; print('torch' in sys.modules)"
    assert run(REPOSITORY, sys.executable, "-c", code).stdout == "False\n"


def test_ctrl_c_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    """A signal at the very moment: the import of the command's modules ends as Ctrl-C would end it."""
    (tmp_path / "pydantic.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "typer.py").write_text("raise KeyboardInterrupt\n")
    for command in (("ie", "--help"), ("ie", "train")):
        done = run(project(tmp_path), *command)
        assert done.returncode == 130
        assert done.stderr == "interrupted; the same command resumes\n"
        (tmp_path / "typer.py").unlink(missing_ok=True)
