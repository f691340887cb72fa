"""Shards: what is written is read back, the same input gives the same bytes, and damage is named, never passed over."""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ie_model.spec import DataSpec
from pipeline.config.params import Params, parse_params
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, read_manifest, write_shard
from pipeline.data.shards.sample_codec import Encoding, encode_example
from pipeline.data.shards.tar_reader import iter_shard
from pipeline.data.sources import Example
from pipeline.errors import DataError, ResourceError
from pipeline.stages.fetch import fetch
from pipeline.stages.shard import shard
from tests.helpers.disks import mounted
from tests.helpers.project import shipped_params
from tests.helpers.sealed import edit_sealed
from tests.helpers.waiting import silent

ROOT = Path(__file__).parents[4]
SPEC = DataSpec(kind="image", shape=(1, 4, 5), dtype="uint8", classes=("a", "b", "c"), likelihood="bernoulli")


def digits_params(**data: Any) -> Params:
    raw = shipped_params()
    raw["data"] |= {"source": "digits", "num_shards": 4, "val_size": 200, "encoding": "png", "split_seed": 0, **data}
    raw["labels"]["count"] = "all"
    raw["sweep"]["label_counts"] = ["all"]
    return parse_params(raw)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    fetch(digits_params(), folder, silent)
    shard(digits_params(), folder, silent)
    return folder


@pytest.fixture
def shards(project: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(project / "data" / "shards" / "digits", tmp_path / "shards"))


def read_all(folder: Path, split: str) -> list[Example]:
    manifest = read_manifest(folder)
    shards = next(value for name, value in manifest.splits.items() if name == split).shards
    return [e for s in shards for e in iter_shard(folder / s.path, manifest.spec, manifest.encoding)]


def tar_of(path: Path, *members: tuple[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/hostname"
            tar.addfile(info, io.BytesIO(data))
    return path


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "png")
    return buffer.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


GOOD = png(np.zeros((4, 5), np.uint8))


def test_two_runs_write_the_same_bytes(project: Path, tmp_path: Path) -> None:
    fetch(digits_params(), tmp_path, silent)
    out = shard(digits_params(), tmp_path, silent)
    assert contents(out) == contents(project / "data" / "shards" / "digits")


def test_png_and_npy_shards_hold_the_same_examples(project: Path, tmp_path: Path) -> None:
    fetch(digits_params(), tmp_path, silent)
    out = shard(digits_params(encoding="npy"), tmp_path, silent)
    for split in ("train", "val", "test"):
        pairs = zip(read_all(out, split), read_all(project / "data" / "shards" / "digits", split), strict=True)
        assert all(a.key == b.key and a.y == b.y and np.array_equal(a.x, b.x) for a, b in pairs)


def test_splits_are_disjoint_complete_and_described_by_the_manifest(project: Path) -> None:
    folder = project / "data" / "shards" / "digits"
    manifest = read_manifest(folder)
    keys: list[str] = []
    for name, split in manifest.splits.items():
        examples = read_all(folder, name)
        keys += [example.key for example in examples]
        counts = Counter(manifest.spec.classes[example.y] for example in examples if example.y is not None)
        assert counts == split.class_counts
        sizes = [s.samples for s in split.shards]
        assert sum(sizes) == len(examples) == split.samples
        assert max(sizes) - min(sizes) <= 1
    assert len(set(keys)) == len(keys) == 1797
    assert manifest.splits["val"].samples == 200
    ShardedDataset(folder, manifest).verify()


def test_every_train_shard_mixes_the_classes(project: Path) -> None:
    folder = project / "data" / "shards" / "digits"
    manifest = read_manifest(folder)
    for described in manifest.splits["train"].shards:
        first = list(iter_shard(folder / described.path, manifest.spec, manifest.encoding))[:100]
        assert len({example.y for example in first}) == 10


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.data(),
    encoding=st.sampled_from(["png", "npy"]),
    channels=st.sampled_from([1, 3]),
    y=st.none() | st.integers(0, 2),
)
def test_any_image_is_read_back_with_and_without_a_label(
    tmp_path: Path, data: st.DataObject, encoding: Encoding, channels: int, y: int | None
) -> None:
    spec = SPEC.model_copy(update={"shape": (channels, 4, 5)})
    values = data.draw(st.binary(min_size=spec.num_values, max_size=spec.num_values))
    x = np.frombuffer(values, np.uint8).reshape(spec.shape)
    described = write_shard(tmp_path / "one.tar", [encode_example(Example("key-1", x, y), encoding)])
    (example,) = iter_shard(tmp_path / "one.tar", spec, encoding)
    assert (example.key, example.y, described.samples) == ("key-1", y, 1)
    assert np.array_equal(example.x, x)


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "../a", "__meta__", "-a", "ключ", "k" * 81])
def test_keys_that_would_not_come_back_are_refused(key: str) -> None:
    with pytest.raises(DataError, match="key"):
        encode_example(Example(key, np.zeros((1, 4, 5), np.uint8), 0), "png")


