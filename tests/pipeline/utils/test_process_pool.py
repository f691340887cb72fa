"""Work dealt to processes: every result, one clear error, and no process left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import DataError, ResourceError
from pipeline.utils.process_pool import num_cpus, run_tasks
from tests.helpers.project import REPOSITORY, environment, succeed
from tests.helpers.waiting import silent
from tests.helpers.work import Unreadable, misbehave, report_above_2, square


@pytest.mark.parametrize("num_workers", [1, 2, 9])
def test_every_task_is_done_once_and_progress_reaches_the_total(num_workers: int) -> None:
    seen: list[int] = []
    results = list(run_tasks(square, 100, [1, 2, 3, 4, 5], num_workers, seen.append))
    assert sorted(value for value, _ in results) == [101, 104, 109, 116, 125]
    assert seen[-1] == 15 and seen == sorted(seen)
    processes = {process for _, process in results}
    assert (processes == {os.getpid()}) == (num_workers == 1)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_task_that_reports_nothing_adds_nothing(num_workers: int) -> None:
    seen: list[int] = []
    list(run_tasks(report_above_2, None, [5, 1, 2], num_workers, seen.append))
    assert seen[-1] == 5


def test_no_task_is_no_work() -> None:
    assert list(run_tasks(square, 0, [], 4, silent)) == []


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", ResourceError, r"worker process ended with SIGKILL\(-9\), as the system does when memory runs out"),
        ("exit", ResourceError, r"worker process ended with EXIT\(7\); "),
        ("data", DataError, r"^a\.bin, key 'k': damaged$"),
        ("full", ResourceError, r"/a\.tar: no space left on the device"),
        ("memory", ResourceError, "ran out of memory"),
        ("bug", RuntimeError, "ZeroDivisionError: a bug"),
    ],
)
def test_whatever_happens_to_one_process_is_one_error_and_the_others_are_stopped(
    how: str, error: type[Exception], message: str
) -> None:
    started = time.monotonic()
    with pytest.raises(error, match=message):
        list(run_tasks(misbehave, how, [1, 3], 2, silent))
    assert time.monotonic() - started < 50, "the other task would have taken a minute"
    assert multiprocessing.active_children() == []


def test_work_that_a_process_cannot_read_is_an_error_not_a_hang() -> None:
    with pytest.raises(RuntimeError, match="cannot read its work"):
        list(run_tasks(square, Unreadable(), [1, 2], 2, silent))  # type: ignore[arg-type]


def test_an_iterator_that_is_closed_early_leaves_no_process() -> None:
    results = run_tasks(square, 0, list(range(20)), 2, silent)
    next(results)
    results.close()
    assert multiprocessing.active_children() == []


def test_as_many_processors_are_counted_as_may_be_used() -> None:
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system binds no process to processors")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert num_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert num_cpus() == len(before)


def test_work_that_a_script_defines_is_done(tmp_path: Path) -> None:
    script = tmp_path / "twice.py"
    script.write_text(
        "import os\n"
        "from pipeline.utils.process_pool import run_tasks\n"
        "class Times:\n"
        "    def __init__(self, factor): self.factor = factor\n"
        "def work(times, task, report): return times.factor * task, os.getpid()\n"
        "done = dict(run_tasks(work, Times(10), [1, 2, 3], 2, lambda units: None))\n"
        "print(sorted(done), os.getpid() in done.values())\n"
    )
    assert succeed(REPOSITORY, sys.executable, str(script)) == "[10, 20, 30] False\n"


def running(folder: Path, num: int) -> tuple[subprocess.Popen[str], list[int]]:
    """A process in a session of its own, whose workers are at work, and their numbers."""
    code = (
        # A shell's background jobs, and so whatever tests they run, are started with this signal ignored.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pipeline.utils.process_pool import run_tasks\n"
        "from tests.helpers.work import pid_file\n"
        f"list(run_tasks(pid_file, {str(folder)!r}, [1, 2], {num}, lambda done: None))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < num:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)
    return process, [int(path.name) for path in folder.iterdir()]


def gone(pids: list[int]) -> bool:
    """Whether processes end within a while."""
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    _, alive = psutil.wait_procs(processes, timeout=20)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_workers_of_a_process_that_was_killed_end_by_themselves(tmp_path: Path) -> None:
    process, workers = running(tmp_path, 2)
    process.kill()
    _, errors = process.communicate(timeout=30)
    assert gone(workers)
    assert "Traceback" not in errors


def test_ctrl_c_reaches_this_process_alone_and_stops_the_workers(tmp_path: Path) -> None:
    process, workers = running(tmp_path, 2)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert gone(workers)
    assert errors.count("Traceback") == 1 and errors.rstrip().endswith("KeyboardInterrupt")
