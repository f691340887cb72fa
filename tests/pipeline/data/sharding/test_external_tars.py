"""Tars that others made: what is in them is found, and what is wrong with them is one line with tar and key."""

from __future__ import annotations

import io
import json
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.loading.in_memory import load_split
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.stream import ShardStream
from pipeline.data.sharding.external_tar_splits import set_aside, split_of
from pipeline.data.sharding.external_tars import write_foreign_manifest
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, read_manifest
from pipeline.data.shards.reading import ONCE
from pipeline.errors import DataError
from tests.helpers.s3 import Door, upload
from tests.helpers.small import SPEC

RGB = SPEC.model_copy(update={"shape": (3, 8, 8)})


def picture(shade: int, form: str = "png", size: tuple[int, int] = (12, 10), mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, (shade,) * len(mode) if len(mode) > 1 else shade).save(buffer, form)
    return buffer.getvalue()


def tar(path: Path, *members: tuple[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def samples(*keys: str, shade: int = 100) -> list[tuple[str, bytes]]:
    return [m for i, key in enumerate(keys) for m in ((f"{key}.png", picture(shade + i)), (f"{key}.cls", b"1"))]


def whole(folder: Path) -> Path:
    """Three sound tars, one for each split."""
    tar(folder / "train" / "000.tar", *samples("a/1", "a/2", "b.d/1"), ("c.jpg", picture(7, "jpeg")))
    tar(folder / "val-000.tar", *samples("1", "2"))
    tar(
        folder / "Test.tar",
        ("1.webp", picture(50, "webp")),
        ("1.json", b'{"label": 2, "z": null}'),
        ("2.jpeg", picture(200, "jpeg")),
        ("2.json", b'{"class": 0}'),
        ("2.txt", b"not looked into"),
    )
    return folder


def index(tars: Path | str, out: Path, faults: str = "fatal", lines: list[str] | None = None) -> Manifest:
    out.mkdir(exist_ok=True)
    log = (lines if lines is not None else []).append
    return write_foreign_manifest(out, str(tars), RGB, 0, faults, log)  # type: ignore[arg-type]


def test_tars_are_indexed_where_they_lie_and_read_back(tmp_path: Path) -> None:
    manifest = index(whole(tmp_path / "tars"), tmp_path / "out")
    assert read_manifest(tmp_path / "out") == manifest
    assert not list((tmp_path / "out").glob("*.tar"))
    train = ShardedDataset(tmp_path / "out", manifest).index("train")
    assert list(train.keys) == ["a/1", "a/2", "b.d/1", "c"]
    assert train.y.tolist() == [1, 1, 1, -1]
    assert manifest.splits["test"].class_counts == {"a": 1, "b": 0, "c": 1}
    split = load_split(ShardedDataset(tmp_path / "out", manifest), "train")
    assert split.x[:, 0, 4, 4].tolist() == [100, 101, 102, 7]
    assert split.x.shape == (4, 3, 8, 8)
    plan = LanePlan([4], 2, 2, 0)
    with ShardStream(ShardedDataset(tmp_path / "out", manifest), "train", plan, 0, 1, 0, ONCE) as stream:
        batch = next(iter(stream))
    assert batch.x.equal(split.x[batch.positions])


def test_tars_in_an_object_store_give_the_same_index(door: Door, tmp_path: Path) -> None:
    tars = whole(tmp_path / "tars")
    here, away = index(tars, tmp_path / "here"), index(upload(door, tars, "p"), tmp_path / "away")
    assert away == here.model_copy(update={"location": "s3://shards/p"})
    a, b = (load_split(ShardedDataset(tmp_path / where, m), "test").x for where, m in (("here", here), ("away", away)))
    assert a.equal(b)


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet-val-003.tar", "val"),
        ("Validation/003.tar", "val"),
        ("train/valid.tar", "val"),
        ("a/TEST_1.tar", "test"),
        ("trainer.tar", None),
        ("latest/000.tar", None),
        ("training0.tar", "train"),
    ],
)
def test_a_tar_belongs_to_the_split_that_its_name_or_folder_says(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_without_names_whole_tars_are_set_aside_where_each_has_every_class() -> None:
    paths = [f"part-{i:03d}.tar" for i in range(40)]
    shard, y = np.repeat(np.arange(40), 4), np.tile([0, 1], 80)
    keys = [str(i) for i in range(160)]
    splits, how = set_aside(paths, shard, keys, y, ["val", "test"], 0)
    assert "whole tars" in how
    tars = {name: set(shard[rows].tolist()) for name, rows in splits.items()}
    assert {name: len(members) for name, members in tars.items()} == {"train": 32, "val": 4, "test": 4}
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(160))
    other, _ = set_aside(paths, shard, keys, y, ["val", "test"], 1)
    assert {name: set(shard[rows].tolist()) for name, rows in other.items()} != tars


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=4), unlabelled=st.integers(0, 5), seed=st.integers(0, 3))
def test_samples_are_set_aside_by_class_so_that_two_stay_in_train(sizes: list[int], unlabelled: int, seed: int) -> None:
    y = np.repeat([*range(len(sizes)), -1], [*sizes, unlabelled]).astype(np.int64)
    keys = [str(i) for i in range(len(y))]
    splits, _ = set_aside(["a.tar"], np.zeros(len(y), np.int64), keys, y, ["val", "test"], seed)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(y)))
    for c, size in enumerate(sizes):
        counts = {name: int((y[rows] == c).sum()) for name, rows in splits.items()}
        assert counts["train"] >= min(2, size)
        assert counts["val"] >= (size >= 3) and counts["test"] >= (size >= 4)
    assert (y[splits["train"]] < 0).sum() == unlabelled


