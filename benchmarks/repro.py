"""Wall time and peak memory of `make repro` in a fresh clone: `python benchmarks/repro.py`.

The environment is made first and timed apart: how long that takes is a matter of the network.
Memory is the largest sum, over samples twice a second, of the proportional set size of every process that the command
started (memory that processes share is counted once). Writes benchmarks/results/repro.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402

_MIB = 1024 * 1024
_MARK = "IE_BENCHMARK_RUN"


def memory(mark: str) -> float:
    """MiB of all processes that carry `mark` in their environment; daemons that left the process tree included."""
    total = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(_MARK) == mark:
                total += process.memory_full_info().pss
    return total / _MIB


def measure(folder: Path) -> dict[str, Any]:
    """Runs `make repro` twice in a clone at `folder`."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(folder)], check=True)
    mark = str(os.getpid())
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"} | {_MARK: mark}
    started = time.monotonic()
    subprocess.run(["make", "env"], cwd=folder, env=environment, check=True)
    installed = time.monotonic() - started
    started = time.monotonic()
    log = folder.parent / "make.log"
    peak = 0.0
    with log.open("w") as output:
        process = subprocess.Popen(["make", "repro"], cwd=folder, env=environment, stdout=output)
        while process.poll() is None:
            peak = max(peak, memory(mark))
            time.sleep(0.5)
    wall = time.monotonic() - started
    if process.returncode != 0:
        raise SystemExit(f"make repro exited with {process.returncode}\n{log.read_text()}")
    started = time.monotonic()
    subprocess.run(["make", "repro"], cwd=folder, env=environment, check=True)
    again = time.monotonic() - started
    training = json.loads((folder / "results/train/timing.json").read_text())["seconds"]
    return {
        "environment_minutes": round(installed / 60, 1),
        "repro_minutes": round(wall / 60, 1),
        "second_repro_seconds": round(again, 1),
        "training_minutes": round(training / 60, 1),
        "peak_memory_gib": round(peak / 1024, 2),
        "stages_run": log.read_text().count("Running stage"),
    }


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published."""
    return [
        row("making the environment", measured["environment_minutes"], "min"),
        row("`make repro`", measured["repro_minutes"], "min", 1, "below 12", stages_run=measured["stages_run"]),
        row("`make repro` again", measured["second_repro_seconds"], "s"),
        row("training", measured["training_minutes"], "min", 1, "at most 6"),
        row("peak memory", measured["peak_memory_gib"], "GiB", 1, "at most 6"),
    ]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as parent:
        measured = measure(Path(parent) / "clone")
    keep("repro", rows_of(measured))
