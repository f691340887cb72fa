"""Whole sweeps on digits, in processes of their own: killed at any moment, with trials and workers that fail."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.results.sweep_table import VARYING
from tests.helpers.project import copy_project, environment, run, succeed
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow

GRID = {"label_counts": [50, 100], "methods": ["supervised", "plain"], "epochs": 6, "supervised_steps": 100}


def project_with(digits_project: Path, folder: Path, **sweep: object) -> Path:
    project = copy_project(folder, sweep=GRID | sweep)
    (project / "data").mkdir(exist_ok=True)
    (project / "data/shards").symlink_to(digits_project / "data/shards")
    return project


def start(project: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "pipeline", "sweep"]
    return subprocess.Popen(command, cwd=project, env=environment(), stdout=subprocess.DEVNULL)


@pytest.mark.timeout(900)
def test_a_sweep_killed_at_three_random_moments_gives_the_table_of_an_undisturbed_one(
    digits_project: Path, tmp_path: Path
) -> None:
    whole = project_with(digits_project, tmp_path / "whole")
    started = time.monotonic()
    succeed(whole, "ie", "sweep")
    wall = time.monotonic() - started
    cut = project_with(digits_project, tmp_path / "cut")
    moments = [random.uniform(0.1, 0.9) * wall for _ in range(3)]
    print("killed after", moments)
    for moment in moments:
        with start(cut) as process:
            try:
                process.wait(timeout=moment)  # an earlier attempt may have left little to do
            except subprocess.TimeoutExpired:
                process.kill()
    succeed(cut, "ie", "sweep")
    first, second = (pq.read_table(project / "results/sweep/results.parquet") for project in (whole, cut))
    assert second.drop_columns(list(VARYING)).equals(first.drop_columns(list(VARYING)))
    assert second.num_rows == 4
    for name in ("table.csv", "measures.csv", "metrics.json", "summary.md", "summary.tex", "error_against_labels.png"):
        assert (cut / "results/sweep" / name).read_bytes() == (whole / "results/sweep" / name).read_bytes(), name
    wider = project_with(digits_project, tmp_path / "wider", seeds=[0, 1], methods=["supervised"])
    (cut / ".runs").rename(wider / ".runs")
    assert "4 trials, 2 already finished" in succeed(wider, "ie", "sweep")


def test_a_trial_that_raises_once_and_a_worker_that_dies_once_are_tried_again(
    digits_project: Path, tmp_path: Path
) -> None:
    project = project_with(digits_project, tmp_path / "p", label_counts=[50], epochs=2)
    loop = project / "pipeline/training/trainer.py"
    text = loop.read_text()
    start_of_body = "        with self.session.restore() as folder:\n"
    assert start_of_body in text
    faults = f"""        import os, signal
        marker = Path({str(tmp_path)!r}) / self.job.method
        if not marker.exists():
            marker.touch()
            if self.job.method == "plain":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError("broken once")
"""
    loop.write_text(text.replace(start_of_body, faults + start_of_body))
    output = succeed(project, "ie", "sweep")
    assert "supervised, 50 labels, seed 0: RuntimeError: broken once; trying again" in output
    assert "FAILED" not in output
    rows = pq.read_table(project / "results/sweep/results.parquet").to_pylist()
    assert {row["method"]: row["status"] for row in rows} == {"supervised": "finished", "plain": "finished"}
    assert not list((project / ".runs/trials").glob("*/error.log"))
    assert "2 trials, 2 already finished" in succeed(project, "ie", "sweep")


@pytest.mark.timeout(900)
def test_a_second_sweep_is_refused_while_the_first_goes_on_and_ctrl_c_leaves_no_half_table(
    digits_project: Path, tmp_path: Path
) -> None:
    project = project_with(digits_project, tmp_path / "p", label_counts=[50], epochs=30)
    lock, trials = project / ".runs" / "sweep.lock", project / ".runs" / "trials"
    with start(project) as first:
        try:
            wait_for(lock.exists)
            second = run(project, "ie", "sweep")
            assert first.poll() is None, "the first one had ended before the second one looked"
            assert second.returncode == 5, second.stdout + second.stderr
            (line,) = second.stderr.splitlines()
            assert line.startswith("error: another sweep") and "sweep.lock" in line
            # Ray Tune takes Ctrl-C for an end like any other, and hands back trials that never ran.
            wait_for(lambda: bool(list(trials.glob("*/result.json"))))
            first.send_signal(signal.SIGINT)
            assert first.wait(timeout=100) == 130
        finally:
            first.kill()
    assert not (project / "results/sweep/results.parquet").exists()
    assert "2 trials, 1 already finished" in succeed(project, "ie", "sweep")
