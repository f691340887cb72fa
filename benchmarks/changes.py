"""What changes for speed brought: the same measure at the commits before and after each, by turns, in this run.

`python benchmarks/changes.py [--small]`. Each commit is checked out into a folder of its own beside the others; the
data is that of this checkout. Writes benchmarks/results/changes.json, unless it is `--small`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import make_params, tell  # noqa: E402
from benchmarks.publish import Row, keep, row  # noqa: E402

STEP = """
import statistics, sys, time, torch
from benchmarks.common import make_params, make_trainer
from benchmarks.step import Steps
torch.set_num_threads(1)
method, decoder, warm, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with Steps(make_trainer(make_params(model={"decoder": decoder}), method)) as run:
    run.take(warm)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        run.take(steps)
        seconds.append(time.perf_counter() - started)
print(1000 * statistics.median(seconds) / steps)
"""
READ = """
import time
from pathlib import Path
from benchmarks.common import REPOSITORY, make_params
from pipeline.jobs import shards_folder
from pipeline.reader import load_split
from pipeline.shards import read_manifest
folder = shards_folder(make_params(), REPOSITORY)
manifest = read_manifest(folder)
started = time.perf_counter()
load_split(folder, manifest, "train")
print(time.perf_counter() - started)
"""
TWO_RANKS = """
import json, subprocess, sys, yaml
from pathlib import Path
raw = yaml.safe_load(Path("params.yaml").read_text())
raw["objective"]["extended"]["enabled"] = False
raw["train"] |= {"epochs": int(sys.argv[1]), "threads_per_worker": 1, "num_workers": 2}
if "min_steps" in raw["train"]:  # not at the older commits
    raw["train"]["min_steps"] = 0
Path("params.yaml").write_text(yaml.safe_dump(raw))
subprocess.run([sys.executable, "-m", "pipeline", "train"], check=True, stdout=subprocess.DEVNULL)
timing, metrics = (json.loads(Path("results/train", f"{name}.json").read_text()) for name in ("timing", "metrics"))
print(1000 * timing["seconds"] / metrics["steps"])
"""

WHOLE = """
import subprocess, sys, time, yaml
from pathlib import Path
raw = yaml.safe_load(Path("params.yaml").read_text())
raw["train"]["epochs"] = int(sys.argv[1])
Path("params.yaml").write_text(yaml.safe_dump(raw))
started = time.perf_counter()
subprocess.run([sys.executable, "-m", "pipeline", "train"], check=True, stdout=subprocess.DEVNULL)
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class Change:
    """Something that was made faster."""

    name: str
    before: str
    after: str
    unit: str
    script: str
    arguments: tuple[str, ...] = ()


_SUBPIXEL, _AT_ONCE, _THREADS = ("c2fdb85", "c6c05c3"), ("d11c7a6", "536815e"), ("3f61cc5", "5a49449")
CHANGES = (
    # Stride-2 convolutions in sub-pixel form, channels last, ReLUs in place, fused Adam.
    Change("plain step, dense decoder", *_SUBPIXEL, "ms", STEP, ("plain", "dense")),
    Change("plain step, convolutional decoder", *_SUBPIXEL, "ms", STEP, ("plain", "convolutional")),
    Change("extended step, dense decoder", *_SUBPIXEL, "ms", STEP, ("extended", "dense")),
    # Through the index, not member by member through tarfile and Pillow.
    Change("read into memory", *_AT_ONCE, "s", READ),
    # Gradients are views of the bucket, and a small model has one bucket. Validation and start of the epochs included.
    Change("plain step, two ranks, gradients at once", *_AT_ONCE, "ms", TWO_RANKS),
    # One worker of two threads by default, where two workers of one thread exchanged by shared memory.
    Change("whole `ie train`, two epochs, defaults", *_THREADS, "s", WHOLE),
)


def measure(change: Change, folder: Path, small: bool) -> float:
    """The figure of one commit, by a process of its own."""
    arguments = list(change.arguments)
    if change.script == STEP:
        arguments += ["5", "2"] if small else ["300", "20"]
    elif change.script in (TWO_RANKS, WHOLE):
        arguments = ["1" if small else "2"]
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    for left in (".runs", "results"):  # of the round before: a finished run is not trained again
        shutil.rmtree(folder / left, ignore_errors=True)
    command = [sys.executable, "-c", change.script, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"error: {change.name} at {folder.name}: {done.stderr[-2000:]}")
    return float(done.stdout.splitlines()[-1])


def check_out(commit: str, parent: Path) -> Path:
    """The code of a commit, with the data of this checkout."""
    folder = parent / commit
    if not folder.exists():
        done = subprocess.run(
            ["git", "clone", "--quiet", "--shared", "--no-checkout", str(REPOSITORY), str(folder)], check=False
        )
        if (
            done.returncode
            or subprocess.run(["git", "checkout", "--quiet", commit], cwd=folder, check=False).returncode
        ):
            sys.exit(f"error: commit {commit} is not in this clone: fetch the whole history")
        for name in ("raw", "shards"):
            (folder / "data" / name).symlink_to(REPOSITORY / "data" / name)
    return folder


def rows_of(change: Change, before: float, after: float, rounds: int) -> list[Row]:
    """What is published of a change."""
    ours, peer = (f"{change.name}, at {commit}" for commit in (change.after, change.before))
    ratio = round(before / after, 2)
    return [
        row(ours, after, change.unit, rounds, against=peer, ratio=ratio),
        row(peer, before, change.unit, rounds),
    ]


def main() -> None:
    """Measures each change and keeps the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="once each and short; writes no file")
    small = parser.parse_args().small
    rounds = 1 if small else 3
    make_params()  # the data, once
    rows = []
    with tempfile.TemporaryDirectory() as parent:
        for change in CHANGES:
            seen: dict[str, list[float]] = {change.before: [], change.after: []}
            for _ in range(rounds):
                for commit, values in seen.items():
                    values.append(measure(change, check_out(commit, Path(parent)), small))
            before, after = (round(statistics.median(values), 2) for values in seen.values())
            rows += rows_of(change, before, after, rounds)
            tell(f"{change.name}: {before} {change.unit}, then {after}")
    keep("changes", rows, small)


if __name__ == "__main__":
    main()
