"""What a log shows of long work."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.jobs import make_job
from pipeline.params import parse_params
from pipeline.progress import Meter, time_left
from pipeline.train import _Watcher
from tests.project import small_params


def test_minutes_and_seconds_are_written_as_on_a_clock() -> None:
    assert [time_left(seconds) for seconds in (0, 59.9, 60, 3725)] == ["0:00", "0:59", "1:00", "62:05"]


def test_a_log_gets_plain_lines_with_done_total_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    meter = Meter("train", 10, "steps", every_s=5.0)
    for done in range(1, 5):
        now += 3.0
        meter.update(done, "2 points/s")
    meter.close()
    # 3 steps in 12 s since the first look; the lines come at least 5 s apart.
    assert capsys.readouterr().out.splitlines() == [
        "train: 2/10 steps, 0:48 left, 2 points/s",
        "train: 4/10 steps, 0:24 left, 2 points/s",
    ]


def test_a_resumed_run_does_not_count_what_was_done_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    meter = Meter("train", 1000, "steps", every_s=1.0)
    meter.update(900)
    now = 10.0
    meter.update(950)
    assert capsys.readouterr().out.splitlines() == ["train: 950/1000 steps, 0:10 left"]


def test_each_epochs_line_says_how_long_the_others_will_take(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines: list[str] = []
    job = make_job(parse_params(small_params(train={"epochs": 6})), digits_project)
    watcher = _Watcher(job, tmp_path, lines.append)
    # Resumed after the second epoch; the third took 50 s with all that starts, the others 10 s each.
    for epoch, at in ((3, 50.0), (4, 60.0), (5, 70.0), (6, 80.0)):
        now = at
        row = {"epoch": epoch, "loss": 1.0}
        watcher(row | {"world_size": 2, "history": [row]})
    assert lines == [
        "train: epoch 3/6, loss 1.00",
        "train: epoch 4/6, loss 1.00; about 0:20 min left",
        "train: epoch 5/6, loss 1.00; about 0:10 min left",
        "train: epoch 6/6, loss 1.00",
    ]
