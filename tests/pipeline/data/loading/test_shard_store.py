"""Bytes of shards from folders and from an S3 server over real sockets, its failures, and copies on disk."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
from pathlib import Path

import pytest

from pipeline.data.loading import shard_store
from pipeline.data.loading.shard_cache import ShardCache
from pipeline.data.loading.shard_store import Store, open_store
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest
from pipeline.data.shards.reading import ONCE, Reading
from pipeline.errors import DataError, ResourceError
from tests.helpers.s3 import Door, upload
from tests.helpers.small import written


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return written(tmp_path / "here", [3, 4, 5])


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_store, "_FIRST_WAIT_S", 0.01)


def settings(folder: Path, cache_mb: int = 0, retries: int = 2) -> Reading:
    return ONCE.model_copy(update={"cache": str(folder / "cache"), "cache_mb": cache_mb, "retries": retries})


def in_bucket(door: Door, tmp_path: Path, manifest: Manifest) -> ShardedDataset:
    location = upload(door, tmp_path / "here", "some/where")
    return ShardedDataset(tmp_path, manifest.model_copy(update={"location": location}))


@pytest.mark.parametrize("location", ["", "beside", "absolute"])
def test_ranges_come_from_beside_the_manifest_or_from_another_folder(
    location: str, tmp_path: Path, manifest: Manifest
) -> None:
    where = {"": "", "beside": "../here", "absolute": str(tmp_path / "here")}[location]
    store = open_store(ShardedDataset(tmp_path / "here", manifest.model_copy(update={"location": where})), ["train"])
    shard = manifest.splits["train"].shards[1]
    whole = (tmp_path / "here" / shard.path).read_bytes()
    assert store.read(shard, 5, 100) == whole[5:105]
    assert store.read(shard, 0, shard.bytes) == whole


def test_a_missing_and_a_truncated_shard_are_named(tmp_path: Path, manifest: Manifest) -> None:
    first, second, _ = manifest.splits["train"].shards
    (tmp_path / "here" / first.path).unlink()
    with (tmp_path / "here" / second.path).open("r+b") as file:
        file.truncate(600)
    store = open_store(ShardedDataset(tmp_path / "here", manifest), ["train"])
    with pytest.raises(DataError, match=r"shard is missing: .*train-000000\.tar; run"):
        store.read(first, 0, 10)
    with pytest.raises(DataError, match=r"train-000001\.tar: truncated, ends before byte 700 of"):
        store.read(second, 500, 200)


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_ranges_come_from_an_object_store_with_and_without_a_cache(
    cache_mb: int, door: Door, tmp_path: Path, manifest: Manifest
) -> None:
    store = open_store(in_bucket(door, tmp_path, manifest), ["train"], settings(tmp_path, cache_mb))
    for shard in manifest.splits["train"].shards:
        whole = (tmp_path / "here" / shard.path).read_bytes()
        assert store.read(shard, 5, 100) == whole[5:105]
        assert store.read(shard, shard.bytes - 7, 7) == whole[-7:]
    copies = sorted(path.name for path in (tmp_path / "cache").glob("*.tar"))
    assert copies == (sorted(f"{s.sha256}.tar" for s in manifest.splits["train"].shards) if cache_mb else [])


def test_without_a_cache_only_the_range_travels(door: Door, tmp_path: Path, manifest: Manifest) -> None:
    store = open_store(in_bucket(door, tmp_path, manifest), ["train"], settings(tmp_path))
    store.read(manifest.splits["train"].shards[0], 512, 100)
    assert door.requests == ["GET /shards/some/where/train-000000.tar bytes=512-611"]


@pytest.mark.parametrize("failure", ["503", "500", "502", "429", "reset"])
def test_a_failure_that_passes_is_tried_again(failure: str, door: Door, tmp_path: Path, manifest: Manifest) -> None:
    store = open_store(in_bucket(door, tmp_path, manifest), ["train"], settings(tmp_path, retries=2))
    door.failures = [failure] * 2
    shard = manifest.splits["train"].shards[0]
    assert store.read(shard, 0, 50) == (tmp_path / "here" / shard.path).read_bytes()[:50]
    assert len(door.requests) == 3


def test_a_failure_that_lasts_is_one_line_after_all_attempts_without_address_or_secret(
    door: Door, tmp_path: Path, manifest: Manifest
) -> None:
    store = open_store(in_bucket(door, tmp_path, manifest), ["train"], settings(tmp_path, retries=2))
    door.failures = ["503"] * 9
    with pytest.raises(ResourceError) as caught:
        store.read(manifest.splits["train"].shards[0], 0, 50)
    assert str(caught.value) == (
        "s3://shards/some/where/train-000000.tar: cannot be read from the store in 3 attempts (SlowDown); try again "
        "later, or raise reader.retries"
    )
    assert len(door.requests) == 3


def test_a_server_that_is_not_there_is_an_error_without_its_address(
    door: Door, tmp_path: Path, manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = in_bucket(door, tmp_path, manifest)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    store = open_store(described, ["train"], settings(tmp_path, retries=1))
    with pytest.raises(ResourceError, match=r"train-000000.tar: cannot be read .* in 2 attempts") as caught:
        store.read(manifest.splits["train"].shards[0], 0, 50)
    assert "127.0.0.1" not in str(caught.value)


def test_denied_and_missing_are_not_tried_again(door: Door, tmp_path: Path, manifest: Manifest) -> None:
    described = in_bucket(door, tmp_path, manifest)
    store = open_store(described, ["train"], settings(tmp_path))
    shard = manifest.splits["train"].shards[0]
    door.failures = ["403"]
    with pytest.raises(ResourceError, match="denies access; give credentials"):
        store.read(shard, 0, 50)
    with pytest.raises(DataError, match=r"shard is missing: s3://shards/some/where/other\.tar"):
        store.read(shard.model_copy(update={"path": "other.tar"}), 0, 50)
    assert len(door.requests) == 2


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_an_object_shorter_than_the_manifest_says_is_truncated(
    cache_mb: int, door: Door, tmp_path: Path, manifest: Manifest
) -> None:
    shard = manifest.splits["train"].shards[0]
    with (tmp_path / "here" / shard.path).open("r+b") as file:
        file.truncate(600)
    store = open_store(in_bucket(door, tmp_path, manifest), ["train"], settings(tmp_path, cache_mb))
    for offset in (500, 1000):
        with pytest.raises(DataError, match=r"train-000000\.tar: truncated"):
            store.read(shard, offset, 300)
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_a_copy_that_was_cut_short_or_forgotten_is_fetched_again(
    door: Door, tmp_path: Path, manifest: Manifest
) -> None:
    described, shard = in_bucket(door, tmp_path, manifest), manifest.splits["train"].shards[0]
    whole = (tmp_path / "here" / shard.path).read_bytes()
    copy = tmp_path / "cache" / f"{shard.sha256}.tar"
    open_store(described, ["train"], settings(tmp_path, 1)).read(shard, 0, 9)
    copy.write_bytes(whole[:50])
    store = open_store(described, ["train"], settings(tmp_path, 1))
    assert store.read(shard, 0, 99) == whole[:99]
    copy.write_bytes(bytes(len(whole)))
    assert store.forget(shard)
    assert store.read(shard, 0, 99) == whole[:99]
    assert copy.read_bytes() == whole


def test_shards_beyond_the_cache_are_read_by_ranges_and_push_nothing_out(
    door: Door, tmp_path: Path, manifest: Manifest
) -> None:
    big = [shard.model_copy(update={"bytes": 600_000}) for shard in manifest.splits["train"].shards]
    store = Store("s3://shards/x", settings(tmp_path, 1), big)
    assert store.cached == {big[0].sha256}


def copies(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.tar")}


def parts_of(data: bytes) -> list[bytes]:
    return [data[i : i + 7] for i in range(0, len(data), 7)]


def put(cache: ShardCache, data: bytes) -> str:
    name = hashlib.sha256(data).hexdigest()
    cache.get(name, len(data), lambda: parts_of(data))
    return name


def test_the_copies_read_longest_ago_make_room(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit=300)
    names = [put(cache, bytes([i]) * 100) for i in range(3)]
    for age, name in enumerate(names):
        os.utime(tmp_path / f"{name}.tar", (1000 + age, 1000 + age))
    put(cache, bytes([0]) * 100)  # read again
    new = put(cache, b"new" * 40)
    assert copies(tmp_path) == {names[0], new}


def test_a_copy_that_fits_nowhere_is_not_made(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, limit=50)
    assert cache.get("0" * 64, 51, lambda: [bytes(51)]) is None
    assert not copies(tmp_path)


def test_what_a_killed_writer_left_is_removed_when_room_is_made(tmp_path: Path) -> None:
    (tmp_path / f"{'a' * 64}.part").write_bytes(bytes(90))
    put(ShardCache(tmp_path, limit=100), bytes(80))
    assert not list(tmp_path.glob("*.part"))


def _fetch(folder: Path, log: Path) -> None:
    data = b"x" * 1000

    def parts() -> list[bytes]:
        with log.open("a") as file:
            file.write("fetched\n")
        return parts_of(data)

    path = ShardCache(folder, 2000).get(hashlib.sha256(data).hexdigest(), len(data), parts)
    assert path is not None and path.read_bytes() == data


def test_several_processes_at_once_fetch_a_shard_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_fetch, args=(tmp_path / "c", tmp_path / "log")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 2
    assert (tmp_path / "log").read_text() == "fetched\n"


def test_a_store_that_was_used_can_be_sent_to_another_process(tmp_path: Path, manifest: Manifest) -> None:
    store = open_store(ShardedDataset(tmp_path / "here", manifest), ["train"])
    shard = manifest.splits["train"].shards[0]
    assert pickle.loads(pickle.dumps(store)).read(shard, 0, 9) == store.read(shard, 0, 9)
