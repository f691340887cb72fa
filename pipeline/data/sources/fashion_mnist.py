"""Fashion-MNIST (Zalando): 70,000 pictures of clothes, shoes and bags, 28x28 grey values, 10 classes."""

from __future__ import annotations

from pipeline.data.sources.base import RawFile
from pipeline.data.sources.idx_format import IdxImages

# Zalando's own bucket (its website endpoint, the published address, has no https), and Keras's copy.
_MIRRORS = (
    "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)
_PACKAGE = "dataset-fashion-mnist:usr/share/datasets/fashion-mnist/"


def _file(name: str, sha256: str, size: int) -> RawFile:
    mirrors = tuple(f"{mirror}{name}.gz" for mirror in _MIRRORS)
    return RawFile(name, sha256, size, {"https": mirrors, "deb": (f"{_PACKAGE}{name}.gz",)})


FASHION_MNIST = IdxImages(
    name="fashion-mnist",
    classes=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    files=(
        _file(
            "train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888", 47_040_016
        ),
        _file("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9", 60_008),
        _file("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b", 7_840_016),
        _file("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34", 10_008),
    ),
)
