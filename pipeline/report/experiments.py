"""Finished runs as DVC keeps them: the files of the workspace, of an experiment or of any commit, read through DVC."""

from __future__ import annotations

import csv
import io
import json
import logging
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.yaml_text import parse_yaml, to_yaml
from pipeline.errors import DataError, ParamsError
from pipeline.results.metric_catalog import about
from pipeline.results.origin import ORIGIN, STAGES, Origin, chain_faults, parse_origin
from pipeline.utils.checksums import CHECKSUMS, Checksums, bytes_checksum, parse_checksums
from pipeline.utils.progress import Log

WORKSPACE = "workspace"
"""The name of the project's current files, as `dvc exp show` has it."""

_METRICS = "results/evaluate/metrics.json"
_MEASURES = "results/evaluate/measures.csv"
_CONFUSION = "results/evaluate/confusion.csv"
_TRAIN = "results/train/metrics.json"
_HISTORY = "results/train/history.csv"
_SWEEP = "results/sweep/table.csv"
_SWAP = "results/evaluate/figures/swap.png"
# Those of training that are worth a comparison.
_TRAINED = ("val_error_pct", "val_nll_nats", "val_bound_nats", "loss_nats")


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

    unchecked: tuple[str, ...] = ()
    """Folders of results without checksums, as versions before wrote them."""

    origin: Origin | None = None
    """What the run is of; None where an earlier version wrote it."""

    left_out: tuple[str, ...] = ()
    """Results that are not of the run, and why."""


def read_experiment(name: str, project: Path) -> Experiment:
    """The files of a run.

    Args:
        name: of a DVC experiment, any revision of git, or `workspace`.

    Raises:
        DataError: there is no DVC repository, no such experiment, or it lacks results or holds damaged ones.
    """
    # Imported here: it takes half a second, which no other command should wait for.
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    root = _root(project)
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


def apply_experiment(name: str, project: Path, log: Log) -> None:
    """Brings an experiment's params, lock file, data and results into the workspace.

    `dvc exp apply` does so too, but fails where the experiment left a stage out, as its results are in no cache.

    Raises:
        DataError: there is no DVC repository or no such experiment.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    root = _root(project)
    # A warning for each file of a stage that was not run.
    for logger in ("dvc", "dvc_data"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    with Repo(str(root)) as repo:
        try:
            repo.experiments.apply(name, allow_missing=True)
        except DvcException as error:
            raise DataError(_unknown(name, root, error)) from error
        stages = [stage for stage in repo.index.stages if hasattr(stage, "name")]
        missing = [stage.name for stage in stages if any(not out.exists for out in stage.outs)]
    log(f"apply: params.yaml, dvc.lock, data and results are those of {name}")
    if missing:
        log(f"apply: it has no results of {', '.join(missing)}; `dvc repro` runs what is missing")


def _root(project: Path) -> Path:
    """The DVC repository that a project is in. Raises DataError."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        return Path(Repo.find_root(str(project)))
    except NotDvcRepoError as error:
        raise DataError(f"{project} is in no DVC repository; run this in the project's folder") from error


def parse_experiment(name: str, revision: str, read: Callable[[str], bytes | None]) -> Experiment:
    """As `read_experiment`, from a function that gives the bytes of a file of the run, or None. Raises DataError."""
    checksums: dict[str, Checksums | None] = {}

    def checked(path: str) -> bytes | None:
        """A file's bytes, compared with the checksums of its stage's folder."""
        data, (results, stage, file) = read(path), path.split("/", 2)
        folder = f"{results}/{stage}"
        if folder not in checksums:
            checksums[folder] = _checksums(name, folder, read)
        sums = checksums[folder]
        if data is None:
            if sums is not None and file in sums.files:
                raise DataError(f"{name} has no {path}, which `ie {stage}` wrote; run it again")
            return None
        if sums is not None:
            sums.check(file, lambda: bytes_checksum(file, data), f"{name}: {path}", f"ie {stage}")
        return data

    def text(path: str, needed: bool = True) -> str | None:
        data = read(path) if "/" not in path else checked(path)
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
        except (ValueError, KeyError, TypeError, csv.Error, ParamsError) as error:
            raise DataError(f"{name}: {path} is damaged ({_line(error)})") from error

    origins = {
        stage: parse_origin(data, f"{name}: {path}")
        for stage in STAGES
        if (data := checked(path := f"results/{stage}/{ORIGIN}")) is not None
    }
    left_out = chain_faults(origins)
    params = parsed("params.yaml", lambda content: flatten(parse_yaml(content, "it")))
    metrics = parsed(_METRICS, _numbers)
    origin = origins.get("train")
    for line in left_out:
        if not line.startswith("results/sweep"):
            raise DataError(f"{name}: {line}; it was not run to its end (`dvc exp run`, then try again)")
    if origin is not None and (asked := params.get("data.source", origin.source)) != origin.source:
        raise DataError(f"{name}: results are of {origin.data}, params.yaml has {asked}; run it (`dvc exp run`) first")
    swept = not left_out
    known = parsed(_MEASURES, lambda content: {row["name"]: row for row in _rows(content)})
    trained = parsed(_TRAIN, _numbers)
    classes = parsed(_CONFUSION, lambda content: len({row["actual"] for row in _rows(content)}))
    values = {}
    for key, number in metrics.items():
        row = known.get(key, {"better": "", "group": ""})
        leak = key.startswith("probe_class_from_v_") and row["better"] == "lower"
        values[key] = Value(number, row["better"], row["group"], 100 / classes if leak else None)
    values |= {key: Value(trained[key], about(key).better, "val") for key in _TRAINED if key in trained}
    return Experiment(
        name,
        revision,
        params,
        values,
        parsed(_HISTORY, _columns, needed=False) or {},
        tuple((parsed(_SWEEP, _sweep, needed=False) if swept else None) or ()),
        checked(_SWAP),
        tuple(folder for folder, sums in checksums.items() if sums is None and read(f"{folder}/metrics.json")),
        origin,
        tuple(left_out),
    )


def _checksums(name: str, folder: str, read: Callable[[str], bytes | None]) -> Checksums | None:
    """Checksums of a folder of results; None where a commit of an older version has none, or there is no folder."""
    path = f"{folder}/{CHECKSUMS}"
    data, where = read(path), f"{name}: {path}"
    if data is None:
        if name == WORKSPACE and any(read(f"{folder}/{file}") is not None for file in (ORIGIN, "metrics.json")):
            raise DataError(f"{where} is missing; run `dvc repro` again")
        return None
    try:
        return parse_checksums(json.loads(data), where)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is damaged, not JSON ({_line(error)})") from error


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
            flat[f"{prefix}{key}"] = to_yaml(value, flow=True).splitlines()[0]
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
