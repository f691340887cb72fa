"""Work for worker processes to import: it succeeds, fails or ends its process as its task says."""

from __future__ import annotations

import os
import signal
import time

from pipeline.errors import DataError
from pipeline.utils.process_pool import Report


def square(context: int, task: int, report: Report) -> tuple[int, int]:
    """The square and the process that took it."""
    for done in range(task + 1):
        report(done)
    return context + task * task, os.getpid()


def report_above_2(context: None, task: int, report: Report) -> None:
    """Reports as many units as its task says, or none."""
    if task > 2:
        report(task)


def misbehave(context: str, task: int, report: Report) -> int:
    """Does what `context` says at task 3, after a while; other tasks take long."""
    if task != 3:
        time.sleep(60)
    if context == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif context == "exit":
        os._exit(7)
    elif context == "data":
        raise DataError("a.bin, key 'k': damaged")
    elif context == "full":
        raise OSError(28, "No space", "/a.tar")
    elif context == "memory":
        raise MemoryError
    raise ZeroDivisionError("a bug")


def pid_file(context: str, task: int, report: Report) -> int:
    """Leaves its process's number in a folder and works until it is orphaned."""
    with open(f"{context}/{os.getpid()}", "x"):
        pass
    for done in range(100_000):
        report(done)
        time.sleep(0.01)
    return task


class Unreadable:
    """Cannot be read back in another process."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return int, ("nonsense",)
