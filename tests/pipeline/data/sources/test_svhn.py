"""SVHN's .mat files: what they hold, unpacked once and never copied; and files that are no such thing."""

from __future__ import annotations

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from pipeline.data.sources import Examples
from pipeline.data.sources.svhn import SVHN, SVHN_EXTRA, read_mat
from pipeline.errors import DataError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (32, 32, 3, 12), np.uint8)
DIGITS = np.array([[1], [10], [9], [2], [3], [4], [5], [6], [7], [8], [10], [1]], np.uint8)


def write(path: Path, images: Any = IMAGES, digits: Any = DIGITS, compressed: bool = True, **more: Any) -> Path:
    savemat(path, {"X": images, "y": digits, **more}, appendmat=False, do_compression=compressed)
    return path


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "svhn"
    folder.mkdir()
    write(folder / "train_32x32.mat")
    write(folder / "test_32x32.mat", IMAGES[..., :5], DIGITS[:5])
    write(folder / "extra_32x32.mat", IMAGES[..., ::-1], DIGITS[::-1])
    return folder


@pytest.mark.parametrize("compressed", [True, False])
def test_images_and_digits_come_out_as_they_went_in_and_10_is_0(tmp_path: Path, compressed: bool) -> None:
    images, digits = read_mat(write(tmp_path / "a.mat", compressed=compressed))
    np.testing.assert_array_equal(images, IMAGES)
    assert digits.tolist() == [1, 0, 9, 2, 3, 4, 5, 6, 7, 8, 0, 1]


def test_digits_may_be_of_any_kind_of_number(tmp_path: Path) -> None:
    assert read_mat(write(tmp_path / "a.mat", digits=DIGITS.astype(float)))[1].tolist()[:3] == [1, 0, 9]


def test_examples_are_colour_images_with_keys_by_file(raw: Path) -> None:
    train, test = SVHN.examples(raw, "train"), SVHN.examples(raw, "test")
    assert (len(train), len(test)) == (12, 5)
    assert list(test.keys) == [f"test-{i:06d}" for i in range(5)]
    assert test.y.tolist() == [1, 0, 9, 2, 3]
    for i in range(12):
        np.testing.assert_array_equal(train.read(i), IMAGES[..., i].transpose(2, 0, 1))
    spec = SVHN.spec(raw)
    assert (spec.shape, spec.likelihood, spec.num_classes) == ((3, 32, 32), "discretized_logistic", 10)


def test_svhn_extra_has_the_third_file_as_training_examples_besides(raw: Path) -> None:
    train = SVHN_EXTRA.examples(raw, "train")
    assert list(train.keys[11:13]) == ["train-000011", "extra-000000"]
    np.testing.assert_array_equal(train.read(12), IMAGES[..., 11].transpose(2, 0, 1))
    assert len(SVHN_EXTRA.examples(raw, "test")) == 5
    assert SVHN_EXTRA.num_train == 604_388


def read_in_another_process(examples: Examples) -> int:
    return int(examples.read(3).sum())


def test_other_processes_map_one_file_that_goes_with_the_examples(raw: Path) -> None:
    train = SVHN.examples(raw, "train")
    train.read(0)
    assert len(pickle.dumps(train)) < 2000, "no image travels"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_in_another_process, [train] * 4) == [int(IMAGES[..., 3].sum())] * 4
    scratch = [path.name for path in raw.parent.iterdir() if path != raw]
    assert len(scratch) == 1 and scratch[0].startswith(".svhn.") and scratch[0].endswith(".part")
    del train
    assert [path.name for path in raw.parent.iterdir()] == ["svhn"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"images": IMAGES[..., 0]}, r"a\.mat: expected X of \[32, 32, 3, N\] and y of \[N, 1\]"),
        ({"images": IMAGES.transpose(3, 0, 1, 2)}, r"expected X of \[32, 32, 3, N\]"),
        ({"digits": DIGITS[:5]}, r"expected X of .* and y of \[N, 1\]; found"),
        ({"images": IMAGES.astype(float)}, r"X is of float64 and y of uint8"),
        ({"digits": DIGITS - 1}, r"y of image 0 is 0, expected 1 to 10"),
        ({"digits": DIGITS + 0.5}, r"y of image 0 is 1\.5, expected 1 to 10"),
        ({"digits": np.array([["a"]] * 12, dtype=object)}, r"y of object|expected X"),
    ],
)
def test_a_mat_file_of_something_else_is_named(tmp_path: Path, made: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_mat(write(tmp_path / "a.mat", **made))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"no mat file" * 30, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(500)]
)
def test_what_is_no_mat_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.mat: (not a \.mat file that can be read|expected X)"):
        read_mat(tmp_path / "a.mat")
    with pytest.raises(DataError, match=r"raw file is missing: .*absent\.mat; run `ie fetch`"):
        read_mat(tmp_path / "absent.mat")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), compressed=st.booleans())
def test_a_mat_file_cut_anywhere_is_a_data_error(tmp_path: Path, at: float, compressed: bool) -> None:
    path = write(tmp_path / "cut.mat", compressed=compressed)
    data = path.read_bytes()
    path.write_bytes(data[: int(at * (len(data) - 30))])
    with pytest.raises(DataError, match=r"cut\.mat"):
        read_mat(path)


def test_a_damaged_file_leaves_no_scratch_file(raw: Path) -> None:
    (raw / "extra_32x32.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match="extra_32x32"):
        SVHN_EXTRA.examples(raw, "train")
    assert [path.name for path in raw.parent.iterdir()] == ["svhn"]


def test_the_files_are_those_that_were_published() -> None:
    assert {file.name: file.size for file in SVHN_EXTRA.files} == {
        "train_32x32.mat": 182_040_794,
        "test_32x32.mat": 64_275_384,
        "extra_32x32.mat": 1_329_278_602,
    }
    assert SVHN.files == SVHN_EXTRA.files[:2]
