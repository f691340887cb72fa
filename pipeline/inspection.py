"""`ie shards verify` and `ie shards show`: is a folder of shards whole, and what is in it."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ie_model.networks import to_float
from pipeline import figures
from pipeline.curves import curve_grid
from pipeline.errors import DataError
from pipeline.files import sha256_file
from pipeline.progress import Log, Meter
from pipeline.reader import load_split
from pipeline.shards import Manifest, Shard, read_manifest
from pipeline.tars import iter_shard

_PER_CLASS = 10


def verify(folder: Path, log: Log) -> int:
    """Reads every byte of every shard and decodes every example; returns how many there are.

    Names everything that is wrong, not the first thing alone.

    Raises:
        DataError: the manifest cannot be read, or something does not fit it.
    """
    manifest = read_manifest(folder)
    problems: list[str] = []
    num_examples = 0
    keys: set[str] = set()
    meter = Meter("verify", sum(split.samples for split in manifest.splits.values()), "examples")
    for name, split in manifest.splits.items():
        classes: Counter[str] = Counter()
        before = len(problems)
        for shard in split.shards:
            found, problem = _check_shard(folder, shard, manifest)
            if problem:
                problems.append(problem)
            for key, y in found:
                if key in keys:
                    problems.append(f"{folder / shard.path}: the key {key!r} occurs a second time")
                keys.add(key)
                if y is not None:
                    classes[manifest.spec.classes[y]] += 1
            num_examples += len(found)
            meter.update(num_examples)
        stated = {c: n for c, n in split.class_counts.items() if n}
        if len(problems) == before and dict(classes) != stated:
            problems.append(f"{folder}: split {name} has classes {dict(classes)}, the manifest says {stated}")
    meter.close()
    strangers = {path.name for path in folder.glob("*.tar")} - {
        shard.path for split in manifest.splits.values() for shard in split.shards
    }
    problems += [f"{folder / name}: not in the manifest" for name in sorted(strangers)]
    for problem in problems:
        log(f"verify: {problem}")
    if problems:
        raise DataError(f"{folder}: {len(problems)} thing(s) wrong; run `dvc repro --force shard` to write it again")
    log(f"verify: {num_examples} examples in {sum(len(s.shards) for s in manifest.splits.values())} shards, all whole")
    return num_examples


def _check_shard(folder: Path, shard: Shard, manifest: Manifest) -> tuple[list[tuple[str, int | None]], str]:
    """Key and class of each example, and what is wrong with the shard, if anything."""
    path = folder / shard.path
    found: list[tuple[str, int | None]] = []
    try:
        for example in iter_shard(path, manifest.spec, manifest.encoding):
            found.append((example.key, example.y))
    except DataError as error:
        return found, str(error)
    if len(found) != shard.samples:
        return found, f"{path}: {len(found)} examples, the manifest says {shard.samples}"
    if path.stat().st_size != shard.bytes or sha256_file(path) != shard.sha256:
        return found, f"{path}: damaged, its size or SHA-256 is not the manifest's"
    return found, ""


def show(folder: Path, out: Path, log: Log) -> None:
    """Prints what the manifest says, and draws some training examples of each class to `out` (images, series).

    Raises:
        DataError: the manifest or a shard of train is missing or damaged.
    """
    manifest = read_manifest(folder)
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
    train = load_split(folder, manifest, "train")
    if spec.kind == "counts":
        totals = train.x.sum(0).numpy()
        frequent = [manifest.vocabulary[i] for i in np.argsort(-totals, kind="stable")[:20]]
        log("most frequent words: " + ", ".join(frequent))
        return
    members = [np.flatnonzero(train.y == c)[:_PER_CLASS] for c in range(spec.num_classes)]
    width = min(map(len, members))
    if width == 0:
        log("no picture: a class has no labelled example in train")
        return
    grid = np.stack([to_float(train.x[rows[:width]]).numpy() for rows in members])
    with tempfile.TemporaryDirectory() as scratch:
        npz = Path(scratch) / "examples.npz"
        arrays: dict[str, Any] = {"examples": grid}
        np.savez(npz, **arrays)
        draw = figures.image_grid if spec.kind == "image" else curve_grid
        draw(npz, "examples", out, f"{manifest.source}: training examples", list(spec.classes))
    log(f"examples of each class: {out}")
