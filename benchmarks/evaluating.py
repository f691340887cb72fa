"""What latents cost beside bare forward passes: `python benchmarks/evaluating.py [--small]`.

Two ways take turns over the same examples, in one thread: `evaluate`'s export (encode, decode, check, Parquet) and the
bare passes of the same model that it is made of. Then `ie embed` on arrays of growing length, for its peak memory: that
of examples is constant. Writes benchmarks/evaluating.json, unless it is `--small`.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import by_turns, keep, make_params, make_trainer, tell  # noqa: E402
from ie_model.artifact import Artifact, save_artifact  # noqa: E402
from ie_model.inference import encode, in_batches  # noqa: E402
from pipeline.evaluate import _encode_splits  # noqa: E402
from pipeline.jobs import choose_reading, shards_folder  # noqa: E402
from pipeline.params import Params  # noqa: E402
from pipeline.reader import SplitData  # noqa: E402
from pipeline.shards import SplitName, read_manifest  # noqa: E402
from pipeline.training_data import read_split  # noqa: E402

# Peak memory of a command, in MiB, as the system counts it; run in a process of its own.
EMBED = """
import resource, sys
from pipeline.cli import main
sys.argv = ["ie", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    if end.code:
        raise
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def bare(artifact: Artifact, splits: dict[SplitName, SplitData], params: Params) -> None:
    """The passes alone; their results are dropped."""
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    for split in splits.values():
        for batch in in_batches(split.x, params.evaluate.batch_size):
            encode(artifact, batch, float(artifact.provenance["prune"]), generator)


def embed_memory(folder: Path, num: int, shape: tuple[int, ...]) -> int:
    """Peak MiB of `ie embed` on `num` examples."""
    array = np.lib.format.open_memmap(folder / "x.npy", mode="w+", dtype=np.uint8, shape=(num, *shape))
    for begin in range(0, num, 10_000):
        rows = array[begin : begin + 10_000]
        rows[:] = np.random.default_rng(begin).integers(0, 256, rows.shape, dtype=np.uint8)
    array.flush()
    command = [sys.executable, "-c", EMBED, "embed", str(folder / "model"), str(folder / "x.npy")]
    command += ["--out", str(folder / "latents.parquet")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return round(float(done.stdout.splitlines()[-1]))


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
    names: tuple[SplitName, ...] = ("test",) if small else ("train", "val", "test")
    splits = {name: read_split(folder, manifest, name, reading) for name in names}
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent)
        labelled = np.arange(100)
        export = functools.partial(
            _encode_splits, artifact, splits, labelled, params, place / "exported.parquet", "benchmark"
        )
        tasks: dict[str, Any] = {"export": export, "bare": functools.partial(bare, artifact, splits, params)}
        seconds = by_turns(tasks, 1 if small else 5)
        tell(str(seconds))
        (place / "model").mkdir()
        save_artifact(place / "model", artifact)
        sizes = (1_000, 2_000) if small else (20_000, 80_000, 320_000)
        memory = {str(num): embed_memory(place, num, manifest.spec.shape) for num in sizes}
    measured = {
        "examples": sum(len(split) for split in splits.values()),
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "ratio": round(seconds["bare"] / seconds["export"], 3),
        "embed_memory_mib": memory,
        "rounds": 1 if small else 5,
    }
    keep("evaluating", measured, small)


if __name__ == "__main__":
    main()
