"""The index of a split: mapped, not copied; whatever is not of the manifest's shards is named."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import ROW
from pipeline.data.shards.manifest import File, Manifest
from pipeline.errors import DataError
from pipeline.utils.files import sha256_file
from tests.helpers.small import written

SIZES = [3, 1, 7]


def with_index(folder: Path, manifest: Manifest, rows: np.ndarray[Any, Any]) -> ShardedDataset:
    """A data set whose manifest has these rows as the index of train."""
    train = manifest.splits["train"]
    path = folder / train.index.path
    np.save(path, rows, allow_pickle=False)
    index = File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
    splits = {"train": train.model_copy(update={"index": index})}
    return ShardedDataset(folder, manifest.model_copy(update={"splits": splits}))


def test_an_index_sent_to_another_process_is_mapped_there_and_not_sent(tmp_path: Path) -> None:
    index = ShardedDataset(tmp_path, written(tmp_path, SIZES)).index("train")
    assert isinstance(index.rows, np.memmap)
    assert len(list(index.keys)) == 11
    sent = pickle.dumps(index)
    assert b"k0010" not in sent
    assert pickle.loads(sent).rows.tolist() == index.rows.tolist()


def test_a_position_is_found_in_its_shard_and_named_without_the_keys_of_others(tmp_path: Path) -> None:
    index = ShardedDataset(tmp_path, written(tmp_path, SIZES)).index("train")
    assert index.shard_of(np.arange(11)).tolist() == [0] * 3 + [1] + [2] * 7
    assert [index.key(i) for i in (0, 3, 10)] == ["k0000", "k0003", "k0010"]
    assert "keys" not in index.__dict__


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.astype(ROW.newbyteorder(">")),
        lambda rows: rows[["offset", "size", "crc32", "y"]].copy(),
        lambda rows: rows[:-1],
        lambda rows: np.zeros((11, 2), dtype=ROW),
    ],
    ids=["other byte order", "other version", "a row fewer", "other shape"],
)
def test_an_index_of_another_form_is_named(tmp_path: Path, change: Any) -> None:
    manifest = written(tmp_path, SIZES)
    dataset = with_index(tmp_path, manifest, change(np.load(tmp_path / "index-train.npy")))
    with pytest.raises(DataError, match=r"index-train\.npy.*dvc repro --force shard"):
        dataset.index("train")


@pytest.mark.parametrize("name", ["index-train.npy", "keys-train.parquet"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_damaged_file_of_the_index_is_named(tmp_path: Path, name: str, damage: str) -> None:
    dataset = ShardedDataset(tmp_path, written(tmp_path, SIZES))
    path = tmp_path / name
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DataError, match=name):
        load_split(dataset, "train")


@pytest.mark.parametrize("y", [3, -2])
def test_a_label_beyond_the_classes_is_named(tmp_path: Path, y: int) -> None:
    manifest = written(tmp_path, SIZES)
    rows = np.load(tmp_path / "index-train.npy")
    rows["y"][4] = y
    index = with_index(tmp_path, manifest, rows).index("train")
    with pytest.raises(DataError, match=rf"index-train\.npy: class {y} in row 4; allowed: -1 to 2"):
        index.classes(np.array([0, 4]))


def test_tars_that_disagree_with_the_index_are_named(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    first, second, *others = manifest.splits["train"].shards
    swapped = (first.model_copy(update={"path": second.path}), second.model_copy(update={"path": first.path}), *others)
    splits = {"train": manifest.splits["train"].model_copy(update={"shards": swapped})}
    with pytest.raises(DataError, match=r"train-00000[01]\.tar, key k000"):
        load_split(ShardedDataset(tmp_path, manifest.model_copy(update={"splits": splits})), "train")


def test_an_index_is_compared_with_the_manifest_once_for_all_readers_of_a_data_set(tmp_path: Path) -> None:
    dataset = ShardedDataset(tmp_path, written(tmp_path, SIZES))
    assert dataset.index("train") is dataset.index("train")
