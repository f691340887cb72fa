"""How fast training data is read, beside other readers: `python benchmarks/reading.py [--small] [--peers]`.

All readers give the same 28x28 images as uint8 batches of 128, in the same run, by turns; a figure is the median of
several rounds. `--peers` adds Hugging Face datasets from Parquet, in an environment of its own that is thrown away.
Writes benchmarks/results/reading.json; with `--small`, which only shows that it works, nothing.
"""

from __future__ import annotations

import argparse
import functools
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ie_model.epoch_plan import EpochPlan
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.loading.in_memory import load_split
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.stream import ShardStream, slice_size
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_split
from pipeline.data.shards.manifest import Manifest, write_shard
from pipeline.data.shards.reading import ONCE
from pipeline.data.shards.sample_codec import Encoding, encode_example
from pipeline.data.sources import Example

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402

BATCH = 128
SPEC = DataSpec(kind="image", shape=(1, 28, 28), dtype="uint8", classes=tuple("0123456789"), likelihood="bernoulli")
Rate = Callable[[], float]
"""Reads one epoch; samples a second."""


class Pictures(Dataset[Tensor]):
    """The usual image folder: a file a sample, opened with Pillow."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        with Image.open(self.paths[i]) as image:
            return torch.from_numpy(np.array(image))[None]


def strokes(num: int) -> list[Example]:
    """Pictures that compress about as MNIST's do: a bright thick line on black."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:28, :28]
    made = []
    for i in range(num):
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-5, 5)
        distance = np.abs((columns - 14) * np.cos(angle) + (rows - 14) * np.sin(angle) - shift)
        inside = (columns - 14) ** 2 + (rows - 14) ** 2 < 90
        x = np.clip(255 * (2.2 - distance), 0, 255) * inside
        made.append(Example(f"s{i:07d}", x.astype(np.uint8)[None], i % 10))
    return made


def write(folder: Path, examples: list[Example], encoding: Encoding, num_shards: int) -> Manifest:
    folder.mkdir()
    each = len(examples) // num_shards
    shards = [
        write_shard(
            folder / f"train-{i:06d}.tar", [encode_example(e, encoding) for e in examples[i * each : (i + 1) * each]]
        )
        for i in range(num_shards)
    ]
    return Manifest(
        format=4,
        source="strokes",
        source_files={},
        spec=SPEC,
        encoding=encoding,
        preprocessing=Preprocessing(),
        split_seed=0,
        splits={"train": describe_split(folder, "train", shards, SPEC, encoding)},
    )


def timed(batches: Iterator[Tensor], num: int) -> float:
    """Samples a second of `num` batches after the first, in which processes start."""
    next(batches)
    started, read = time.perf_counter(), 0
    for _ in range(num):
        read += len(next(batches))
    return read / (time.perf_counter() - started)


