"""Work dealt to processes: results as they come, progress from within, and one clear error whatever happens to one.

Processes are started afresh, by loky, not forked: a fork of a process that has threads, as one with PyTorch has, may
hang. A worker imports what its work needs and no more.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, TypeVar

import cloudpickle
import numpy as np
import numpy.typing as npt
from loky import ProcessPoolExecutor
from loky.backend import resource_tracker
from loky.process_executor import BrokenProcessPool

from pipeline.errors import PipelineError, ResourceError, from_os_error

Report = Callable[[int], None]
"""Takes how many units of its task a worker has done so far; cheap enough to call for each."""

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

_LOOK_S = 0.25
# loky starts a worker afresh between two tasks where its memory has grown by 300 MB. Nothing is lost by it.
warnings.filterwarnings("ignore", "A worker (stopped|was restarted) while some jobs", UserWarning)


def num_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_tasks(
    work: Callable[[Context, Task, Report], Result],
    context: Context,
    tasks: Sequence[Task],
    num_workers: int,
    progress: Report,
) -> Generator[Result, None, None]:
    """The result of each task, in the order in which they are done. Close the iterator to stop before its end.

    Args:
        work: a function of a module, called with the context, a task and a Report.
        context: what all tasks share; sent to each process once.
        num_workers: 1 works in this process, with no other.
        progress: called with the units done so far, over all tasks.

    Raises:
        PipelineError: as `work` raised it, in whichever process; the others are stopped.
        ResourceError: a process was killed, or lacks memory or space.
    """
    if min(num_workers, len(tasks)) > 1:
        yield from _in_processes(work, context, tasks, min(num_workers, len(tasks)), progress)
        return
    before, last = 0, [0, 0.0]
    for task in tasks:
        last[0] = 0  # a task need not report

        def report(done: int, before: int = before) -> None:
            last[0], now = done, time.monotonic()
            if now - last[1] >= _LOOK_S:
                last[1] = now
                progress(before + done)

        yield work(context, task, report)
        before += int(last[0])
        progress(before)


def _in_processes(
    work: Callable[[Context, Task, Report], Result],
    context: Context,
    tasks: Sequence[Task],
    num_workers: int,
    progress: Report,
) -> Generator[Result, None, None]:
    finished = False
    with tempfile.NamedTemporaryFile() as file:
        # Units done of each task: a file that all map. loky's processes inherit no memory.
        units = np.memmap(file.name, np.int64, "w+", shape=len(tasks))
        # By cloudpickle, which sends what a script or a notebook defines: a worker does not run that again.
        initargs = (cloudpickle.dumps((work, context)), file.name, os.getpid())
        executor = ProcessPoolExecutor(num_workers, initializer=_begin, initargs=initargs)
        try:
            left = _submitted(executor, tasks)
            while left:
                done, left = wait(left, _LOOK_S, FIRST_COMPLETED)
                progress(int(units.sum()))
                for future in done:
                    yield future.result()
            finished = True
        except BrokenProcessPool as error:
            raise ResourceError(_death(str(error))) from error
        finally:
            executor.shutdown(wait=True, kill_workers=not finished)


def _submitted(executor: ProcessPoolExecutor, tasks: Sequence[Any]) -> set[Future[Any]]:
    """Starts the workers, without Ctrl-C.

    It reaches every process of the terminal. A signal that is blocked here stays blocked in a new process from its
    first moment, so that this one alone decides what ends. The tracker is started before: it unblocks the signal.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return {executor.submit(_do, i, task) for i, task in enumerate(tasks)}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(text: str) -> str:
    """One line of loky's paragraphs: with the exit codes, as `{SIGKILL(-9)}`, where it knows them."""
    codes = re.search(r"{(.+?)}", text)
    how = f"ended with {codes[1]}" if codes else f"ended: {' '.join(text.split())}"
    if "SIGKILL" in how:
        how += ", as the system does when memory runs out"
    return f"a worker process {how}; free memory and give the same command again"


_shared: tuple[bytes, npt.NDArray[np.int64]]
"""In a worker: pickled work and context, and the units done of each task."""
_work: tuple[Callable[..., Any], Any] | None = None


def _begin(pickled: bytes, units: str, parent: int) -> None:
    global _shared
    _shared = pickled, np.memmap(units, np.int64, "r+")
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def _do(number: int, task: Any) -> Any:
    global _work
    pickled, units = _shared
    if _work is None:
        try:
            _work = pickle.loads(pickled)
        except Exception:
            raise RuntimeError(f"a worker cannot read its work\n{traceback.format_exc()}") from None
    work, context = _work

    def report(done: int) -> None:
        units[number] = done

    try:
        return work(context, task, report)
    except Exception as error:
        raise as_sent(error) from None


def as_sent(error: Exception) -> Exception:
    """An error of the user's as it is, of one line; a bug with its traceback, which does not travel by itself."""
    if isinstance(error, PipelineError):
        return type(error)(str(error))
    if isinstance(error, OSError) and (known := from_os_error(error)) is not None:
        return known
    if isinstance(error, MemoryError):
        return ResourceError("a worker process ran out of memory; free some and give the same command again")
    return RuntimeError(f"a worker failed\n{traceback.format_exc()}")
