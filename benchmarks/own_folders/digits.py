"""scikit-learn's digits as 8x8 grey PNG files, a folder a class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from sklearn.datasets import load_digits


def make_digits(folder: Path) -> None:
    """1,797 pictures of 10 classes."""
    values, classes = load_digits(return_X_y=True)
    for i, (x, y) in enumerate(zip(values, classes, strict=True)):
        place = folder / str(y)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((x.reshape(8, 8) * 15.9).astype("uint8")).save(place / f"{i:04d}.png")
