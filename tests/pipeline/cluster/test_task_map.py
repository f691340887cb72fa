"""Tasks on Ray, one process each: a task whose process is lost is done again, and an error comes back as it was."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from ie_model.spec import Preprocessing
from pipeline.cluster.task_map import run_on_hosts
from pipeline.data.sharding.write import Content, Hosts, Layout, pack
from pipeline.data.shards.manifest import Manifest
from pipeline.errors import DataError
from pipeline.storage.object_store import Bucket
from pipeline.utils.process_pool import Report
from tests.helpers.made import SPEC, made
from tests.helpers.s3 import BUCKET, Door
from tests.helpers.waiting import silent

pytestmark = pytest.mark.slow


def square(folder: Path, task: int, report: Report) -> int:
    """Ends its own process at the first try of 3; 5 cannot be done."""
    died = folder / "died"
    if task == 3 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if task == 5:
        raise DataError("task 5 is unreadable")
    report(10)
    return task * task


def test_task_whose_process_is_killed_is_done_again_and_errors_keep_their_type(tmp_path: Path) -> None:
    progress: list[int] = []
    results = run_on_hosts(square, tmp_path, [1, 2, 3, 4], progress.append, silent)
    assert sorted(results) == [1, 4, 9, 16]
    assert (tmp_path / "died").exists() and progress == [10, 20, 30, 40]
    with pytest.raises(DataError, match="^task 5 is unreadable$"):
        list(run_on_hosts(square, tmp_path, [4, 5, 6], progress.append, silent))


def test_tars_packed_by_tasks_into_a_store_are_those_of_one_process(tmp_path: Path, door: Door) -> None:
    content = Content("made", {}, SPEC, Preprocessing(), {"train": made("train", 6000), "test": made("test", 90)})
    lines: list[str] = []

    def made_by(name: str, hosts: Hosts | None = None, store: Bucket | None = None) -> Manifest:
        layout = Layout(encoding="npy", num_shards=4, num_val=100, split_seed=0)
        return pack(content, layout, tmp_path / name, lines.append, writers=1, hosts=hosts, store=store)

    on_ray = made_by("ray", partial(run_on_hosts, log=silent), Bucket(f"s3://{BUCKET}/runs"))
    assert "the cluster's hosts" in lines[-1]
    assert on_ray.splits == made_by("here").splits
