"""Finished runs as DVC keeps them: the files of the workspace, of an experiment or of any commit, read through DVC."""

from __future__ import annotations

import csv
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.errors import DataError

WORKSPACE = "workspace"
"""The name of what lies in the project's folder now, as `dvc exp show` has it."""

_METRICS = "results/evaluate/metrics.json"
_MEASURES = "results/evaluate/measures.csv"
_CONFUSION = "results/evaluate/confusion.csv"
_TRAIN = "results/train/metrics.json"
_HISTORY = "results/train/history.csv"
_SWEEP = "results/sweep/table.csv"
_SWAP = "results/evaluate/figures/swap.png"
# Those of training that are worth a comparison; the same words as in measures.csv.
_TRAIN_BETTER = {"val_error_pct": "lower", "val_nll_nats": "lower", "val_bound_nats": "higher", "loss_nats": ""}


@dataclass(frozen=True)
class Value:
    """A number of a run, with what is known about reading it."""

    number: float
    better: str
    """`lower`, `higher`, or empty where neither is better by itself."""

    group: str

    chance: float | None = None
    """What guessing scores; a probe of v below it has found as little as one at it."""


@dataclass(frozen=True)
class SweepRow:
    """A finished trial of the run's sweep."""

    method: str
    labels: int
    seed: int
    test_error_pct: float


@dataclass(frozen=True)
class Experiment:
    """What a run left."""

    name: str
    revision: str
    """Of its commit, short; empty for the workspace."""

    params: dict[str, str]
    """params.yaml by dotted keys, values as YAML writes them."""

    values: dict[str, Value]
    """Measures of `evaluate` and of training, by name."""

    history: dict[str, list[float]]
    """Columns of history.csv; empty where there is none."""

    sweep: tuple[SweepRow, ...]
    swap: bytes | None
    """PNG of the class-swap figure; only kinds of data that have one."""


def read_experiment(name: str, project: Path) -> Experiment:
    """The files of a run.

    Args:
        name: of a DVC experiment, any revision of git, or `workspace`.

    Raises:
        DataError: there is no DVC repository, no such experiment, or it lacks results or holds damaged ones.
    """
    # Imported here: it takes half a second, which no other command should wait for.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    try:
        root = Path(Repo.find_root(str(project)))
    except NotDvcRepoError as error:
        raise DataError(f"{project} lies in no DVC repository; run this in the project's folder") from error
    try:
        files = DVCFileSystem(repo=str(root), rev=None if name == WORKSPACE else name)
        revision = "" if name == WORKSPACE else str(files.repo.get_rev())[:7]
    except DvcException as error:
        raise DataError(_unknown(name, root, error)) from error
    inside = project.resolve().relative_to(root.resolve())

    def read(path: str) -> bytes | None:
        try:
            data: bytes = files.read_bytes((inside / path).as_posix())
        except FileNotFoundError:
            return None
        except DvcException as error:
            raise DataError(f"{name}: {path} cannot be read ({_line(error)})") from error
        return data

    return parse_experiment(name, revision, read)


def parse_experiment(name: str, revision: str, read: Callable[[str], bytes | None]) -> Experiment:
    """As `read_experiment`, from a function that gives the bytes of a file of the run, or None. Raises DataError."""

    def text(path: str, needed: bool = True) -> str | None:
        data = read(path)
        if data is None and needed:
            raise DataError(f"{name} has no {path}; it was not run to its end (`dvc exp run`, then try again)")
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: {path} is damaged (not text)") from error

    def parsed(path: str, parse: Callable[[str], Any], needed: bool = True) -> Any:
        content = text(path, needed)
        try:
            return None if content is None else parse(content)
        except (ValueError, KeyError, TypeError, csv.Error, yaml.YAMLError) as error:
            raise DataError(f"{name}: {path} is damaged ({_line(error)})") from error

    params = parsed("params.yaml", lambda content: flatten(yaml.safe_load(content)))
    metrics = parsed(_METRICS, _numbers)
    known = parsed(_MEASURES, lambda content: {row["name"]: row for row in _rows(content)})
    trained = parsed(_TRAIN, _numbers)
    classes = parsed(_CONFUSION, lambda content: len({row["actual"] for row in _rows(content)}))
    values = {}
    for key, number in metrics.items():
        about = known.get(key, {"better": "", "group": ""})
        leak = key.startswith("probe_class_from_v_") and about["better"] == "lower"
        values[key] = Value(number, about["better"], about["group"], 100 / classes if leak else None)
    values |= {key: Value(trained[key], better, "val") for key, better in _TRAIN_BETTER.items() if key in trained}
    return Experiment(
        name,
        revision,
        params,
        values,
        parsed(_HISTORY, _columns, needed=False) or {},
        tuple(parsed(_SWEEP, _sweep, needed=False) or ()),
        read(_SWAP),
    )


def flatten(values: Any, prefix: str = "") -> dict[str, str]:
    """Nested sections by dotted keys, each value in one line of YAML.

    Raises:
        ValueError: not sections and keys.
    """
    if not isinstance(values, dict):
        raise ValueError(f"sections and keys were expected, found {type(values).__name__}")
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = yaml.safe_dump(value, default_flow_style=True, width=10_000).splitlines()[0]
    return flat


def _unknown(name: str, root: Path, error: Exception) -> str:
    """One line: the experiment is not there, and which are."""
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--all-commits", "--name-only"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        return f"{name}: {_line(error)}"
    known = ", ".join(dict.fromkeys([WORKSPACE, *listed.stdout.split()]))
    return f"no experiment or revision {name!r} ({_line(error)}); there are {known}, and the commits of git"


def _numbers(content: str) -> dict[str, float]:
    raw = json.loads(content)
    numbers = {key: float(value) for key, value in raw.items()}
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError("a number is not finite")
    return numbers


def _rows(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content), strict=True))


def _columns(content: str) -> dict[str, list[float]]:
    rows = _rows(content)
    return {key: [float(row[key] or "nan") for row in rows] for key in (rows[0] if rows else {})}


def _sweep(content: str) -> list[SweepRow]:
    return [
        SweepRow(row["method"], int(row["labels"]), int(row["seed"]), float(row["test_error_pct"]))
        for row in _rows(content)
        if row["status"] == "finished" and row["test_error_pct"]  # the plain VAE has none
    ]


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