def bare(x: Tensor, steps: int) -> float:
    """A loop over a tensor in memory, shuffled each epoch: the least that any reader does."""

    def batches() -> Iterator[Tensor]:
        while True:
            for rows in torch.split(torch.randperm(len(x))[: len(x) // BATCH * BATCH], BATCH):
                yield x[rows]

    return timed(batches(), steps)


def in_memory(x: Tensor, steps: int) -> float:
    plan = EpochPlan(len(x), BATCH, 1, 0)
    return timed((x[torch.from_numpy(rows)] for rows in plan.stream(0)), steps)


def stream(folder: Path, manifest: Manifest, workers: int, steps: int) -> float:
    sizes = [shard.samples for shard in manifest.splits["train"].shards]
    plan = LanePlan(sizes, BATCH, slice_size(manifest, "train", 256), 0)
    reading = ONCE.model_copy(update={"loader_workers": workers})
    with ShardStream(ShardedDataset(folder, manifest), "train", plan, 0, 1, 0, reading) as opened:
        return timed((batch.x for batch in opened), steps)


def picture_folder(folder: Path, workers: int, steps: int) -> float:
    dataset = Pictures(folder)

    def batches() -> Iterator[Tensor]:
        loader = DataLoader(
            dataset, BATCH, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0
        )
        while True:
            yield from loader

    return timed(batches(), steps)


def decode_field(encoding: Encoding, data: bytes) -> Tensor:
    if encoding == "png":
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(np.array(image))[None]
    return torch.from_numpy(np.load(io.BytesIO(data)))


def first_of(sample: tuple[Tensor, ...]) -> Tensor:
    return sample[0]


def webdataset(folder: Path, manifest: Manifest, workers: int, steps: int) -> float:
    """Its plain pipeline: shuffled shards, a shuffle buffer, one field decoded, batches in the loader processes."""
    urls = [str(folder / shard.path) for shard in manifest.splits["train"].shards]
    encoding = manifest.encoding
    decode: Callable[[bytes], Tensor] = functools.partial(decode_field, encoding)
    dataset = wds.WebDataset(urls, shardshuffle=len(urls), nodesplitter=None, empty_check=False).shuffle(1000)
    dataset = dataset.to_tuple(encoding).map_tuple(decode).batched(BATCH, partial=False).map(first_of).repeat()
    return timed(iter(wds.WebLoader(dataset, batch_size=None, num_workers=workers)), steps)


def restart_seconds() -> float:
    """Until the positions and slices of a step in the middle of an epoch of a million samples are known."""
    started = time.perf_counter()
    plan = LanePlan([10_000] * 100, BATCH, 170, 0)
    plan.positions(3, plan.steps // 2, range(BATCH))
    for lane in range(BATCH):
        next(plan.lane_slices(3, lane, plan.steps // 2))
    return time.perf_counter() - started


_PEER = """
import sys, time
import numpy as np
from datasets import Image, load_dataset
batch, steps, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
data = load_dataset("parquet", data_files=folder + "/*.parquet", split="train", streaming=True)
data = data.cast_column("image", Image()).shuffle(seed=0, buffer_size=1000)
def batches():
    while True:
        rows = []
        for sample in data:
            rows.append(np.array(sample["image"])[None])
            if len(rows) == batch:
                yield np.stack(rows)
                rows = []
it = batches(); next(it)
started = time.perf_counter()
for _ in range(steps): next(it)
print(batch * steps / (time.perf_counter() - started))
"""


def peer(folder: Path, examples: list[Example], steps: int, rounds: int) -> float:
    """Hugging Face datasets, from Parquet with the same PNGs, without loader processes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for i in range(10):
        images = [{"bytes": encode_example(e, "png")["png"], "path": None} for e in examples[i::10]]
        pq.write_table(pa.table({"image": images}), folder / f"{i}.parquet")
    venv.create(folder / "env", with_pip=True)
    python = str(folder / "env" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", "datasets", "pillow", "numpy"], check=True)
    command = [python, "-c", _PEER, str(BATCH), str(steps), str(folder)]
    environment = os.environ | {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    rates = [
        float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
        for _ in range(rounds)
    ]
    return statistics.median(rates)


def measure(readers: dict[str, Rate], rounds: int) -> dict[str, float]:
    """The median of each reader, read by turns so that what else the machine does hits all."""
    rates: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(rounds):
        for name, rate in readers.items():
            rates[name].append(rate())
    return {name: statistics.median(seen) for name, seen in rates.items()}


def run(small: bool, peers: bool, folder: Path) -> dict[str, Any]:
    """All figures, as they are written."""
    num, rounds, workers = (4_000, 3, (0, 1)) if small else (60_000, 5, (0, 1, 2))
    steps = num // BATCH
    torch.set_num_threads(1)
    examples = strokes(num)
    stored = {e: write(folder / e, examples, e, 10) for e in ("png", "npy")}
    (folder / "files").mkdir()
    for example in examples:
        (folder / "files" / f"{example.key}.png").write_bytes(encode_example(example, "png")["png"])
    x = load_split(ShardedDataset(folder / "npy", stored["npy"]), "train").x
    readers: dict[str, Rate] = {
        "bare loop": functools.partial(bare, x, 10 * steps),
        "in memory": functools.partial(in_memory, x, 10 * steps),
    }
    for n in workers:
        for encoding, manifest in stored.items():
            place = folder / encoding
            readers[f"stream, {encoding}, {n} workers"] = functools.partial(stream, place, manifest, n, steps)
            readers[f"webdataset, {encoding}, {n} workers"] = functools.partial(webdataset, place, manifest, n, steps)
        readers[f"image folder, {n} workers"] = functools.partial(picture_folder, folder / "files", n, steps)
    rates = measure(readers, rounds)
    if peers:
        (folder / "peer").mkdir()
        rates["datasets, Parquet, 0 workers"] = peer(folder / "peer", examples, steps, rounds)
    return {
        "samples_per_s": {name: round(rate) for name, rate in rates.items()},
        "restart_seconds": round(statistics.median(restart_seconds() for _ in range(5)), 3),
        "rounds": rounds,
    }


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published: each reader beside the others, and every rate."""
    rates, n = measured["samples_per_s"], measured["rounds"]
    pairs = [("in memory", "bare loop", "at least 0.95")]
    for ours in (name for name in rates if name.startswith("stream, ")):
        _, encoding, workers = ours.split(", ")
        png = encoding == "png"
        pairs.append((ours, f"image folder, {workers}", "at least 2" if png else ""))
        pairs.append((ours, f"webdataset, {encoding}, {workers}", "at least 1" if png else ""))
    if "datasets, Parquet, 0 workers" in rates:
        pairs.append(("stream, png, 0 workers", "datasets, Parquet, 0 workers", ""))
    rows = []
    for ours, peer, target in pairs:
        ratio = round(rates[ours] / rates[peer], 2)
        rows.append(row(ours, rates[ours], "samples/s", n, target, against=peer, ratio=ratio))
    rows += [row(peer, rates[peer], "samples/s", n) for peer in dict.fromkeys(peer for _, peer, _ in pairs)]
    restart = "restart in mid-epoch of a million samples"
    return [*rows, row(restart, measured["restart_seconds"], "s", n, "at most 1")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        measured = run(arguments.small, arguments.peers, Path(parent))
    keep("reading", rows_of(measured), arguments.small, " --peers" * arguments.peers)


if __name__ == "__main__":
    main()
