"""What tests hand to functions that report, and how they wait for processes."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def silent(report: object) -> None:
    """Drops a line of a log, or a count of what is done."""


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 400) -> None:
    """Returns when the condition holds; fails after `seconds`, or when the process ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None or condition(), f"{process.args!r} ended early"
        assert time.monotonic() < deadline, f"no such state in {seconds} s"
        time.sleep(0.02)
