"""`ie train` interrupted, killed and started again; and who gets to its Ray meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from tests.helpers.project import environment, small_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

_CLIENT = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None, 5)"


class Train:
    """`ie train` in a session of its own, as on a terminal, with a temporary folder too long for sockets."""

    def __init__(self, project: Path, temporary: Path) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline", "train"],
            cwd=project,
            env={k: v for k, v in environment().items() if k != "RAY_ADDRESS"} | {"TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # A shell's background jobs, and so whatever tests they run, are started with this signal ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def kill(self) -> None:
        """Ends what is left when a test fails."""
        for process in [*self.of_ray, psutil.Process(self.process.pid)] if self.process.poll() is None else []:
            process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def until(self, text: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if text in line:
                return
        raise AssertionError("\n".join(self.lines))

    def end(self, how: signal.Signals) -> int:
        os.killpg(self.process.pid, how) if how == signal.SIGINT else self.process.send_signal(how)
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.lines += [line.rstrip() for line in self.process.stdout]
        return code

    @property
    def of_ray(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def folder_and_address(self) -> tuple[Path, str]:
        """The run's private folder, in which Ray has one of its own, and the address of its Ray."""
        arguments = [argument for process in self.of_ray for argument in process.cmdline()]
        (folder,) = {a.removeprefix("--temp-dir=") for a in arguments if a.startswith("--temp-dir=")}
        (address,) = {a.removeprefix("--gcs-address=") for a in arguments if a.startswith("--gcs-address=")}
        return Path(folder).parent, address


@pytest.fixture
def started() -> Iterator[Callable[[Path, Path], Train]]:
    runs: list[Train] = []

    def start(project: Path, temporary: Path) -> Train:
        runs.append(Train(project, temporary))
        return runs[-1]

    yield start
    for train in runs:
        train.kill()


def client(address: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Another user's process that asks Ray for something."""
    known = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", _CLIENT, address],
        env=known | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_train_interrupted_says_so_resumes_and_cleans_up_after_a_killed_run_while_others_are_turned_away(
    digits_project: Path, tmp_path: Path, started: Callable[[Path, Path], Train]
) -> None:
    (tmp_path / "data").symlink_to(digits_project / "data")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params(train={"epochs": 2000})))
    (temporary := tmp_path / ("t" * 80)).mkdir()

    first = started(tmp_path, temporary)
    first.until("train: epoch 2/")
    folder, address = first.folder_and_address()
    token = (folder / "token").read_text()
    assert client(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token")).returncode == 0
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        turned_away = client(address, **variables)
        assert turned_away.returncode != 0 and "AuthenticationError" in turned_away.stderr
    assert folder.stat().st_mode & 0o777 == 0o700 and (folder / "token").stat().st_mode & 0o777 == 0o600
    assert not [process for process in first.of_ray if token in " ".join(process.cmdline())]
    written = (path for path in folder.rglob("*") if path.is_file() and path.name != "token")
    assert not [path for path in written if token.encode() in path.read_bytes()]
    left = first.of_ray
    assert first.end(signal.SIGINT) in (130, -signal.SIGINT)  # both are 130 to a shell
    assert first.lines[-1] == "interrupted; the same command resumes"
    assert not folder.exists() and not psutil.wait_procs(left, timeout=20)[1]

    second = started(tmp_path, temporary)
    second.until("train: resuming from epoch")
    killed, _ = second.folder_and_address()
    left = second.of_ray
    second.end(signal.SIGKILL)
    assert killed.exists()

    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params(train={"epochs": 2000, "learning_rate": 0.001})))
    third = started(tmp_path, temporary)
    third.until("train: starting workers")
    assert not killed.exists()
    assert not [process for process in left if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
    third.until("train: epoch 1/")  # other params, so a new model
    assert not [line for line in third.lines if "resuming" in line]
    assert third.end(signal.SIGINT) in (130, -signal.SIGINT)
    assert third.lines[-1] == "interrupted; the same command resumes"
