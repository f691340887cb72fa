"""A split in memory is what its shards hold, whatever their layout, and never more or fewer than the manifest says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ie_model.spec import DataSpec
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_split
from pipeline.data.shards.manifest import Manifest, Split, write_shard
from pipeline.data.shards.sample_codec import encode_example
from pipeline.data.sources import Example
from pipeline.errors import DataError

SPEC = DataSpec(kind="image", shape=(1, 4, 5), dtype="uint8", classes=("a", "b", "c"), likelihood="bernoulli")


def examples(num: int) -> list[Example]:
    rng = np.random.default_rng(0)
    return [Example(f"k{i:03d}", rng.integers(0, 256, SPEC.shape, np.uint8), i % 3) for i in range(num)]


def written(folder: Path, *parts: list[Example]) -> Manifest:
    """A folder whose train split has one shard for each part."""
    shards = tuple(
        write_shard(folder / f"train-{i:06d}.tar", [encode_example(example, "npy") for example in part])
        for i, part in enumerate(parts)
    )
    return manifest_of(describe_split(folder, "train", shards, SPEC, "npy"))


def manifest_of(split: Split) -> Manifest:
    return Manifest.model_construct(
        format=4, source="s", source_files={}, spec=SPEC, encoding="npy", split_seed=0, splits={"train": split}
    )


def claiming(manifest: Manifest, *counts: int) -> Manifest:
    """The manifest with other numbers of samples."""
    split = manifest.splits["train"]
    pairs = zip(split.shards, counts, strict=True)
    shards = tuple(shard.model_copy(update={"samples": count}) for shard, count in pairs)
    return manifest_of(split.model_copy(update={"samples": sum(counts), "shards": shards}))


def test_an_example_without_a_label_has_class_minus_one(tmp_path: Path) -> None:
    first, second = examples(2)
    manifest = written(tmp_path, [first, Example(second.key, second.x, None)])
    split = load_split(ShardedDataset(tmp_path, manifest), "train")
    assert split.y.tolist() == [0, -1]


def test_shards_whose_surplus_and_lack_cancel_out_are_refused(tmp_path: Path) -> None:
    made = examples(7)
    manifest = claiming(written(tmp_path, made[:4], made[4:]), 3, 4)
    with pytest.raises(DataError, match=r"train-000000\.tar: 3 examples by the manifest, 4 by its index"):
        load_split(ShardedDataset(tmp_path, manifest), "train")


def test_a_missing_shard_is_named_with_what_to_do(tmp_path: Path) -> None:
    manifest = written(tmp_path, examples(4))
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(DataError, match=r"shard is missing: .*train-000000\.tar; run `dvc repro --force shard`"):
        load_split(ShardedDataset(tmp_path, manifest), "train")


def test_a_folder_may_be_named_as_seen_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = written(tmp_path, examples(4))
    monkeypatch.chdir(tmp_path.parent)
    assert len(load_split(ShardedDataset(Path(tmp_path.name), manifest), "train").keys) == 4