BAD_MEMBERS: dict[str, tuple[tuple[tuple[str, bytes], ...], str]] = {
    "no image": ((("k.cls", b"1"),), r"key k: no member \.png"),
    "undecodable": ((("k.png", b"not a picture"),), "key k: .png cannot be decoded"),
    "cut image": ((("k.png", GOOD[:45]),), "key k: .png cannot be decoded"),
    "wrong size": ((("k.png", png(np.zeros((5, 4), np.uint8))),), "key k: L picture of 5x4"),
    "wrong channels": ((("k.png", png(np.zeros((4, 5, 3), np.uint8))),), "key k: RGB picture"),
    "class beyond": ((("k.png", GOOD), ("k.cls", b"3")), "key k: class '3'"),
    "class not a number": ((("k.png", GOOD), ("k.cls", b"-1")), "key k: class '-1'"),
    "class endless": ((("k.png", GOOD), ("k.cls", b"1" * 5000)), "key k: class"),
    "pickle": ((("k.png", GOOD), ("k.pyd", b"x")), r"key k: unexpected member \.pyd"),
    "pickle by name": ((("k.png", GOOD), ("k.pickle", b"x")), r"key k: unexpected member \.pickle"),
    "twice": ((("k.png", GOOD), ("k.png", GOOD)), "'k.png' occurs twice"),
    "twice in another case": ((("k.png", GOOD), ("k.PNG", GOOD)), "duplicate file name"),
    "webdataset's own field": ((("k.png", GOOD), ("k.__bad__", b"x")), "'k.__bad__' is not"),
    "cut chunk": ((("k.png", GOOD[:-12] + png_chunk(b"iCCP", b"x\0") + GOOD[-12:]),), "key k: .png cannot be decoded"),
    "no field": ((("k", GOOD),), "'k' is not"),
    "hidden": ((("__k__.png", GOOD),), "is not <key>"),
    "absolute": ((("/etc/k.png", GOOD),), "points outside"),
    "parent": ((("../k.png", GOOD),), "points outside"),
}


@pytest.mark.parametrize(("members", "message"), BAD_MEMBERS.values(), ids=BAD_MEMBERS.keys())
def test_a_bad_member_is_a_data_error_that_names_shard_and_key(
    members: tuple[tuple[str, bytes], ...], message: str, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "bad-shard.tar", *members)
    with pytest.raises(DataError, match=message) as caught:
        list(iter_shard(path, SPEC, "png"))
    assert "bad-shard.tar" in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_shard_are_refused(kind: bytes, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "links.tar", ("k.png", b""), kind=kind)
    with pytest.raises(DataError, match="not a plain file"):
        list(iter_shard(path, SPEC, "png"))


