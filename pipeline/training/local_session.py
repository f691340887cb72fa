"""A run of one rank in this process: a sweep's trial, or the oracle of `evaluate`."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ie_model.objective import SINGLE
from pipeline.errors import DataError
from pipeline.storage.run_storage import Storage
from pipeline.training.checkpoint import read_progress
from pipeline.training.job import Job
from pipeline.utils.files import atomic_folder


def where_left(checkpoint: Path) -> tuple[int, int]:
    """Epochs and steps that a checkpoint's run had completed; 0 where unreadable, which its loader reports."""
    try:
        progress = read_progress(checkpoint)
    except DataError:
        return 0, 0
    return progress.epoch, progress.step


class TrialSession:
    """A trial of one rank that keeps its last checkpoint in a folder; see `pipeline.training.session.Session`."""

    rank = 0
    world_size = 1
    ranks = SINGLE

    def __init__(self, folder: Path, job: Job, queue: Any = None) -> None:
        self.device = torch.device(job.device)
        self._folder, self._job, self._queue = folder, job, queue

    def wrap(self, module: nn.Module) -> nn.Module:
        return module.to(self.device)

    def all_reduce(self, values: Tensor) -> Tensor:
        return values

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        if not self._folder.is_dir():
            yield None
            return
        self._tell_resumed(self._folder)
        yield self._folder

    def _tell_resumed(self, checkpoint: Path) -> None:
        self.tell({"resumed": self._job.fingerprint, "epoch": where_left(checkpoint)[0]})

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        self.save(int(metrics["epoch"]) * self._job.steps_per_epoch, write_checkpoint)

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        with atomic_folder(self._folder) as part:
            write_checkpoint(part)

    def is_preempted(self) -> bool:
        return False

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        self.tell({"fingerprint": self._job.fingerprint, "share": step / total_steps})

    def tell(self, item: dict[str, Any]) -> None:
        """Passes an item to the driver, if there is one."""
        with contextlib.suppress(Exception):
            if self._queue is not None:
                self._queue.put_nowait(item)


class StoredSession(TrialSession):
    """A trial of one rank that keeps its last checkpoint in an object store; see `TrialSession`.

    Nothing can be renamed there: each checkpoint has a name of its own, and goes when the next one is whole.
    """

    _LAST = "progress.json"

    def __init__(self, storage: Storage, name: str, job: Job, queue: Any = None) -> None:
        super().__init__(Path(), job, queue)
        self._storage, self._name = storage, name

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        whole = [file for file in self._storage.files(self._name) if file.endswith(f"/{self._LAST}")]
        if not whole:
            yield None
            return
        with self._storage.at_hand(f"{self._name}/{max(whole).partition('/')[0]}") as folder:
            self._tell_resumed(folder)
            yield folder

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        before = {file.partition("/")[0] for file in self._storage.files(self._name)}
        new = f"step-{step:09d}"
        with self._storage.filling(f"{self._name}/{new}", self._LAST) as part:
            write_checkpoint(part)
        for old in before - {new}:
            self._storage.remove(f"{self._name}/{old}")


def trial_session(storage: Storage, name: str, job: Job, queue: Any = None) -> TrialSession:
    """The session of a trial that keeps its last checkpoint as `name`."""
    if storage.remote:
        return StoredSession(storage, name, job, queue)
    return TrialSession(Path(storage.where(name)), job, queue)


@contextlib.contextmanager
def giving_memory_back() -> Iterator[None]:
    """Around one trial of a worker that is used again: what it freed goes back to the system, however it ends.

    Tune runs each trial in a thread of its own, and glibc keeps what a thread has freed for later threads, which seldom
    get the same part of it: a worker of many trials would hold several times what one trial needs.
    """
    try:
        yield
    finally:
        gc.collect()
        # Other C libraries have no such function, and no such habit.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
