"""Tars as others write them: class by class, pictures before labels, names of any kind; what is lost is counted."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from pipeline.data.loading.in_memory import load_split
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.shard_store import open_store
from pipeline.data.loading.stream import ShardStream
from pipeline.data.sharding.external_tar_list import list_tars
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, read_manifest
from pipeline.data.shards.reading import ONCE
from pipeline.errors import DataError
from pipeline.stages.fetch import fetch
from pipeline.stages.shard import shard
from tests.helpers.own import own_params
from tests.helpers.s3 import s3, upload
from tests.pipeline.data.sharding.test_external_tars import picture, tar

Members = list[tuple[str, bytes]]


def labelled(ids: range, label: int | None = None, end: str = "png") -> Members:
    """A picture and a label for each number, by its parity where no label is given; none is like another."""
    found: Members = []
    for i in ids:
        found += [(f"{i:04d}.{end}", picture(i % 250)), (f"{i:04d}.cls", b"%d" % (i % 2 if label is None else label))]
    return found


def apart(ids: range) -> Members:
    """All pictures, then all labels."""
    members = labelled(ids)
    return members[::2] + members[1::2]


def sharded(
    folder: Path | str, project: Path, faults: Literal["fatal", "skip"] = "fatal", num_classes: int = 0
) -> tuple[Manifest, list[str]]:
    """Fetch, then shard; the manifest and the lines of the log."""
    params = own_params("tars", Path("."), channels=3, num_classes=num_classes)
    data = params.data.model_copy(update={"faults": faults, "folder": str(folder)})
    params = params.model_copy(update={"data": data})
    lines: list[str] = []
    fetch(params, project, lines.append)
    return read_manifest(shard(params, project, lines.append)), lines


def counts(manifest: Manifest) -> dict[str, dict[str, int]]:
    return {name: split.class_counts for name, split in manifest.splits.items()}


def test_tars_written_class_by_class_are_split_by_sample_and_read_back(tmp_path: Path) -> None:
    for i in range(10):
        tar(tmp_path / "tars" / f"part-{i:03d}.tar", *labelled(range(20 * i, 20 * i + 20), i // 2))
    manifest, lines = sharded(tmp_path / "tars", tmp_path)
    assert counts(manifest) == {
        "train": dict.fromkeys("01234", 32), "val": dict.fromkeys("01234", 4), "test": dict.fromkeys("01234", 4)
    }  # fmt: skip
    assert any("10 % of each class's samples are set aside" in line for line in lines)
    out = tmp_path / "data" / "shards" / "tars"
    seen: set[str] = set()
    for name in ("train", "val", "test"):
        split = load_split(ShardedDataset(out, manifest), name)
        keys = list(split.keys)
        assert [int(key) % 250 for key in keys] == split.x[:, 0, 4, 4].tolist()
        assert [int(key) // 40 for key in keys] == split.y.tolist()
        assert not seen & set(keys)
        seen |= set(keys)
    assert len(seen) == 200
    plan = LanePlan([shard.samples for shard in manifest.splits["train"].shards], 16, 2, 0)
    whole = load_split(ShardedDataset(out, manifest), "train")
    with ShardStream(ShardedDataset(out, manifest), "train", plan, 0, 1, 0, ONCE) as stream:
        batches = list(itertools.islice(stream, 10))
    assert sorted(np.concatenate([batch.positions for batch in batches]).tolist()) == list(range(160))
    assert all(batch.x.equal(whole.x[batch.positions]) for batch in batches)


def test_one_tar_is_enough(tmp_path: Path) -> None:
    tar(tmp_path / "tars" / "all.tar", *labelled(range(40)), *labelled(range(50, 60))[::2])
    manifest, _ = sharded(tmp_path / "tars", tmp_path)
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 42, "val": 4, "test": 4}
    assert (ShardedDataset(tmp_path / "data" / "shards" / "tars", manifest).index("test").y >= 0).all()


def test_members_that_stand_apart_are_joined_with_a_line(tmp_path: Path) -> None:
    tar(tmp_path / "tars" / "train-0.tar", *labelled(range(20)))
    tar(tmp_path / "tars" / "train-1.tar", *apart(range(20, 60)))
    for i, name in enumerate(("val", "test")):
        tar(tmp_path / "tars" / f"{name}.tar", *labelled(range(100 + 20 * i, 120 + 20 * i)))
    manifest, lines = sharded(tmp_path / "tars", tmp_path)
    assert counts(manifest)["train"] == {"0": 30, "1": 30} and manifest.skipped == {}
    assert [line for line in lines if "40 samples have members that do not stand side by side" in line]
    split = load_split(ShardedDataset(tmp_path / "data" / "shards" / "tars", manifest), "train")
    assert split.x[:, 0, 4, 4].tolist() == [int(key) for key in split.keys]


def test_labels_corrected_in_tars_of_equal_size_change_what_fetch_writes_and_shard_refuses_the_old_list(
    tmp_path: Path,
) -> None:
    for i, name in enumerate(("train", "val", "test")):
        tar(tmp_path / "tars" / f"{name}.tar", *labelled(range(20 * i, 20 * i + 20)))
    sharded(tmp_path / "tars", tmp_path)
    listing = tmp_path / "data" / "raw" / "tars" / "files.json"
    before = listing.read_text()
    fixed = labelled(range(20))
    fixed[1::2] = [(name, b"%d" % (1 - int(data))) for name, data in fixed[1::2]]
    tar(tmp_path / "tars" / "train.tar", *fixed)
    params = own_params("tars", tmp_path / "tars", channels=3)
    with pytest.raises(DataError, match=r"train\.tar: changed since fetch.* run `ie fetch` again"):
        shard(params, tmp_path, lambda line: None)
    fetch(params, tmp_path, lambda line: None)
    assert listing.read_text() != before
    assert json.loads(before)["bytes"] == json.loads(listing.read_text())["bytes"]


def test_content_of_equal_size_in_an_object_store_changes_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    with s3(monkeypatch) as door:
        for label in (0, 1):
            tar(tmp_path / "tars" / "train.tar", *labelled(range(4), label))
            list_tars(upload(door, tmp_path / "tars", "p"), tmp_path, lambda line: None)
            found.append(json.loads((tmp_path / "files.json").read_text()))
    assert found[0]["bytes"] == found[1]["bytes"] and found[0]["version"] != found[1]["version"]


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"caption": "a", "url": "x"}, r"no label in any of 20 samples of train, .*\.json are: caption, url"),
        ({"label": "cat"}, r"label of \.json is 'cat', not a whole number.*; 20 of 20 examples .*too few"),
        ({"label": "1"}, None),
    ],
)  # fmt: skip
def test_metadata_without_a_label_is_told_from_labels_that_are_no_number(
    meta: dict[str, str], message: str | None, tmp_path: Path
) -> None:
    members: Members = []
    for i in range(20):
        own = meta | ({"label": str(i % 2)} if meta.get("label") == "1" else {})
        members += [(f"{i}.jpg", picture(i, "jpeg")), (f"{i}.json", json.dumps(own).encode()), (f"{i}.txt", b"")]
    tar(tmp_path / "tars" / "00000.tar", *members)
    if message is None:
        manifest, lines = sharded(tmp_path / "tars", tmp_path)
        assert counts(manifest)["train"] == {"0": 8, "1": 8}
        assert any("members that are no picture and no label: 20 .txt" in line for line in lines)
        return
    with pytest.raises(DataError, match=message):
        sharded(tmp_path / "tars", tmp_path)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("img.001.png", picture(1)), ("img.001.cls", b"1")], r"'img\.001\.png' has one before its suffix; write '-'"),
        ([("k.cls", b"1")], r"key 'k': no picture .* has this name; there is k\.cls"),
        ([("k.png", b""), ("k.cls", b"1")], r"key 'k': \.png: empty, 0 bytes"),
        ([("k.png", picture(1)), ("k.json", b" " * (2 << 20))], r"key 'k': \.json of 2,097,152 bytes, no label"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_as_it_is_and_with_how_many_it_concerns(
    members: Members, message: str, tmp_path: Path
) -> None:
    tar(tmp_path / "tars" / "train.tar", *labelled(range(20)), *members)
    with pytest.raises(DataError, match=message) as caught:
        sharded(tmp_path / "tars", tmp_path)
    assert "1 of 21 examples of train have faults" in str(caught.value)


def test_members_without_a_suffix_are_counted_and_a_tar_of_nothing_else_says_so(tmp_path: Path) -> None:
    tar(tmp_path / "tars" / "a.tar", *labelled(range(20)), ("README", b""), ("x.seg.png", b""), ("0001.seg.png", b""))
    tar(tmp_path / "tars" / "b.tar", *((f"{i:04d}", picture(i)) for i in range(5)))
    with pytest.raises(DataError, match=r"b\.tar: holds no sample .*, but 5 without a suffix"):
        sharded(tmp_path / "tars", tmp_path)
    (tmp_path / "tars" / "b.tar").unlink()
    _, lines = sharded(tmp_path / "tars", tmp_path, "skip")
    assert any("1 .seg.png, 1 without a suffix" in line for line in lines)


def test_a_fault_says_how_many_of_each_class_skipping_would_cost_and_skip_refuses_too_few(tmp_path: Path) -> None:
    broken = [(name, b"x" if name.endswith("png") else data) for name, data in labelled(range(100, 119), 1)]
    tar(tmp_path / "tars" / "train.tar", *labelled(range(20), 0), *labelled(range(30, 31), 1), *broken)
    with pytest.raises(DataError, match=r"19 of 40 examples of train have faults \(class 1: 19 of 20\)"):
        sharded(tmp_path / "tars", tmp_path)
    with pytest.raises(DataError, match=r"class 1 has 1 samples in train's tars.*\(class 1: 19 of 20\)"):
        sharded(tmp_path / "tars", tmp_path, "skip")


def test_a_label_of_test_that_train_lacks_is_a_fault_of_it(tmp_path: Path) -> None:
    for name in ("train", "val"):
        tar(tmp_path / "tars" / f"{name}.tar", *labelled(range(20)))
    tar(tmp_path / "tars" / "test.tar", *labelled(range(20)), *labelled(range(30, 31), 7))
    with pytest.raises(DataError, match=r"test\.tar, key '0030': class 7; allowed: 0 to 1"):
        sharded(tmp_path / "tars", tmp_path)
    manifest, _ = sharded(tmp_path / "tars", tmp_path, "skip")
    assert manifest.splits["test"].samples == 20


@pytest.mark.parametrize(
    "name", ["a b.tar", "a (1).tar", "größe.tar", "-dash.tar", "日本/x y.TAR", "[a]&'.tar", "~a.tar"]
)
def test_tars_of_any_name_are_indexed_and_read(name: str, tmp_path: Path) -> None:
    tar(tmp_path / "tars" / name, *labelled(range(20)))
    manifest, _ = sharded(tmp_path / "tars", tmp_path)
    assert manifest.splits["train"].shards[0].path == name
    assert len(load_split(ShardedDataset(tmp_path / "data" / "shards" / "tars", manifest), "train")) == 16


@pytest.mark.parametrize(
    ("name", "message"),
    [("a\\b.tar", r"name .* cannot be used"), ("a\nb.tar", r"name .* cannot be used"), ("\udcff.tar", r"not UTF-8")],
)
def test_a_name_that_no_manifest_can_hold_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    tar(tmp_path / "tars" / name, *labelled(range(4)))
    with pytest.raises(DataError, match=message) as caught:
        sharded(tmp_path / "tars", tmp_path)
    str(caught.value).encode()


def test_other_files_are_counted_links_to_tars_followed_and_packed_ones_named(tmp_path: Path) -> None:
    whole = tar(tmp_path / "elsewhere" / "a.tar", *labelled(range(20)))
    folder = tmp_path / "tars"
    folder.mkdir()
    (folder / "b.tar.gz").write_bytes(gzip.compress(whole.read_bytes()))
    with pytest.raises(DataError, match=r"no \.tar in .*there are: 1 \.gz; unpack"):
        sharded(folder, tmp_path)
    (folder / "packed.tar").write_bytes(gzip.compress(whole.read_bytes()))
    with pytest.raises(DataError, match=r"packed\.tar: not a tar .*; it is packed with gzip"):
        sharded(folder, tmp_path)
    (folder / "packed.tar").unlink()
    (folder / "a.tar").symlink_to(whole)
    (folder / ".hidden.tar").write_bytes(b"")
    _, lines = sharded(folder, tmp_path)
    assert "passed over: 1 .gz, 1 hidden" in lines[0]


def test_pipes_loops_and_tars_of_nothing_are_named_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "tars"
    path = tar(folder / "a.tar", *labelled(range(20)))
    os.truncate(path, 4 << 40)
    with pytest.raises(DataError, match=r"a\.tar: 4,398,046,511,104 bytes, of which .* are stored"):
        sharded(folder, tmp_path)
    path.write_bytes(b"")
    os.truncate(path, 4 << 40)
    with pytest.raises(DataError, match=r"a\.tar: not a tar"):
        sharded(folder, tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=r"a\.tar: neither a file nor a folder"):
        sharded(folder, tmp_path)
    path.unlink()
    path.symlink_to("a.tar")
    with pytest.raises(DataError, match=r"a\.tar: a link that leads to itself"):
        sharded(folder, tmp_path)


def test_the_same_seed_sets_the_same_samples_aside(tmp_path: Path) -> None:
    tar(tmp_path / "tars" / "a.tar", *labelled(range(40)))
    out = tmp_path / "data" / "shards" / "tars"
    keys = [list(ShardedDataset(out, sharded(tmp_path / "tars", tmp_path)[0]).index("test").keys) for _ in range(2)]
    assert keys[0] == keys[1] and len(np.unique(keys[0])) == 4


def test_what_helps_with_a_tar_that_is_gone_is_not_to_write_shards_again(tmp_path: Path) -> None:
    path = tar(tmp_path / "tars" / "a.tar", *labelled(range(20)))
    manifest, _ = sharded(tmp_path / "tars", tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"a\.tar: .*truncated.*restore these tars, or run `ie fetch` and `ie shard`"):
        open_store(ShardedDataset(tmp_path, manifest), ()).read(manifest.splits["train"].shards[0], 1000, 2000)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar; restore these tars"):
        open_store(ShardedDataset(tmp_path, manifest), ()).size("a.tar")
