"""`ray up`, `dvc repro` on the hosts, results back on the laptop; and a host that loses its power."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.cluster.lab import SHARED, Lab
from tests.cluster.launched import TRAIN_COMMAND, Laptop, note_gap, outcome

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_a_run_on_two_hosts_comes_back_to_the_laptop(laptop: Laptop, lab: Lab, record: dict[str, Any]) -> None:
    laptop.stop()
    started = time.monotonic()
    laptop.up()
    up = time.monotonic() - started
    run = laptop.start("dvc repro train")
    run.wait_for_epoch(3)
    assert laptop.ranks() == ["worker1", "worker2"], "one rank on each host"
    assert run.finish() == 0, run.text
    first = run.epochs()[0][0]
    made = run.wait_for(lambda line: "Running stage 'train'" in line) - run.wait_for(
        lambda line: "stage 'fetch'" in line
    )
    record["normal"] = {
        "ray_up_s": round(up, 1),
        "ray_up_to_first_epoch_s": round(first - started, 1),
        "of_which_fetch_and_shard_s": round(made, 1),
        "epochs_s": round(run.epochs()[-1][0] - first, 1),
    }
    laptop.keep_as_normal()
    laptop.fetch_results("fetch shard train")
    assert outcome(laptop.folder) == outcome(lab.disk("head", f"{SHARED}/project"))
    assert "up to date" in laptop.do("dvc status train")
    assert "val_error_pct" in laptop.do("dvc metrics diff")


def test_a_host_without_power_is_replaced_and_the_result_is_the_same(
    laptop: Laptop, lab: Lab, record: dict[str, Any]
) -> None:
    whole = laptop.normal()
    laptop.up(workers=("worker1", "worker2", "worker3"))
    run = laptop.start(TRAIN_COMMAND)
    run.wait_for_epoch(6)
    fault = time.monotonic()
    lab.power_off(laptop.ranks()[1])
    assert run.finish() == 0, run.text
    assert laptop.outcome() == whole
    note_gap(run, fault, record, "power_off", 40)
