"""`ie shards verify` and `ie shards show`: is a folder of shards whole, and what is in it."""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import SplitIndex, key64
from pipeline.data.shards.manifest import Shard, SplitName
from pipeline.data.shards.sample_codec import decode_sample, decode_values
from pipeline.data.shards.tar_reader import REMEDY, iter_samples, iter_shard
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray
from pipeline.utils.files import sha256_file
from pipeline.utils.process_pool import Report, num_cpus, run_tasks
from pipeline.utils.progress import Log, Meter

_PER_CLASS = 10
# A process takes a few seconds to start, most of them webdataset's; in that time one checks this many small examples.
_WORTH_A_PROCESS = 10_000
_ROWS_NAMED = 100
_TEXTS_COUNTED = 10_000


@dataclass(frozen=True, eq=False)
class _Shard:
    """A shard to be checked."""

    split: SplitName
    number: int
    shard: Shard


@dataclass(frozen=True, eq=False)
class _Found:
    """What reading a whole tar found."""

    task: _Shard
    keys: list[str]
    places: IntArray
    """Class (-1: none), offset, size and CRC-32 of each sample, `[n, 4]`."""

    problem: str


def verify(folder: Path, log: Log, *, processes: int | None = None) -> int:
    """Reads every byte of every shard, decodes every example and compares it with its row of the index; returns how
    many examples there are.

    Names everything that is wrong, not the first thing alone; of the rows of one shard the first hundred. Memory: the
    keys, and the rows of the index.

    Args:
        processes: that read; None takes one for each processor, as far as there is work for them.

    Raises:
        DataError: the manifest cannot be read, or something does not fit it.
        ResourceError: a process was killed.
    """
    dataset = _tars_here(folder)
    manifest = dataset.manifest
    problems: list[str] = []
    indices: dict[SplitName, SplitIndex] = {}
    for name in manifest.splits:
        try:
            index = dataset.index(name)
            assert len(index.keys) == len(index)
            indices[name] = index
        except DataError as error:
            problems.append(str(error))
    tasks = [_Shard(name, i, shard) for name, split in manifest.splits.items() for i, shard in enumerate(split.shards)]
    total = sum(split.samples for split in manifest.splits.values())
    if processes is None:
        processes = min(num_cpus(), max(1, total // _WORTH_A_PROCESS))
    keys: set[str] = set()
    classes: dict[SplitName, Counter[str]] = {name: Counter() for name in manifest.splits}
    damaged: set[SplitName] = set()
    meter = Meter("verify", total, "examples")
    results = run_tasks(_read_shard, dataset, tasks, processes, meter.update)
    with contextlib.closing(meter), contextlib.closing(results):
        for found in results:
            path, name = folder / found.task.shard.path, found.task.split
            wrong = [found.problem] if found.problem else []
            for key in found.keys:
                if key in keys:
                    wrong.append(f"{path}: the key {key!r} occurs a second time")
                keys.add(key)
            if name in indices and not found.problem:
                wrong += _compare(path, found, indices[name])
            known = found.places[found.places[:, 0] >= 0, 0]
            classes[name].update(manifest.spec.classes[y] for y in known.tolist())
            if wrong:
                damaged.add(name)
                problems += wrong
    for name, split in manifest.splits.items():
        stated = {c: n for c, n in split.class_counts.items() if n}
        if name not in damaged and dict(classes[name]) != stated:
            problems.append(f"{folder}: split {name} has classes {dict(classes[name])}, the manifest has {stated}")
    strangers = {path.name for path in folder.glob("*.tar")} - {task.shard.path for task in tasks}
    problems += [f"{folder / name}: not in the manifest" for name in sorted(strangers)]
    # Shards are done in no fixed order.
    for problem in sorted(problems):
        log(f"verify: {problem}")
    if problems:
        raise DataError(
            f"{folder}: {len(problems)} problem(s); run `dvc repro --force shard` to write the shards again"
        )
    log(f"verify: {total} examples in {len(tasks)} shards, all whole")
    return total


def _read_shard(dataset: ShardedDataset, task: _Shard, report: Report) -> _Found:
    """Reads and decodes all of a tar."""
    manifest, path = dataset.manifest, dataset.folder / task.shard.path
    keys: list[str] = []
    places: list[tuple[int, int, int, int]] = []
    problem = ""
    try:
        for sample in iter_samples(path):
            example = decode_sample(sample, path, manifest.spec, manifest.encoding)
            keys.append(example.key)
            offset, size, crc = sample[f"__place__{manifest.encoding}"]
            places.append((-1 if example.y is None else example.y, offset, size, crc))
            report(len(keys))
        if len(keys) != task.shard.samples:
            problem = f"{path}: {len(keys)} examples, the manifest has {task.shard.samples}"
        elif path.stat().st_size != task.shard.bytes or sha256_file(path) != task.shard.sha256:
            problem = f"{path}: damaged, its size or SHA-256 is not the manifest's"
    except DataError as error:
        problem = str(error)
    return _Found(task, keys, np.array(places, dtype=np.int64).reshape(-1, 4), problem)


def _compare(path: Path, found: _Found, index: SplitIndex) -> list[str]:
    """Differences between the rows of the index and the tar."""
    rows = index.rows_of(found.task.number)
    columns = ("y", "offset", "size", "crc32")
    stated = np.stack([index.rows[column][rows].astype(np.int64) for column in columns], axis=1)
    differs, hashes = stated != found.places, index.rows["key64"][rows].tolist()
    problems = []
    for n, (row, key) in enumerate(enumerate(found.keys, rows.start)):
        wrong = []
        if index.keys[row] != key or hashes[n] != key64(key):
            wrong.append(f"key {index.keys[row]!r}, hash {hashes[n]:x}, the tar has {key!r}, hash {key64(key):x}")
        for c in np.flatnonzero(differs[n]).tolist():
            wrong.append(f"{columns[c]} {stated[n, c]}, the tar has {found.places[n, c]}")
        if wrong:
            problems.append(f"{path}, key {key}: row {row} of the index of {found.task.split} has {'; '.join(wrong)}")
    if len(problems) > _ROWS_NAMED:
        more = len(problems) - _ROWS_NAMED
        problems = [*problems[:_ROWS_NAMED], f"{path}: {more} more rows of the index are not what the tar has"]
    return problems


def _tars_here(folder: Path) -> ShardedDataset:
    """The data set of tars beside it. Raises DataError for tars elsewhere."""
    dataset = ShardedDataset.open(folder)
    if dataset.manifest.location:
        raise DataError(
            f"{folder} describes tars in {dataset.manifest.location}; only shards beside their manifest can be "
            "verified and shown (`ie shard` has read or written every byte of the others)"
        )
    return dataset


def show(folder: Path, out: Path, log: Log) -> None:
    """Prints the manifest's contents, and draws some training examples of each class to `out` (images, series).

    Reads the index and the examples that it draws, not the split.

    Raises:
        DataError: the manifest, the index or a shard of train is missing or damaged.
    """
    dataset = _tars_here(folder)
    manifest = dataset.manifest
    spec = manifest.spec
    log(f"{folder}: {manifest.source}, {spec.kind} of {list(spec.shape)} {spec.dtype}, {spec.likelihood}")
    names = list(manifest.splits)
    log(f"{'class':<24}" + "".join(f"{name:>12}" for name in names))
    for c in spec.classes:
        log(f"{c[:24]:<24}" + "".join(f"{split.class_counts[c]:>12,}" for split in manifest.splits.values()))
    rows: dict[str, list[int]] = {
        "without a label": [s.samples - sum(s.class_counts.values()) for s in manifest.splits.values()],
        "examples": [s.samples for s in manifest.splits.values()],
        "shards": [len(s.shards) for s in manifest.splits.values()],
        "MB": [round(sum(shard.bytes for shard in s.shards) / 1e6) for s in manifest.splits.values()],
    }
    for name, values in rows.items():
        log(f"{name:<24}" + "".join(f"{value:>12,}" for value in values))
    for reason, count in manifest.skipped.items():
        log(f"left out, {reason}: {count:,}")
    if spec.kind == "counts":
        _show_words(dataset, log)
        return
    index = dataset.index("train")
    members = [np.flatnonzero(index.y == c)[:_PER_CLASS] for c in range(spec.num_classes)]
    width = min(map(len, members))
    if width == 0:
        log("no picture: a class has no labelled example in train")
        return
    _draw(dataset, index, [rows[:width] for rows in members], out)
    log(f"examples of each class: {out}")


def _show_words(dataset: ShardedDataset, log: Log) -> None:
    """The words that occur most often. Samples lie in an order by hash: the first are as good as any."""
    totals = np.zeros(dataset.spec.shape[0], dtype=np.int64)
    for x in islice(_train_values(dataset), _TEXTS_COUNTED):
        totals += x
    frequent = [dataset.manifest.preprocessing.vocabulary[i] for i in np.argsort(-totals, kind="stable")[:20]]
    log("most frequent words: " + ", ".join(frequent))


def _train_values(dataset: ShardedDataset) -> Iterator[npt.NDArray[Any]]:
    for shard in dataset.shards("train"):
        for example in iter_shard(dataset.folder / shard.path, dataset.spec, dataset.manifest.encoding):
            yield example.x


def _draw(dataset: ShardedDataset, index: SplitIndex, members: list[IntArray], out: Path) -> None:
    """A grid of examples, a class a row, `members[c]` being rows of the index of train."""
    # PyTorch and matplotlib, which the processes of `verify` need not load.
    import torch

    from ie_model.networks import to_float
    from pipeline.data.shards.sample_codec import padded
    from pipeline.plots import figures
    from pipeline.plots.series_and_words import as_series, curve_grid

    spec = dataset.spec
    drawn = []
    for rows in members:
        x = np.stack([padded(_read_row(dataset, index, int(row)), spec) for row in rows])
        drawn.append(to_float(torch.from_numpy(x)).numpy())
    with tempfile.TemporaryDirectory() as scratch:
        npz = Path(scratch) / "examples.npz"
        arrays: dict[str, Any] = {"examples": as_series(np.stack(drawn), spec)}
        np.savez(npz, **arrays)
        draw = figures.image_grid if spec.kind == "image" else curve_grid
        draw(npz, "examples", out, f"{dataset.manifest.source}: training examples", list(spec.classes))


def _read_row(dataset: ShardedDataset, index: SplitIndex, row: int) -> npt.NDArray[Any]:
    """The values of one training example, from its place in the index."""
    path = dataset.folder / dataset.shards("train")[index.shard_of(row)].path
    where, place = f"{path}, key {index.key(row)}", index.rows[row]
    try:
        with path.open("rb") as file:
            file.seek(int(place["offset"]))
            data = file.read(int(place["size"]))
    except FileNotFoundError as error:
        raise DataError(f"shard is missing: {path}; {REMEDY}") from error
    if zlib.crc32(data) != int(place["crc32"]):
        raise DataError(f"{where}: damaged, its CRC-32 is not the index's; {REMEDY}")
    return decode_values(data, where, dataset.spec, dataset.manifest.encoding)
