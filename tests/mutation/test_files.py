"""Files of a run, each damaged in many ways: the reader refuses in one line that names the file, or reads the same."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn

from pipeline.commands.embed import embed
from pipeline.commands.inspect_shards import verify
from pipeline.commands.show_results import show_results
from pipeline.config.params import Params
from pipeline.data.loading.check import check_shards
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import MANIFEST, read_manifest
from pipeline.data.shards.reading import Reading
from pipeline.errors import PipelineError
from pipeline.evaluation.load_model import read_model
from pipeline.report.experiments import parse_experiment
from pipeline.report.inputs import read_inputs
from pipeline.results.sweep_summary import renew_summary
from pipeline.storage.run_storage import Folder, write_record
from pipeline.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.tuning.trials import TrialResult, finished_result, name_of_trial, read_trained
from tests.helpers.run_results import make_results
from tests.helpers.small import SPEC, model_of, shards_of
from tests.helpers.tiny import backward, tiny_model
from tests.mutation.mutate import Mutation, mutations

Reader = Callable[[list[str]], Any]
"""Reads the files; what it says goes into the list. Returns what it read, where that can be compared, or None."""


@dataclass
class Files:
    """Files, and those who read them."""

    readers: dict[str, Reader]
    paths: list[Path]
    others: list[Path] = field(default_factory=list)
    """Files of another run, which may take the place of these."""


@dataclass
class Counts:
    """What became of the damaged files."""

    of: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> list[Files]:
    """The files of a tiny run."""
    folder = tmp_path_factory.mktemp("run")
    params = make_results(folder / "project")
    return [_results(folder / "project", params), _shards(folder), _checkpoint(folder), _trial(folder)]


def _results(project: Path, params: Params) -> Files:
    results = project / "results"
    (results / "evaluate/figures").mkdir(exist_ok=True)
    _write_tables(results)

    def show(said: list[str]) -> Any:
        show_results(params, project, said.append)
        return list(said)

    def compare(said: list[str]) -> Any:
        return repr(parse_experiment("workspace", "", lambda path: _bytes(project / path)))

    def page(said: list[str]) -> Any:
        return pickle.dumps(read_inputs(project, project / "data/shards" / params.data.source, with_sweep=True))

    def summary(said: list[str]) -> Any:
        renew_summary(results / "sweep")
        return (results / "sweep/summary.md").read_text()

    def model(said: list[str]) -> Any:
        artifact = read_model(results / "train/model", "cpu")
        return _lists(artifact.tensors()), artifact.provenance, artifact.prune, artifact.model.spec

    summary([])  # `ie results` names the files that are there
    readers: dict[str, Reader] = {
        "results": show,
        "compare": compare,
        "report": page,
        "summary": summary,
        "model": model,
    }
    read = sorted(path for path in results.rglob("*") if path.is_file() and path.suffix not in (".md", ".tex"))
    return Files(readers, [*read, project / "data/shards" / params.data.source / "manifest.json"])


def _write_tables(results: Path) -> None:
    """What the tables of `make_results` lack for `ie results` and `ie compare`."""
    from pipeline.utils.checksums import write_checksums

    (results / "sweep/table.csv").write_text(
        "method,labels,seed,test_error_pct,val_error_pct,epochs,status\nplain,12,0,28.0,27.0,4,finished\n"
        "plain,12,1,29.0,26.0,4,finished\nsupervised,12,0,40.0,39.0,1,finished\n"
    )
    metrics = json.loads((results / "train/metrics.json").read_text())
    (results / "train/metrics.json").write_text(
        json.dumps(metrics | {"val_error_pct": 20.5, "loss_nats": 3.25, "labels": 12})
    )
    (results / "sweep/metrics.json").write_text(json.dumps({"trials_finished": 3, "plain_12_test_error_pct": 28.5}))
    for stage in ("train", "sweep", "evaluate"):
        write_checksums(results / stage)


def _lists(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in tensors.items()}


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _shards(folder: Path) -> Files:
    shards = folder / "shards"
    manifest = shards_of(shards)
    model = model_of(folder / "model", SPEC)
    reading = Reading(
        mode="memory", memory_mb=1, loader_workers=0, slice_kb=1, cache="unused", cache_mb=0, retries=0, faults="fatal"
    )

    def training(said: list[str]) -> Any:
        found = read_manifest(shards)
        names = tuple(found.splits)
        check_shards(ShardedDataset(shards, found), names, reading)
        splits = [load_split(ShardedDataset(shards, found), name, reading=reading) for name in names]
        return [(split.keys, split.x.tolist(), split.y.tolist()) for split in splits]

    def embedded(said: list[str]) -> Any:
        out = folder / "out.parquet"
        embed(model, shards, out, said.append, resize=False, batch_size=9, device="cpu", faults="fatal")
        return pq.read_table(out).to_pydict()

    # Tars are read through the index: those of train and of the other splits stand for all.
    described = [file for split in manifest.splits.values() for file in (split.index, split.keys)]
    paths = [shards / "manifest.json", *(shards / file.path for file in described)]
    paths += [shards / split.shards[0].path for split in manifest.splits.values()]
    readers: dict[str, Reader] = {
        "train": training,
        "embed": embedded,
        "verify": lambda said: verify(shards, said.append, processes=1),
    }
    return Files(readers, [*paths, *sorted(model.iterdir())])


def _checkpoint(folder: Path) -> Files:
    def parts() -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
        model = tiny_model()
        optimizer = torch.optim.Adam(model.parameters())
        return model, tiny_model(seed=1), optimizer

    model, averaged, optimizer = parts()
    backward(sum(parameter.square().sum() for parameter in model.parameters()))
    optimizer.step()
    path = folder / "checkpoint"
    path.mkdir()
    progress = Progress("f" * 16, epoch=2, step=20, seconds=3.5, history=[{"epoch": 1, "loss": 2.5}])
    save_checkpoint(path, progress, model, averaged, optimizer)

    def resume(said: list[str]) -> Any:
        model, averaged, optimizer = parts()
        progress = load_checkpoint(path, "f" * 16, model, averaged, optimizer)
        state = optimizer.state_dict()["state"]
        return progress, [_lists(tensors) for tensors in (model.state_dict(), averaged.state_dict(), *state.values())]

    return Files({"resume": resume}, sorted(path.iterdir()))


def _trial(folder: Path) -> Files:
    storage = Folder(folder / "runs")
    name = name_of_trial("f" * 16)
    result = TrialResult(
        fingerprint="f" * 16, method="plain", labels=12, seed=0, test_error_pct=5.0, val_error_pct=4.0,
        val_bound_nats=-20.0, epochs=1, steps=10, seconds=1.0, measures={"ece": 0.5}, measured_as="",
    )  # fmt: skip
    write_record(storage, f"{name}/result.json", result.model_dump())
    trained = result.model_dump(exclude={"test_error_pct", "measures", "measured_as"})
    write_record(storage, f"{name}/trained.json", trained)
    other = {"fingerprint": "0" * 16}
    write_record(storage, "other/result.json", result.model_dump() | other)
    write_record(storage, "other/trained.json", trained | other)

    def resume(said: list[str]) -> Any:
        records = {
            "result.json": finished_result(storage, "f" * 16, ""),
            "trained.json": read_trained(storage, "f" * 16),
        }
        said += [f"{file} is not there: the trial runs again" for file, found in records.items() if found is None]
        return records

    return Files(
        {"sweep": resume}, sorted((folder / "runs" / name).iterdir()), sorted((folder / "runs/other").iterdir())
    )


@contextlib.contextmanager
def _damaged(path: Path, content: bytes | None) -> Iterator[None]:
    whole = path.read_bytes()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


def _same(path: Path, before: bytes, after: bytes | None) -> bool:
    """Whether a file says the same as before."""
    if after is None or path.suffix not in (".json", ".csv"):
        return before == after
    try:
        if path.suffix == ".csv":
            return after.decode().splitlines() == before.decode().splitlines()
        return bool(json.loads(after) == json.loads(before))
    except (ValueError, RecursionError):
        return False


def judge(files: Files, path: Path, mutation: Mutation, whole: dict[str, Any], counts: Counts) -> None:
    """Runs every reader on a damaged file: each refuses it, says so, or reads what it read before."""
    what, content = mutation
    before = path.read_bytes()
    if content == before:
        return
    outcomes = set()
    with _damaged(path, content):
        for name, reader in files.readers.items():
            outcome, line = _outcome(reader, path, whole[name])
            outcomes.add(outcome)
            if outcome not in ("refused", "the same"):
                counts.wrong.append(f"{outcome}: {name} of {path.parent.name}/{path.name}, {what}: {line}"[:400])
    worst = next(kind for kind in _KINDS if kind in outcomes)
    if worst == "the same" and not _same(path, before, content):
        worst = "unread"
    counts.of[worst] += 1


_KINDS = ("traceback", "silent", "not named", "refused", "the same")


def _outcome(reader: Reader, path: Path, whole: Any) -> tuple[str, str]:
    """What became of a damaged file, and the line that was said."""
    said: list[str] = []
    place = f"{path.parent.parent.name}/{path.parent.name}"
    try:
        found = reader(said)
    except PipelineError as error:
        lines = [str(error), *said]  # `verify` names what is wrong in lines before
        named = any(path.name in line or place in line for line in lines)
        return "refused" if named and "\n" not in str(error) else "not named", str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__} {error}"
    if found == whole:
        return "the same", ""
    # Of a manifest `ie results` says that data/shards is not the one of the results.
    places = (path.name, place, *(["data/shards"] * (path.name == MANIFEST)))
    named = any(any(place in line for place in places) and ("left out" in line or "again" in line) for line in said)
    return ("refused" if named else "silent"), str(found)


def judge_all(run: list[Files], every: int, seed: int = 0) -> Counts:
    """Every so many-th damage of all."""
    counts, number = Counts(), 0
    for files in run:
        whole = {name: reader([]) for name, reader in files.readers.items()}
        for path in files.paths:
            others = [other for other in (*files.others, *files.paths) if other != path and other.suffix == path.suffix]
            for mutation in mutations(path, others[:3], seed):
                number += 1
                if number % every == 0:
                    judge(files, path, mutation, whole, counts)
        assert {name: reader([]) for name, reader in files.readers.items()} == whole
    return counts


def test_damaged_files_are_named_and_none_is_used_in_silence(run: list[Files]) -> None:
    counts = judge_all(run, every=12)
    assert counts.wrong == []
    assert counts.of["refused"] > 60


@pytest.mark.slow
def test_every_damaged_file_is_named_and_none_is_used_in_silence(run: list[Files]) -> None:
    counts = judge_all(run, every=1)
    print(dict(counts.of), *counts.wrong, sep="\n")
    assert counts.wrong == []
    assert counts.of["refused"] >= 704
