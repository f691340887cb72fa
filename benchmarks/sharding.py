"""Speed and memory of sharding: `python benchmarks/sharding.py`, or with `--small` in a minute or two.

1. The 60,000 training images of MNIST (and the 10,000 of test, which the stage packs with them), from data/raw/mnist of
   this project or of `--project`: seconds of packing, with one writer and with one for each processor.
2. Up to a million small images, computed from their number: examples a second, and the largest resident memory of the
   stage's process and of its largest writer. The keys of the examples are computed too and take no memory, so that what
   is measured is the stage's own.

Prints a table and writes benchmarks/results/sharding.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import psutil

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import Examples, RawSplit, Values
from pipeline.data.sharding.write import Content, Layout, pack
from pipeline.data.sources import SOURCES
from pipeline.utils.arrays import IntArray
from pipeline.utils.process_pool import num_cpus

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402

_MIB = 1024 * 1024
_SPEC = DataSpec(
    kind="image",
    shape=(1, 8, 8),
    dtype="uint8",
    classes=tuple(str(c) for c in range(10)),
    likelihood="bernoulli",
)


@dataclass(frozen=True)
class Keys(Sequence[str]):
    """`train-0000000`, ..., none of them kept."""

    split: str
    num: int

    def __len__(self) -> int:
        return self.num

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(self.num))]
        return f"{self.split}-{i:07d}"

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(self.num))


@dataclass(frozen=True, eq=False)
class Computed(Examples):
    """Images of 8x8 that follow from their number."""

    keys: Sequence[str]
    y: IntArray

    def read(self, i: int) -> Values:
        return ((np.arange(64, dtype=np.int64) * (i % 97 + 1) + i) % 256).astype(np.uint8).reshape(1, 8, 8)


class PeakMemory:
    """The largest resident memory of this process and of its children, looked at ten times a second."""

    def __init__(self) -> None:
        self.own = self.writer = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.1):
            self.own = max(self.own, process.memory_info().rss / _MIB)
            for child in process.children():
                try:
                    # For a moment a new process shows the memory of the one that it was copied from.
                    if time.time() - child.create_time() < 0.5:
                        continue
                    self.writer = max(self.writer, child.memory_info().rss / _MIB)
                except psutil.Error:
                    continue


def pack_once(what: str, num: int, writers: int, raw: Path) -> dict[str, float | int | str]:
    """One run of packing in this process."""
    if what == "mnist":
        source = SOURCES["mnist"]
        examples: dict[RawSplit, Examples] = {
            "train": source.examples(raw, "train"),
            "test": source.examples(raw, "test"),
        }
        content = Content("mnist", {}, source.spec(raw), Preprocessing(), examples)
        layout = Layout(encoding="png", num_shards=12, num_val=5_000, split_seed=0)
    else:
        train, test = (
            Computed(Keys(split, n), np.arange(n) % 10) for split, n in (("train", num), ("test", num // 100))
        )
        content = Content("computed", {}, _SPEC, Preprocessing(), {"train": train, "test": test})
        # Tars of 10,000 samples: more data means more tars, as it should.
        layout = Layout(encoding="npy", num_shards=num // 10_000, num_val=num // 100, split_seed=0)
    total = sum(map(len, content.examples.values()))
    with tempfile.TemporaryDirectory() as folder, PeakMemory() as peak:
        started = time.monotonic()
        pack(content, layout, Path(folder) / "out", lambda line: None, writers=writers)
        seconds = time.monotonic() - started
    return {
        "data": what,
        "examples": total,
        "writers": writers,
        "seconds": round(seconds, 2),
        "examples_per_s": round(total / seconds),
        "memory_mib": round(peak.own),
        "writer_memory_mib": round(peak.writer),
    }


def measure(what: str, num: int, writers: int, raw: Path, repeats: int) -> dict[str, Any]:
    """The run of median duration of `repeats`, each in a process of its own: memory does not carry over."""
    command = [sys.executable, __file__, "--once", what, str(num), str(writers), str(raw)]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    runs = []
    for _ in range(repeats):
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    middle = statistics.median_low(run["seconds"] for run in runs)
    chosen: dict[str, Any] = next(run for run in runs if run["seconds"] == middle)
    return chosen | {"all_seconds": [run["seconds"] for run in runs]}


def rows_of(runs: list[dict[str, Any]]) -> list[Row]:
    """What is published."""
    rows = []
    for run in runs:
        case = f"{run['data']}, {run['examples']:,} examples, {run['writers']} writer{'s'[: run['writers'] - 1]}"
        target = "at most 30" if run["data"] == "mnist" and run["writers"] == 2 else ""
        n = len(run["all_seconds"])
        rows.append(row(f"{case}: time", run["seconds"], "s", n, target, values=run["all_seconds"]))
        rows.append(row(f"{case}: speed", run["examples_per_s"], "examples/s", n))
        rows.append(row(f"{case}: memory", run["memory_mib"], "MiB", n))
        rows.append(row(f"{case}: a writer's memory", run["writer_memory_mib"], "MiB", n))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="once each, up to 60,000 computed images; writes no file")
    parser.add_argument("--project", type=Path, default=REPOSITORY, help="folder of data/raw/mnist")
    parser.add_argument("--once", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        what, num, writers, raw = options.once
        print(json.dumps(pack_once(what, int(num), int(writers), Path(raw))))
        return
    cpus = num_cpus()
    raw = (options.project / "data/raw/mnist").resolve()
    sizes = (20_000, 60_000) if options.small else (100_000, 300_000, 1_000_000)
    cases = [("computed", num, cpus) for num in sizes]
    if raw.is_dir():
        cases = [("mnist", 60_000, writers) for writers in sorted({1, cpus})] + cases
    else:
        print(f"no MNIST: {raw} is missing; run `ie fetch`, or give --project", file=sys.stderr)
    rows = []
    columns = ("data", "examples", "writers", "seconds", "examples_per_s", "memory_mib", "writer_memory_mib")
    print(" | ".join(columns))
    for what, num, writers in cases:
        repeats = 3 if what == "mnist" and not options.small else 1
        rows.append(measure(what, num, writers, raw, repeats))
        print(" | ".join(f"{rows[-1][column]:>{len(column)}}" for column in columns), flush=True)
    keep("sharding", rows_of(rows), options.small)


if __name__ == "__main__":
    main()
