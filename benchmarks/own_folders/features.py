"""scikit-learn's digits as rows of 64 features in a CSV file, as a pretrained network's or a sensor's would be."""

from __future__ import annotations

import csv
from pathlib import Path

from sklearn.datasets import load_digits


def make_features(folder: Path) -> None:
    """1,797 rows of 10 classes."""
    values, classes = load_digits(return_X_y=True)
    folder.mkdir(parents=True)
    with (folder / "digits.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"pixel_{i}" for i in range(64)), "label"])
        writer.writerows([*x, y] for x, y in zip(values.tolist(), classes.tolist(), strict=True))
