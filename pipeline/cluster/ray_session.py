"""A rank of a Ray Train run: its place, its progress messages, its checkpoints."""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.errors import ResourceError
from pipeline.storage.run_storage import Storage, open_storage
from pipeline.training.checkpoint import read_progress
from pipeline.training.data_parallel import ranks_here
from pipeline.training.local_session import where_left

# The file of a checkpoint that is uploaded last.
LAST_FILE = "progress.json"


def _is_full(error: BaseException) -> bool:
    """Whether waiting cannot help."""
    number = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None)
    # shutil keeps the text of the first error, not its errno.
    return number in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


class RaySession:
    """A rank of a Ray Train run; see `pipeline.training.session.Session`."""

    def __init__(self, queue: Any, storage: Storage, run: str, timeout_s: float, start: str | None) -> None:
        """
        Args:
            run: name of the run's folder in the storage.
            start: name, in it, of the checkpoint to start from where Ray knows none.
        """
        import ray.train
        import ray.train.torch

        self._train: Any = ray.train
        self._queue, self._storage, self._run, self._start = queue, storage, run, start
        # No wait of its own: `upload` waits and reports it.
        self._uploads = open_storage(storage.url, patience_s=0)
        # Half: the other ranks wait for a report as long as timeout_s.
        self._storage_wait_s = timeout_s / 2
        context = ray.train.get_context()
        # Ray takes a checkpoint only from the very file system that it was given.
        self._files = context.get_storage().storage_filesystem
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.ranks = ranks_here()
        if self.rank == 0:
            self._tell({"waiting": "workers have started; reading train and val"})

    def count_blind(self) -> int:
        """Ranks that do not see the run's folder, summed over all: no rank may continue without the others."""
        blind = torch.tensor([0.0 if self._storage.sees(self._run) else 1.0], device=self.device)
        return int(self.all_reduce(blind).item())

    def wrap(self, module: nn.Module) -> nn.Module:
        import ray.train.torch

        wrapped: nn.Module = ray.train.torch.prepare_model(
            module,
            parallel_strategy_kwargs={
                # They are the same on all ranks from the start.
                "broadcast_buffers": False,
                # Gradients need not be copied, and a small model sends all of them at once: by default, the first
                # MiB goes alone, and on a CPU each exchange is work for the core that computes.
                "gradient_as_bucket_view": True,
                "bucket_cap_mb": 25,
            },
        )
        return wrapped

    def all_reduce(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        checkpoint = self._train.get_checkpoint()
        name = self._start if checkpoint is None else Path(checkpoint.path).name
        if name is None:
            yield None
            return
        with self._storage.at_hand(f"{self._run}/{name}") as folder:
            if self.rank == 0:
                epoch, step = where_left(folder)
                self._tell({"resumed": epoch, "step": step})
            yield folder

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        history = self._keep(metrics, write_checkpoint)
        if self.rank == 0:
            # The whole history: after an interruption the driver has not seen the earlier epochs.
            self._tell(metrics | {"world_size": self.world_size, "history": history})

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        self._keep({"step": float(step)}, write_checkpoint)

    def _keep(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> list[dict[str, float]]:
        """A checkpoint, from rank 0, in Ray's books; the run's history so far."""
        if self.rank != 0:
            self._train.report(metrics)
            return []
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder))
            checkpoint = self._train.Checkpoint.from_directory(folder)
            self._train.report(metrics, checkpoint=checkpoint, checkpoint_upload_fn=self.upload)
            return read_progress(Path(folder)).history

    def is_preempted(self) -> bool:
        return self._train.get_preemption_info() is not None

    def upload(self, checkpoint: Any, name: str) -> Any:
        """Uploads a checkpoint into the run's folder as a whole; retries while storage is unreachable."""
        deadline, wait = time.monotonic() + self._storage_wait_s, 0.5
        while True:
            try:
                # The mount is gone: files written here now would be lost.
                if not self._storage.remote and not self._storage.sees(self._run):
                    raise FileNotFoundError(errno.ENOENT, "the run's folder is gone", self._storage.where(self._run))
                self._uploads.put(Path(checkpoint.path), f"{self._run}/{name}", LAST_FILE)
                path: str = self._storage.for_ray(f"{self._run}/{name}")["storage_path"]
                return self._train.Checkpoint(path, self._files)
            except (OSError, ResourceError) as error:
                if _is_full(error):
                    raise
                if time.monotonic() + wait > deadline:
                    raise ResourceError(
                        f"storage at {self._storage.url} could not be written to for {self._storage_wait_s:.0f} s "
                        f"({error}); when it is back, the same command resumes from the last checkpoint"
                    ) from error
            self._tell({"waiting": f"storage at {self._storage.url} cannot be written to; trying again"})
            time.sleep(wait)
            wait = min(2 * wait, 10.0)

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        if self.rank == 0:
            self._tell({"step": step, "total_steps": total_steps, "points_per_s": points_per_s})

    def _tell(self, item: dict[str, Any]) -> None:
        # The driver may be gone (laptop closed, process killed); the run continues without it.
        with contextlib.suppress(Exception):
            self._queue.put_nowait(item)
