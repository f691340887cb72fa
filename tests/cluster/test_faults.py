"""What can happen to a cluster in the middle of a run, and that the numbers come out the same."""

from __future__ import annotations

import csv
import re
import time
from typing import Any

import pytest

from tests.cluster.lab import Lab
from tests.cluster.launched import PROJECT, TRAIN_COMMAND, Laptop, note_gap
from tests.cluster.metadata import PORT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_host_whose_ray_dies_is_started_again_where_there_is_no_spare(
    laptop: Laptop, lab: Lab, record: dict[str, Any]
) -> None:
    whole = laptop.normal()
    run = laptop.start(TRAIN_COMMAND)
    run.wait_for_epoch(6)
    fault = time.monotonic()
    lab.kill_raylet("worker2")
    assert run.finish() == 0, run.text
    assert laptop.outcome() == whole
    note_gap(run, fault, record, "raylet_killed", 40)


def test_storage_that_is_away_for_a_while_is_waited_for(laptop: Laptop, lab: Lab, record: dict[str, Any]) -> None:
    whole = laptop.normal()
    run = laptop.start(TRAIN_COMMAND)
    run.wait_for_epoch(6)
    fault = time.monotonic()
    lab.storage(there=False, hosts=laptop.workers)
    time.sleep(10)
    lab.storage(there=True)
    assert run.finish() == 0, run.text
    assert "cannot be written to; trying again" in run.text
    assert laptop.outcome() == whole
    note_gap(run, fault, record, "storage_away_10_s", 40)


def test_after_the_head_is_lost_the_same_command_goes_on_from_the_last_checkpoint(
    laptop: Laptop, lab: Lab, record: dict[str, Any]
) -> None:
    whole = laptop.normal()
    run = laptop.start(TRAIN_COMMAND)
    run.wait_for_epoch(10)
    lab.power_off("head")
    run.kill()
    last = run.epochs()[-1][1]
    lab.boot("head")
    laptop.relaunch()
    again = laptop.start(TRAIN_COMMAND)
    assert again.finish() == 0, again.text
    first = again.epochs()[0][1]
    record["head_lost"] = {"last_epoch_before": last, "first_epoch_after": first}
    assert first >= last, "what is lost is at most the epoch under way"
    assert laptop.outcome() == whole


def test_an_elastic_run_shrinks_with_its_hosts_and_grows_again(
    laptop: Laptop, lab: Lab, record: dict[str, Any]
) -> None:
    laptop.up()
    laptop.params(train={"num_workers": [1, 2], "epochs": 300})
    try:
        run = laptop.start(TRAIN_COMMAND)
        run.wait_for_epoch(6)
        assert len(laptop.ranks()) == 2
        fault = time.monotonic()
        lab.power_off("worker2")
        run.wait_for(lambda line: "1 worker(s) now, 2 before" in line)
        back = time.monotonic()
        lab.boot("worker2")
        run.wait_for(lambda line: "2 worker(s) now, 1 before" in line, 240)
        record["elastic_regrow"] = {"from_boot_s": round(time.monotonic() - back, 1)}
        assert run.finish() == 0, run.text
        note_gap(run, fault, record, "elastic_shrink", 60)
        history = lab.disk("head", f"{PROJECT}/results/train/history.csv").read_text()
        assert [int(row["epoch"]) for row in csv.DictReader(history.splitlines())] == list(range(1, 301))
    finally:
        laptop.params(train={"num_workers": 2, "epochs": 25})


def test_a_power_cut_within_a_long_epoch_costs_what_was_done_since_the_last_checkpoint(
    laptop: Laptop, lab: Lab, record: dict[str, Any]
) -> None:
    laptop.up()
    every = 20
    # An epoch of about a minute on two busy cores.
    laptop.params(train={"epochs": 2, "min_steps": 2400, "checkpoint_every_s": 10_000})
    try:
        assert laptop.start(TRAIN_COMMAND).finish(600) == 0
        whole = laptop.outcome()
        laptop.params(train={"checkpoint_every_s": every})
        laptop.on_head("rm -rf results/train")
        run = laptop.start(TRAIN_COMMAND)
        first = run.wait_for(lambda line: "train: workers have started" in line)
        time.sleep(max(0.0, first + 35 - time.monotonic()))
        fault = time.monotonic()
        lab.power_off("worker2")
        at, step, points_per_s = run.steps()[-1]
        lab.boot("worker2")
        run.wait_for(lambda line: "train: resuming from epoch" in line, 240)
        assert run.finish(600) == 0, run.text
        (kept,) = [int(found[1]) for _, line in run.lines if (found := re.search(r"resuming .*, step (\d+)", line))]
        # The line before the fault is up to 15 s old: from there at its rate.
        reached = at + (kept - step) * 64 / points_per_s
        record["power_cut_within_an_epoch"] = {"work_lost_s": round(fault - reached, 1), "target_s": every}
        assert laptop.outcome() == whole
    finally:
        laptop.params(train={"epochs": 25, "min_steps": 0, "checkpoint_every_s": 60})


def test_a_sweep_keeps_finished_trials_when_a_host_is_lost(laptop: Laptop, lab: Lab) -> None:
    laptop.normal()
    run = laptop.start("python -m pipeline sweep")
    run.wait_for(lambda line: "sweep: 1/" in line, 240)
    lab.power_off("worker2")
    assert run.finish(400) == 0, run.text
    rows = list(csv.DictReader(lab.disk("head", f"{PROJECT}/results/sweep/table.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["finished"] * len(rows)
    reported = [line for _, line in run.lines if "test error" in line]
    assert len(reported) == len(rows), "no trial that had finished ran again"


def test_the_notice_of_a_spot_instance_reaches_ray_and_the_run_goes_on_elsewhere(laptop: Laptop, lab: Lab) -> None:
    laptop.up(workers=("worker1", "worker2", "worker3"))
    laptop.params(train={"epochs": 90})
    try:
        run = laptop.start(TRAIN_COMMAND)
        run.wait_for_epoch(6)
        host = laptop.ranks()[1]
        lab.start(host, f"python3 {PROJECT}/tests/cluster/metadata.py")
        watch = (
            f"IE_METADATA=http://127.0.0.1:{PORT}/latest IE_NOTICE_INTERVAL_S=1 bash {PROJECT}/cluster/spot_notice.sh"
        )
        assert "terminate" in lab.exec(host, f"export PATH=~/venv/bin:$PATH; {watch}")
        lab.power_off(host)
        assert run.finish() == 0, run.text
    finally:
        laptop.params(train={"epochs": 25})


def test_a_pulled_cable_is_noticed_and_the_result_is_the_same(laptop: Laptop, lab: Lab, record: dict[str, Any]) -> None:
    whole = laptop.normal()
    laptop.up(workers=("worker1", "worker2", "worker3"))
    run = laptop.start(TRAIN_COMMAND)
    run.wait_for_epoch(6)
    fault = time.monotonic()
    lab.unplug(laptop.ranks()[1])
    assert run.finish() == 0, run.text
    assert laptop.outcome() == whole
    note_gap(run, fault, record, "cable_pulled", 40)
