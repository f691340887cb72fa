"""A streamed split is the split in memory, but for the order in which it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ie_model.artifact import Artifact
from ie_model.inference import representations
from ie_model.metrics import measures
from ie_model.spec import DataSpec
from pipeline.config.params import EvaluateParams, load_params
from pipeline.data.loading.in_memory import SplitData
from pipeline.data.loading.splits import StreamedSplit, open_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest
from pipeline.data.shards.reading import Reading
from pipeline.data.sources import Example
from pipeline.errors import DataError
from pipeline.evaluation.metrics import measure_model
from pipeline.results.metrics_table import flat
from tests.helpers.project import REPOSITORY
from tests.helpers.small import SPEC, pictures, written
from tests.helpers.tiny import tiny_model

SIZES = [11, 3, 20, 1, 9]
WIDE = SPEC.model_copy(update={"shape": (1, 12, 12)})


def reading(mode: str, faults: str = "fatal") -> Reading:
    settings: dict[str, Any] = {"memory_mb": 1, "loader_workers": 0, "slice_kb": 64, "cache": "unused", "cache_mb": 0}
    return Reading(mode=mode, faults=faults, retries=0, **settings)  # type: ignore[arg-type]


def shuffled(num: int, spec: DataSpec = SPEC) -> list[Example]:
    """Examples whose keys do not come in the order in which they are stored."""
    examples = pictures(num, spec)
    return [examples[i] for i in np.random.default_rng(1).permutation(num)]


def both(folder: Path, spec: DataSpec = SPEC, sizes: list[int] = SIZES) -> tuple[SplitData, StreamedSplit]:
    manifest = written(folder, sizes, spec=spec, made=shuffled(sum(sizes), spec))
    found = [open_split(ShardedDataset(folder, manifest), "train", reading(mode)) for mode in ("memory", "stream")]
    assert isinstance(found[0], SplitData)
    assert isinstance(found[1], StreamedSplit)
    return found[0], found[1]


def same(a: SplitData, b: SplitData) -> bool:
    return list(a.keys) == list(b.keys) and torch.equal(a.x, b.x) and bool((a.y == b.y).all())


def test_rows_are_those_of_the_split_in_memory(tmp_path: Path) -> None:
    kept, streamed = both(tmp_path)
    assert len(streamed) == len(kept) == 44
    assert list(streamed.keys) == kept.keys == sorted(kept.keys)
    assert streamed.y.tolist() == kept.y.tolist()
    for rows in ([0], [43, 0, 7, 7, 12], list(range(44)), []):
        assert same(streamed.take(np.array(rows, dtype=np.int64)), kept.take(np.array(rows, dtype=np.int64)))


@pytest.mark.parametrize("size", [1, 10, 44, 100])
def test_batches_hold_each_example_once_with_its_row(tmp_path: Path, size: int) -> None:
    kept, streamed = both(tmp_path)
    for split in (kept, streamed):
        batches = list(split.batches(size))
        assert [len(batch) for _, batch in batches] == [size] * (44 // size) + ([44 % size] if 44 % size else [])
        assert sorted(np.concatenate([rows for rows, _ in batches])) == list(range(44))
        assert all(same(batch, kept.take(rows)) for rows, batch in batches)


def test_a_stream_is_read_in_the_order_of_the_shards(tmp_path: Path) -> None:
    _, streamed = both(tmp_path)
    keys = [key for _, batch in streamed.batches(10) for key in batch.keys]
    assert keys == [example.key for example in shuffled(44)]


def test_what_cannot_be_had_is_named_or_left_out_and_counted(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES, made=shuffled(44))
    _damage(tmp_path, manifest, position=12)
    bad = shuffled(44)[12].key
    fatal = open_split(ShardedDataset(tmp_path, manifest), "train", reading("stream"))
    with pytest.raises(DataError, match=rf"train-000001\.tar, key {bad}: damaged"):
        list(fatal.batches(10))
    streamed = open_split(ShardedDataset(tmp_path, manifest), "train", reading("stream", "skip"))
    batches = list(streamed.batches(10))
    assert sorted(key for _, batch in batches for key in batch.keys) == [k for k in streamed.keys if k != bad]
    assert sum(len(rows) for rows, _ in batches) == 43
    assert streamed.skipped == 1
    assert bad not in streamed.take(np.arange(44)).keys
    assert open_split(ShardedDataset(tmp_path, manifest), "train", reading("memory", "skip")).skipped == 1


def _damage(folder: Path, manifest: Manifest, position: int) -> None:
    """Flips a byte of the values of a sample."""
    index = ShardedDataset(folder, manifest).index("train")
    row = index.rows[position]
    path = folder / manifest.splits["train"].shards[index.shard_of(position)].path
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 1
    path.write_bytes(data)


def artifact_of(split: SplitData) -> Artifact:
    model = tiny_model(split.spec)
    r, counts = representations(model, split.x[:30], torch.from_numpy(split.y[:30]), batch_size=30)
    return Artifact(model, r, counts, {})


def test_the_measures_of_a_stream_are_those_of_the_split_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy: Callable[..., float] = measures.probe_accuracy
    # An MLP stands for itself by the linear probe, which is quick.
    monkeypatch.setattr(measures, "probe_accuracy", lambda *a: accuracy(*a[:4], "linear", a[5]))
    kept, streamed = both(tmp_path, WIDE, [50, 40])
    settings: EvaluateParams = load_params(REPOSITORY / "params.yaml").evaluate
    settings = settings.model_copy(update={"probe_points": 60, "leak_points": 60, "style_points": 60, "batch_size": 20})
    oracle = artifact_of(kept)
    found = [
        flat(measure_model(artifact_of(kept), split, np.arange(30), kept, oracle, settings, "cpu"))
        for split in (kept, streamed)
    ]
    assert found[0] == found[1]
    assert "reconstruction_mse_r_from_9" in found[0]
