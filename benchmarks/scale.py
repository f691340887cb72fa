"""What a data set costs a rank besides its pixels: `python benchmarks/scale.py [--small]`.

For growing numbers of computed rows (no pixels), each in a process of its own, seconds and peak memory of

- plan: the epoch plan and the order of its slices, begun in mid-epoch (shards of 10,000 samples, slices of 256);
- index: opening the mapped index and reading a rank's part of an epoch, one of 256, and its bytes on disk;
- labels: choosing ten points of each of 1,000 classes from the index on one core, up to 10^7 rows compared with
  sorting all;

and, once, the bytes of a checkpoint of the largest preset, and the seconds to read the records of finished trials.
Needs 30 GB of disk. Writes benchmarks/results/scale.json, unless it is `--small`; docs/scale.md interprets it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import peak_mib, tell  # noqa: E402
from benchmarks.publish import Row, keep, row  # noqa: E402
from ie_model.config import ModelConfig  # noqa: E402
from ie_model.model import EquiVAE  # noqa: E402
from ie_model.spec import DataSpec  # noqa: E402
from pipeline.config.params import load_params  # noqa: E402
from pipeline.data.loading.lane_plan import LanePlan  # noqa: E402
from pipeline.data.shards.dataset import ShardedDataset  # noqa: E402
from pipeline.data.shards.index import ROW, Rows, SplitIndex  # noqa: E402
from pipeline.data.shards.manifest import FORMAT, File, Manifest, Shard, Split  # noqa: E402
from pipeline.training.label_subset import choose_in_index  # noqa: E402
from pipeline.utils.files import sha256_file  # noqa: E402

SHARD, SLICE, BATCH, CLASSES = 10_000, 256, 8192, 1000
NAMES = tuple(map(str, range(CLASSES)))
TARGETS = {("index", 10**9): ("", "at most 512"), ("labels", 10**9): ("at most 180", "")}
"""Of time and of memory."""


def plan(num: int, folder: Path) -> dict[str, float]:
    """A rank's way to the middle of the third epoch."""
    before, started = peak_mib(), time.perf_counter()
    lanes = LanePlan([SHARD] * (num // SHARD), BATCH, SLICE, 0, np.arange(0, num, num // 1000))
    lanes.positions(2, lanes.steps // 2, lanes.lanes(0, 256))
    return {"seconds": time.perf_counter() - started, "memory_mib": peak_mib() - before}


def index(num: int, folder: Path) -> dict[str, float]:
    """An index as a rank reads it: opened, then the slices of the rank's part of an epoch, one of 256."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:  # its memory is not the reader's
        split = other.submit(write_rows, num, folder).result()
    spec = DataSpec(kind="image", shape=(1, 8, 8), dtype="uint8", classes=NAMES, likelihood="bernoulli")
    manifest = Manifest.model_construct(format=FORMAT, spec=spec, splits={"train": split})
    before, started = peak_mib(), time.perf_counter()
    found = ShardedDataset(folder, manifest).index("train")
    seconds = time.perf_counter() - started
    for begin in np.random.default_rng(0).permutation(num // SLICE)[: num // SLICE // 256] * SLICE:
        assert found.at(np.arange(begin, begin + SLICE))["size"].all()
    return {"seconds": seconds, "memory_mib": peak_mib() - before, "bytes": float(split.index.bytes)}


def write_rows(num: int, folder: Path) -> Split:
    """The index of as many computed rows, and as many equal keys: reading the index does not read these."""
    counts = np.zeros(CLASSES, dtype=np.int64)
    rng, keys = np.random.default_rng(0), pa.table({"key": ["train-0000000000"] * SHARD})
    shards = tuple(Shard(path=f"{i}.tar", samples=SHARD, bytes=1, sha256="0" * 64) for i in range(num // SHARD))
    paths = [folder / "index-train.npy", folder / "keys-train.parquet"]
    header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (num,)}
    with paths[0].open("wb") as file, pq.ParquetWriter(paths[1], keys.schema, write_statistics=False) as writer:
        np.lib.format.write_array_header_2_0(file, header)
        rows = np.empty(SHARD, dtype=ROW)
        rows["offset"], rows["size"] = np.arange(SHARD) * 1536 + 512, 280
        for _ in shards:
            rows["key64"] = rng.integers(0, 2**64, SHARD, dtype=np.uint64)
            rows["crc32"] = rng.integers(0, 2**32, SHARD, dtype=np.uint32)
            rows["y"] = rng.integers(0, CLASSES, SHARD)
            counts += np.bincount(rows["y"], minlength=CLASSES)
            file.write(rows.tobytes())
            writer.write_table(keys)
    files = [File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)) for path in paths]
    sizes = dict(zip(NAMES, counts.tolist(), strict=True))
    return Split(samples=num, class_counts=sizes, shards=shards, index=files[0], keys=files[1])


def labels(num: int, folder: Path) -> dict[str, float]:
    """The choice of ten labels a class from an index, on one core; up to 10^7 rows compared with sorting all."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:
        split = other.submit(write_rows, num, folder).result()
    ends = np.cumsum([shard.samples for shard in split.shards])
    index = SplitIndex(folder / split.index.path, folder / split.keys.path, split.keys.sha256, ends, CLASSES)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    before, started = peak_mib(), time.perf_counter()
    found = choose_in_index(index, split.class_counts, 10 * CLASSES, 0, "key64")
    measured = {"seconds": time.perf_counter() - started, "memory_mib": peak_mib() - before}
    if num <= 10**7:
        assert found.tolist() == brute_force(index.rows, 10)
    return measured


def brute_force(rows: Rows, each: int) -> list[int]:
    """The same choice: a rank for each point, in Python's integers, and all points sorted."""
    most = 2**64
    salts = [int.from_bytes(hashlib.sha256(f"0/{c}/".encode()).digest()[:8], "little") for c in range(CLASSES)]
    members: list[list[tuple[int, int]]] = [[] for _ in range(CLASSES)]
    for position, (c, key) in enumerate(zip(rows["y"].tolist(), rows["key64"].tolist(), strict=True)):
        rank = salts[c] ^ key
        rank = (rank ^ rank >> 30) * 0xBF58476D1CE4E5B9 % most
        rank = (rank ^ rank >> 27) * 0x94D049BB133111EB % most
        members[c].append((rank ^ rank >> 31, position))
    return sorted(position for some in members for _, position in sorted(some)[:each])


PARTS: dict[str, Callable[[int, Path], dict[str, float]]] = {"plan": plan, "index": index, "labels": labels}


def checkpoint_mib(**changes: Any) -> float:
    """Weights, averaged weights and Adam's two moments of a model, in MiB."""
    config: ModelConfig = load_params(REPOSITORY / "params.yaml").model.model_copy(update=changes)
    spec = DataSpec(
        kind="image", shape=(3, 32, 32), dtype="uint8", classes=tuple("0123456789"), likelihood="discretized_logistic"
    )
    return sum(p.numel() for p in EquiVAE(spec, config).parameters()) * 4 * 4 / 2**20


def trial_records(num: int, folder: Path) -> float:
    """Seconds to read what finished trials left, as a sweep does before it plans what is missing."""
    for i in range(num):
        (folder / f"{i:016x}").mkdir()
        record = {"status": "finished", "measures": {f"measure_{m}": float(m) for m in range(100)}}
        (folder / f"{i:016x}" / "result.json").write_text(json.dumps(record))
    started = time.perf_counter()
    for path in sorted(folder.iterdir()):
        json.loads((path / "result.json").read_text())
    return time.perf_counter() - started


def rows_of(measured: dict[str, Any]) -> list[Row]:
    """What is published."""
    rows = []
    for part in PARTS:
        for number, found in measured[part].items():
            case = f"{part}, {int(number):,} rows"
            time_target, memory_target = TARGETS.get((part, int(number)), ("", ""))
            rows.append(row(f"{case}: time", found["seconds"], "s", target=time_target))
            rows.append(row(f"{case}: memory", round(found["memory_mib"], 1), "MiB", target=memory_target))
            if "bytes" in found:
                rows.append(row(f"{case}: on disk", round(found["bytes"] / 2**20, 1), "MiB"))
    for name, size in measured["checkpoint_mib"].items():
        rows.append(row(f"checkpoint, model {name}", size, "MiB"))
    records = measured["trial_records"]
    return [*rows, row(f"records of {records['trials']:,} trials read", records["seconds"], "s")]


def main() -> None:
    """Runs each part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="up to 100,000 rows; writes no file")
    parser.add_argument("--once", nargs=2, metavar=("PART", "ROWS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as parent:
        if arguments.once:
            part, rows = arguments.once
            print(json.dumps(PARTS[part](int(rows), Path(parent))))
            return
        sizes = {
            "plan": [10**6, 10**7, 10**8, 10**9],
            "index": [10**6, 10**7, 10**8, 10**9],
            "labels": [10**6, 10**7, 10**8, 10**9],
        }
        measured: dict[str, Any] = {}
        for part, counts in sizes.items():
            for rows in counts if not arguments.small else [20_000, 100_000]:
                command = [sys.executable, __file__, "--once", part, str(rows)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = {name: round(value, 3) for name, value in json.loads(done.stdout).items()}
                measured.setdefault(part, {})[str(rows)] = found
                tell(f"{part}, {rows} rows: {found}")
        wide = {"encoder": "wide_residual", "channels": (32, 64, 128), "decoder": "convolutional"}
        measured["checkpoint_mib"] = {
            "as shipped": round(checkpoint_mib(), 1),
            "wide residual": round(checkpoint_mib(**wide), 1),
        }
        num = 100 if arguments.small else 10_000
        measured["trial_records"] = {"trials": num, "seconds": round(trial_records(num, Path(parent)), 2)}
    keep("scale", rows_of(measured), arguments.small)


if __name__ == "__main__":
    main()
