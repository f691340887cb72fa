"""Finished runs side by side: what differs, and which is better."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ie_model.metrics.measures import mean_and_std
from pipeline.report.experiments import Experiment
from pipeline.results.metric_catalog import about

MOST = 8
"""Runs that are distinguishable in one plot."""

HEADLINE = (
    "test_error_classifier_pct",
    "test_error_generative_pct",
    "nll_nats",
    "ece",
    "bound_nats",
    "iw_bound_nats",
    "active_units",
    "probe_class_from_r_linear_pct",
    "probe_class_from_v_redrawn_mlp_pct",
    "mi_v_class_nats",
    "r2_rotation_sin_from_v_mlp",
    "invariance_ratio_f",
    "swap_oracle_pct",
    "val_error_pct",
    "val_bound_nats",
)

# Differences below this share of the value are those of rounding in the files.
_SAME = 1e-9


@dataclass(frozen=True)
class Cell:
    """A run's value, beside that of the first run."""

    value: str
    difference: str = ""
    verdict: str = ""
    """`better`, `worse`, `same` or `both chance`; empty for the first run, and where neither direction is better."""


@dataclass(frozen=True)
class Line:
    """A measure, or a parameter, of every run."""

    name: str
    text: str
    unit: str
    better: str
    group: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side; cells are in the order of the runs, and differences are to the first."""

    runs: tuple[Experiment, ...]
    headline: tuple[Line, ...]
    others: tuple[Line, ...]
    params: tuple[Line, ...]
    """Those that differ."""

    sweep: tuple[Line, ...]
    """Test error, a line per method and number of labels; empty where fewer than two runs have a sweep."""

    same_sweep: bool
    """Every trial is the same in all runs: their sweep ran once."""

    notes: tuple[str, ...]
    """What was left out, and which runs are of other data than the first; a line each."""


def comparison(runs: Sequence[Experiment]) -> Comparison:
    """Runs beside the first of them."""
    lines = [_measure_line(name, runs) for name in dict.fromkeys(name for run in runs for name in run.values)]
    by_name = {line.name: line for line in lines}
    keys = sorted({key for run in runs for key in run.params})
    params = [
        Line(key, key, "", "", "", tuple(Cell(run.params.get(key, "")) for run in runs))
        for key in keys
        if len({run.params.get(key, "") for run in runs}) > 1
    ]
    swept = [run for run in runs if run.sweep]
    cells = dict.fromkeys((row.labels, row.method) for run in runs for row in run.sweep) if len(swept) > 1 else {}
    return Comparison(
        tuple(runs),
        tuple(by_name[name] for name in HEADLINE if name in by_name),
        tuple(line for line in lines if line.name not in HEADLINE),
        tuple(params),
        tuple(_sweep_line(labels, method, runs) for labels, method in sorted(cells)),
        len(swept) > 1 and len({run.sweep for run in runs}) == 1,
        tuple(_notes(runs)),
    )


def _notes(runs: Sequence[Experiment]) -> Iterator[str]:
    first = runs[0]
    for run in runs:
        if run.unchecked:
            yield f"{run.name} has no checksums of {', '.join(run.unchecked)}: taken as they are"
        if run.origin is None:
            yield f"{run.name} has no record of its data: an earlier version wrote it"
        yield from (f"{run.name}: left out: {line}" for line in run.left_out)
        if run.origin is not None and first.origin is not None and not _same_data(run, first):
            what = f"{run.origin.data}, {first.name} of {first.origin.data}"
            yield f"{run.name} is of {what}: other data or another split, so differences mean nothing"


def _same_data(run: Experiment, first: Experiment) -> bool:
    """Whether both have numbers of the same examples, as far as recorded."""
    if run.origin is None or first.origin is None:
        return True
    return run.origin.manifest_sha256 == first.origin.manifest_sha256


def table(found: Comparison) -> list[str]:
    """The headline and the changed parameters as lines of text."""
    rows = [["", *(run.name for run in found.runs)]]
    for line in found.headline:
        unit = f", {line.unit}" if line.unit else ""
        rows.append([f"{line.text}{unit}", *(" ".join(filter(None, _words(cell))) for cell in line.cells)])
    lines = _aligned(rows)
    if found.params:
        changed = [["changed", *("" for _ in found.runs)]]
        changed += [[line.name, *(cell.value for cell in line.cells)] for line in found.params]
        lines += ["", *_aligned(changed)]
    else:
        lines += ["", "params.yaml is the same in all"]
    return [*lines, ""]


def _words(cell: Cell) -> tuple[str, str]:
    extra = ", ".join(filter(None, (cell.difference, cell.verdict)))
    return cell.value, f"({extra})" if extra else ""


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _measure_line(name: str, runs: Sequence[Experiment]) -> Line:
    values = [run.values.get(name) for run in runs]
    known = next(value for value in values if value is not None)
    metric = about(name)
    numbers = [None if value is None else value.number for value in values]
    cells = _cells(numbers, known.better, metric.digits, known.chance, _comparable(runs))
    return Line(name, metric.short or metric.label, metric.unit, known.better, known.group, cells)


def _sweep_line(labels: int, method: str, runs: Sequence[Experiment]) -> Line:
    """Mean test error of a cell of the sweep."""
    means: list[float | None] = []
    texts: list[str] = []
    for run in runs:
        errors = [row.test_error_pct for row in run.sweep if (row.labels, row.method) == (labels, method)]
        if not errors:
            means.append(None)
            texts.append("")
            continue
        mean, std, n = mean_and_std(errors)
        means.append(mean)
        texts.append(f"{mean:.2f} ± {std:.2f} (n={n})" if n > 1 else f"{mean:.2f} (n=1)")
    beside = _cells(means, "lower", 2, None, _comparable(runs))
    cells = [Cell(text, cell.difference, cell.verdict) for text, cell in zip(texts, beside, strict=True)]
    return Line(f"{method}_{labels}", method, "%", "lower", str(labels), tuple(cells))


def _comparable(runs: Sequence[Experiment]) -> list[bool]:
    return [_same_data(run, runs[0]) for run in runs]


def _cells(
    numbers: Sequence[float | None], better: str, digits: int, chance: float | None, comparable: Sequence[bool]
) -> tuple[Cell, ...]:
    first = numbers[0]
    cells = []
    for i, number in enumerate(numbers):
        if number is None:
            cells.append(Cell(""))
            continue
        text = f"{number:.{digits}f}"
        if i == 0 or first is None or not comparable[i]:
            cells.append(Cell(text))
            continue
        difference = number - first
        if abs(difference) <= _SAME * max(abs(number), abs(first)):
            cells.append(Cell(text, "", "same"))
            continue
        if chance is not None and max(number, first) <= chance:
            verdict = "both chance"
        else:
            verdict = "" if not better else "better" if (difference < 0) == (better == "lower") else "worse"
        cells.append(Cell(text, f"{difference:+.{digits}f}", verdict))
    return tuple(cells)
