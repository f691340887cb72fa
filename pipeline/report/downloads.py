"""Tables to take away: small ones inside of the page, large ones as links to the files beside it."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.report.charts import error_table
from pipeline.report.class_errors import CLASS_HEADER, class_errors
from pipeline.report.inputs import Inputs
from pipeline.results.tables import FACTORS, LATENTS

_MOST_BYTES = 300_000
"""Of a table inside of the page."""


@dataclass(frozen=True)
class Download:
    """A link: `href` is the content itself, or a path from the page's folder."""

    name: str
    href: str
    note: str
    embedded: bool


def downloads(inputs: Inputs, results: Path) -> list[Download]:
    """The run's tables, and where latents and the sweep's trials are.

    Args:
        results: the project's results/, where the page is in report/.
    """
    counts, rows = error_table(inputs)
    found = [
        _file(results, "evaluate/measures.csv", "every measure"),
        _table("classes.csv", CLASS_HEADER, (row.cells() for row in class_errors(inputs)), "errors by class"),
        _file(results, "evaluate/confusion.csv", "class and prediction of every test example"),
        _table(
            "labels.csv", ("method", "from", *map(str, counts)), ((r.name, r.note, *r.cells) for r in rows),
            "error by labels",
        ),
        _file(results, "train/history.csv", "training by epoch"),
    ]  # fmt: skip
    found.append(_file(results, f"evaluate/{LATENTS}", "r, v and q(y|x) of every example, a folder of Parquet files"))
    if inputs.factors:
        found.append(_file(results, f"evaluate/{FACTORS}", "what r and v tell of the data's factors"))
    if inputs.sweep is not None:
        found.append(_file(results, "sweep/results.parquet", "every trial of the sweep"))
    return found


def _file(results: Path, name: str, note: str) -> Download:
    path = results / name
    size = sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    if path.suffix == ".csv" and size <= _MOST_BYTES:
        return _embedded(path.name, path.read_bytes(), note)
    return Download(path.name, f"../{name}", f"{note}, {size / 1e6:.1f} MB, in results/{Path(name).parent}", False)


def _table(name: str, header: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> Download:
    file = io.StringIO(newline="")
    writer = csv.writer(file)
    writer.writerow(header)
    writer.writerows(rows)
    return _embedded(name, file.getvalue().encode("utf-8"), note)


def _embedded(name: str, content: bytes, note: str) -> Download:
    return Download(name, f"data:text/csv;charset=utf-8;base64,{base64.b64encode(content).decode()}", note, True)
