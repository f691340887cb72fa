"""Series and counts from shards to the split in memory and to figures, and what is wrong with damaged ones."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.image import imread

from ie_model.spec import DataSpec
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_split
from pipeline.data.shards.manifest import Manifest, write_shard
from pipeline.data.shards.sample_codec import check_example, encode_example, padded
from pipeline.data.shards.tar_reader import iter_shard
from pipeline.data.sources import Example
from pipeline.errors import DataError
from pipeline.plots.series_and_words import curve_grid, word_lists

SERIES = DataSpec(kind="series", shape=(2, 5), dtype="float32", classes=("a", "b"), likelihood="gaussian")
COUNTS = DataSpec(kind="counts", shape=(6,), dtype="int32", classes=("a", "b"), likelihood="multinomial")
RISING = np.array([[0.0, 1, 2], [3, np.nan, 5]], dtype=np.float32)
WORDS = np.array([0, 2, 0, 0, 1, 0], dtype=np.int32)


def shard_of(folder: Path, spec: DataSpec, *examples: Example) -> Manifest:
    shard = write_shard(folder / "train-000000.tar", [encode_example(example, "npy") for example in examples])
    split = describe_split(folder, "train", [shard], spec, "npy")
    return Manifest.model_construct(
        format=4, source="s", source_files={}, spec=spec, encoding="npy", split_seed=0, splits={"train": split}
    )


def npy(array: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def read_one(folder: Path, spec: DataSpec, data: bytes) -> Example:
    path = folder / "s.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("k.npy")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return next(iter_shard(path, spec, "npy"))


def test_series_of_unequal_length_come_back_padded_with_nan_and_nothing_else(tmp_path: Path) -> None:
    long = np.arange(10, dtype=np.float32).reshape(2, 5)
    manifest = shard_of(tmp_path, SERIES, Example("k1", RISING, 0), Example("k2", long, 1))
    split = load_split(ShardedDataset(tmp_path, manifest), "train")
    assert split.x.dtype.is_floating_point
    assert split.x.shape == (2, 2, 5)
    np.testing.assert_array_equal(split.x[0, :, :3].numpy(), RISING)
    assert bool(split.x[0, :, 3:].isnan().all())
    np.testing.assert_array_equal(split.x[1].numpy(), long)


def test_a_stored_series_is_not_padded(tmp_path: Path) -> None:
    shard_of(tmp_path, SERIES, Example("k1", RISING, 0))
    (example,) = iter_shard(tmp_path / "train-000000.tar", SERIES, "npy")
    assert example.x.shape == (2, 3)
    np.testing.assert_array_equal(padded(example.x, SERIES)[:, :3], RISING)


@given(hnp.arrays(np.int32, 6, elements=st.integers(0, 9)))
@settings(max_examples=30, deadline=None)
def test_counts_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, x: npt.NDArray[np.int32]) -> None:
    folder = tmp_path_factory.mktemp("counts")
    manifest = shard_of(folder, COUNTS, Example("k1", x, 0))
    np.testing.assert_array_equal(load_split(ShardedDataset(folder, manifest), "train").x[0].numpy(), x)


def test_only_the_words_that_occur_are_stored() -> None:
    wide = np.zeros(100_000, dtype=np.int32)
    wide[[3, 99_999]] = 7
    assert len(encode_example(Example("k", wide, 0), "npy")["npy"]) < 300


@pytest.mark.parametrize(
    ("spec", "array", "message"),
    [
        (SERIES, np.zeros((2, 6), np.float32), r"float32 of shape \[2, 6\], .*\[2, 1 to 5\]"),
        (SERIES, np.zeros((3, 2), np.float32), r"float32 of shape \[3, 2\]"),
        (SERIES, np.zeros((2, 0), np.float32), r"shape \[2, 0\]"),
        (SERIES, np.zeros((2, 2), np.float64), r"float64 of shape"),
        (SERIES, np.full((2, 2), np.inf, np.float32), r"an infinite value"),
        (SERIES, np.full((2, 2), np.nan, np.float32), r"no value that is known"),
        (COUNTS, np.array([[0, 6], [1, 1]], np.int32), r"rising indices below 6"),
        (COUNTS, np.array([[-1], [1]], np.int32), r"rising indices below 6"),
        (COUNTS, np.array([[2, 2], [1, 1]], np.int32), r"rising indices"),
        (COUNTS, np.array([[2], [0]], np.int32), r"a word that does not occur"),
        (COUNTS, np.zeros(6, np.int32), r"int32 of shape \[6\], .*\[2, at most 6\]"),
        (COUNTS, np.zeros((2, 7), np.int32), r"\[2, 7\]"),
    ],
)
def test_a_stored_array_that_is_no_example_is_named_with_its_key(
    tmp_path: Path, spec: DataSpec, array: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(DataError, match=rf"s\.tar, key k: .*{message}"):
        read_one(tmp_path, spec, npy(array))


def test_a_truncated_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"key k: \.npy holds 20 of 24 bytes"):
        read_one(tmp_path, SERIES, npy(RISING)[:-4])


def test_a_header_that_claims_more_than_the_spec_allows_is_refused_before_any_memory_is_taken(tmp_path: Path) -> None:
    huge = npy(RISING).replace(b"(2, 3)", b"(2, 9)")
    with pytest.raises(DataError, match=r"shape \[2, 9\]"):
        read_one(tmp_path, SERIES, huge)


@pytest.mark.parametrize("x", [np.array([0, -1, 0, 0, 0, 0], np.int32), np.zeros(5, np.int32)])
def test_counts_that_are_none_are_refused_on_the_way_in(x: npt.NDArray[np.int32]) -> None:
    with pytest.raises(ValueError, match="negative count|expected int32"):
        check_example(x, COUNTS)


def test_curves_are_drawn_and_a_wrong_array_is_named(tmp_path: Path) -> None:
    series = np.random.default_rng(0).normal(size=(3, 4, 6, 9))
    series[..., 7:] = np.nan
    np.savez(tmp_path / "a.npz", swap=series, flat=np.zeros((3, 4)), infinite=np.full((1, 1, 1, 2), np.inf))
    curve_grid(tmp_path / "a.npz", "swap", tmp_path / "a.png", "Swap", ["a", "b", "c"], list("wxyz"))
    first = (tmp_path / "a.png").read_bytes()
    curve_grid(tmp_path / "a.npz", "swap", tmp_path / "a.png", "Swap", ["a", "b", "c"], list("wxyz"))
    assert len(first) > 5000
    assert (tmp_path / "a.png").read_bytes() == first
    many = np.zeros((30, 31, 1, 9))  # a plot for each took half an hour
    np.savez(tmp_path / "many.npz", swap=many)
    curve_grid(tmp_path / "many.npz", "swap", tmp_path / "many.png", "Swap", [f"{i}" for i in range(30)])
    assert imread(tmp_path / "many.png").shape[:2] > (30 * 80, 31 * 100)
    for key, message in (("flat", "4 axes"), ("infinite", "infinite"), ("none", "lack none")):
        with pytest.raises(DataError, match=message):
            curve_grid(tmp_path / "a.npz", key, tmp_path / "b.png", "t")
    with pytest.raises(DataError, match="3 rows but 2 row labels"):
        curve_grid(tmp_path / "a.npz", "swap", tmp_path / "b.png", "t", ["a", "b"])


def test_word_lists_name_words_of_their_own_class(tmp_path: Path) -> None:
    samples = np.full((2, 3, 4), 0.05)
    samples[0, :, 1] = samples[1, :, 2] = 0.85
    np.savez(tmp_path / "a.npz", samples=samples)
    word_lists(tmp_path / "a.npz", ("one", "two", "three", "four"), tmp_path / "w.png", ["a", "b"])
    assert len((tmp_path / "w.png").read_bytes()) > 3000
    with pytest.raises(DataError, match="not of 2 classes of 3 words"):
        word_lists(tmp_path / "a.npz", ("one", "two", "three"), tmp_path / "w.png", ["a", "b"])