@pytest.mark.parametrize("size", ["99999999999999", "-5"])
def test_a_size_that_the_shard_does_not_hold_is_refused_before_it_is_reserved(size: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "sizes.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("k.png")
        info.size, info.pax_headers = len(GOOD), {"size": size}
        tar.addfile(info, io.BytesIO(GOOD))
    with pytest.raises(DataError, match=r"sizes\.tar"):
        list(iter_shard(tmp_path / "sizes.tar", SPEC, "png"))


def test_a_sparse_member_that_is_damaged_is_a_data_error(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "sparse.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("k.png")
        info.size, info.pax_headers = len(GOOD), {"GNU.sparse.map": "a,b"}
        tar.addfile(info, io.BytesIO(GOOD))
    with pytest.raises(DataError, match=r"sparse\.tar"):
        list(iter_shard(tmp_path / "sparse.tar", SPEC, "png"))


def npy(shape: tuple[int, ...], values: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return buffer.getvalue() + values


def npy_of(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(20)


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy((1 << 45,), b""),
        npy((1, 4, 5), b"short"),
        npy((5, 4), bytes(20)),
        pickled(),
        b"PK\x03\x04zip",
        b"",
        npy_of("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 5), "),
        npy_of("{1: 2, 'descr': '|u1'}"),
        npy_of("-" * 5000 + "1"),
    ],
    ids=[
        "states a huge size",
        "too short",
        "another shape",
        "pickle",
        "zip",
        "empty",
        "header without an end",
        "header of other keys",
        "header too deep",
    ],
)
def test_a_bad_array_is_a_data_error_that_names_shard_and_key(data: bytes, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "arrays.tar", ("k.npy", data))
    with pytest.raises(DataError, match=r"arrays\.tar, key k"):
        list(iter_shard(path, SPEC, "npy"))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_shard_cut_or_changed_anywhere_is_never_read_short_without_a_word(
    tmp_path: Path, data: st.DataObject
) -> None:
    samples = [encode_example(Example(f"k{i}", np.full((1, 4, 5), i, np.uint8), i % 3), "npy") for i in range(4)]
    path = tmp_path / "small.tar"
    write_shard(path, samples)
    whole = path.read_bytes()
    used = 4 * (512 + 512) * 2
    if data.draw(st.booleans(), "cut"):
        path.write_bytes(whole[: data.draw(st.integers(0, used + 1023))])
    else:
        changed = bytearray(whole)
        changed[data.draw(st.integers(0, used - 1))] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(bytes(changed))
        # A change inside an image's values is for verify_shards to find; here nothing may be lost.
    message, examples = "", []
    try:
        examples = list(iter_shard(path, SPEC, "npy"))
    except DataError as error:
        message = str(error)
    assert "small.tar" in message or len(examples) == 4


def test_verify_names_a_missing_a_truncated_and_a_damaged_shard(shards: Path) -> None:
    manifest = read_manifest(shards)
    path = shards / "train-000002.tar"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(DataError, match=r"train-000002\.tar: damaged, .*SHA-256.*dvc repro --force shard"):
        ShardedDataset(shards, manifest).verify()
    path.write_bytes(whole[:1000])
    with pytest.raises(DataError, match=rf"train-000002\.tar: truncated, 1000 of {len(whole)} bytes"):
        ShardedDataset(shards, manifest).verify()
    path.unlink()
    with pytest.raises(DataError, match=r"missing: .*train-000002\.tar"):
        ShardedDataset(shards, manifest).verify()
    with pytest.raises(DataError, match=r"missing: .*train-000002\.tar"):
        list(iter_shard(path, manifest.spec, manifest.encoding))
    ShardedDataset(shards, manifest).verify(("val", "test"))


def changed_manifest(folder: Path, *where: str, value: Any) -> Path:
    def change(inner: Any) -> None:
        for part in where[:-1]:
            inner = inner[int(part) if isinstance(inner, list) else part]
        inner[where[-1]] = value

    edit_sealed(folder / "manifest.json", change)
    return folder


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("format",), 1, "format 1"),
        (("encoding",), "jpg", "encoding"),
        (("surprise",), 1, "surprise"),
        (("splits", "train", "shards", "0", "path"), "../elsewhere.tar", "path"),
        (("splits", "train", "shards", "0", "path"), "/etc/passwd", "path"),
        (("splits", "train", "samples"), 5, "split train has 5"),
        (("splits", "val", "class_counts"), {}, "classes of split val"),
    ],
)
def test_a_manifest_that_does_not_fit_is_a_data_error(
    shards: Path, where: tuple[str, ...], value: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(changed_manifest(shards, *where, value=value))


def test_counts_are_read_in_the_order_of_the_classes_whatever_their_alphabet(shards: Path) -> None:
    before = read_manifest(shards)
    backwards = before.spec.classes[::-1]
    after = read_manifest(changed_manifest(shards, "spec", "classes", value=list(backwards)))
    for name, split in after.splits.items():
        assert tuple(split.class_counts) == backwards
        assert split.class_counts == before.splits[name].class_counts


def test_a_manifest_without_one_of_the_splits_is_a_data_error(shards: Path) -> None:
    edit_sealed(shards / "manifest.json", lambda raw: raw["splits"].pop("val"))
    with pytest.raises(DataError, match="val"):
        read_manifest(shards)


def test_a_missing_or_unreadable_manifest_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        read_manifest(tmp_path)
    for text in ("{", "[]", "null", '"text"'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="damaged"):
            read_manifest(tmp_path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_survives_json(project: Path, data: st.DataObject) -> None:
    manifest = read_manifest(project / "data" / "shards" / "digits")
    manifest = manifest.model_copy(update={"split_seed": data.draw(st.integers(0, 2**60))})
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_shard_refuses_raw_files_that_are_not_what_fetch_checked(tmp_path: Path, damage: str) -> None:
    raw = fetch(digits_params(), tmp_path, silent)
    path = raw / "digits-labels.npy"
    if damage == "changed":
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    else:
        path.unlink()
    with pytest.raises(DataError, match=r"digits-labels\.npy"):
        shard(digits_params(), tmp_path, silent)
    assert not (tmp_path / "data" / "shards" / "digits").exists()


def test_what_an_interrupted_run_left_is_cleaned_up_and_old_shards_are_replaced_as_a_whole(tmp_path: Path) -> None:
    fetch(digits_params(), tmp_path, silent)
    home = tmp_path / "data" / "shards"
    (home / ".digits.abc.part").mkdir(parents=True)
    (home / ".digits.abc.part" / "train-000000.tar").write_bytes(b"half")
    shard(digits_params(num_shards=6), tmp_path, silent)
    out = shard(digits_params(num_shards=3), tmp_path, silent)
    assert [path.name for path in home.iterdir()] == ["digits"]
    assert len(list(out.glob("train-*.tar"))) == 3


def test_a_failure_leaves_the_old_shards_and_nothing_half_written(tmp_path: Path) -> None:
    raw = fetch(digits_params(), tmp_path, silent)
    before = contents(shard(digits_params(), tmp_path, silent))
    (raw / "digits-images.npy").unlink()
    with pytest.raises(DataError):
        shard(digits_params(), tmp_path, silent)
    assert [path.name for path in (tmp_path / "data" / "shards").iterdir()] == ["digits"]
    assert contents(tmp_path / "data" / "shards" / "digits") == before


def test_a_file_where_a_folder_is_needed_is_a_resource_error(tmp_path: Path) -> None:
    fetch(digits_params(), tmp_path, silent)
    # A link to below a regular file: no one can write there, root neither.
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "data" / "shards").symlink_to(tmp_path / "file" / "below")
    with pytest.raises(ResourceError):
        shard(digits_params(), tmp_path, silent)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["raw", "shards"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=400k") as folder:
        yield folder


def test_a_full_disk_is_a_resource_error_and_leaves_no_half_shards(small_disk: Path, project: Path) -> None:
    shutil.copytree(project / "data" / "raw", small_disk / "data" / "raw")
    with pytest.raises(ResourceError, match="no space left"):
        shard(digits_params(), small_disk, silent)
    assert list((small_disk / "data" / "shards").iterdir()) == []
