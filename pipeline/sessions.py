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
from pipeline.files import atomic_folder
from pipeline.loop import Job
from pipeline.storage import Storage


class TrialSession:
    """A trial of one rank that keeps its last checkpoint in a folder; see `pipeline.loop.Session`."""

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
        yield self._folder if self._folder.is_dir() else None

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        with atomic_folder(self._folder) as part:
            write_checkpoint(part)

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        self.tell({"fingerprint": self._job.fingerprint, "share": step / total_steps})

    def tell(self, item: dict[str, Any]) -> None:
        """Passes an item to whoever watches, if anybody does."""
        with contextlib.suppress(Exception):
            if self._queue is not None:
                self._queue.put_nowait(item)


class StoredSession(TrialSession):
    """A trial of one rank that keeps its last checkpoint in an object store; see `TrialSession`.

    Nothing can be renamed there: each epoch's checkpoint has a name of its own, and goes when the next one is whole.
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
            yield folder

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        before = {file.partition("/")[0] for file in self._storage.files(self._name)}
        new = f"epoch-{int(metrics['epoch']):06d}"
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
