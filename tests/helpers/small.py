"""Folders of small shards of random pictures, and models with random weights for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ie_model.artifact import Artifact, save_artifact
from ie_model.inference import representations
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.shards.index import describe_split
from pipeline.data.shards.manifest import Manifest, write_manifest, write_shard
from pipeline.data.shards.sample_codec import Encoding, encode_example
from pipeline.data.sources import Example
from tests.helpers.tiny import each_class, points, tiny_model

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
        format=4,
        source="small",
        location="",
        source_files={},
        spec=spec,
        encoding=encoding,
        split_seed=0,
        splits={"train": split},
    )


def model_of(folder: Path, spec: DataSpec, preprocessing: Preprocessing | None = None) -> Path:
    """A model with random weights for data of a spec."""
    model = tiny_model(spec)
    r, counts = representations(model, points(4 * spec.num_classes, spec), each_class(spec.num_classes, 4), 5)
    folder.mkdir(parents=True)
    artifact = Artifact(model, r, counts, {}, preprocessing=preprocessing or Preprocessing())
    save_artifact(folder, artifact)
    return folder


def shards_of(folder: Path, where: Path | None = None) -> Manifest:
    """Shards of small pictures, with the tars beside the manifest or elsewhere."""
    folder.mkdir()
    tars = where or folder
    tars.mkdir(exist_ok=True)
    splits: dict[Any, Any] = {}
    examples = iter(pictures(24))
    for name in ("train", "val", "test"):
        made = [encode_example(next(examples), "npy") for _ in range(8)]
        tar = write_shard(tars / f"{name}-000000.tar", made)
        splits[name] = describe_split(tars, name, [tar], SPEC, "npy")
        if where:
            for file in (splits[name].index, splits[name].keys):
                (tars / file.path).rename(folder / file.path)
    manifest = Manifest(
        format=4, source="small", location=str(where or ""), source_files={}, spec=SPEC, encoding="npy",
        preprocessing=Preprocessing(), split_seed=0, splits=splits,
    )  # fmt: skip
    write_manifest(folder, manifest)
    return manifest
