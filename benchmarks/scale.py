"""What a data set costs a rank besides its pixels: `python benchmarks/scale.py [--small]`.

For growing numbers of computed rows (no pixels), each in a process of its own, seconds and peak memory of

- plan: the epoch plan and the order of its slices, begun in mid-epoch (shards of 10,000 samples, slices of 256);
- index: reading the Parquet index with keys and labels, and its bytes on disk;
- labels: choosing the labelled points by a hash of each key;

and, once, the bytes of a checkpoint of the largest preset, and the seconds to read the records of finished trials.
Writes benchmarks/scale.json, unless it is `--small`; docs/scale.md says what follows from it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
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

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import keep, peak_mib, tell  # noqa: E402
from ie_model.config import ModelConfig  # noqa: E402
from ie_model.model import EquiVAE  # noqa: E402
from ie_model.spec import DataSpec  # noqa: E402
from pipeline.index import SCHEMA, read_index, write_index  # noqa: E402
from pipeline.labels import choose_labelled  # noqa: E402
from pipeline.params import load_params  # noqa: E402
from pipeline.plan import LanePlan  # noqa: E402
from pipeline.shards import FORMAT, File, Manifest, Shard, Split  # noqa: E402

SHARD, SLICE, BATCH, CLASSES = 10_000, 256, 8192, 1000


def plan(num: int, folder: Path) -> dict[str, float]:
    """A rank's way to the middle of the third epoch."""
    before, started = peak_mib(), time.perf_counter()
    lanes = LanePlan([SHARD] * (num // SHARD), BATCH, SLICE, 0, np.arange(0, num, num // 1000))
    lanes.positions(2, lanes.steps // 2, lanes.lanes(0, 256))
    return {"seconds": time.perf_counter() - started, "memory_mib": peak_mib() - before}


def index(num: int, folder: Path) -> dict[str, float]:
    """An index as `shard` writes it, read as a rank reads it."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as other:  # its memory is not the reader's
        file = other.submit(write_rows, num, folder).result()
    shards = tuple(Shard(path=f"{i}.tar", samples=SHARD, bytes=1, sha256="0" * 64) for i in range(num // SHARD))
    split = Split(samples=num, class_counts={}, shards=shards, index=file)
    spec = DataSpec(kind="image", shape=(1, 8, 8), dtype="uint8", classes=("a", "b"), likelihood="bernoulli")
    manifest = Manifest.model_construct(format=FORMAT, spec=spec, splits={"train": split})
    before, started = peak_mib(), time.perf_counter()
    found = read_index(folder, manifest, "train")
    seconds = time.perf_counter() - started
    assert len(found) == num
    return {"seconds": seconds, "memory_mib": peak_mib() - before, "bytes": float(file.bytes)}


def write_rows(num: int, folder: Path) -> File:
    """The index of as many computed rows."""
    position = np.arange(num)
    columns: dict[str, Any] = {
        "key": pa.array([f"train-{i:010d}" for i in range(num)]),
        "y": (position % CLASSES).astype(np.int32),
        "shard": (position // SHARD).astype(np.int32),
        "offset": position % SHARD * 1536 + 512,
        "size": np.full(num, 280),
        "crc32": np.random.default_rng(0).integers(0, 2**32, num, dtype=np.uint32),
    }
    return write_index(folder / "index-train.parquet", pa.table(columns, schema=SCHEMA))


def labels(num: int, folder: Path) -> dict[str, float]:
    """The choice of ten labels a class."""
    keys = [f"train-{i:010d}" for i in range(num)]
    y = np.arange(num, dtype=np.int64) % CLASSES
    before, started = peak_mib(), time.perf_counter()
    choose_labelled(keys, y, [str(c) for c in range(CLASSES)], 10 * CLASSES, 0)
    return {"seconds": time.perf_counter() - started, "memory_mib": peak_mib() - before}


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
            "index": [10**5, 10**6, 10**7],
            "labels": [10**5, 10**6, 10**7],
        }
        measured: dict[str, Any] = {}
        for part, rows_of in sizes.items():
            for rows in rows_of if not arguments.small else [20_000, 100_000]:
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
    keep("scale", measured, arguments.small)


if __name__ == "__main__":
    main()
