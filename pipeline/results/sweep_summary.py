"""A sweep's results as a table to publish: means, deviations, and each method beside a baseline."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import stats

from ie_model.metrics.measures import mean_and_std
from pipeline.errors import DataError
from pipeline.results.metric_catalog import about
from pipeline.results.sweep_table import Results, finished, read_results
from pipeline.utils.checksums import check_results
from pipeline.utils.files import atomic_file

_ERROR = "test_error_classifier_pct"
# Columns of the results, as far as any trial has them.
_SHOWN = (_ERROR, "test_error_generative_pct", "test_error_prototype_pct", "bound_nats", "val_bound_nats")
_LEAST_P = 0.001


@dataclass(frozen=True)
class Spread:
    """Mean, deviation (n - 1) and number of values."""

    mean: float
    std: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """A method less the baseline, in percent of test error, over the label subsets that both have."""

    difference: float
    n: int
    p: float | None
    """Two-sided, of the paired t-test; None where it is not defined (one pair, or differences that are all equal)."""


@dataclass(frozen=True)
class Cell:
    """A method at a number of labels."""

    labels: int
    method: str
    values: dict[str, Spread]
    against_baseline: Comparison | None


def summarize(results: Results, baseline: str | None = None) -> list[Cell]:
    """A cell per number of labels and method, in the order of the results; failed trials are left out.

    Args:
        baseline: instead of the one that the sweep named.

    Raises:
        DataError: the baseline is none of the methods.
    """
    baseline = baseline or results.baseline
    rows = finished(results.rows)
    methods = dict.fromkeys(row["method"] for row in results.rows)
    if baseline not in methods:
        raise DataError(f"baseline {baseline!r} is none of the results' methods: {', '.join(methods)}")
    cells = []
    for labels, method in dict.fromkeys((row["labels"], row["method"]) for row in rows):
        mine = _of(rows, labels, method)
        values = {}
        for name in _SHOWN:
            column = [row[name] for row in mine if row[name] is not None]
            if column:
                values[name] = Spread(*mean_and_std(column))
        compared = None if method == baseline else compare(mine, _of(rows, labels, baseline))
        cells.append(Cell(labels, method, values, compared))
    return cells


def compare(mine: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> Comparison | None:
    """Test errors of one method beside those of another, paired by seed, which is the label subset."""
    theirs = {row["seed"]: row[_ERROR] for row in others if row[_ERROR] is not None}
    pairs = [(row[_ERROR], theirs[row["seed"]]) for row in mine if row[_ERROR] is not None and row["seed"] in theirs]
    if not pairs:
        return None
    differences = [a - b for a, b in pairs]
    p = None
    if len(set(differences)) > 1:
        with warnings.catch_warnings():
            # Differences that are equal but for rounding: the test warns, and its p is right.
            warnings.filterwarnings("ignore", category=RuntimeWarning)
            p = float(stats.ttest_rel(*zip(*pairs, strict=True)).pvalue)
    return Comparison(sum(differences) / len(differences), len(pairs), p)


def renew_summary(folder: Path, baseline: str | None = None) -> None:
    """As `write_summary`, of results that are compared with their checksum first. Raises as that."""
    check_results(folder, ["results.parquet"], "ie sweep")
    write_summary(folder, baseline)


def write_summary(folder: Path, baseline: str | None = None) -> None:
    """summary.md and summary.tex from the folder's results.parquet.

    Raises:
        DataError: the results are missing, damaged or of another schema, or lack the baseline.
    """
    results = read_results(folder / "results.parquet")
    cells = summarize(results, baseline)
    baseline = baseline or results.baseline
    for name, text in (
        ("summary.md", markdown(results, cells, baseline)),
        ("summary.tex", latex(results, cells, baseline)),
    ):
        with atomic_file(folder / name) as part:
            part.write_text(text)


def markdown(results: Results, cells: Sequence[Cell], baseline: str) -> str:
    """The table with what is to be known to read it."""
    header, rows = _grid(cells, f"less `{baseline}`")
    lines = [f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *rows)]
    notes = "\n".join(f"- {note}" for note in _notes(results, cells, baseline))
    return f"# {results.source}: test error by method and labels\n\n" + "\n".join(lines) + f"\n\n{notes}\n"


def latex(results: Results, cells: Sequence[Cell], baseline: str) -> str:
    r"""The same table for a paper; needs \usepackage{booktabs}."""
    header, rows = _grid(cells, f"less {baseline}")
    comments = "".join(f"% {note}\n" for note in _notes(results, cells, baseline))
    body = [" & ".join(map(_escaped, line)) + r" \\" for line in rows]
    lines = [
        rf"\begin{{tabular}}{{rl{'r' * (len(header) - 2)}}}",
        r"\toprule",
        " & ".join(map(_escaped, header)) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return comments + "\n".join(lines) + "\n"


def _of(rows: Sequence[dict[str, Any]], labels: int, method: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["labels"], row["method"]) == (labels, method)]


def _grid(cells: Sequence[Cell], compared: str) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of text, the same in both kinds of table."""
    shown = [name for name in _SHOWN if any(name in cell.values for cell in cells)]
    header = ["labels", "method", *(about(name).heading for name in shown), "n", compared, "p"]
    rows = []
    for cell in cells:
        row = [str(cell.labels), cell.method]
        row += [_spread(cell.values.get(name), about(name).digits) for name in shown]
        row.append(str(max((spread.n for spread in cell.values.values()), default=0)))
        found = cell.against_baseline
        row += ["", ""] if found is None else [_difference(found, cell), _p(found.p)]
        rows.append(row)
    return header, rows


def _spread(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return ""
    return f"{spread.mean:.{digits}f}" + (f" ± {spread.std:.{digits}f}" if spread.n > 1 else "")


def _difference(found: Comparison, cell: Cell) -> str:
    pairs = "" if found.n == cell.values[_ERROR].n else f" ({found.n} pairs)"
    return f"{found.difference:+.2f}{pairs}"


def _p(p: float | None) -> str:
    if p is None:
        return ""
    return f"{p:.3f}" if p >= _LEAST_P else f"<{_LEAST_P}"


def _notes(results: Results, cells: Sequence[Cell], baseline: str) -> list[str]:
    notes = [
        "Mean ± standard deviation (n - 1) over n label subsets, last checkpoint, test split. A seed is a label subset "
        "and an initialisation at once.",
        f"p: two-sided paired t-test of the classifier's test error against {baseline}, over the label subsets that "
        "both have; not corrected for the number of rows. It takes the differences for normal, and the error of the "
        "test split itself, which all trials share, is not in it.",
    ]
    pairs = [cell.against_baseline.n for cell in cells if cell.against_baseline is not None]
    if pairs and min(pairs) <= 3:
        notes.append(
            "With 3 pairs the test has two degrees of freedom: p < 0.05 takes a mean difference of 2.5 times the "
            "differences' deviation, a real but smaller one stays unseen, and whether they are normal cannot be "
            "checked. Tests without that assumption cannot go below p = 0.25 there. With one pair there is no test."
        )
    failed = [row for row in results.rows if row["status"] != "finished"]
    if failed:
        names = ", ".join(f"{row['method']} {row['labels']} labels seed {row['seed']}" for row in failed)
        notes.append(f"{len(failed)} of {len(results.rows)} trials failed and are left out: {names}.")
    return notes


def _escaped(text: str) -> str:
    for plain, command in (("±", r"$\pm$"), ("%", r"\%"), ("_", r"\_"), ("<", r"$<$")):
        text = text.replace(plain, command)
    return f"${text}$" if text[:1] in ("+", "-") and text[1:].replace(".", "").isdigit() else text
