"""The user's own pictures: found, listed and checked; and what is wrong with a folder is one line that names it."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.data.shards.sample_codec import encode_example
from pipeline.data.sources import Example
from pipeline.data.sources.user_data import LISTING, Found, carve_test, key_of
from pipeline.errors import DataError, FaultError
from pipeline.stages.shard import shard
from pipeline.utils.files import sha256_file
from tests.helpers.own import Brought, picture, write_digits


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of each of two classes."""
    for name in ("cat", "dog"):
        for i in range(3):
            picture(tmp_path / "mine" / name / f"{i}.png", 10 * i)
    return tmp_path / "mine"


def test_digits_as_a_folder_of_pictures_become_shards_with_the_same_pixels(tmp_path: Path) -> None:
    brought = Brought("images", write_digits(tmp_path / "mine", 300), tmp_path)
    out = shard(brought.params, tmp_path, lambda line: None)
    manifest = read_manifest(out)
    ShardedDataset(out, manifest).verify()
    assert manifest.spec.classes == tuple("0123456789")
    assert manifest.spec.shape == (1, 8, 8) and manifest.spec.likelihood == "bernoulli"
    assert manifest.source_files == {LISTING: sha256_file(brought.raw / LISTING)}
    sizes = {name: split.samples for name, split in manifest.splits.items()}
    assert sum(sizes.values()) == 300
    assert 60 <= sizes["test"] <= 90 and 40 <= sizes["val"] <= 50
    images, labels = load_digits(return_X_y=True)
    split = load_split(ShardedDataset(out, manifest), "train")
    for key, x, y in zip(split.keys, split.x.numpy(), split.y.tolist(), strict=True):
        i = int(key.split("-")[1])
        assert y == labels[i]
        np.testing.assert_array_equal(x.reshape(-1), (images[i] * 255 / 16).round())


def test_own_images_are_one_line_in_the_log_and_fetch_copies_none(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / ".hidden.png").write_bytes(b"")
    (folder / "dog" / "notes.txt").write_text("")
    (folder / "README.md").write_text("")
    brought = Brought("images", folder, tmp_path)
    assert {path.name for path in brought.raw.iterdir()} == {LISTING, "passed_over.json"}
    (line,) = brought.lines
    assert "6 files, 2 classes" in line and "passed over: 1 .md, 1 .txt, 1 hidden" in line
    assert "3 have the same content as another" in line


def test_the_list_names_every_file_with_size_checksum_class_and_split(folder: Path, tmp_path: Path) -> None:
    picture(folder / "unlabelled" / "x.png")
    found = json.loads((Brought("images", folder, tmp_path).raw / LISTING).read_text())
    assert found["classes"] == ["cat", "dog"]
    assert len(found["files"]) == 7
    path, label, split, key, size, sha256 = found["files"][0]
    assert (path, label, split, key) == ("cat/0.png", "cat", None, key_of("cat/0.png"))
    assert (size, sha256) == ((folder / path).stat().st_size, sha256_file(folder / path))
    assert str(tmp_path) not in json.dumps(found), "the folder may move"


def test_a_split_of_the_folder_is_kept_and_unlabelled_examples_are_of_train(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "two").mkdir()
    folder.rename(tmp_path / "two" / "train")
    picture(tmp_path / "two" / "test" / "dog" / "a.png")
    picture(tmp_path / "two" / "unlabelled" / "b.png")
    picture(tmp_path / "two" / "train" / "unlabelled" / "deeper" / "c.jpg")
    brought = Brought("images", tmp_path / "two", tmp_path)
    assert brought.classes("test") == ["dog"]
    assert brought.classes("train") == ["cat"] * 3 + ["dog"] * 3 + [None] * 2


def test_without_a_test_folder_a_part_of_each_class_becomes_test(tmp_path: Path) -> None:
    write_digits(tmp_path / "mine" / "train", 200)
    brought = Brought("images", tmp_path / "mine", tmp_path, test_size=0.5)
    counts = [np.bincount(brought.examples(split).y, minlength=10) for split in ("train", "test")]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    keys = [set(brought.examples(split).keys) for split in ("train", "test")]
    assert not keys[0] & keys[1] and len(keys[0] | keys[1]) == 200


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 5),
)
def test_carving_leaves_two_of_a_class_in_train_and_does_not_depend_on_order(
    sizes: list[int], share: float, seed: int
) -> None:
    files = [Found(f"{c}/{i}", str(c), None, f"k{c}-{i}") for c, size in enumerate(sizes) for i in range(size)]
    files.append(Found("unlabelled/x", None, None, "x"))
    test = carve_test(files, share, seed)
    assert test == carve_test(reversed(files), share, seed)
    for c, size in enumerate(sizes):
        num = sum(key.startswith(f"k{c}-") for key in test)
        assert size - num >= min(2, size)
        assert (num >= 1) == (size >= 3)
    assert "x" not in test


