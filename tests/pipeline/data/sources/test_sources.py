"""What sources promise: shapes, keys, splits, and a DataError for a file that is not what its format says."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.data.sources import SOURCES
from pipeline.data.sources.digits import DIGITS
from pipeline.data.sources.fashion_mnist import FASHION_MNIST
from pipeline.data.sources.idx_format import IdxImages, read_idx
from pipeline.data.sources.mnist import MNIST
from pipeline.errors import DataError
from pipeline.utils.files import sha256_file


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    DIGITS.write_bundled(folder)
    return folder


def write_idx_test_files(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(labels))


@given(array=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6)))
def test_idx_files_are_read_back_as_they_were_written(
    array: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(idx_bytes(array))
    assert np.array_equal(read_idx(path, array.ndim), array)


@given(cut=st.integers(0, 4 + 12 + 2 * 3 * 4 - 1))
def test_an_idx_file_cut_anywhere_is_a_data_error_that_names_it(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("idx") / "cut-file"
    path.write_bytes(idx_bytes(np.zeros((2, 3, 4), np.uint8))[:cut])
    with pytest.raises(DataError, match="cut-file"):
        read_idx(path, 3)


def test_a_foreign_an_overlong_and_a_missing_idx_file_are_data_errors(tmp_path: Path) -> None:
    good = idx_bytes(np.zeros((2, 3), np.uint8))
    wrong_type = bytes((0, 0, 0x0D, 2)) + good[4:]
    for content in (b"<html>not found</html>" * 9, good + b"x", wrong_type):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(DataError, match="foreign"):
            read_idx(tmp_path / "foreign", 2)
    with pytest.raises(DataError, match="absent"):
        read_idx(tmp_path / "absent", 2)


def test_an_idx_header_that_states_a_huge_size_is_refused_without_reserving_it(tmp_path: Path) -> None:
    (tmp_path / "huge").write_bytes(bytes((0, 0, 8, 3)) + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1))
    with pytest.raises(DataError, match="huge"):
        read_idx(tmp_path / "huge", 3)


@pytest.mark.parametrize("source", [MNIST, FASHION_MNIST], ids=lambda source: source.name)
def test_idx_images_become_examples_with_stable_keys(source: IdxImages, tmp_path: Path) -> None:
    images = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    write_idx_test_files(tmp_path, images, np.array([7, 0, 9], np.uint8))
    examples = list(source.examples(tmp_path, "test"))
    assert [example.key for example in examples] == ["test-000000", "test-000001", "test-000002"]
    assert [example.y for example in examples] == [7, 0, 9]
    assert all(np.array_equal(example.x[0], image) for example, image in zip(examples, images, strict=True))
    assert examples[0].x.shape == source.spec(tmp_path).shape


def test_fashion_mnist_names_its_classes_as_published(tmp_path: Path) -> None:
    spec = FASHION_MNIST.spec(tmp_path)
    assert ", ".join(spec.classes) == (
        "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
    )
    assert spec.likelihood == "bernoulli"


def test_as_many_mnist_labels_as_images_are_demanded(tmp_path: Path) -> None:
    write_idx_test_files(tmp_path, np.zeros((3, 28, 28), np.uint8), np.zeros(2, np.uint8))
    with pytest.raises(DataError, match="3 images, but 2 labels"):
        list(MNIST.examples(tmp_path, "test"))


def test_digits_are_the_same_bytes_each_time_as_their_checksums_say(digits: Path) -> None:
    for file in DIGITS.files:
        assert (digits / file.name).stat().st_size == file.size
        assert sha256_file(digits / file.name) == file.sha256


def test_digits_splits_are_disjoint_complete_and_hold_every_class(digits: Path) -> None:
    train, test = (list(DIGITS.examples(digits, split)) for split in ("train", "test"))
    assert (len(train), len(test)) == (DIGITS.num_train, 360)
    indices = [example.key.split("-")[1] for example in train + test]
    assert len(set(indices)) == 1797
    assert {example.y for example in train} == {example.y for example in test} == set(range(10))
    assert max(int(example.x.max()) for example in train) == 255


def test_damaged_digits_files_are_data_errors_and_pickles_are_never_loaded(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        list(DIGITS.examples(tmp_path, "train"))
    (tmp_path / "digits-labels.npy").write_bytes((digits / "digits-labels.npy").read_bytes())
    (tmp_path / "digits-images.npy").write_bytes((digits / "digits-images.npy").read_bytes()[:5000])
    with pytest.raises(DataError):
        list(DIGITS.examples(tmp_path, "train"))
    np.save(tmp_path / "digits-images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError):
        list(DIGITS.examples(tmp_path, "train"))


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_a_source_knows_its_classes_and_files_before_any_file_is_there(name: str, tmp_path: Path) -> None:
    source = SOURCES[name]
    spec = source.spec(tmp_path)
    assert source.name == name
    assert spec.num_classes == source.num_classes
    for file in source.files:
        assert Path(file.name).name == file.name
        assert len(file.sha256) == 64
        assert file.size > 0
        assert all(url.startswith("https://") for url in file.places.get("https", ()))
        packages = [place.rpartition(":") for way in ("npm", "deb", "pypi") for place in file.places.get(way, ())]
        for package, _, member in packages:
            assert package and file.name in member and not member.startswith(("/", "."))
        assert all("==" in place for place in file.places.get("pypi", ()))
