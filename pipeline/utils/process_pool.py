"""Work dealt to processes: results as they come, progress from within, and one clear error whatever happens to one.

Processes are started afresh (`spawn`), not forked: a fork of a process that has threads, as one with PyTorch has, may
hang. A worker imports what its work needs and no more.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

from pipeline.errors import PipelineError, ResourceError, from_os_error

Report = Callable[[int], None]
"""Takes how many units of its task a worker has done so far; cheap enough to call for each."""

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

_REPORT_S = 0.25
_context = get_context("spawn")


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
    before = 0
    for task in tasks:
        counter = _Counter(lambda done, before=before: progress(before + done))  # type: ignore[misc]
        yield work(context, task, counter)
        before += counter.done
        progress(before)


@dataclass
class _Counter:
    """A Report that passes on values a few times a second."""

    tell: Callable[[int], None]
    done: int = 0
    _last: float = 0.0

    def __call__(self, done: int) -> None:
        self.done = done
        now = time.monotonic()
        if now - self._last >= _REPORT_S:
            self._last = now
            self.tell(done)


@dataclass(eq=False)
class _Worker:
    process: SpawnProcess
    connection: Connection
    current: int = 0
    """Units of the task under way."""


def _in_processes(
    work: Callable[[Context, Task, Report], Result],
    context: Context,
    tasks: Sequence[Task],
    num_workers: int,
    progress: Report,
) -> Generator[Result, None, None]:
    waiting = iter(tasks)
    finished = 0
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(num_workers):
            worker = _start()
            workers[worker.connection] = worker
        shared = ForkingPickler.dumps((work, context))
        for worker in workers.values():
            _send(worker, shared)
        del shared
        for worker in workers.values():
            _send(worker, ForkingPickler.dumps(next(waiting)))
        busy = set(workers)
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker = workers[connection]
                kind, units, value = _receive(worker)
                if kind == "progress":
                    worker.current = units
                elif kind == "error":
                    raise value
                else:
                    finished += units
                    worker.current = 0
                    try:
                        _send(worker, ForkingPickler.dumps(next(waiting)))
                    except StopIteration:
                        busy.remove(connection)
                progress(finished + sum(w.current for w in workers.values()))
                if kind == "result":
                    yield value
    except BaseException:
        for worker in workers.values():
            worker.process.terminate()
        raise
    finally:
        for worker in workers.values():
            # A worker without a task ends when it sees this.
            worker.connection.close()
        for worker in workers.values():
            worker.process.join(10)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _start() -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_serve, args=(theirs,), daemon=True)
    # Ctrl-C reaches every process of the terminal. A signal that is blocked here stays blocked in the new process from
    # its first moment, so that this one alone decides what ends. The tracker is started before: it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    return _Worker(process, ours)


def _send(worker: _Worker, pickled: memoryview) -> None:
    try:
        worker.connection.send_bytes(pickled)
    except OSError as error:
        raise _death(worker) from error


def _receive(worker: _Worker) -> tuple[str, int, Any]:
    try:
        message: tuple[str, int, Any] = worker.connection.recv()
    except (EOFError, OSError) as error:
        raise _death(worker) from error
    return message


def _death(worker: _Worker) -> ResourceError:
    worker.process.join(10)
    code = worker.process.exitcode
    how = f"exited with {code}"
    if code is not None and code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += ", as the system does when memory runs out"
    return ResourceError(f"worker process {worker.process.pid} {how}; free memory and give the same command again")


class _Orphaned(BaseException):
    """The process that wanted the work is gone."""


def _serve(connection: Connection) -> None:
    """A worker's life: context, then tasks until the other end is closed or gone."""

    def send(kind: str, units: int, value: Any = None) -> None:
        try:
            connection.send((kind, units, value))
        except OSError as error:
            raise _Orphaned from error

    with contextlib.suppress(_Orphaned, EOFError, ConnectionResetError):
        try:
            work, context = connection.recv()
        except EOFError:
            return
        except Exception:
            send("error", 0, RuntimeError(f"a worker cannot read its work\n{traceback.format_exc()}"))
            return
        while True:
            task = connection.recv()
            counter = _Counter(lambda done: send("progress", done))
            try:
                result = work(context, task, counter)
            except Exception as error:
                send("error", counter.done, as_sent(error))
                return
            send("result", counter.done, result)


def as_sent(error: Exception) -> Exception:
    """An error of the user's as it is, of one line; a bug with its traceback, which does not travel by itself."""
    if isinstance(error, PipelineError):
        return type(error)(str(error))
    if isinstance(error, OSError) and (known := from_os_error(error)) is not None:
        return known
    if isinstance(error, MemoryError):
        return ResourceError("a worker process ran out of memory; free some and give the same command again")
    return RuntimeError(f"a worker failed\n{traceback.format_exc()}")