@given(paths=st.lists(st.text(min_size=1, max_size=200), min_size=2, max_size=5, unique=True))
def test_keys_of_any_paths_can_be_written_and_differ(paths: list[str]) -> None:
    paths = [path.encode(errors="replace").decode() for path in paths]
    keys = {path: key_of(path) for path in paths}
    assert len(set(keys.values())) == len(keys)
    for key in keys.values():
        encode_example(Example(key, np.zeros((1, 2, 2), np.uint8), 0), "png")


def test_keys_are_readable_and_tell_apart_what_looks_alike() -> None:
    assert key_of("train/cat/img 1.png").startswith("cat-img-1-")
    alike = ["a/b-c.png", "a-b/c.png", "a/b c.png", "a/b-c.jpg", "A/b-c.png"]
    assert len({key_of(path) for path in alike}) == len(alike)


@pytest.mark.parametrize("name", ["Größe 1", "a?b|c*", "日本", "-x", "a.b", "train", "new\nline", "__"])
def test_a_class_may_have_any_name(folder: Path, tmp_path: Path, name: str) -> None:
    for i in range(3):
        picture(folder / name / f"{i}.png")
        for other in ("cat", "dog", name):
            picture(folder / other / f"more-{i}.jpg")
    brought = Brought("images", folder, tmp_path)
    out = shard(brought.params, tmp_path, lambda line: None)
    assert read_manifest(out).spec.classes == tuple(sorted(["cat", "dog", name]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: (f / "bird").mkdir(), r"mine/bird: no picture in it \(looked for \.png, "),
        (lambda f: picture(f / "bird" / "1.png"), r"mine: class 'bird' has 1 example\(s\) in train; at least 2"),
        (lambda f: picture(f / "1.png"), r"mine/1\.png: is in no class's folder"),
        (lambda f: picture(f / "train" / "cat" / "1.png"), r"mine/cat: stands beside train/"),
        (lambda f: picture(f / "test" / "cat" / "1.png"), r"mine/test: holds folders as a split does, but "),
        (lambda f: (f / "unlabelled").mkdir(), r"mine/unlabelled: no picture in it"),
        (lambda f: (f / "cat" / "out.png").symlink_to("/etc/hostname"), r"out\.png: a link that leaves data\.folder"),
        (lambda f: (f / "cat" / "gone.png").symlink_to("nowhere"), r"gone\.png: a link that leads nowhere"),
        (lambda f: (f / "cat" / "loop").symlink_to(f / "cat"), r"cat/loop: a link to a folder"),
        (lambda f: (f / "all").symlink_to("/etc"), r"mine/all: a link that leaves data\.folder"),
        (lambda f: os.mkfifo(f / "cat" / "pipe.png"), r"cat/pipe\.png: neither a file nor a folder"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder_is_one_line_that_names_it(
    folder: Path, tmp_path: Path, make: object, message: str
) -> None:
    assert callable(make)
    make(folder)
    with pytest.raises(DataError, match=message) as caught:
        Brought("images", folder, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "raw" / "images").exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: picture(f / "test" / "bird" / "1.png"), r"test/bird: train/ has no such class"),
        (lambda f: picture(f / "test" / "unlabelled" / "1.png"), r"test/unlabelled: examples without a label belong"),
        (lambda f: picture(f / "train" / "1.png"), r"train/1\.png: is in no class's folder"),
        (lambda f: picture(f / "1.png"), r"mine/1\.png: is in no class's folder"),
        (lambda f: picture(f / "fold1" / "cat" / "1.png"), r"mine/fold1: stands beside train/"),
        (lambda f: picture(f / "val" / "bird" / "1.png"), r"val/bird: train/ has no such class"),
        (lambda f: picture(f / "val" / "unlabeled" / "1.png"), r"val/unlabeled: examples without a label belong"),
        (lambda f: picture(f / "Train" / "0" / "1.png"), r"mine/Train and .*mine/train: both are train"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_split_folder_is_one_line_that_names_it(
    tmp_path: Path, make: object, message: str
) -> None:
    write_digits(tmp_path / "mine" / "train", 60)
    picture(tmp_path / "mine" / "test" / "0" / "1.png")
    assert callable(make)
    make(tmp_path / "mine")
    with pytest.raises(DataError, match=message):
        Brought("images", tmp_path / "mine", tmp_path)


def test_no_folder_no_classes_one_class_and_a_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.folder: no such folder: .*/absent"):
        Brought("images", tmp_path / "absent", tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("put them here")
    with pytest.raises(DataError, match=r"empty: no classes; at least two"):
        Brought("images", tmp_path / "empty", tmp_path)
    picture(tmp_path / "one" / "cat" / "1.png")
    with pytest.raises(DataError, match=r"one: one class, 'cat'; at least two"):
        Brought("images", tmp_path / "one", tmp_path)
    with pytest.raises(DataError, match=r"data\.folder is a file, .*1\.png; give the folder"):
        Brought("images", tmp_path / "one" / "cat" / "1.png", tmp_path)


def test_a_link_inside_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    (folder / "dog" / "3.png").symlink_to("../cat/0.png")
    brought = Brought("images", folder, tmp_path)
    assert len(brought.examples("train")) + len(brought.examples("test")) == 7


def test_fetch_never_writes_over_the_users_own_pictures(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    inside = folder.rename(tmp_path / "data" / "raw" / "images")
    for place in (inside, tmp_path, inside / "cat"):
        with pytest.raises(DataError, match="one must not contain the other"):
            Brought("images", place, tmp_path)
    assert len(list(inside.rglob("*.png"))) == 6


def test_a_file_that_changed_or_went_since_fetch_is_named(folder: Path, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for i in range(10, 15):  # enough for val
            (folder / name / f"{i}.png").write_bytes((folder / name / "0.png").read_bytes())
    brought = Brought("images", folder, tmp_path)
    train = brought.examples("train")
    (victim, other) = (folder / f"cat/{name.split('-')[1]}.png" for name in train.keys[:2])
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    other.unlink()
    with pytest.raises(DataError, match=rf"{victim}: changed since fetch; run `ie fetch` again"):
        train.read(0)
    with pytest.raises(DataError, match=rf"{other}: gone since fetch"):
        train.read(1)
    with pytest.raises(DataError, match="changed since fetch"):
        shard(brought.params, tmp_path, lambda line: None)


def test_examples_are_small_when_pickled_and_read_in_another_process_all_the_same(tmp_path: Path) -> None:
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (300, 300, 3), np.uint8)
        path = tmp_path / "mine" / str(i % 2) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    train = Brought("images", tmp_path / "mine", tmp_path, channels=3, height=200, width=200).examples("train")
    data = pickle.dumps(train)
    assert len(data) < 500 * len(train)
    np.testing.assert_array_equal(pickle.loads(data).read(1), train.read(1))


def test_a_damaged_picture_is_a_fault_with_file_and_key(folder: Path, tmp_path: Path) -> None:
    (folder / "cat" / "3.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:45])
    brought = Brought("images", folder, tmp_path, test_size=0.01)
    key = key_of("cat/3.png")
    found = brought.examples("train" if key in brought.examples("train").keys else "test")
    with pytest.raises(FaultError, match=rf"mine/cat/3\.png: key {key}: cannot be decoded as a picture"):
        found.read(list(found.keys).index(key))


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"format": 1, "source": "texts", "classes": [], "files": []}',
     '{"format": 1, "source": "images", "classes": ["a"], "files": [["../x", "a", null, "k", 1, "0"]]}',
     '{"format": 1, "source": "images", "classes": ["a"], "files": [["x"]]}'],
)  # fmt: skip
def test_a_damaged_list_is_a_data_error_that_names_it(folder: Path, tmp_path: Path, content: str) -> None:
    brought = Brought("images", folder, tmp_path)
    (brought.raw / LISTING).write_text(content)
    with pytest.raises(DataError, match=r"files\.json"):
        brought.examples("train")
    (brought.raw / LISTING).unlink()
    with pytest.raises(DataError, match=r"raw file is missing: .*files\.json; run `ie fetch`"):
        brought.examples("train")


def test_channels_auto_are_grey_where_no_picture_has_colour(folder: Path, tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 3)
    grey.convert("RGB").save(folder / "cat" / "rgb.png")
    grey.convert("RGB").save(folder / "dog" / "lossy.jpg", quality=30)
    brought = Brought("images", folder, tmp_path, channels="auto")
    spec = brought.source.spec(brought.raw)
    assert (spec.shape, spec.likelihood) == ((1, 8, 8), "bernoulli")
    assert brought.examples("train").read(0).shape == (1, 8, 8)


def test_channels_auto_are_colour_where_one_picture_has_some(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (200, 40, 40)).save(folder / "dog" / "red.png")
    brought = Brought("images", folder, tmp_path, channels="auto")
    spec = brought.source.spec(brought.raw)
    assert (spec.shape, spec.likelihood) == ((3, 8, 8), "discretized_logistic")
    assert brought.examples("train").read(0).shape == (3, 8, 8)
