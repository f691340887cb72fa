"""scikit-learn's digits: 1,797 handwritten digits, 8x8 grey values, 10 classes. Small: for trials and tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec
from pipeline.data.example import ArrayExamples, Examples, RawSplit
from pipeline.data.sources.base import PlainSource, RawFile
from pipeline.errors import DataError

_NUM_TRAIN = 1_437


@dataclass(frozen=True)
class Digits(PlainSource):
    """See `pipeline.data.sources.base.Source`."""

    name: str = "digits"
    num_classes: int = 10
    num_train: int = _NUM_TRAIN
    files: tuple[RawFile, ...] = (
        RawFile("digits-images.npy", "16e0fa511054dddcfede4bdb9c4916dcd5a89b9ae401b18a5f6934a10c76a96b", 115_136),
        RawFile("digits-labels.npy", "03ec0343bca84958ae3df825f252a3680415fa07fccb1ed1125ed521c13169e5", 1_925),
    )

    @property
    def bundled(self) -> bool:
        return True

    def write_bundled(self, folder: Path) -> None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        # Stored as 0..16; spread over the range of a byte like any other image.
        scaled = (images.reshape(-1, 1, 8, 8) * 255 / 16).round().astype(np.uint8)
        np.save(folder / "digits-images.npy", scaled, allow_pickle=False)
        np.save(folder / "digits-labels.npy", labels.astype(np.uint8), allow_pickle=False)

    def spec(self, raw: Path) -> DataSpec:
        classes = tuple(str(digit) for digit in range(10))
        return DataSpec(kind="image", shape=(1, 8, 8), dtype="uint8", classes=classes, likelihood="bernoulli")

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        try:
            images = np.load(raw / "digits-images.npy", allow_pickle=False)
            labels = np.load(raw / "digits-labels.npy", allow_pickle=False)
        except FileNotFoundError as error:
            raise DataError(f"raw file is missing: {error.filename}; run `ie fetch`") from error
        except (ValueError, EOFError) as error:
            raise DataError(f"{raw}: digits' .npy files are damaged ({error}); run `ie fetch`") from error
        # The data set has no split of its own. The file's order goes by writer, so a fixed shuffle decides.
        order = np.random.default_rng(0).permutation(len(images))
        chosen = np.sort(order[:_NUM_TRAIN] if split == "train" else order[_NUM_TRAIN:])
        keys = [f"{split}-{i:06d}" for i in chosen]
        return ArrayExamples(keys, labels[chosen].astype(np.int64), images[chosen])


DIGITS = Digits()
