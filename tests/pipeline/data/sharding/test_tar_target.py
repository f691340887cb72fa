"""Tars straight into an object store: the bytes of a folder's, the manifest last, nothing done twice or overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import moto.s3.models
import numpy as np
import pytest

import pipeline.storage.object_store
from ie_model.spec import Preprocessing
from pipeline.data.example import Examples, Values
from pipeline.data.loading.in_memory import load_split
from pipeline.data.sharding.write import Content, Layout, pack
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import MANIFEST, Manifest
from pipeline.errors import DataError, ResourceError
from pipeline.storage.object_store import Bucket
from pipeline.utils.arrays import IntArray
from tests.helpers.made import SPEC, made
from tests.helpers.s3 import BUCKET, Door, client, keys
from tests.helpers.waiting import silent

LAYOUT = Layout(encoding="npy", num_shards=4, num_val=8, split_seed=0)
URL = f"s3://{BUCKET}/runs"


@dataclass(frozen=True, eq=False)
class Stopped(Examples):
    """Examples of which one can be read no more, as Ctrl-C does it."""

    keys: Sequence[str]
    y: IntArray
    at: int

    def read(self, i: int) -> Values:
        if i == self.at:
            raise KeyboardInterrupt
        return np.full((1, 4, 5), i % 251, dtype=np.uint8)


def packed(out: Path, store: Bucket | None = None, train: Examples | None = None) -> Manifest:
    content = Content("made", {}, SPEC, Preprocessing(), {"train": train or made("train", 60), "test": made("test", 9)})
    return pack(content, LAYOUT, out, silent, writers=1, store=store)


def tars_put(door: Door) -> list[str]:
    names = [line.split()[1].partition("?")[0] for line in door.requests if line.startswith("PUT")]
    return [name.rpartition("/")[2] for name in names if name.endswith(".tar")]


def test_tars_in_a_store_are_those_of_a_folder_and_the_manifest_comes_last(tmp_path: Path, door: Door) -> None:
    here = packed(tmp_path / "here")
    there = packed(tmp_path / "there", Bucket(URL))
    assert there.splits == here.splits and there.location.startswith(f"{URL}/shards/made/")
    assert sorted(path.suffix for path in (tmp_path / "there").iterdir()) == [".json", *[".npy"] * 3, *[".parquet"] * 3]
    puts = [line.split()[1] for line in door.requests if line.startswith("PUT") and ".check" not in line]
    assert puts[-1].endswith(f"/{MANIFEST}") and sum(MANIFEST in put for put in puts) == 1
    first, second = (load_split(ShardedDataset.open(tmp_path / name), "train") for name in ("here", "there"))
    assert list(first.keys) == list(second.keys) and (first.x == second.x).all()


def test_tars_that_an_interrupted_run_has_put_are_not_made_again(tmp_path: Path, door: Door) -> None:
    whole = packed(tmp_path / "whole")
    plain = made("train", 60)
    with pytest.raises(KeyboardInterrupt):
        packed(tmp_path / "out", Bucket(URL), Stopped(plain.keys, plain.y, 59))
    finished = tars_put(door)
    assert 0 < len(finished) < 6 and not any(key.endswith(MANIFEST) for key in keys(door))
    assert not (tmp_path / "out").exists()
    # One of them is another by now: it is made again as well.
    key = next(key for key in keys(door) if key.endswith(finished[0]))
    body = client(door).get_object(Bucket=BUCKET, Key=key)["Body"].read()
    client(door).put_object(Bucket=BUCKET, Key=key, Body=bytes(len(body)))
    door.requests.clear()
    assert packed(tmp_path / "out", Bucket(URL)).splits == whole.splits
    names = {shard.path for split in whole.splits.values() for shard in split.shards}
    assert sorted(tars_put(door)) == sorted((names - set(finished)) | {finished[0]})


def test_tars_that_are_complete_in_the_store_are_found_and_compared_with_their_manifest(
    tmp_path: Path, door: Door
) -> None:
    manifest = packed(tmp_path / "one", Bucket(URL))
    door.requests.clear()
    assert packed(tmp_path / "two", Bucket(URL)) == manifest
    assert tars_put(door) == []
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()
    }
    key = next(key for key in keys(door) if key.endswith("val-000000.tar"))
    client(door).put_object(Bucket=BUCKET, Key=key, Body=b"cut")
    before = keys(door)
    with pytest.raises(DataError, match=r"val-000000.tar: 3 bytes, \d+ by the manifest there; remove s3://"):
        packed(tmp_path / "three", Bucket(URL))
    client(door).delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(DataError, match=r"val-000000.tar: is missing, \d+ by the manifest there"):
        packed(tmp_path / "three", Bucket(URL))
    assert keys(door) == [name for name in before if name != key] and not (tmp_path / "three").exists()


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
def test_stores_that_deny_a_right_end_the_run_before_a_tar(tmp_path: Path, door: Door, method: str) -> None:
    door.denied = (method,)
    with pytest.raises(ResourceError, match="the store denies access"):
        packed(tmp_path / "out", Bucket(URL))
    assert not any(key.endswith(".tar") for key in keys(door)) and not (tmp_path / "out").exists()


def test_large_tars_go_up_in_parts_and_one_that_is_not_finished_leaves_none(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.storage.object_store, "_PART", 4096)
    monkeypatch.setattr(moto.s3.models, "S3_UPLOAD_PART_MIN_SIZE", 1)
    assert packed(tmp_path / "there", Bucket(URL)).splits == packed(tmp_path / "here").splits
    assert any("partNumber=2" in line for line in door.requests)
    with pytest.raises(RuntimeError), Bucket(URL).writing("half.tar") as file:
        file.write(bytes(5000))
        raise RuntimeError
    assert not any(key.endswith("half.tar") for key in keys(door))
    assert "Uploads" not in client(door).list_multipart_uploads(Bucket=BUCKET)
