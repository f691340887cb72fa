"""`ie compare`: finished runs side by side, in the terminal and as a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError
from pipeline.report.comparison import MOST, comparison, table
from pipeline.report.experiments import read_experiment
from pipeline.utils.files import atomic_file
from pipeline.utils.progress import Log


def compare(names: Sequence[str], project: Path, out: Path, log: Log) -> None:
    """Prints the comparison and writes it as one HTML file.

    Args:
        names: DVC experiments, revisions of git, or `workspace`.

    Raises:
        DataError: too few or too many names, or a run that is not there or has no results.
    """
    # Only here: the terminal's table needs no templates.
    from pipeline.report.comparison_page import page

    names = list(dict.fromkeys(names))
    if not 2 <= len(names) <= MOST:
        raise DataError(f"two to {MOST} different runs can be compared, got {', '.join(names) or 'none'}")
    runs = [read_experiment(name, project) for name in names]
    found = comparison(runs)
    for line in table(found):
        log(line)
    for line in found.notes:
        log(f"compare: {line}")
    with atomic_file(out) as part:
        part.write_text(page(found), encoding="utf-8")
    log(f"compare: curves, sweeps and swaps are in {out}")
