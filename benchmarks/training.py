"""What Ray Train and the loop cost beside bare PyTorch: `python benchmarks/training.py [--small]`.

These take turns, each a command of its own, the plain objective on MNIST in one thread a process:

- `ie train` with one worker, with two, and with two and twice the batch;
- a bare loop of the same model on tensors in memory: random batches, forward, backward, Adam with the same learning
  rates (how many classes are alive, and so what a step costs, hangs on them), the same validation once an epoch; no
  plan, no checkpoint, no resuming, no Ray; and two such loops at once, each with half of the batch, which is what the
  machine can give to two workers that need not talk.

Per step: the seconds of training and validation over the number of steps. Fixed cost: all other seconds of the command.
Writes benchmarks/results/training.json, unless it is `--small`.
"""

from __future__ import annotations

import argparse
import json
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

from benchmarks.common import tell  # noqa: E402
from benchmarks.publish import Row, keep, row  # noqa: E402

BARE = """
import json, math, sys, time
from pathlib import Path
import torch
from ie_model.inference import representations
from ie_model.model import EquiVAE
from ie_model.networks import to_float
from ie_model.bounds import marginal_elbo
from ie_model.objective import Objective, Shares
from ie_model.pruning import prune_error
from pipeline.training.build_job import make_job
from pipeline.training.label_subset import choose_labelled
from pipeline.config.params import load_params
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset

batch_size, here = int(sys.argv[1]), Path.cwd()
torch.set_num_threads(1)
job = make_job(load_params(Path("params.yaml")), here)
dataset = ShardedDataset.open(Path(job.shards))
train, val = (load_split(dataset, split) for split in ("train", "val"))
x, y = train.x, torch.from_numpy(train.y).long()
labelled = choose_labelled(train.keys, train.y, train.spec.classes, job.label_count, job.label_seed, "sha256")
labelled = torch.from_numpy(labelled)
members = [labelled[y[labelled] == c] for c in range(len(train.spec.classes))]
unlabelled = torch.ones(len(x), dtype=torch.bool)
unlabelled[labelled] = False
unlabelled = unlabelled.nonzero().flatten()
torch.manual_seed(job.seed)
model = EquiVAE(dataset.spec, job.model)
objective = Objective(model, job.objective, Shares(len(labelled), len(unlabelled)))
optimizer = torch.optim.Adam(objective.parameters(), lr=job.learning_rate, fused=True)
generator = torch.Generator().manual_seed(job.seed)
low, high = job.objective.support_min, job.objective.support_max
reduced = torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bfloat16")
share = batch_size / job.batch_size
started, steps = time.monotonic(), len(x) // job.batch_size
for epoch in range(job.epochs):
    order = unlabelled[torch.randperm(len(unlabelled), generator=generator)]
    for step in range(steps):
        m = int(torch.randint(max(2, round(share * low)), max(2, round(share * high)) + 1, (), generator=generator))
        support = torch.cat([c[torch.randperm(len(c), generator=generator)[:m]] for c in members])
        rows = order[step * batch_size : (step + 1) * batch_size]
        with reduced:
            loss, logged = objective(to_float(x[support]), y[support], to_float(x[rows]), generator)
        done = epoch * steps + step
        for group in optimizer.param_groups:
            rate = job.learning_rate * min(1.0, (done + 1) / max(1, round(job.warmup * job.epochs * steps)))
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done / (steps * job.epochs)))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        r, _ = representations(model, x[labelled], y[labelled], 500)
        for rows in torch.arange(len(val.x)).split(500):
            seen = to_float(val.x[rows])
            log_q = model.classify(model.embed(seen), r)
            wrong = (log_q.argmax(1) != torch.from_numpy(val.y)[rows]).sum()
            features = model.features(seen)
            bound = marginal_elbo(model, seen, features, r, log_q, job.objective.prune, generator).bound
            if rows[0] == 0:
                prune_error(model, seen, features, r, log_q, job.objective.prune, generator)
print(json.dumps({"seconds": time.monotonic() - started, "steps": steps * job.epochs}))
"""


# That of MNIST by `train.batch_size: auto`.
BATCH_SIZE = 256


