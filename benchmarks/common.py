"""What the benchmarks share: jobs on MNIST as shipped, runs without Ray, measurements by turns."""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from pipeline.config.methods import Method  # noqa: E402
from pipeline.config.params import Params, parse_params  # noqa: E402
from pipeline.config.paths import shards_folder  # noqa: E402
from pipeline.stages.fetch import fetch  # noqa: E402
from pipeline.stages.shard import shard  # noqa: E402
from pipeline.training.build_job import make_job  # noqa: E402
from pipeline.training.job import Job  # noqa: E402
from pipeline.training.local_session import TrialSession  # noqa: E402
from pipeline.training.trainer import Trainer  # noqa: E402


class Unsaved(TrialSession):
    """A run that neither reads nor writes a checkpoint."""

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        yield None

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        pass


def make_params(**sections: dict[str, Any]) -> Params:
    """params.yaml with changes; the shards of its source are made first where they are not there."""
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for section, values in sections.items():
        raw[section] |= values
    params = parse_params(raw)
    if not (shards_folder(params, REPOSITORY) / "manifest.json").is_file():
        fetch(params, REPOSITORY, tell)
        shard(params, REPOSITORY, tell)
    return params


def make_trainer(params: Params, method: Method) -> Trainer:
    """A run of one rank in this process, at its first step."""
    job: Job = make_job(params, REPOSITORY, method=method, world_size=1)
    return Trainer(job, Unsaved(REPOSITORY / ".runs" / "unused", job))


def by_turns(tasks: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median wall seconds of each task; they take turns, so that what else the machine does falls on all."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(seen) for name, seen in seconds.items()}


def peak_mib() -> float:
    """The largest resident memory that this process has had.

    Not getrusage's: that begins with the memory of the process that started this one.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 1024


def tell(line: str) -> None:
    """To stderr: stdout is for figures."""
    print(line, file=sys.stderr, flush=True)
