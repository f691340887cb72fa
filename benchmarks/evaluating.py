"""What latents cost beside bare forward passes: `python benchmarks/evaluating.py [--small] [--part NAME]`.

`export`: two ways take turns over the same examples, in one thread: `evaluate`'s export (encode, count, check,
Parquet), and the reading and the passes that it is made of, alone. `actors`: two actors take turns with one;
from the first file to the last, so without Ray's start. `memory`: peak, each in a process of its own, of the whole
stage `evaluate` on more and more images of 8x8, half of them test, and of `ie embed` on longer and longer arrays.
Writes benchmarks/results/evaluating.json, unless it is `--small`.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import by_turns, make_params, make_trainer, tell  # noqa: E402
from benchmarks.publish import Row, keep, row  # noqa: E402
from benchmarks.sharding import Computed, Keys  # noqa: E402
from ie_model.artifact import Artifact, save_artifact  # noqa: E402
from ie_model.inference import encode, representations  # noqa: E402
from ie_model.model import EquiVAE  # noqa: E402
from ie_model.networks import to_float  # noqa: E402
from ie_model.spec import DataSpec, Preprocessing  # noqa: E402
from pipeline.cluster.actor_pool import map_in_actors  # noqa: E402
from pipeline.cluster.connection import ray_cluster  # noqa: E402
from pipeline.config.params import Params, parse_params  # noqa: E402
from pipeline.config.paths import shards_folder  # noqa: E402
from pipeline.data.example import Examples  # noqa: E402
from pipeline.data.loading.points import InShards  # noqa: E402
from pipeline.data.sharding.write import Content, Layout, pack  # noqa: E402
from pipeline.data.shards.dataset import ShardedDataset  # noqa: E402
from pipeline.data.shards.reading import ONCE  # noqa: E402
from pipeline.evaluation.latents import metadata  # noqa: E402
from pipeline.evaluation.slices import SPLITS, Slice, SliceEncoder, plan_slices  # noqa: E402
from pipeline.evaluation.totals import count  # noqa: E402
from pipeline.stages.evaluate import OnWorker, export  # noqa: E402
from pipeline.utils.files import atomic_folder  # noqa: E402

# Each ends with its peak memory.
EMBED = """
import sys
from benchmarks.common import peak_mib
from pipeline.cli import main
sys.argv = ["ie", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(peak_mib())
"""


def bare(artifact: Artifact, dataset: ShardedDataset, params: Params) -> None:
    """Reading, the passes and what is counted of test, alone; their results are dropped."""
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    for name in SPLITS:
        points = InShards(dataset, name, ONCE, torch.device("cpu"))
        for start in range(0, len(points.index), params.evaluate.batch_size):
            rows = np.arange(start, min(start + params.evaluate.batch_size, len(points.index)))
            x = to_float(points.take(rows))
            encoded = encode(artifact, x, artifact.prune, generator)
            if name == "test":
                count(artifact, x, points.index.y[rows], encoded, params.evaluate, generator)


def export_to(artifact: Artifact, dataset: ShardedDataset, params: Params, out: Path) -> None:
    """The export, from its beginning."""
    shutil.rmtree(out, ignore_errors=True)
    used = np.arange(dataset.manifest.splits["train"].samples) < 100
    export(artifact, dataset, ONCE, used, params, REPOSITORY, out, lambda line: None)


def rate(make: Any, items: list[Slice], actors: int) -> float:
    """Examples a second of a pool, from its first file to its last."""
    seen: list[tuple[float, int]] = []
    for part, _ in map_in_actors(make, items, actors, cpus=1, gpus=0):
        seen.append((time.perf_counter(), part.stop - part.start))
    return sum(num for _, num in seen[actors:]) / (seen[-1][0] - seen[actors - 1][0])


def actor_rates(artifact: Artifact, dataset: ShardedDataset, params: Params, rounds: int) -> dict[str, float]:
    """Median examples a second of one actor and of two, which take turns on twice the slices of train."""
    used = np.zeros(dataset.manifest.splits["train"].samples, dtype=bool)
    encoder = SliceEncoder(artifact, dataset, ONCE, params.evaluate, used, metadata(artifact, ""), "cpu", 1)
    items = [part for part in plan_slices(dataset.manifest, params.evaluate.batch_size) if part.split == "train"]
    rates: dict[int, list[float]] = {1: [], 2: []}
    with ray_cluster(tell):
        for _ in range(rounds):
            for actors, seen in rates.items():
                seen.append(rate(OnWorker(encoder, "cpu", ""), (1 if rounds == 1 else 2) * items, actors))
                tell(f"{actors} actor(s): {seen[-1]:.0f} examples/s")
    return {str(actors): statistics.median(seen) for actors, seen in rates.items()}


EVALUATE = """
import sys
from pathlib import Path
from benchmarks.common import peak_mib, tell
from benchmarks.evaluating import few_points
from pipeline.stages.evaluate import evaluate
evaluate(few_points(), Path(sys.argv[1]), tell)
print(peak_mib())
"""


def few_points() -> Params:
    """Params of an evaluation whose work besides the export is little."""
    raw = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    raw["evaluate"] |= {
        "probe_points": 200,
        "leak_points": 200,
        "style_points": 100,
        "swap_points": 100,
        "iw_points": 100,
    }
    raw["evaluate"] |= {"oracle_steps": 1, "bound_samples": 1, "iw_samples": 1, "probe_seeds": [0]}
    raw["reader"] |= {"mode": "stream"}
    return parse_params(raw)


def evaluate_memory(folder: Path, num: int) -> int:
    """Peak MiB of the stage on `num` examples, half of them test, by a model of random weights."""
    params, half = few_points(), num // 2
    spec = DataSpec(kind="image", shape=(1, 8, 8), dtype="uint8", classes=tuple("0123456789"), likelihood="bernoulli")
    y = np.arange(half) % 10
    splits: dict[Any, Examples] = {split: Computed(Keys(split, half), y) for split in ("train", "test")}
    shutil.rmtree(folder, ignore_errors=True)
    layout = Layout(encoding="npy", num_shards=max(1, num // 20_000), num_val=1000, split_seed=0)
    content = Content("computed", {}, spec, Preprocessing(), splits)
    pack(content, layout, shards_folder(params, folder), lambda line: None, writers=1)
    model = EquiVAE(spec, params.model).eval()
    x = torch.from_numpy(np.stack([splits["train"].read(i) for i in range(100)]))
    codes, counts = representations(model, x, torch.arange(100) % 10, batch_size=100)
    with atomic_folder(folder / "results" / "train" / "model") as part:
        save_artifact(part, Artifact(model, codes, counts, {"fingerprint": "benchmark"}, prune=0.01))
    return peak_memory(EVALUATE, str(folder))


def peak_memory(script: str, *arguments: str) -> int:
    """MiB that a script prints in its last line."""
    command, environment = [sys.executable, "-c", script, *arguments], os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True)
    return round(float(done.stdout.splitlines()[-1]))


def embed_memory(folder: Path, num: int, shape: tuple[int, ...]) -> int:
    """Peak MiB of `ie embed` on `num` examples."""
    array = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=(num, *shape))
    for begin in range(0, num, 10_000):
        rows = array[begin : begin + 10_000]
        rows[:] = np.random.default_rng(begin).integers(0, 256, rows.shape, dtype=np.uint8)
    array.flush()
    arguments = str(folder / "model"), str(folder / "x.npy"), "--out", str(folder / "latents.parquet")
    return peak_memory(EMBED, "embed", *arguments)


def measure_export(artifact: Artifact, dataset: ShardedDataset, params: Params, small: bool) -> list[Row]:
    """The export beside its passes."""
    rounds = 1 if small else 5
    with tempfile.TemporaryDirectory() as parent:
        tasks = {
            "export": functools.partial(export_to, artifact, dataset, params, Path(parent) / "out"),
            "bare": functools.partial(bare, artifact, dataset, params),
        }
        seconds = by_turns(tasks, rounds)
    num = sum(split.samples for split in dataset.manifest.splits.values())
    ours, peer, ratio = f"export of {num} examples", "reading and bare passes", seconds["bare"] / seconds["export"]
    return [
        row(ours, round(seconds["export"], 2), "s", rounds, "at least 0.8", against=peer, ratio=round(ratio, 3)),
        row(peer, round(seconds["bare"], 2), "s", rounds),
    ]


def measure_actors(artifact: Artifact, dataset: ShardedDataset, params: Params, small: bool) -> list[Row]:
    """Two actors beside one."""
    rounds = 1 if small else 3
    rates = actor_rates(artifact, dataset, params, rounds)
    ours, peer, ratio = "export by two actors", "export by one actor", rates["2"] / rates["1"]
    return [
        row(ours, round(rates["2"]), "examples/s", rounds, "at least 1.7", against=peer, ratio=round(ratio, 3)),
        row(peer, round(rates["1"]), "examples/s", rounds),
    ]


def measure_memory(artifact: Artifact, dataset: ShardedDataset, params: Params, small: bool) -> list[Row]:
    """Peaks by size; that of evaluate as a ratio to the smallest too."""
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent)
        sizes = (10_000, 20_000) if small else (100_000, 1_000_000)
        peaks = {num: evaluate_memory(place / "project", num) for num in sizes}
        shutil.rmtree(place / "project")
        (place / "model").mkdir()
        save_artifact(place / "model", artifact)
        lengths = (1_000, 2_000) if small else (20_000, 80_000, 320_000)
        embedded = {num: embed_memory(place, num, dataset.spec.shape) for num in lengths}
    rows = [row(f"evaluate of {num} examples: peak memory", peak, "MiB") for num, peak in peaks.items()]
    growth = round(max(peaks.values()) / min(peaks.values()), 3)
    rows.append(row("evaluate: peak memory of the most examples over the fewest", growth, "", 1, "at most 1.2"))
    return rows + [row(f"embed of {num} examples: peak memory", peak, "MiB") for num, peak in embedded.items()]


PARTS = {"export": measure_export, "actors": measure_actors, "memory": measure_memory}


def main() -> None:
    """Measures all parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="each once, few examples; writes no file")
    parser.add_argument("--part", choices=PARTS, help="this one alone; the others' figures stay")
    given = parser.parse_args()
    torch.set_num_threads(1)
    params = make_params()
    trainer = make_trainer(params, "plain")
    with trainer._batches() as batches:
        for _ in range(10 if given.small else 300):  # the class sum then is as sparse as after training
            trainer._step(next(batches)[0])
            trainer.state.step += 1
    artifact = trainer.artifact()
    dataset = ShardedDataset.open(shards_folder(params, REPOSITORY))
    for name in [given.part] if given.part else PARTS:
        keep("evaluating", PARTS[name](artifact, dataset, params, given.small), given.small, part=True)


if __name__ == "__main__":
    main()
