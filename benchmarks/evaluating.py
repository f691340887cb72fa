"""What latents cost beside bare forward passes: `python benchmarks/evaluating.py [--small]`.

Two ways take turns over the same examples, in one thread: `evaluate`'s export (encode, decode, check, Parquet) and the
bare passes of the same model that it is made of. Then peak memory, each in a process of its own: of the export with
longer and longer train, streamed, and of `ie embed` on arrays of growing length. Writes benchmarks/evaluating.json,
unless it is `--small`.
"""

from __future__ import annotations

import argparse
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import by_turns, keep, make_params, make_trainer, tell  # noqa: E402
from benchmarks.sharding import Computed, Keys  # noqa: E402
from ie_model.artifact import Artifact, load_artifact, save_artifact  # noqa: E402
from ie_model.inference import encode  # noqa: E402
from ie_model.networks import to_float  # noqa: E402
from ie_model.spec import DataSpec  # noqa: E402
from pipeline.evaluate import export  # noqa: E402
from pipeline.jobs import choose_reading, shards_folder  # noqa: E402
from pipeline.params import Params  # noqa: E402
from pipeline.shard import Content, Layout, pack  # noqa: E402
from pipeline.shards import SplitName, read_manifest  # noqa: E402
from pipeline.sources.base import Values  # noqa: E402
from pipeline.splits import Split, open_split  # noqa: E402
from pipeline.training_data import read_split  # noqa: E402

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


def bare(artifact: Artifact, splits: dict[SplitName, Split], params: Params) -> None:
    """The passes alone; their results are dropped."""
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    for split in splits.values():
        for _, batch in split.batches(params.evaluate.batch_size):
            encode(artifact, to_float(batch.x), float(artifact.provenance["prune"]), generator)


EXPORT = """
import sys
from pathlib import Path
from benchmarks.common import peak_mib
from benchmarks.evaluating import export_stream
export_stream(Path(sys.argv[1]))
print(peak_mib())
"""


def export_stream(folder: Path) -> None:
    """The export of `<folder>/shards` by `<folder>/model`, its train and val streamed as `reader.mode: stream` does."""
    params = make_params(reader={"mode": "stream"})
    artifact, manifest = load_artifact(folder / "model"), read_manifest(folder / "shards")
    reading = choose_reading(params.reader, REPOSITORY, manifest)
    splits: dict[SplitName, Split] = {
        name: open_split(folder / "shards", manifest, name, reading) for name in ("train", "val")
    }
    splits["test"] = read_split(folder / "shards", manifest, "test", reading)
    export(artifact, splits, np.arange(100), params, folder / "streamed.parquet", "benchmark")


@dataclass(frozen=True, eq=False)
class Pictures(Computed):
    """See `Computed`, as large as MNIST's."""

    def read(self, i: int) -> Values:
        return np.resize(super().read(i), (1, 28, 28)).astype(np.uint8)


def export_memory(folder: Path, num: int, spec: DataSpec) -> int:
    """Peak MiB of the export of `num` training images, and a thousand each of val and test."""
    train, test = (Pictures(Keys(split, n), np.arange(n) % 10) for split, n in (("train", num + 1000), ("test", 1000)))
    content = Content("computed", {}, spec, (), {"train": train, "test": test})
    layout = Layout(encoding="npy", num_shards=max(1, num // 10_000), num_val=1000, split_seed=0)
    shards = folder / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    pack(content, layout, shards, lambda line: None, writers=1)
    return peak_memory(EXPORT, str(folder))


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


def main() -> None:
    """Measures both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="the test split once, few examples; writes no file")
    small = parser.parse_args().small
    torch.set_num_threads(1)
    params = make_params()
    trainer = make_trainer(params, "plain")
    with trainer._batches() as batches:
        for _ in range(10 if small else 300):  # the class sum then is as sparse as after training
            trainer._step(next(batches)[0])
            trainer.state.step += 1
    artifact = trainer.artifact()
    folder = shards_folder(params, REPOSITORY)
    manifest = read_manifest(folder)
    reading = choose_reading(params.reader, REPOSITORY, manifest)
    names: tuple[SplitName, ...] = ("val", "test") if small else ("train", "val", "test")
    splits: dict[SplitName, Split] = {name: read_split(folder, manifest, name, reading) for name in names}
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent)
        arguments = artifact, splits, np.arange(100), params, place / "exported.parquet", "benchmark"
        tasks: dict[str, Any] = {
            "export": functools.partial(export, *arguments),
            "bare": functools.partial(bare, artifact, splits, params),
        }
        seconds = by_turns(tasks, 1 if small else 5)
        tell(str(seconds))
        (place / "model").mkdir()
        save_artifact(place / "model", artifact)
        sizes = (1_000, 2_000) if small else (20_000, 80_000, 320_000)
        memory = {
            "export_memory_mib": {str(num): export_memory(place, num, manifest.spec) for num in sizes},
            "embed_memory_mib": {str(num): embed_memory(place, num, manifest.spec.shape) for num in sizes},
        }
    measured = {
        "examples": sum(len(split) for split in splits.values()),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["bare"] / seconds["export"], 3),
        "rounds": 1 if small else 5,
    } | memory
    keep("evaluating", measured, small)


if __name__ == "__main__":
    main()
