"""A streamed split is the split in memory, but for the order in which it is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ie_model import measures
from ie_model.artifact import Artifact
from ie_model.inference import representations
from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.evaluate import export
from pipeline.measure import flat
from pipeline.params import EvaluateParams, load_params
from pipeline.reader import SplitData
from pipeline.scoring import measure_model
from pipeline.shards import Manifest
from pipeline.sources import Example
from pipeline.splits import StreamedSplit, open_split
from pipeline.training_data import Reading
from tests.project import REPOSITORY
from tests.small import SPEC, pictures, written
from tests.tiny import tiny_model

SIZES = [11, 3, 20, 1, 9]
WIDE = SPEC.model_copy(update={"shape": (1, 12, 12)})


def reading(mode: str, faults: str = "fatal") -> Reading:
    settings: dict[str, Any] = {"memory_mb": 1, "loader_workers": 0, "slice_kb": 64, "cache": "", "cache_mb": 0}
    return Reading(mode=mode, faults=faults, retries=0, **settings)  # type: ignore[arg-type]


def shuffled(num: int, spec: DataSpec = SPEC) -> list[Example]:
    """Examples whose keys do not come in the order in which they are stored."""
    examples = pictures(num, spec)
    return [examples[i] for i in np.random.default_rng(1).permutation(num)]


def both(folder: Path, spec: DataSpec = SPEC, sizes: list[int] = SIZES) -> tuple[SplitData, StreamedSplit]:
    manifest = written(folder, sizes, spec=spec, made=shuffled(sum(sizes), spec))
    found = [open_split(folder, manifest, "train", reading(mode)) for mode in ("memory", "stream")]
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
    fatal = open_split(tmp_path, manifest, "train", reading("stream"))
    with pytest.raises(DataError, match=rf"train-000001\.tar, key {bad}: damaged"):
        list(fatal.batches(10))
    streamed = open_split(tmp_path, manifest, "train", reading("stream", "skip"))
    batches = list(streamed.batches(10))
    assert sorted(key for _, batch in batches for key in batch.keys) == [k for k in streamed.keys if k != bad]
    assert sum(len(rows) for rows, _ in batches) == 43
    assert streamed.skipped == 1
    assert bad not in streamed.take(np.arange(44)).keys
    assert open_split(tmp_path, manifest, "train", reading("memory", "skip")).skipped == 1


def _damage(folder: Path, manifest: Manifest, position: int) -> None:
    """Flips a byte of the values of a sample."""
    index = pq.read_table(folder / manifest.splits["train"].index.path)
    row = index.slice(position, 1).to_pylist()[0]
    path = folder / manifest.splits["train"].shards[row["shard"]].path
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] - 1] ^= 1
    path.write_bytes(data)


def artifact_of(split: SplitData) -> Artifact:
    model = tiny_model(split.spec)
    r, counts = representations(model, split.x[:30], torch.from_numpy(split.y[:30]), batch_size=30)
    return Artifact(model, r, counts, {"loss": "bound", "prune": 0.0})


def test_the_latents_of_a_stream_are_those_of_the_split_in_memory(tmp_path: Path) -> None:
    kept, streamed = both(tmp_path / "shards")
    params = load_params(REPOSITORY / "params.yaml")
    params = params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"batch_size": 10})})
    tables = []
    for name, split in (("kept", kept), ("streamed", streamed)):
        path = tmp_path / f"{name}.parquet"
        encoded, val_error = export(
            artifact_of(kept), {"train": split, "val": split, "test": kept}, np.array([3, 4, 30]), params, path, ""
        )
        assert len(encoded.y) == 44
        table = pq.read_table(path).sort_by([("split", "ascending"), ("key", "ascending")])
        mine = [row for row in table.to_pylist() if row["split"] == "val"]
        wrong = np.mean([row["prediction"] != row["label"] for row in mine])
        assert val_error == pytest.approx(100 * wrong)
        used = [row["key"] for row in table.to_pylist() if row["label_used"]]
        assert used == [kept.keys[i] for i in (3, 4, 30)]
        tables.append(table)
    for name in ("key", "split", "label", "label_used", "prediction"):
        assert tables[0][name].equals(tables[1][name])
    for name in ("probabilities", "r", "v_mean", "v_log_var"):
        a, b = (np.stack(table[name].to_pylist()) for table in tables)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    a, b = (table["squared_error"].to_numpy() for table in tables)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_measures_of_a_stream_are_those_of_the_split_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy: Callable[..., float] = measures.probe_accuracy
    # An MLP stands for itself by the linear probe, which is quick.
    monkeypatch.setattr(measures, "probe_accuracy", lambda *a: accuracy(*a[:4], "linear", a[5]))
    kept, streamed = both(tmp_path, WIDE, [50, 40])
    settings: EvaluateParams = load_params(REPOSITORY / "params.yaml").evaluate
    settings = settings.model_copy(update={"probe_points": 60, "style_points": 60, "batch_size": 20})
    oracle = artifact_of(kept)
    found = [
        flat(measure_model(artifact_of(kept), split, np.arange(30), kept, oracle, settings, "cpu"))
        for split in (kept, streamed)
    ]
    assert found[0] == found[1]
    assert "reconstruction_mse_r_from_9" in found[0]
