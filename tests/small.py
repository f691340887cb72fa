"""Folders of small shards of random pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec
from pipeline.index import describe_split
from pipeline.samples import Encoding, encode_example
from pipeline.shards import Manifest, write_shard
from pipeline.sources import Example

SPEC = DataSpec(kind="image", shape=(1, 4, 5), dtype="uint8", classes=("a", "b", "c"), likelihood="bernoulli")


def pictures(num: int, spec: DataSpec = SPEC) -> list[Example]:
    """Each different from the others."""
    rng = np.random.default_rng(0)
    return [Example(f"k{i:04d}", rng.integers(0, 256, spec.shape, np.uint8), i % 3) for i in range(num)]


def written(
    folder: Path, sizes: list[int], encoding: Encoding = "npy", spec: DataSpec = SPEC, made: list[Example] | None = None
) -> Manifest:
    """A folder whose train split has a shard of each size."""
    examples = iter(made or pictures(sum(sizes), spec))
    folder.mkdir(parents=True, exist_ok=True)
    shards = [
        write_shard(folder / f"train-{i:06d}.tar", [encode_example(next(examples), encoding) for _ in range(size)])
        for i, size in enumerate(sizes)
    ]
    split = describe_split(folder, "train", shards, spec, encoding)
    return Manifest.model_construct(
        format=2,
        source="small",
        location="",
        source_files={},
        spec=spec,
        encoding=encoding,
        split_seed=0,
        splits={"train": split},
    )
