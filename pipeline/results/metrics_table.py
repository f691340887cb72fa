"""A measure of a trained model: a row of the table that `evaluate` writes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ie_model.metrics.measures import Undefined
from pipeline.results.metric import Metric
from pipeline.results.metric_catalog import find
from pipeline.utils.files import atomic_file

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Measure:
    """A row of the table; its group, direction and control are the catalogue's."""

    name: str
    value: float
    reason: str = ""
    """Why it was not measured; the value is NaN then, and in no file."""

    @property
    def about(self) -> Metric:
        """Its entry in the catalogue, which has every name that `evaluate` writes."""
        found = find(self.name)
        assert found is not None, f"{self.name} is not in pipeline/results/metric_catalog.py"
        return found


def not_measured(names: Sequence[str], reason: str) -> list[Measure]:
    """Rows of measures that the data do not allow."""
    return [Measure(name, math.nan, " ".join(reason.split())) for name in names]


def as_far_as_defined(names: Sequence[str], measure: Callable[[], list[Measure]]) -> list[Measure]:
    """The rows that `measure` gives, or one with the reason for each of `names` where the data do not allow them."""
    try:
        return measure()
    except Undefined as error:
        return not_measured(names, str(error))


def measure_each(values: Mapping[str, Callable[[], float]]) -> list[Measure]:
    """Rows by name and what gives the value; each by itself as far as it is defined."""

    def row(name: str, value: Callable[[], float]) -> list[Measure]:
        return [Measure(name, value())]

    return [found for name, value in values.items() for found in as_far_as_defined([name], partial(row, name, value))]


def checked(rows: Sequence[Measure]) -> list[Measure]:
    """Rows whose value is finite or has a reason: a value that came out as infinite or NaN was not measured."""
    return [
        row
        if row.reason or math.isfinite(row.value)
        else not_measured([row.name], f"its value came out as {row.value}")[0]
        for row in rows
    ]


def reasons(rows: Sequence[Measure]) -> list[str]:
    """A line for each reason why something was not measured, with the names."""
    names: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            names.setdefault(row.reason, []).append(row.name)
    return [f"not measured: {', '.join(found)}: {reason}" for reason, found in names.items()]


def flat(rows: Sequence[Measure]) -> dict[str, float]:
    """Names and values of what was measured, for a metrics file."""
    return {row.name: round(row.value, 6) for row in rows if not row.reason}


def write_table(path: Path, rows: Sequence[Measure]) -> None:
    """All rows as CSV: group, name, value, better, control, reason; either value or reason is empty."""
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer: Any = csv.writer(file)
        writer.writerow(("group", "name", "value", "better", "control", "reason"))
        for row in rows:
            metric = row.about
            known = ("", "", "") if row.reason else (round(row.value, 6), metric.better, metric.control)
            writer.writerow((metric.group, row.name, *known, row.reason))
