"""`ie compare`: finished runs side by side, in the terminal and as a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ie_model.measures import mean_and_std
from pipeline.errors import DataError
from pipeline.experiments import Experiment, read_experiment
from pipeline.files import atomic_file
from pipeline.progress import Log

MOST = 8
"""Runs that can be told apart in one plot."""

HEADLINE = (
    ("test_error_classifier_pct", "test error"),
    ("test_error_generative_pct", "test error, generative rule"),
    ("nll_nats", "-log q(y|x)"),
    ("ece", "calibration error"),
    ("bound_nats", "bound on log p(x)"),
    ("iw_bound_nats", "importance-weighted bound"),
    ("active_units", "active units of v"),
    ("probe_class_from_r_linear_pct", "class from r, linear probe"),
    ("probe_class_from_v_sampled_mlp_pct", "class from sampled v, MLP probe"),
    ("r2_rotation_sin_from_v_mlp", "rotation (sine) from v"),
    ("invariance_ratio_f", "invariance ratio of f_inv"),
    ("swap_oracle_pct", "swap has the new class"),
    ("val_error_pct", "val error"),
    ("val_bound_nats", "val bound"),
)
_TEXTS = dict(HEADLINE)
_UNITS = (("_pct", "%"), ("_nats", "nats"), ("_bits_per_dim", "bits/dim"))
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


def compare(names: Sequence[str], project: Path, out: Path, log: Log) -> None:
    """Prints the comparison and writes it as one HTML file.

    Args:
        names: DVC experiments, revisions of git, or `workspace`.

    Raises:
        DataError: too few or too many names, or a run that is not there or has no results.
    """
    # Only here: the terminal's table needs no templates.
    from pipeline.compare_page import page

    names = list(dict.fromkeys(names))
    if not 2 <= len(names) <= MOST:
        raise DataError(f"two to {MOST} different runs can be compared, got {', '.join(names) or 'none'}")
    found = comparison([read_experiment(name, project) for name in names])
    for line in table(found):
        log(line)
    with atomic_file(out) as part:
        part.write_text(page(found), encoding="utf-8")
    log(f"compare: curves, sweeps and swaps are in {out}")


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
        tuple(by_name[name] for name, _ in HEADLINE if name in by_name),
        tuple(line for line in lines if line.name not in _TEXTS),
        tuple(params),
        tuple(_sweep_line(labels, method, runs) for labels, method in sorted(cells)),
        len(swept) > 1 and len({run.sweep for run in runs}) == 1,
    )


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
    unit = next((unit for end, unit in _UNITS if name.endswith(end)), "")
    numbers = [None if value is None else value.number for value in values]
    cells = _cells(numbers, known.better, _digits(name), known.chance)
    return Line(name, _TEXTS.get(name, name), unit, known.better, known.group, cells)


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
    cells = [
        Cell(text, cell.difference, cell.verdict) for text, cell in zip(texts, _cells(means, "lower", 2), strict=True)
    ]
    return Line(f"{method}_{labels}", method, "%", "lower", str(labels), tuple(cells))


def _cells(numbers: Sequence[float | None], better: str, digits: int, chance: float | None = None) -> tuple[Cell, ...]:
    first = numbers[0]
    cells = []
    for i, number in enumerate(numbers):
        if number is None:
            cells.append(Cell(""))
            continue
        text = f"{number:.{digits}f}"
        if i == 0 or first is None:
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


def _digits(name: str) -> int:
    if name in ("labels", "active_units", "skipped"):
        return 0
    return 2 if name.endswith(("_pct", "_nats")) else 3
