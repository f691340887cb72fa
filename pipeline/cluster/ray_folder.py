"""A run's own folder for Ray on this machine: short enough for its sockets, private, with the token of its ports.

Its owner holds a lock in it, which the system lets go of when the process ends in whatever way: a folder that can be
locked is of a run that was killed, and is removed with the processes that are still at work in it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipeline.errors import ResourceError
from pipeline.utils.progress import Log

_PREFIX = "ie-ray-"
_LOCK, _TOKEN, _RAY = "owner.lock", "token", "r"
# Of a Unix socket's path, bytes, without the byte that ends it; the longest of Ray's below its folder.
_SOCKET_LIMIT = 103 if sys.platform == "darwin" else 107
_BELOW = len(f"/{_PREFIX}12345678/{_RAY}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
_KILL_TIMEOUT_S = 5.0
_SET = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "TMPDIR")


def _most_bytes() -> int:
    """Of the path of a folder in which a run's folder has room for Ray's sockets."""
    return _SOCKET_LIMIT - _BELOW


def temporary_folder() -> Path:
    """Where folders of runs are made: the temporary folder, or one of the system's where its path is too long.

    Raises:
        ResourceError: none is short enough and can be written to.
    """
    most = _most_bytes()
    asked = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    for folder in (asked, "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR", "")):
        path = Path(folder or os.curdir).absolute()
        if folder and len(os.fsencode(path)) <= most and path.is_dir() and os.access(path, os.W_OK | os.X_OK):
            return path
    raise ResourceError(
        f"Ray's sockets need a writable temporary folder whose path has at most {most} bytes; {asked} is not one, nor "
        "is /tmp or /var/tmp: set TMPDIR to one"
    )


@contextlib.contextmanager
def ray_folder(log: Log) -> Iterator[Path]:
    """Ray's folder for the length of a run, with token authentication set up in this process's environment.

    Ray opens the folder that it is given to all users, so it is inside one of mode 700.

    Args:
        log: reports leftovers of killed runs.
    """
    parent = temporary_folder()
    _end_dead_runs(parent, log)
    making = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=parent))
    folder = making.with_name(making.name[1:])
    with FileLock(making / _LOCK, mode=0o600):
        token = making / _TOKEN
        with os.fdopen(os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(_token())
        making.rename(folder)  # others see it when it is locked
        before = {name: os.environ.get(name) for name in _SET}
        os.environ.pop("RAY_AUTH_TOKEN", None)
        # The token itself is in no environment and on no command line: others may read those.
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / _TOKEN))
        if len(os.fsencode(tempfile.gettempdir())) > _most_bytes():
            # Loader processes of workers have sockets there too.
            os.environ["TMPDIR"] = str(folder)
        try:
            (folder / _RAY).mkdir()
            yield folder / _RAY
        finally:
            _end_processes(folder)  # what outlives Ray's own shutdown, or a start that was interrupted
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
            shutil.rmtree(folder, ignore_errors=True)


@functools.cache
def _token() -> str:
    """One for all runs of a process: Ray reads it once."""
    return secrets.token_hex(32)


def _end_dead_runs(parent: Path, log: Log) -> None:
    """Removes the folders of this user's runs whose process is gone, and ends Ray's processes that still use them."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            about = folder.lstat()
            if about.st_uid != os.getuid() or folder.is_symlink() or not (folder / _LOCK).is_file():
                continue
            with FileLock(folder / _LOCK, timeout=0):
                ended = _end_processes(folder)
                shutil.rmtree(folder, ignore_errors=True)
            if ended:
                log(f"ended {ended} processes of Ray that a killed run had left")


def _end_processes(folder: Path) -> int:
    """Ends Ray's processes of the folder, by their command or, for workers and their children, by their logs in it."""
    found = [process for process in psutil.process_iter() if process.pid != os.getpid() and _uses(process, folder)]
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while any(map(_runs, found)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return len(found)


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE  # nobody may collect those
    except psutil.Error:
        return False


def _uses(process: psutil.Process, folder: Path) -> bool:
    inside = f"{folder}{os.sep}"
    try:
        if process.uids().real != os.getuid():
            return False
        command = process.cmdline()
        is_ray = any(f"{os.sep}ray{os.sep}" in argument for argument in command[:3])
        if is_ray and any(inside in argument for argument in command):
            return True
        # Not one that merely reads them.
        return any(file.path.startswith(inside) and file.mode != "r" for file in process.open_files())
    except psutil.Error:
        return False
