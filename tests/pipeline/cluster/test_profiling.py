"""Traces of a rank's steps, and the run around them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from pipeline.cluster.profiling import collect_traces, profiled
from pipeline.storage.run_storage import Folder
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from tests.pipeline.training.test_trainer import differing, small_job, trained


def test_a_profiled_run_ends_in_the_same_weights_and_leaves_a_trace_of_five_steps(
    digits_project: Path, tmp_path: Path
) -> None:
    job = small_job(digits_project).model_copy(update={"epochs": 2, "steps_per_epoch": 12})
    storage, whole = Folder(tmp_path / "runs"), trained(job, tmp_path / "whole")
    trainer = Trainer(job, TrialSession(tmp_path / "profiled", job))
    with profiled(storage, "train-a", 3, "cpu") as trainer.after_step:
        trainer.run()
    assert differing(trainer.published, whole.published) == []
    assert collect_traces(storage, "train-a", tmp_path / "out") == ["rank-3.json.gz"]
    events = json.loads(gzip.decompress((tmp_path / "out/rank-3.json.gz").read_bytes()))["traceEvents"]
    names = {event.get("name") for event in events}
    assert sum(str(name).startswith("ProfilerStep#") for name in names) == 5
    assert "aten::addmm" in names


def test_a_run_of_few_steps_leaves_no_trace(tmp_path: Path) -> None:
    storage = Folder(tmp_path / "runs")
    with profiled(storage, "train-a", 0, "cpu") as after_step:
        for _ in range(5):
            after_step()
    assert collect_traces(storage, "train-a", tmp_path / "out") == []
