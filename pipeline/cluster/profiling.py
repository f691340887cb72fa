"""PyTorch profiler traces of a few steps of each rank."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from pipeline.errors import ResourceError
from pipeline.storage.run_storage import Storage
from pipeline.utils.files import atomic_folder

# Steps that pass first (caches, allocator), that the profiler itself warms up in, and that the trace has.
_WAIT, _WARMUP, _ACTIVE = 10, 2, 5


@contextlib.contextmanager
def profiled(storage: Storage, run: str, rank: int, device: str) -> Iterator[Callable[[], None]]:
    """The function that a rank calls after each step. Steps 13 to 17 of the process become a trace in the storage.

    A trace that cannot be kept is left out: the run continues.
    """

    def keep(profiler: profile) -> None:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError, ResourceError):
            path = Path(folder) / "trace.json.gz"
            profiler.export_chrome_trace(str(path))
            storage.write(f"{run}/profile/rank-{rank}.json.gz", path.read_bytes())

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    plan = schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=keep, acc_events=True) as profiler:
        yield profiler.step


def collect_traces(storage: Storage, run: str, folder: Path) -> list[str]:
    """Copies the traces of a run's ranks to a folder of this host; returns their names."""
    names = storage.files(f"{run}/profile")
    with atomic_folder(folder) as part:
        for name in names:
            (part / name).write_bytes(storage.read(f"{run}/profile/{name}") or b"")
    return names
