"""Errors class by class: how many of how many, with intervals, and what is taken for what."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ie_model.metrics.baselines import wilson_interval
from pipeline.report.inputs import Inputs
from pipeline.utils.rounding import percent

MOST_CELLS = 20
"""Classes whose counts are written into a matrix; with more it is small, and folded."""

_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class ClassErrors:
    """A class in numbers."""

    name: str
    labels: int
    """Used in training."""

    samples: tuple[int, int, int]
    """In train, val, test."""

    wrong: int
    error: str
    """With its 95 % interval; empty where test has none."""

    taken_for: str
    """The class that its errors name most often, and how many do."""

    def cells(self) -> tuple[str, ...]:
        """All of it as text."""
        return (self.name, f"{self.labels:,}", *(f"{n:,}" for n in self.samples), f"{self.wrong:,}", self.error,
                self.taken_for)  # fmt: skip


CLASS_HEADER = (
    "class",
    "labels used",
    "train",
    "val",
    "test",
    "wrong",
    "error (95 % interval)",
    "most often taken for",
)


def class_errors(inputs: Inputs) -> list[ClassErrors]:
    """A row per class, in the manifest's order."""
    used = inputs.model["provenance"].get("labels_per_class", {})
    classes, found = inputs.manifest.spec.classes, []
    for index, (name, row) in enumerate(zip(classes, inputs.confusion, strict=True)):
        total, wrong = int(row.sum()), int(row.sum() - row[index])
        others = np.where(np.arange(len(row)) == index, 0, row)
        most = int(others.argmax())
        counts = [inputs.manifest.splits[split].class_counts[name] for split in _SPLITS]  # type: ignore[index]
        found.append(
            ClassErrors(
                name=name,
                labels=int(used.get(name, 0)),
                samples=(counts[0], counts[1], total),
                wrong=wrong,
                error=rate(wrong, total) if total else "",
                taken_for=f"{classes[most]} ({others[most]})" if wrong else "",
            )
        )
    return found


def rate(wrong: int, total: int) -> str:
    """`1.60 % (1.37 to 1.87)`."""
    low, high = (percent(100 * end, 1, "") for end in wilson_interval(wrong, total))
    return f"{percent(100 * wrong / total, 1)} ({low} to {high})"


@dataclass(frozen=True)
class Cell:
    """Of the confusion matrix."""

    count: int
    shade: str
    """Square root of its share of the row, so that one error in a hundred shows."""

    kind: str


def confusion_cells(inputs: Inputs) -> list[tuple[str, list[Cell]]]:
    """A row of cells per actual class."""
    counts = inputs.confusion
    shade = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))

    def cell(i: int, j: int) -> Cell:
        kind = "right" if i == j else "wrong" if counts[i, j] else ""
        return Cell(int(counts[i, j]), f"{shade[i, j]:.3f}", kind if counts[i, j] else "")

    classes = inputs.manifest.spec.classes
    return [(name, [cell(i, j) for j in range(len(classes))]) for i, name in enumerate(classes)]


SHADES = [
    (label, f"{np.sqrt(share):.3f}") for label, share in (("1 %", 0.01), ("10 %", 0.1), ("50 %", 0.5), ("100 %", 1.0))
]
"""Shares of a row and their shades, for the matrix's legend."""
