"""Training on streamed shards: the same run with any reader, resumed where it was, faults named or left out."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.config.params import parse_params
from pipeline.data.loading.check import check_shards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError
from pipeline.training.build_job import make_job
from pipeline.training.job import Job
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TrainingData, load_training_data
from tests.helpers.project import small_params
from tests.pipeline.training.test_trainer import KilledError, KilledSession, differing, small_job, trained

CPU = torch.device("cpu")


def streamed(project: Path, **sections: dict[str, Any]) -> Job:
    reader = {"mode": "stream", "loader_workers": 0, "slice_kb": 4} | sections.pop("reader", {})
    return small_job(project, "plain", 1, reader=reader, **sections)


def load(job: Job) -> TrainingData:
    return load_training_data(Path(job.shards), job.reading, job.label_count, job.label_seed, CPU)


@pytest.fixture
def project(digits_project: Path, tmp_path: Path) -> Path:
    """A project of its own, to damage its shards."""
    shutil.copytree(digits_project / "data", tmp_path / "project" / "data")
    return tmp_path / "project"


def damage(project: Path, split: str, nth: int) -> str:
    """Changes a byte of a sample's values; returns its key."""
    folder = project / "data/shards/digits"
    manifest = read_manifest(folder)
    index = ShardedDataset(folder, manifest).index("train" if split == "train" else "val")
    path = folder / manifest.splits["train" if split == "train" else "val"].shards[index.shard_of(nth)].path
    data = bytearray(path.read_bytes())
    data[index.rows["offset"][nth] + index.rows["size"][nth] // 2] ^= 0xFF
    path.write_bytes(data)
    return index.keys[nth]


def test_a_streamed_run_is_the_same_for_any_number_of_loader_processes(digits_project: Path, tmp_path: Path) -> None:
    runs = [
        trained(streamed(digits_project, train={"epochs": 2}, reader={"loader_workers": n}), tmp_path / str(n))
        for n in (0, 2)
    ]
    assert differing(runs[0].fit.model, runs[1].fit.model) == []
    assert runs[0].state.history == runs[1].state.history


def test_the_number_of_loader_processes_does_not_change_a_runs_name_and_the_way_of_reading_does(
    digits_project: Path,
) -> None:
    names = [streamed(digits_project, reader={"loader_workers": n, "retries": n}).fingerprint for n in (0, 2)]
    assert names[0] == names[1]
    others = [streamed(digits_project, reader=changes) for changes in ({"slice_kb": 8}, {"mode": "memory"})]
    assert len({names[0], *(job.fingerprint for job in others)}) == 3


def test_a_streamed_run_resumed_from_its_checkpoint_ends_bit_for_bit_as_one_never_interrupted(
    digits_project: Path, tmp_path: Path
) -> None:
    job = streamed(digits_project)
    whole = trained(job, tmp_path / "whole")
    with pytest.raises(KilledError):
        Trainer(job, KilledSession(tmp_path / "cut", job)).run()
    resumed = trained(job, tmp_path / "cut")
    assert differing(resumed.fit.model, whole.fit.model) == []
    assert resumed.state.history == whole.state.history


def test_streamed_and_in_memory_runs_see_the_same_points(digits_project: Path) -> None:
    stream, memory = load(streamed(digits_project)), load(small_job(digits_project))
    assert stream.shares == memory.shares
    assert [len(c) for c in stream.members] == [len(c) for c in memory.members]

    def pixels(data: TrainingData) -> list[bytes]:
        return sorted(row.numpy().tobytes() for row in data.points.take(data.labelled))

    assert pixels(stream) == pixels(memory)
    assert np.bincount(stream.val_y).tolist() == np.bincount(memory.val_y).tolist()


class Rank(TrialSession):
    """One of two ranks, which are threads."""

    def __init__(
        self, rank: int, folder: Path, job: Job, meet: threading.Barrier, given: dict[int, torch.Tensor]
    ) -> None:
        super().__init__(folder, job)
        self.rank, self.world_size, self.meet, self.given = rank, 2, meet, given

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        self.given[self.rank] = values
        self.meet.wait(60)
        return self.given[0] + self.given[1]


def test_one_rank_chooses_the_labels_of_a_stream_and_the_others_take_its_positions(
    digits_project: Path, tmp_path: Path
) -> None:
    job, meet, given = streamed(digits_project), threading.Barrier(2), dict[int, torch.Tensor]()
    ranks = [Rank(rank, tmp_path / str(rank), job, meet, given) for rank in (0, 1)]

    def loaded(rank: Rank) -> TrainingData:
        return load_training_data(Path(job.shards), job.reading, job.label_count, job.label_seed, CPU, rank)

    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(loaded, ranks)
    assert not given[1].any()
    assert first.labelled.tolist() == second.labelled.tolist() == load(job).labelled.tolist()
    assert second.y.tolist() == first.y.tolist()


def test_the_unlabelled_points_of_a_stream_come_once_an_epoch_and_no_labelled_one_is_among_them(
    digits_project: Path,
) -> None:
    data = load(streamed(digits_project))
    seen: list[bytes] = []
    with data.unlabelled_batches(64, 0, 0, 1, 0, CPU) as batches:
        for _ in range(len(data.unlabelled) // 64):
            seen += [row.numpy().tobytes() for row in next(batches)[0]]
    whole = load(small_job(digits_project))
    there = Counter(row.numpy().tobytes() for row in whole.points.take(whole.unlabelled))
    assert Counter(seen) <= there
    assert len(seen) > len(data.unlabelled) - 64


def test_labelled_points_beyond_the_memory_are_read_at_each_step_with_the_same_result(
    digits_project: Path, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"labels": {"count": "all"}, "train": {"epochs": 1}}
    job = streamed(digits_project, **sections)
    little = job.model_copy(update={"reading": job.reading.model_copy(update={"memory_mb": 0})})
    first, second = trained(job, tmp_path / "kept"), trained(little, tmp_path / "read")
    assert differing(first.fit.model, second.fit.model) == []


def test_a_damaged_sample_ends_a_streamed_run_with_its_shard_and_key(project: Path, tmp_path: Path) -> None:
    key = damage(project, "train", 40)
    with pytest.raises(DataError, match=rf"train-00000\d\.tar, key {key}: damaged"):
        trained(streamed(project), tmp_path / "run")


@pytest.mark.parametrize("mode", ["memory", "stream"])
def test_damaged_samples_are_left_out_and_counted_where_the_params_say_so(
    project: Path, tmp_path: Path, mode: str
) -> None:
    for nth in (3, 40, 500):
        damage(project, "train", nth)
    damage(project, "val", 7)
    job = streamed(project, reader={"mode": mode, "faults": "skip"}, train={"epochs": 1})
    check_shards(ShardedDataset.open(Path(job.shards)), ("train", "val"), job.reading)
    trainer = trained(job, tmp_path / "run")
    (row,) = trainer.state.history
    assert row["skipped"] == 4 if mode == "memory" else 1 < row["skipped"] <= 4  # the rest of a stream may hold some
    assert len(trainer.data.val_y) == 199


def test_a_run_without_faults_has_no_column_for_them(digits_project: Path, tmp_path: Path) -> None:
    trainer = trained(streamed(digits_project, train={"epochs": 1}), tmp_path / "run")
    assert "skipped" not in trainer.state.history[-1]


def test_shards_are_looked_at_before_a_streamed_run(project: Path) -> None:
    job = streamed(project)
    folder = Path(job.shards)
    manifest = read_manifest(folder)
    check_shards(ShardedDataset(folder, manifest), ("train", "val"), job.reading)
    path = folder / manifest.splits["train"].shards[1].path
    path.write_bytes(path.read_bytes()[:-1024])
    with pytest.raises(DataError, match=rf"{path.name}: truncated"):
        check_shards(ShardedDataset(folder, manifest), ("train", "val"), job.reading)
    path.unlink()
    with pytest.raises(DataError, match=rf"shard is missing: .*{path.name}"):
        check_shards(ShardedDataset(folder, manifest), ("train", "val"), job.reading)


@pytest.mark.parametrize(("memory_mb", "mode"), [(1, "memory"), (4000, "memory")])
def test_auto_keeps_in_memory_what_fits(digits_project: Path, memory_mb: int, mode: str) -> None:
    raw = small_params(reader={"memory_mb": memory_mb})
    assert make_job(parse_params(raw), digits_project).reading.mode == mode


def test_auto_streams_what_does_not_fit(digits_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.build_job.memory_bytes", lambda manifest, splits: 5_000_000_000)
    assert make_job(parse_params(small_params()), digits_project).reading.mode == "stream"
