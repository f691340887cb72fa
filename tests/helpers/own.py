"""Data as a user would bring it: scikit-learn's digits as picture files, and sources that read a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config.params import Params, parse_params
from pipeline.data.example import RawSplit
from pipeline.data.sources import Examples, OwnSource, Source, make_source
from pipeline.stages.fetch import fetch
from tests.helpers.project import shipped_params

OPTIONS: dict[str, Any] = {
    "height": 8,
    "width": 8,
    "channels": 1,
    "likelihood": "auto",
    "num_classes": 0,
    "num_words": 50,
    "test_size": 0.25,
}


def own_params(source: str, folder: Path | str, **own: Any) -> Params:
    """The shipped params, with a source of the user's own data."""
    raw = shipped_params()
    raw["data"] |= {"source": source, "folder": str(folder), "own": OPTIONS | own, "num_shards": 3, "val_size": 0.2}
    raw["labels"]["count"] = "all"
    raw["sweep"]["label_counts"] = ["all"]
    return parse_params(raw)


class Brought:
    """Own data after fetch."""

    def __init__(self, source: str, folder: Path | str, project: Path, **own: Any) -> None:
        self.params = own_params(source, folder, **own)
        self.project = project
        self.lines: list[str] = []
        self.raw = fetch(self.params, project, self.lines.append)
        self.source: Source = make_source(self.params.data, project)

    def examples(self, split: RawSplit) -> Examples:
        return self.source.examples(self.raw, split)

    def factors(self, split: RawSplit) -> npt.NDArray[np.float64]:
        """`data.own.factors` of each example."""
        assert isinstance(self.source, OwnSource)
        return self.source.factors(self.raw, split)

    def classes(self, split: RawSplit) -> list[str | None]:
        """Class name of each example."""
        names = self.source.spec(self.raw).classes
        return [None if example.y is None else names[example.y] for example in self.examples(split)]


def write_digits(folder: Path, num: int, suffix: str = ".png") -> Path:
    """The first `num` of scikit-learn's digits, a folder for each class."""
    images, labels = load_digits(return_X_y=True)
    for i in range(num):
        path = folder / str(labels[i]) / f"{i:04d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = (images[i].reshape(8, 8) * 255 / 16).round().astype("uint8")
        Image.fromarray(pixels).save(path)
    return folder


def picture(path: Path, value: int = 128, size: tuple[int, int] = (8, 8), mode: str = "L") -> Path:
    """A picture of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)
    return path


def text(path: Path, content: str) -> Path:
    """A text file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path
