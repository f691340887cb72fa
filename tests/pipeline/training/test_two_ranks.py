"""The trainer on two ranks over gloo, as processes of this machine."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ie_model.artifact import load_artifact
from pipeline.training.checkpoint import read_progress
from pipeline.training.data_parallel import ranks_here
from pipeline.training.job import Job
from pipeline.training.trainer import Trainer
from pipeline.utils.files import atomic_folder
from tests.pipeline.training.test_trainer import METHODS, differing, small_job, trained


class RankSession:
    """One of several ranks, over gloo."""

    def __init__(self, rank: int, world_size: int, folder: Path) -> None:
        self.folder = folder
        self.rank, self.world_size, self.device = rank, world_size, torch.device("cpu")
        self.ranks = ranks_here()

    def wrap(self, module: nn.Module) -> nn.Module:
        return DistributedDataParallel(module, broadcast_buffers=False)

    def all_reduce(self, values: Tensor) -> Tensor:
        torch.distributed.all_reduce(values)
        return values

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        checkpoint = self.folder / "checkpoint"
        yield checkpoint if checkpoint.is_dir() else None

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        """Nobody listens."""

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        """Keeps a whole checkpoint of each rank's counters beside the others."""
        if self.rank == 0:
            with atomic_folder(self.folder / "checkpoint") as part:
                write_checkpoint(part)

    def is_preempted(self) -> bool:
        return False

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        """Nobody listens."""


def train_rank(rank: int, jobs: list[str], folder: str) -> None:
    """What each process of the tests below runs: one run after the other, results into the folder."""
    store = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    try:
        for text in jobs:
            job = Job.model_validate_json(text)
            out = Path(folder) / f"{job.method}-{rank}"
            out.mkdir()
            trainer = Trainer(job, RankSession(rank, 2, Path(folder) / f"{job.method}-kept"))
            trainer.run()
            trainer._write_checkpoint(out)
    finally:
        torch.distributed.destroy_process_group()


def train_ranks(jobs: list[Job], folder: Path) -> None:
    spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(train_rank, args=([job.model_dump_json() for job in jobs], str(folder)), nprocs=2)


@pytest.mark.slow
def test_two_ranks_end_with_the_same_weights_and_metrics(digits_project: Path, tmp_path: Path) -> None:
    train = {"epochs": 2, "batch_size": 512}
    sections: dict[str, Any] = {"train": train, "sweep": {"supervised_steps": 4}}
    jobs = [small_job(digits_project, method, world_size=2, **sections) for method in METHODS]
    train_ranks(jobs, tmp_path)
    for job in jobs:
        first, second = tmp_path / f"{job.method}-0", tmp_path / f"{job.method}-1"
        assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
        histories = [read_progress(folder).history for folder in (first, second)]
        assert histories[0] == histories[1]
        alone = trained(job, tmp_path / f"alone-{job.method}")
        loaded = load_artifact(first / "artifact").model
        assert differing(loaded, alone.published) != [], "the second rank's points had no effect"


@pytest.mark.slow
def test_two_ranks_resumed_within_an_epoch_end_in_the_same_bytes(digits_project: Path, tmp_path: Path) -> None:
    """Rank 0 keeps what both have logged: the run that ends has the history of one that kept nothing."""
    job = small_job(digits_project, world_size=2, train={"epochs": 2}).model_copy(update={"steps_per_epoch": 25})
    kept = job.model_copy(update={"checkpoint_every_s": 1e-6})
    for name, each in (("whole", [job]), ("cut", [kept])):
        (tmp_path / name).mkdir()
        train_ranks(each, tmp_path / name)
    last = read_progress(tmp_path / "cut/plain-kept/checkpoint")
    assert last.step == 40 and [len(values) for values in last.sums.values()] == [2] * len(last.sums)
    for rank in range(2):
        shutil.rmtree(tmp_path / f"cut/plain-{rank}")
    train_ranks([kept], tmp_path / "cut")
    for name in ("plain-0", "plain-1"):
        runs = [tmp_path / folder / name for folder in ("whole", "cut")]
        assert len({(run / "model.safetensors").read_bytes() for run in runs}) == 1
        assert read_progress(runs[0]).history == read_progress(runs[1]).history
