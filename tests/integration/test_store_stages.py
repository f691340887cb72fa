"""Whole stages with run state in an S3 server: killed, without their store for a while, on hosts that share no disk."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.results.sweep_table import VARYING
from tests.helpers.project import copy_project, environment, run, succeed
from tests.helpers.s3 import BUCKET, Door, keys
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STORE = {"url": f"s3://{BUCKET}/runs"}
GRID = {"label_counts": [50], "methods": ["supervised", "plain"], "epochs": 6, "supervised_steps": 100}
ONE = {"num_workers": 1, "epochs": 4}
RATE = {"name": "train.learning_rate", "low": 0.0005, "high": 0.005, "log": True}
SEARCH = {"num_trials": 4, "epochs": 2, "label_count": 50, "method": "plain", "space": [RATE]}


@pytest.fixture(autouse=True)
def _no_address_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def project_with(digits_project: Path, folder: Path, **sections: dict[str, Any]) -> Path:
    project = copy_project(folder, **sections)
    (project / "data").mkdir(exist_ok=True)
    (project / "data/shards").symlink_to(digits_project / "data/shards")
    return project


def start(project: Path, stage: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline", stage]
    with (project / "output.txt").open("w") as output:
        return subprocess.Popen(
            command, cwd=project, env=environment(), stdout=output, stderr=subprocess.STDOUT, text=True
        )


# The seconds that a run took, and the checksums that include those of that file.
OF_TIME = ("timing.json", "checksums.json")


def files(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_training_killed_and_left_without_its_store_gives_the_bytes_of_a_run_in_a_folder(
    digits_project: Path, tmp_path: Path, door: Door
) -> None:
    # Long enough that neither is over before it is seen to have begun.
    long = ONE | {"epochs": 40}
    whole = project_with(digits_project, tmp_path / "whole", train=long)
    succeed(whole, "ie", "train")
    cut = project_with(digits_project, tmp_path / "cut", train=long, storage=STORE)
    with start(cut, "train") as first:
        # Ray's record of the first checkpoint: without it the run begins again, in a folder as well.
        wait_for(lambda: any(key.endswith("/checkpoint_manager_snapshot.json") for key in keys(door)), first)
        first.kill()
    with start(cut, "train") as second:
        output = cut / "output.txt"
        wait_for(lambda: "train: epoch " in output.read_text(), second)
        door.closed = True
        wait_for(lambda: f"storage at {STORE['url']} cannot be written to; trying again" in output.read_text(), second)
        door.closed = False
        assert second.wait(timeout=300) == 0, output.read_text()
    assert "epoch 1/40" not in output.read_text(), "it went on, and did not begin again"
    assert files(cut / "results/train", without=OF_TIME) == files(whole / "results/train", without=OF_TIME)
    assert keys(door) == [], "the run's state goes when its model is published"


def test_a_sweep_killed_on_a_store_goes_on_and_a_second_one_beside_it_is_refused(
    digits_project: Path, tmp_path: Path, door: Door
) -> None:
    # The supervised trial is over long before the other.
    uneven = GRID | {"epochs": 60}
    whole = project_with(digits_project, tmp_path / "whole", sweep=uneven)
    succeed(whole, "ie", "sweep")
    cut = project_with(digits_project, tmp_path / "cut", sweep=uneven, storage=STORE)
    with start(cut, "sweep") as first:
        wait_for(lambda: "already finished" in (cut / "output.txt").read_text(), first)
        second = run(cut, "ie", "sweep")
        assert first.poll() is None, "the first one had ended before the second one looked"
        assert second.returncode == 5, second.stdout + second.stderr
        (line,) = second.stderr.splitlines()
        assert line.startswith("error: another sweep") and STORE["url"] in line
        wait_for(lambda: any(key.endswith("/result.json") for key in keys(door)), first)
        first.kill()
    assert "2 trials, 1 already finished" in succeed(cut, "ie", "sweep")
    first_table, second_table = (pq.read_table(p / "results/sweep/results.parquet") for p in (whole, cut))
    assert second_table.drop_columns(list(VARYING)).equals(first_table.drop_columns(list(VARYING)))
    left = {key.partition("/trials/")[2].partition("/")[2] for key in keys(door)}
    assert left == {"artifact/config.json", "artifact/weights.safetensors", "result.json", "trained.json"}
    assert "2 trials, 2 already finished" in succeed(cut, "ie", "sweep")


def test_a_search_killed_on_a_store_goes_on(digits_project: Path, tmp_path: Path, door: Door) -> None:
    project = project_with(
        digits_project, tmp_path / "p", search=SEARCH, storage=STORE, sweep=GRID | {"max_concurrent": 1}
    )
    with start(project, "search") as first:
        wait_for(lambda: "search: 2/4" in (project / "output.txt").read_text(), first)
        # Tune notes its state every ten seconds, and at the first trial's end.
        wait_for(lambda: any("/experiment_state" in key for key in keys(door)), first)
        first.kill()
    output = succeed(project, "ie", "search")
    assert f"search: going on with {STORE['url']}/search/" in output
    assert "search: 4/4" in output
    assert keys(door) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://none-such/runs", "s3://none-such/runs: there is no such bucket; make it, or set storage.url"),
        ("gs://bucket/runs", "storage: url is 'gs://bucket/runs'; allowed: a folder that all hosts see, or s3://"),
    ],
)
def test_storage_that_cannot_be_is_one_line(
    url: str, message: str, digits_project: Path, tmp_path: Path, door: Door
) -> None:
    project = project_with(digits_project, tmp_path / "p", storage={"url": url})
    for stage in ("train", "sweep", "search"):
        done = run(project, "ie", stage)
        assert done.returncode in (2, 5)
        (line,) = done.stderr.splitlines()
        assert message in line


@pytest.fixture
def host(digits_project: Path, tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A project on a head, and a host of a cluster that does not see the project; the host's own files are returned."""
    few: dict[str, dict[str, Any]] = {"train": ONE | {"epochs": 2}, "sweep": GRID, "search": SEARCH | {"num_trials": 2}}
    project = project_with(digits_project, tmp_path / "project", **few, storage=STORE)
    # Short: paths of sockets below it may have 107 characters.
    home = Path(tempfile.mkdtemp(prefix="ie-host-", dir="/tmp"))
    (home / "tmp").mkdir()
    (home / "credentials").write_text(
        "[default]\naws_access_key_id = host\naws_secret_access_key = something-secret-of-the-host\n"
    )
    (home / "token").write_text(secrets.token_hex(32))
    ways_in = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": f"{home}/token"}
    # Without this Ray takes 127.0.0.1 for this machine's address in its network.
    ways_in |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "GLOO_SOCKET_IFNAME": "lo"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray = f"{Path(sys.executable).parent}/ray"
    hidden = f"mount -t tmpfs none {project} && mount -t tmpfs none {digits_project}"
    command = (
        f"{hidden} && cd / && exec {ray} start --head --block --node-ip-address=127.0.0.1 --port={port} --num-cpus=2 "
        f"--include-dashboard=false --object-store-memory=100000000 --temp-dir={home}/ray"
    )
    own = {name: value for name, value in environment().items() if not name.startswith(("AWS_", "RAY_", "PYTHONPATH"))}
    own |= {"AWS_SHARED_CREDENTIALS_FILE": f"{home}/credentials", "AWS_EC2_METADATA_DISABLED": "true"}
    own |= ways_in | {"RAY_USAGE_STATS_ENABLED": "0"}
    probe = subprocess.run(["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(home / "tmp")], check=False)
    if probe.returncode != 0:
        pytest.skip("hiding the project from the host needs root")
    with (home / "log.txt").open("w") as log:
        started = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", command], env=own, stdout=log, stderr=log, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while "Ray runtime started" not in (home / "log.txt").read_text():
            assert started.poll() is None and time.monotonic() < deadline, (home / "log.txt").read_text()
            time.sleep(0.2)
        for name, value in (ways_in | {"RAY_ADDRESS": f"127.0.0.1:{port}"}).items():
            monkeypatch.setenv(name, value)
        yield home
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
            try:
                started.wait(timeout=5)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                started.wait()
        shutil.rmtree(home, ignore_errors=True)


def test_hosts_that_do_not_see_the_project_train_sweep_and_search_from_the_store(
    host: Path, digits_project: Path, tmp_path: Path, door: Door
) -> None:
    project = tmp_path / "project"
    done = run(project, "ie", "doctor")  # not fit in all: the token lies elsewhere
    output = done.stdout
    assert "ok   storage: s3://shards/runs is seen, writable" in output, output + done.stderr
    assert "ok   shards: " in output and "the first run puts them to s3://shards/runs/shards/digits/" in output
    succeed(project, "ie", "train")
    published = [key for key in keys(door) if key.startswith("runs/shards/digits/")]
    assert any(key.endswith(".tar") for key in published)
    assert [line for line in door.requests if line.startswith("GET") and ".tar" in line], "workers read them there"
    assert "tars readable" in run(project, "ie", "doctor").stdout
    assert "2 trials, 0 already finished" in succeed(project, "ie", "sweep")
    assert "search: 2 trials" in succeed(project, "ie", "search")
    assert not (project / ".runs").exists()
    alone = project_with(digits_project, tmp_path / "alone", train=ONE | {"epochs": 2})
    with pytest.MonkeyPatch.context() as patched:
        patched.delenv("RAY_ADDRESS")
        succeed(alone, "ie", "train")

    assert files(project / "results/train", without=OF_TIME) == files(alone / "results/train", without=OF_TIME)
    logs = [path for path in (host / "ray").rglob("*") if path.is_file() and not path.is_symlink()]
    assert logs
    assert not [path for path in logs if b"something-secret" in path.read_bytes()]
