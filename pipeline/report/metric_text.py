"""The table of measures for a reader: each in words, its value with its unit, and that of its control beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ie_model.metrics.measures import mean_and_std
from pipeline.report.inputs import Measured, Sweep
from pipeline.results.metric_catalog import GROUPS, about
from pipeline.utils.rounding import percent


@dataclass(frozen=True)
class Row:
    """A line of the page's table."""

    name: str
    words: str
    """What it is; its name again where it is not known."""

    value: str
    better: str
    controls: list[tuple[str, str]]
    """What each is, and its value."""

    against: str
    """What it is to be read against, in the words of measures.csv."""


def grouped(
    measures: Sequence[Measured],
    num_classes: int,
    sweep: Sweep | None,
    labels: int,
    not_measured: Sequence[Measured] = (),
) -> list[tuple[str, str, list[Row]]]:
    """Title, how to read it and rows of each group; deviations stand beside their means.

    Args:
        labels: of the run, over all classes; a sweep's trials with as many are controls.
        not_measured: rows with a reason in place of a value.
    """
    values = {row.name: row.value for row in measures}
    others = sweep_controls(sweep, labels)
    by_group: dict[str, list[Row]] = {name: [] for name in GROUPS}
    for row in measures:
        if row.name.endswith("_std") and f"{row.name.removesuffix('_std')}_pct" in values:
            continue
        metric = about(row.name)
        controls = [(label, number(name, values[name])) for label, name in metric.beside if name in values]
        if row.name.startswith("probe_class_from_v") and row.name.endswith("_pct"):
            controls.append(("chance", f"{100 / num_classes:.3g} %"))
        controls += [(label, text) for label, text in others.get(row.name, [])]
        std = values.get(f"{row.name.removesuffix('_pct')}_std")
        # In words only where no number stands for it.
        against = "" if controls else row.control
        value = number(row.name, row.value, std)
        by_group.setdefault(row.group, []).append(Row(row.name, metric.label, value, row.better, controls, against))
    for row in not_measured:
        if not row.name.endswith("_std"):
            words = about(row.name).label
            by_group.setdefault(row.group, []).append(Row(row.name, words, f"not measured: {row.reason}", "", [], ""))
    return [(*GROUPS.get(name, (name, "")), rows) for name, rows in by_group.items() if rows]


def sweep_controls(sweep: Sweep | None, labels: int) -> dict[str, list[tuple[str, str]]]:
    """By measure, method and value of the sweep's baselines that had as many labels."""
    found: dict[str, list[tuple[str, str]]] = {}
    for (method, count), measured in (sweep.measures if sweep else {}).items():
        if count == labels and method in ("supervised", "m2", "vae"):
            for name, column in measured.items():
                mean, std, n = mean_and_std(column)
                text = number(name, mean, std if n > 1 else None)
                found.setdefault(name, []).append((f"{METHOD[method]}, n = {n}", text))
    return found


METHOD = {"supervised": "supervised", "m2": "M2", "vae": "plain VAE"}


def number(name: str, value: float, std: float | None = None) -> str:
    """A value with the unit in its name."""
    metric = about(name)
    if metric.digits == 0 and std is None:
        return f"{value:,.0f}"
    if metric.unit == "%":
        return percent(value) if std is None else f"{percent(value, unit='')} ± {std:.2f} %"
    if name.endswith("mcnemar_p") and value < 0.001:
        return "< 0.001"
    # A mean of counts is none.
    digits, unit = metric.digits or 1, f" {metric.unit}" if metric.unit == "nats" else ""
    spread = "" if std is None else f" ± {std:.{digits}f}"
    text = f"{value:.{digits}f}"
    # -0.000 is 0.
    text = text.removeprefix("-") if float(text) == 0 else text
    return f"{text}{spread}{unit}".replace("-", "\N{MINUS SIGN}")
