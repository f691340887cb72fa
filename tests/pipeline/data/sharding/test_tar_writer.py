"""Packing one tar: webdataset's bytes, places where reading finds the samples, one sample held at a time."""

from __future__ import annotations

import hashlib
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ie_model.spec import DataSpec
from pipeline.data.example import ArrayExamples, Examples, Values
from pipeline.data.sharding.tar_target import TarFolder
from pipeline.data.sharding.tar_writer import Packed, Packing, Tar, pack_tar
from pipeline.data.shards.index import index_tar
from pipeline.data.shards.sample_codec import Encoding, encode_example
from pipeline.data.shards.tar_reader import iter_shard
from pipeline.data.sources import Example
from pipeline.errors import DataError
from tests.helpers.made import SPEC, Made, made
from tests.helpers.waiting import silent


def packed(folder: Path, examples: Examples, *, encoding: Encoding = "npy", spec: DataSpec = SPEC) -> Packed:
    packing = Packing(TarFolder(folder, folder), spec, encoding, {"train": examples})
    return pack_tar(packing, Tar("train-000000", "train", np.arange(len(examples))), silent)


# A first example imports readers, which takes long on a machine with other work.
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    keys=st.lists(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}", fullmatch=True), unique_by=str.lower, max_size=8),
    side=st.integers(1, 40),
    encoding=st.sampled_from(["npy", "png"]),
    data=st.data(),
)
def test_a_tar_is_webdatasets_byte_for_byte_and_every_sample_lies_where_reading_finds_it(
    tmp_path: Path, keys: list[str], side: int, encoding: Encoding, data: st.DataObject
) -> None:
    keys = keys or ["k"]
    values = np.random.default_rng(side).integers(0, 256, (len(keys), 3, side, side), dtype=np.uint8)
    y = np.array([data.draw(st.integers(-1, 1)) for _ in keys])
    spec = SPEC.model_copy(update={"shape": (3, side, side)})
    result = packed(tmp_path, ArrayExamples(keys, y, values), encoding=encoding, spec=spec)
    with (tmp_path / "theirs.tar").open("wb") as file:
        writer = webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="")
        for key, x, c in zip(keys, values, y.tolist(), strict=True):
            writer.write(encode_example(Example(key, x, c if c >= 0 else None), encoding))
        writer.close()
    path = tmp_path / "train-000000.tar"
    assert path.read_bytes() == (tmp_path / "theirs.tar").read_bytes()
    assert (result.bytes, result.sha256) == (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
    table = index_tar(path, encoding)
    assert result.keys == table["key"].to_pylist()
    for name in ("y", "offset", "size", "crc32"):
        assert getattr(result, name).tolist() == table[name].to_pylist()


def test_skipped_examples_are_counted_by_reason_and_the_others_are_whole(tmp_path: Path) -> None:
    result = packed(tmp_path, made("train", 9, unreadable=(0, 4), misshapen=(8,)))
    assert result.skipped == {"cannot be read": 2, "not as the spec says": 1}
    assert result.messages == (
        "images.bin: train-0 is damaged",
        "images.bin: train-4 is damaged",
        "example 'train-8': uint8 of shape [1, 4, 4], expected uint8 of [1, 4, 5]",
    )
    read = list(iter_shard(tmp_path / "train-000000.tar", SPEC, "npy"))
    assert [(example.key, example.y) for example in read] == [(f"train-{i}", i % 2) for i in (1, 2, 3, 5, 6, 7)]
    assert index_tar(tmp_path / "train-000000.tar", "npy")["offset"].to_pylist() == result.offset.tolist()


def test_a_tar_without_a_sample_is_no_file(tmp_path: Path) -> None:
    assert packed(tmp_path, made("train", 2, unreadable=(0, 1))).keys == []
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_be_stored_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"key 'a\.b'"):
        packed(tmp_path, Made(["a.b"], np.zeros(1, np.int64)))


@dataclass(frozen=True, eq=False)
class Large(Made):
    """Images of a quarter of a megabyte."""

    def read(self, i: int) -> Values:
        return np.full((1, 512, 512), i, dtype=np.uint8)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"shape": (1, 512, 512)})
    peaks = []
    for num in (10, 100):
        examples = Large([f"k{i}" for i in range(num)], np.zeros(num, np.int64))
        tracemalloc.start()
        packed(tmp_path, examples, spec=spec)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A list of what was written would add 23 MB.
    assert peaks[1] - peaks[0] < 200_000
