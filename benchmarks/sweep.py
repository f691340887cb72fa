"""What a sweep costs beside its trials: `ie sweep` against the same training loops without Ray, side by side.

`python benchmarks/sweep.py [--small] [PAIRS]`; a small pair is minutes on 2 free cores. Both sides train the same jobs
from nothing, one thread each, as many at a time as there are cores, and score the test split; the bare side has a
process for each lane, which pays its imports once as a sweep's worker does. They take turns, so that whatever else the
machine does falls on both. Writes benchmarks/results/sweep.json, unless it is `--small`: the wall seconds of each pair
and the overhead, the median of sweep / bare - 1.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402

FULL: dict[str, Any] = {
    "data": {"source": "mnist"},
    "sweep": {"label_counts": [100], "methods": ["plain"], "seeds": [0, 1, 2, 3], "epochs": 6},
}
# Digits are so few that a step is short: the batch is what MNIST has, and the length makes trials of a minute or so.
SMALL: dict[str, Any] = {
    "data": {"source": "digits"},
    "sweep": {"label_counts": [100], "methods": ["plain"], "seeds": [0, 1, 2, 3], "epochs": 150},
}
_PAIRS = 3

# One lane of the bare side: every n-th trial, one after the other, in one process.
LANE = """
import sys
from pathlib import Path
from pipeline.config.params import load_params
from pipeline.data.shards.manifest import read_manifest
from pipeline.config.paths import shards_folder
from pipeline.training.trainer import Trainer
from pipeline.training.local_session import TrialSession
from pipeline.tuning.trials import plan_trials, score
lane, lanes = int(sys.argv[1]), int(sys.argv[2])
params, here = load_params(Path("params.yaml")), Path.cwd()
manifest = read_manifest(shards_folder(params, here))
for i, trial in enumerate(plan_trials(params, here, manifest)[lane::lanes]):
    trainer = Trainer(trial.job, TrialSession(here / f".bare/{lane}-{i}", trial.job))
    trainer.run()
    score(trial.job, trainer.artifact(), None, None)
"""


def prepare(folder: Path, changes: dict[str, dict[str, Any]]) -> None:
    """A project with the code of this checkout, and shards."""
    for name in ("ie_model", "pipeline"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for section, values in changes.items():
        raw[section] |= values
    # The same for both data sets: the batch that MNIST has.
    raw["train"] |= {"threads_per_worker": 1, "batch_size": 256}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    for stage in ("fetch", "shard"):
        subprocess.run([sys.executable, "-m", "pipeline", stage], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def timed_sweep(folder: Path) -> float:
    """Wall seconds of `ie sweep` from nothing."""
    shutil.rmtree(folder / ".runs", ignore_errors=True)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline", "sweep"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def timed_bare(folder: Path, lanes: int) -> float:
    """Wall seconds of the same trials, dealt to as many processes as there are cores."""
    shutil.rmtree(folder / ".bare", ignore_errors=True)
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    started = time.monotonic()
    processes = [
        subprocess.Popen([sys.executable, "-c", LANE, str(lane), str(lanes)], cwd=folder, env=one_thread)
        for lane in range(lanes)
    ]
    if any([process.wait() for process in processes]):
        raise SystemExit("a bare loop failed")
    return time.monotonic() - started


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published."""
    pairs, n = measured["pairs"], len(measured["pairs"])
    ours, peer = f"`ie sweep`, {measured['trials']} trials", "the same trials in bare loops"
    seconds = {side: [pair[side] for pair in pairs] for side in ("sweep", "bare")}
    sweep, bare = (statistics.median(values) for values in seconds.values())
    ratio = round(statistics.median(pair["bare"] / pair["sweep"] for pair in pairs), 3)
    return [
        row(ours, sweep, "s", n, against=peer, ratio=ratio, values=seconds["sweep"]),
        row(peer, bare, "s", n, values=seconds["bare"]),
        row("overhead", measured["overhead_pct"], "%", n, "at most 15"),
        row("overhead in seconds", measured["overhead_s"], "s", n),
        row("load of the machine at the end", measured["load_at_end"], ""),
    ]


def main() -> None:
    """Runs pairs and keeps their times."""
    small = "--small" in sys.argv
    changes = SMALL if small else FULL
    number = next((int(word) for word in sys.argv[1:] if word.isdigit()), _PAIRS)
    lanes = os.cpu_count() or 1
    pairs = []
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        prepare(folder, changes)
        for i in range(number):
            # The order turns, so that neither side always finds a machine that has just worked.
            sides = {"bare": lambda: timed_bare(folder, lanes), "sweep": lambda: timed_sweep(folder)}
            order = list(sides) if i % 2 == 0 else list(sides)[::-1]
            pair = {side: round(sides[side](), 1) for side in order}
            pairs.append(pair)
            print(pair, flush=True)
    measured = {
        "trials": len(changes["sweep"]["seeds"]),
        "pairs": pairs,
        "overhead_pct": round(100 * statistics.median(pair["sweep"] / pair["bare"] - 1 for pair in pairs), 1),
        "overhead_s": round(statistics.median(pair["sweep"] - pair["bare"] for pair in pairs), 1),
        "load_at_end": round(os.getloadavg()[0], 1),
    }
    keep("sweep", rows_of(measured), small)


if __name__ == "__main__":
    main()