def prepare(folder: Path, epochs: int, source: str) -> None:
    """A project with the code of this checkout, and shards."""
    for name in ("ie_model", "pipeline"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    raw["data"]["source"] = source
    raw["objective"]["extended"]["enabled"] = False
    raw["train"] |= {"epochs": epochs, "min_steps": 0, "threads_per_worker": 1, "num_workers": 1}
    write_params(folder, raw)
    for stage in ("fetch", "shard"):
        subprocess.run([sys.executable, "-m", "pipeline", stage], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def write_params(folder: Path, raw: dict[str, Any]) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))


def with_ray(folder: Path, workers: int, batch_size: int) -> dict[str, float]:
    """`ie train` from nothing: seconds of its loop, all its seconds, steps."""
    shutil.rmtree(folder / ".runs", ignore_errors=True)
    shutil.rmtree(folder / "results", ignore_errors=True)
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    raw["train"] |= {"num_workers": workers, "batch_size": batch_size}
    write_params(folder, raw)
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "pipeline", "train"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall = time.monotonic() - started
    timing, metrics = (
        json.loads((folder / "results/train" / f"{name}.json").read_text()) for name in ("timing", "metrics")
    )
    return {"seconds": timing["seconds"], "wall": wall, "steps": metrics["steps"]}


def bare(folder: Path, loops: int, batch_size: int) -> dict[str, float]:
    """As `with_ray`, of bare loops at once that share the batch; the slowest of them counts."""
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    raw["train"]["batch_size"] = batch_size
    write_params(folder, raw)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", BARE, str(batch_size // loops)]
    started = time.monotonic()
    processes = [
        subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(loops)
    ]
    outputs = [process.communicate()[0] for process in processes]
    wall = time.monotonic() - started
    if any(process.returncode for process in processes):
        raise SystemExit("a bare loop failed")
    found = [json.loads(output.splitlines()[-1]) for output in outputs]
    return {"seconds": max(f["seconds"] for f in found), "wall": wall, "steps": found[0]["steps"]}


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published."""
    n, per_step, fixed = measured["rounds"], measured["ms_per_step"], measured["fixed_s"]
    rows = []
    for which, name, target in (
        ("1", "1 worker", 0.95),
        ("2", "2 workers", 0.93),
        ("2, twice the batch", "2 workers, twice the batch", 0.93),
    ):
        ratio, peer = measured["ratios"][f"bare / ray train, {which}"], f"bare, {which}"
        loops = peer.replace("bare, 1", "bare loop").replace("bare, 2", "two bare loops")
        ours, milliseconds = f"`ie train`, {name}", per_step[f"ray train, {which}"]
        rows.append(row(ours, milliseconds, "ms/step", n, f"at least {target}", against=loops, ratio=ratio))
        rows.append(row(loops, per_step[peer], "ms/step", n))
        rows.append(row(f"{ours}: fixed cost", fixed[f"ray train, {which}"], "s", n))
        rows.append(row(f"{loops}: fixed cost", fixed[peer], "s", n))
    more = measured["fixed_cost_more_s"]
    return [*rows, row("1 worker beside the bare loop: fixed cost more", more, "s", n, "at most 15")]


def main() -> None:
    """Runs all by turns and keeps the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="digits, once each; writes no file")
    small = parser.parse_args().small
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        prepare(folder, 2, "digits" if small else "mnist")
        for _ in range(1 if small else 3):
            for workers, times in ((1, 1), (2, 1), (2, 2)):
                for name, run in (("ray train", with_ray), ("bare", bare)):
                    what = f"{name}, {workers}" + (", twice the batch" if times == 2 else "")
                    runs.setdefault(what, []).append(run(folder, workers, times * BATCH_SIZE))
                    tell(f"{what}: {runs[what][-1]}")
    per_step = {
        name: statistics.median(1000 * run["seconds"] / run["steps"] for run in seen) for name, seen in runs.items()
    }
    fixed = {name: statistics.median(run["wall"] - run["seconds"] for run in seen) for name, seen in runs.items()}
    measured = {
        "ms_per_step": {name: round(value, 1) for name, value in per_step.items()},
        "fixed_s": {name: round(value, 1) for name, value in fixed.items()},
        "ratios": {
            f"bare / ray train, {which}": round(per_step[f"bare, {which}"] / per_step[f"ray train, {which}"], 3)
            for which in ("1", "2", "2, twice the batch")
        },
        "fixed_cost_more_s": round(fixed["ray train, 1"] - fixed["bare, 1"], 1),
        "rounds": len(runs["bare, 1"]),
    }
    keep("training", rows_of(measured), small)


if __name__ == "__main__":
    main()
