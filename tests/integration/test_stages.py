"""Stages as a user runs them, in processes of their own, on scikit-learn's digits: ends, interruptions, failures."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ie_model.checksums import seal, unseal
from pipeline.data.shards.tar_reader import iter_samples
from tests.helpers.disks import mounted
from tests.helpers.project import copy_project, environment, run, succeed

pytestmark = pytest.mark.slow

# A run that is watched in all ways ends in the same bytes.
WATCHED: dict[str, Any] = {"loggers": ["tensorboard", "mlflow"], "profile": True}


def weights(project: Path) -> str:
    return hashlib.sha256((project / "results/train/model/weights.safetensors").read_bytes()).hexdigest()


def start(project: Path, *command: str) -> subprocess.Popen[str]:
    """An `ie` command in the background, its output line by line."""
    arguments = [sys.executable, "-m", "pipeline", *command]
    return subprocess.Popen(
        arguments, cwd=project, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def kill_when(process: subprocess.Popen[str], line_is: Callable[[str], bool]) -> list[str]:
    """SIGKILL to the process as soon as it prints such a line."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line_is(line):
            os.kill(process.pid, signal.SIGKILL)
            break
    process.wait(timeout=60)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL, "".join(lines)
    return lines


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    project = copy_project(tmp_path_factory.mktemp("sharded"))
    succeed(project, "ie", "fetch")
    succeed(project, "ie", "shard")
    return project


def with_shards(sharded: Path, folder: Path, **sections: dict[str, Any]) -> Path:
    project = copy_project(folder, **sections)
    (project / "data").mkdir(exist_ok=True)
    (project / "data/shards").symlink_to(sharded / "data/shards")
    return project


@pytest.mark.timeout(600)  # three runs, one of them with every logger
def test_a_run_killed_in_training_goes_on_from_its_checkpoint_to_the_same_weights(
    sharded: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 12}
    whole = with_shards(sharded, tmp_path / "whole", train=settings)
    succeed(whole, "ie", "train")
    cut = with_shards(sharded, tmp_path / "cut", train=settings | WATCHED)
    kill_when(start(cut, "train"), lambda line: "epoch 3/12" in line)
    assert not (cut / "results/train/model").exists()
    rows = (cut / "results/train/history.csv").read_text().splitlines()
    assert len(rows) >= 4, "the curves of a run can be seen while it is under way"
    assert rows == (whole / "results/train/history.csv").read_text().splitlines()[: len(rows)]
    output = succeed(cut, "ie", "train")
    assert "epoch 1/12" not in output
    assert "epoch 12/12" in output
    assert weights(cut) == weights(whole)
    for name in ("history.csv", "metrics.json"):
        assert (cut / "results/train" / name).read_bytes() == (whole / "results/train" / name).read_bytes()
    assert not list((cut / ".runs").glob("train-*")), "run state is removed when the artifact is in place"
    (traces,) = (cut / "logs/profile").iterdir()
    assert sorted(path.name for path in traces.iterdir()) == ["rank-0.json.gz", "rank-1.json.gz"]
    with (cut / "results/train/history.csv").open() as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    (curves,) = (cut / "logs/tensorboard").iterdir()
    reader = EventAccumulator(str(curves))
    reader.Reload()
    assert [event.value for event in reader.Scalars("loss")] == pytest.approx(losses)
    with contextlib.closing(sqlite3.connect(cut / "logs/mlflow.db")) as database:
        assert database.execute("SELECT name, status FROM runs").fetchall() == [(curves.name, "FINISHED")]
        values = database.execute("SELECT value FROM metrics WHERE key = 'loss' ORDER BY step").fetchall()
    assert [value for (value,) in values] == losses


def test_ranks_out_of_step_fail_with_a_message_and_do_not_hang(sharded: Path, tmp_path: Path) -> None:
    project = with_shards(sharded, tmp_path / "p", train={"epochs": 2, "timeout_s": 10, "max_failures": 0})
    loop = project / "pipeline/training/trainer.py"
    text = loop.read_text()
    line = "            yield batches\n"
    assert line in text
    loop.write_text(text.replace(line, "            yield batches if rank == 0 else itertools.islice(batches, 1)\n"))
    started = time.monotonic()
    done = run(project, "ie", "train", timeout=150)
    assert done.returncode == 6, done.stdout + done.stderr
    assert "train.timeout_s" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert time.monotonic() - started < 120


