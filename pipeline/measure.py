"""A measure of a trained model: a row of the table that `evaluate` writes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.files import atomic_file

Array = npt.NDArray[np.float32]
Better = Literal["lower", "higher", ""]


@dataclass(frozen=True)
class Measure:
    """A row of the table."""

    name: str
    """Flat and stable: what, of what, with its unit."""

    value: float
    better: Better
    group: str
    control: str = ""
    """What the value is to be read against, in words; its own value is a row too where it is measured."""


def flat(rows: Sequence[Measure]) -> dict[str, float]:
    """Names and values, for a metrics file."""
    return {row.name: round(row.value, 6) for row in rows}


def write_table(path: Path, rows: Sequence[Measure]) -> None:
    """All rows as CSV: group, name, value, better, control."""
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer: Any = csv.writer(file)
        writer.writerow(("group", "name", "value", "better", "control"))
        writer.writerows((row.group, row.name, round(row.value, 6), row.better, row.control) for row in rows)