def bomb() -> bytes:
    data = bytearray(picture(0))
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


FAULTS = {
    "no picture": ([("k.cls", b"1")], r"val-000\.tar, key 'k': no picture"),
    "no label": ([("k.png", picture(1))], r"val-000\.tar, key 'k': no label, which a sample of val needs"),
    "class": ([("k.png", picture(1)), ("k.cls", b"3")], r"key 'k': class '3'; allowed: 0 to 2"),
    "json": ([("k.png", picture(1)), ("k.json", b"[")], r"key 'k': \.json cannot be parsed"),
    "bool": ([("k.png", picture(1)), ("k.json", b'{"label": true}')], r"label of \.json is 'True', not a whole number"),
    "two labels": ([*samples("k"), ("k.json", b'{"label": 0}')], r"key 'k': two labels, 1 and 0"),
    "two pictures": ([*samples("k"), ("k.jpg", picture(1, "jpeg"))], r"key 'k': more than one picture"),
    "twice": ([*samples("k", "l", "k")], r"key 'k': the key occurs twice"),
    "undecodable": ([("k.png", b"x" * 99), ("k.cls", b"1")], r"key 'k': .png: not a picture"),
    "bomb": ([("k.png", bomb()), ("k.cls", b"1")], r"key 'k': .png: cannot be decoded as a picture"),
    "gif": ([("k.png", picture(1, "gif")), ("k.cls", b"1")], r"key 'k': .png: not a picture"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_sample_is_one_line_or_left_out(name: str, tmp_path: Path) -> None:
    members, message = FAULTS[name]
    tars = whole(tmp_path / "tars")
    tar(tars / "val-000.tar", *samples("good"), *members)
    with pytest.raises(DataError, match=message) as caught:
        index(tars, tmp_path / "out")
    assert "\n" not in str(caught.value)
    lines: list[str] = []
    manifest = index(tars, tmp_path / "out", "skip", lines)
    assert "good" in ShardedDataset(tmp_path / "out", manifest).index("val").keys
    assert any(line.startswith("shard: val: 1 faults left out") for line in lines)
    load_split(ShardedDataset(tmp_path / "out", manifest), "val")


@pytest.mark.parametrize(
    ("member", "message"),
    [
        ("/etc/k.png", "points outside the tar"),
        ("a/../../k.png", "points outside the tar"),
        ("k.pyd", "is a pickle"),
        ("k.PKL", "is a pickle"),
        ("k.meta.pickle", "is a pickle"),
    ],
)
def test_names_that_lead_out_and_pickles_are_refused_even_where_faults_are_skipped(
    member: str, message: str, tmp_path: Path
) -> None:
    tars = whole(tmp_path / "tars")
    tar(tars / "val-000.tar", *samples("good"), (member, b"cos\nsystem\n"))
    with pytest.raises(DataError, match=message):
        index(tars, tmp_path / "out", "skip")


@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_tar_is_named_or_its_rest_left_out(how: str, tmp_path: Path) -> None:
    tars = whole(tmp_path / "tars")
    path = tar(tars / "val-000.tar", *samples("1", "2", "3"))
    data = bytearray(path.read_bytes())
    if how == "truncated":
        data = data[: 1024 * 4 + 600]
    else:
        data[1024 * 4 + 3] ^= 1  # the third sample's first header
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"val-000\.tar: (truncated|not a whole tar)"):
        index(tars, tmp_path / "out")
    manifest = index(tars, tmp_path / "out", "skip")
    assert set(ShardedDataset(tmp_path / "out", manifest).index("val").keys) <= {"1", "2"}
    assert len(load_split(ShardedDataset(tmp_path / "out", manifest), "val")) >= 1


@pytest.mark.parametrize(("mode", "form"), [("L", "png"), ("RGB", "jpeg"), ("RGBA", "png"), ("P", "png"), ("1", "png")])
@pytest.mark.parametrize("size", [(8, 8), (30, 9), (3, 70)])
def test_pictures_of_any_mode_and_size_come_out_in_the_shape_of_the_spec(
    mode: str, form: str, size: tuple[int, int], tmp_path: Path
) -> None:
    tars = whole(tmp_path / "tars")
    tar(tars / "train" / "000.tar", ("k.png", picture(0, form, size, mode)))
    manifest = index(tars, tmp_path / "out")
    assert load_split(ShardedDataset(tmp_path / "out", manifest), "train").x.shape == (1, 3, 8, 8)


def test_the_middle_of_a_picture_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 8:16] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    tars = whole(tmp_path / "tars")
    tar(tars / "train" / "000.tar", ("k.png", buffer.getvalue()))
    assert (load_split(ShardedDataset(tmp_path / "out", index(tars, tmp_path / "out")), "train").x == 255).all()


def test_a_folder_without_tars_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    with pytest.raises(DataError, match=r"no \.tar in"):
        index(tmp_path / "tars", tmp_path / "out")


def test_the_manifest_names_no_credentials(door: Door, tmp_path: Path) -> None:
    index(upload(door, whole(tmp_path / "tars"), "p"), tmp_path / "away")
    text = json.dumps([path.read_text() for path in (tmp_path / "away").glob("*.json")])
    assert "secret" not in text and "127.0.0.1" not in text