def test_a_loss_that_is_not_finite_is_one_line_that_names_the_learning_rate(sharded: Path, tmp_path: Path) -> None:
    project = with_shards(sharded, tmp_path / "p", train={"learning_rate": 1e6, "warmup": 0.0, "max_failures": 0})
    done = run(project, "ie", "train")
    assert done.returncode == 6, done.stdout + done.stderr
    assert "lower train.learning_rate" in done.stderr
    assert not (project / "results/train/model").exists()


def test_gpus_that_are_not_there_are_refused_before_any_work(sharded: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    project = with_shards(sharded, tmp_path / "p", train={"device": "cuda"})
    done = run(project, "ie", "train")
    assert done.returncode == 5
    assert "train.device is cuda" in done.stderr
    assert "here are 0 GPUs" in done.stderr


def test_a_trial_that_fails_is_reported_and_the_others_are_kept(sharded: Path, tmp_path: Path) -> None:
    project = with_shards(sharded, tmp_path / "p", sweep={"methods": ["supervised", "plain"], "label_counts": [50]})
    loop = project / "pipeline/training/trainer.py"
    text = loop.read_text()
    line = '        """Trains to the end'
    assert line in text
    broken = '        if self.job.method == "plain":\n            raise RuntimeError("broken on purpose")\n'
    start_of_body = "        with self.session.restore() as folder:\n"
    loop.write_text(text.replace(start_of_body, broken + start_of_body))
    output = succeed(project, "ie", "sweep")
    assert "FAILED plain, 50 labels, seed 0: RuntimeError: broken on purpose" in output
    with (project / "results/sweep/table.csv").open(newline="") as file:
        status = {row["method"]: row["status"] for row in csv.DictReader(file)}
    assert status == {"supervised": "finished", "plain": "failed"}
    (log,) = (project / ".runs/trials").glob("*/error.log")
    assert f"log in {log}" in output
    assert "attempt 2 of 2" in log.read_text() and "Traceback" in log.read_text()
    metrics = json.loads((project / "results/sweep/metrics.json").read_text())
    assert metrics["trials_failed"] == 1
    assert "supervised_50_test_error_pct" in metrics


def test_shard_killed_while_it_writes_leaves_nothing_under_the_results_name_and_goes_on(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "p", data={"num_shards": 200})
    succeed(project, "ie", "fetch")
    process = start(project, "shard")
    folder = project / "data/shards"
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".digits.*.work/shards/*.tar"))) < 10 and time.monotonic() < deadline:
        time.sleep(0.0005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert process.stdout is not None
    process.stdout.close()
    assert not (folder / "digits").exists(), "killed too late to leave anything half written"
    assert "tars are kept from an interrupted run" in succeed(project, "ie", "shard")
    assert [path.name for path in folder.iterdir()] == ["digits"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=2m") as folder:
        yield folder


def test_a_full_disk_stops_shard_with_one_line_and_leaves_whole_tars_alone(
    sharded: Path, tmp_path: Path, small_disk: Path
) -> None:
    project = copy_project(tmp_path / "p")
    succeed(project, "ie", "fetch")
    (project / "data/shards").symlink_to(small_disk)
    done = run(project, "ie", "shard")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "no space left" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    (left,) = small_disk.iterdir()
    assert left.name.startswith(".digits.") and f"kept for the next run, in {left.resolve()}" in done.stdout
    for tar in left.glob("shards/*.tar"):
        assert list(iter_samples(tar))


def test_a_full_storage_stops_training_with_one_line(sharded: Path, tmp_path: Path, small_disk: Path) -> None:
    (small_disk / "filler").write_bytes(bytes(2 * 1024 * 1024 - 300_000))
    project = with_shards(sharded, tmp_path / "p", storage={"url": str(small_disk)}, train={"max_failures": 0})
    done = run(project, "ie", "train")
    assert done.returncode == 5, done.stdout + done.stderr
    assert "no space left" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (project / "results/train/model").exists()


def test_a_model_of_other_data_is_refused_by_evaluate(sharded: Path, tmp_path: Path) -> None:
    project = with_shards(sharded, tmp_path / "p", train={"epochs": 1})
    succeed(project, "ie", "train")
    config = project / "results/train/model/config.json"
    other = unseal(json.loads(config.read_text()))
    other["spec"]["classes"][0] = "zero"
    config.write_text(json.dumps(seal(other)))
    done = run(project, "ie", "evaluate")
    assert done.returncode == 4, done.stdout + done.stderr
    assert "trained on other data" in done.stderr
