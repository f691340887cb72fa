"""The folder of Ray on one machine: short, private, and taken away with what a killed run left in it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pipeline.cluster.ray_folder
from pipeline.cluster.preflight import _sockets
from pipeline.cluster.ray_folder import ray_folder, temporary_folder
from pipeline.errors import ResourceError
from tests.helpers.project import REPOSITORY, environment

# Holds a run's folder and prints its path; a process of Ray's that outlives it, and a reader of its logs, stand by.
_OWNER = """
import subprocess, sys, time
from pipeline.cluster.ray_folder import ray_folder
with ray_folder(print) as folder:
    log = folder / "worker.out"
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"], stdout=log.open("a"))
    reader = subprocess.Popen(["tail", "-f", str(log)], stdout=subprocess.DEVNULL)
    print(folder, worker.pid, reader.pid, flush=True)
    time.sleep(100)
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path, int, int]]:
    variables = environment() | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER], cwd=REPOSITORY, env=variables, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    folder, worker, reader = process.stdout.readline().split()
    with process:
        yield process, Path(folder), int(worker), int(reader)
        for pid in (process.pid, int(worker), int(reader)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder, whatever length pytest gave it."""
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(pipeline.cluster.ray_folder, "_SOCKET_LIMIT", 1000)
    return tmp_path


def test_ray_folder_is_private_and_ends_with_the_run(short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of a cluster elsewhere")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with ray_folder(print) as folder:
        assert folder.parent.parent == short
        token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
        assert [folder.parent.stat().st_mode & 0o777, token.stat().st_mode & 0o777] == [0o700, 0o600]
        assert len(token.read_text()) == 64
        assert os.environ["RAY_AUTH_MODE"] == "token"
        assert token.read_text() not in os.environ.values() and "RAY_AUTH_TOKEN" not in os.environ
    assert list(short.iterdir()) == []
    assert os.environ["RAY_AUTH_TOKEN"] == "of a cluster elsewhere"
    assert "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ


@pytest.mark.parametrize("killed", [False, True], ids=["alive", "killed"])
def test_ray_folder_of_another_run_is_cleaned_up_only_if_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool, request: pytest.FixtureRequest
) -> None:
    process, folder, worker, reader = request.getfixturevalue("owner")
    monkeypatch.setenv("RAY_TMPDIR", str(folder.parent.parent))
    monkeypatch.setattr(pipeline.cluster.ray_folder, "_SOCKET_LIMIT", 1000)
    if killed:
        process.kill()
        process.wait()
    lines: list[str] = []
    with ray_folder(lines.append):
        pass
    assert is_running(reader), "only reads"
    assert is_running(worker) == folder.exists() == (not killed)
    assert len(lines) == killed


def test_ray_folder_of_somebody_else_or_a_link_is_left_alone(short: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (outside / "owner.lock").touch()
    (short / "ie-ray-link").symlink_to(outside)
    (short / "ie-ray-unlocked").mkdir()
    with ray_folder(print):
        pass
    assert (outside / "owner.lock").exists() and (short / "ie-ray-link").is_symlink()
    assert (short / "ie-ray-unlocked").exists()


def test_temporary_folder_too_long_for_sockets_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("a" * 60)
    long.mkdir()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(long))
    assert temporary_folder() == Path("/tmp")
    monkeypatch.setenv("TMPDIR", str(long))
    with ray_folder(print) as folder:
        assert os.environ["TMPDIR"] == str(folder.parent), "workers' own sockets are short too"
    assert os.environ["TMPDIR"] == str(long)
    assert _sockets().fit and str(long) in _sockets().text
    monkeypatch.setattr(pipeline.cluster.ray_folder, "_SOCKET_LIMIT", 10)
    with pytest.raises(ResourceError, match=r"set TMPDIR"):
        temporary_folder()
    assert not _sockets().fit


def test_temporary_folder_leaves_room_for_rays_longest_socket() -> None:
    """Should Ray name its sockets otherwise, this fails."""
    from ray._private.utils import validate_socket_filepath

    most = pipeline.cluster.ray_folder._SOCKET_LIMIT
    validate_socket_filepath("a" * most)
    with pytest.raises(OSError, match="length"):
        validate_socket_filepath("a" * (most + 1))
