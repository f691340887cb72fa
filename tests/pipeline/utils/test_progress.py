"""What a log shows of long work."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.params import parse_params
from pipeline.stages.train import _Watcher
from pipeline.training.build_job import make_job
from pipeline.tuning.progress import Watcher
from pipeline.utils.progress import Meter, duration, working
from tests.helpers.project import small_params


def test_duration_names_its_units() -> None:
    found = [duration(seconds) for seconds in (0, 59.4, 59.9, 125, 3725)]
    assert found == ["0 s", "59 s", "1 min 0 s", "2 min 5 s", "1 h 2 min"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_meter_in_a_log_prints_done_total_and_time_left(capsys: pytest.CaptureFixture[str], clock: list[float]) -> None:
    meter = Meter("train", 10, "steps", every_s=5.0)
    for done in range(1, 5):
        clock[0] += 3.0
        meter.update(done, "2 points/s")
    meter.close()
    # A step takes 3 s since the first look; lines come at least 5 s apart.
    assert capsys.readouterr().out.splitlines() == [
        "train: 2/10 steps, 24 s left, 2 points/s",
        "train: 4/10 steps, 18 s left, 2 points/s",
    ]


def test_meter_of_a_resumed_run_does_not_count_what_was_done_before(
    capsys: pytest.CaptureFixture[str], clock: list[float]
) -> None:
    meter = Meter("train", 1000, "steps", every_s=1.0)
    meter.update(900)
    clock[0] += 10
    meter.update(950)
    assert capsys.readouterr().out.splitlines() == ["train: 950/1000 steps, 10 s left"]
    clock[0] += 10
    assert meter.left(910) is None, "a worker was lost, and the run started again from before"


def watcher(digits_project: Path, tmp_path: Path, lines: list[str]) -> _Watcher:
    job = make_job(parse_params(small_params(train={"epochs": 6})), digits_project)
    return _Watcher(job.model_copy(update={"steps_per_epoch": 10}), tmp_path, lambda history: None, lines.append)


def test_watcher_of_train_shows_one_estimate_of_the_time_left(
    digits_project: Path, tmp_path: Path, clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    watch = watcher(digits_project, tmp_path, lines)
    watch({"resumed": 2, "step": 27})
    # The third epoch takes 50 s with all that starts, the others 10 s each.
    for epoch, seconds in ((3, 50.0), (4, 10.0), (5, 10.0), (6, 10.0)):
        clock[0] += seconds
        watch({"step": 10 * epoch, "total_steps": 60, "points_per_s": 64.0})
        row = {"epoch": epoch, "loss": 1.0}
        watch(row | {"world_size": 2, "history": [row]})
    assert lines == [
        "train: resuming from epoch 2 of 6, step 27 of 60",
        "train: epoch 3/6, loss 1.00",
        "train: epoch 4/6, loss 1.00; 20 s left",
        "train: epoch 5/6, loss 1.00; 10 s left",
        "train: epoch 6/6, loss 1.00",
    ]
    assert capsys.readouterr().out.splitlines() == [
        "train: 30/60 steps, 64 points/s",
        "train: 50/60 steps, 10 s left, 64 points/s",
    ]


def test_watcher_of_a_sweep_counts_trials_and_shows_wall_times(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    trial: Any = SimpleNamespace(method="plain", labels=100, seed=0, job=SimpleNamespace(epochs=12))
    watch = Watcher({"a": trial, "b": trial}, 1, lines.append)
    watch._eta.now = lambda: clock[0]
    watch({"resumed": "a", "epoch": 3})
    watch({"fingerprint": "a", "share": 0.25})
    clock[0] += 60
    watch({"fingerprint": "a", "share": 0.5})
    clock[0] += 60
    watch({"failed": "a", "error": "broken"})
    watch.close()
    assert lines == [
        "sweep: plain, 100 labels, seed 0: resuming from epoch 3 of 12",
        "sweep: 1/2 plain, 100 labels, seed 0: FAILED, broken in 2 min 0 s; 2 min 40 s left",
    ]
    assert capsys.readouterr().out.splitlines() == [
        "sweep: 0/2 trials, 6 min 0 s left, 1 running",
        "sweep: 1/2 trials, 2 min 40 s left, 0 running",
    ]


def test_work_that_takes_long_says_what_it_is_and_ends_with_its_block() -> None:
    lines: list[str] = []
    with working(lines.append, every_s=0.02) as begin:
        time.sleep(0.1)
        assert lines == [], "nothing has begun"
        begin("probes")
        time.sleep(0.2)
    assert lines
    assert all(line.startswith("probes, 0 s") for line in lines)
    before = len(lines)
    time.sleep(0.1)
    assert len(lines) == before
