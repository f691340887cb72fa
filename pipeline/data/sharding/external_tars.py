"""Webdataset tars that others made, read as they are: what is in them becomes an index and a manifest.

`external_tar_samples` defines samples, `external_tar_splits` val and test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.loading.shard_store import Store
from pipeline.data.sharding.external_tar_list import find_tars
from pipeline.data.sharding.external_tar_samples import LABELS, PICTURES, read_tar
from pipeline.data.sharding.external_tar_splits import set_aside, split_of, splits_by_name
from pipeline.data.sharding.remote_file import StoreFile
from pipeline.data.shards.index import SCHEMA, describe_rows
from pipeline.data.shards.manifest import FORMAT, Manifest, Shard, Split, SplitName, label_hash, write_manifest
from pipeline.data.shards.reading import Reading
from pipeline.data.sources.image_files import picture_likelihood
from pipeline.data.sources.user_data import OwnParams
from pipeline.data.sources.walk import counted
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray
from pipeline.utils.progress import Log, Meter

ANY_CLASSES = tuple(map(str, range(100_000)))
"""Classes of a spec that leaves their number to the labels of train."""

_NAMED = 5
_COLUMNS = (*SCHEMA.names, "shard")
Faults = Literal["fatal", "skip"]


@dataclass
class _Part:
    """What the tars that are named for one split hold."""

    split: SplitName
    tars: list[tuple[str, int, str]] = field(default_factory=list)
    """Path, bytes and SHA-256 of those with a sound sample."""

    columns: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _COLUMNS})
    keys: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    """A line for each sample that cannot be used, and for each tar whose rest cannot."""

    lost: Counter[int] = field(default_factory=Counter)
    """How many examples these are, by their label; -1 where that is not known."""

    passed_over: Counter[str] = field(default_factory=Counter)
    fields: Counter[str] = field(default_factory=Counter)
    """Of .json members without a label."""

    apart: int = 0
    """Samples whose members do not stand side by side."""

    @property
    def y(self) -> IntArray:
        """Class index of each sound sample, -1 where the label is not known."""
        return np.array(self.columns["y"], dtype=np.int64)

    def add(self, store: Store, path: str, spec: DataSpec) -> None:
        """Reads a tar.

        Raises:
            DataError: it holds a pickle, a name that leads out of it, or no sample at all; or it is missing.
            ResourceError: an object store cannot be reached.
        """
        file, where, rows = StoreFile(store, path), store.where(path), 0
        content = read_tar(file, where, spec)
        for sample in content.samples:
            label = -1 if sample.label is None else sample.label
            wrong = sample.wrong
            if not wrong and label < 0 and self.split != "train":
                wrong = f"no label, which a sample of {self.split} needs ({' or '.join(LABELS)})"
            if not wrong and sample.key in self.keys:
                wrong = f"the key occurs twice in split {self.split}"
            if wrong or sample.picture is None:
                self.faults.append(f"{where}, key {sample.key!r}: {wrong}")
                self.lost[label] += sample.examples
                continue
            self.keys.add(sample.key)
            for name, value in zip(_COLUMNS, (sample.key, label, *sample.picture, len(self.tars)), strict=True):
                self.columns[name].append(value)
            rows += 1
        if content.broken:
            self.faults.append(f"{where}: {content.broken}")
        if not content.samples and not content.broken:
            others = counted(content.passed_over) or "nothing"
            raise DataError(
                f"{where}: holds no sample ({', '.join(PICTURES)}), but {others}; take it out of the folder"
            )
        self.passed_over += content.passed_over
        self.fields += content.fields
        self.apart += content.apart
        if rows:
            self.tars.append((path, file.size, file.sha256()))

    def drop_unknown_classes(self, num_classes: int) -> None:
        """Takes out the samples of classes that train does not have."""
        bad = [i for i, y in enumerate(self.columns["y"]) if y >= num_classes]
        for i in bad:
            y, path = self.columns["y"][i], self.tars[self.columns["shard"][i]][0]
            self.faults.append(f"{path}, key {self.columns['key'][i]!r}: class {y}; allowed: 0 to {num_classes - 1}")
            self.lost[y] += 1
        gone = set(bad)
        for name, values in self.columns.items() if bad else ():
            self.columns[name] = [value for i, value in enumerate(values) if i not in gone]


def write_foreign_manifest(
    folder: Path,
    location: str,
    spec: DataSpec,
    seed: int,
    faults: Faults,
    log: Log,
    reading: Reading | None = None,
) -> Manifest:
    """Indexes the tars at a location and writes manifest and indices into `folder`; the tars stay where they are.

    Every byte of the tars is read, and every picture decoded once.

    Args:
        location: an absolute folder, or a prefix `s3://bucket/...`.
        spec: of images; pictures are scaled to its shape, and labels are indices of its classes.
        seed: of setting val and test aside where no tar is named for them.
        faults: `skip` leaves faulty samples out and lists them.

    Raises:
        DataError: there are no tars, none for train, or their names cannot be used; no label is found; a class has too
            few samples; or a fault, where those are fatal: a tar that is truncated or damaged, a sample without a
            picture or with one that cannot be decoded, a label that is no class, a sample without a label in val or
            test, a key that occurs twice. A pickle or a name that leads out of the tar is an error always. Names tar
            and key, and how many of how many examples have faults.
        ResourceError: an object store cannot be reached.
    """
    store = Store(location, reading)
    paths, _ = find_tars(store)
    named = splits_by_name(paths)
    parts = {name: _Part(name) for name, members in named.items() if members}
    sizes = {path: store.size(path) for path in paths}
    meter, done = Meter("shard: read", sum(sizes.values()) // 1_000_000, "MB"), 0
    for name, part in parts.items():
        by_name = sum(split_of(path) == name for path in named[name])
        log(f"shard: {name}: {len(named[name])} tars, {by_name} by their names")
        for path in named[name]:
            part.add(store, path, spec)
            done += sizes[path]
            meter.update(done // 1_000_000)
    meter.close()
    _check_faults(parts, faults)
    if spec.classes == ANY_CLASSES:
        spec = spec.model_copy(update={"classes": _classes_of(parts["train"], location)})
        for name in parts.keys() - {"train"}:
            parts[name].drop_unknown_classes(spec.num_classes)
        _check_faults(parts, faults)
    _tell(parts, log)
    splits = _write_splits(folder, parts, spec, seed, log)
    num_faults = sum(len(part.faults) for part in parts.values())
    manifest = Manifest(
        format=FORMAT,
        source="tars",
        location=store.location,
        source_files={path: sha256 for part in parts.values() for path, _, sha256 in part.tars},
        spec=spec,
        encoding="picture",
        preprocessing=Preprocessing(),
        split_seed=seed,
        skipped={"fault": num_faults} if num_faults else {},
        label_hash=label_hash(splits["train"].samples),
        splits=splits,
    )
    write_manifest(folder, manifest)
    return manifest


def _classes_of(train: _Part, location: str) -> tuple[str, ...]:
    """As many classes as train's labels say. Raises DataError where one has fewer than two samples."""
    y = train.y
    known = y[y >= 0]
    lost = f"; {_lost(train)}" if train.faults else ""
    if not len(known):
        fields = ", ".join(name for name, _ in train.fields.most_common(20))
        raise DataError(
            f"{location}: no label in any of {len(y)} samples of train, looked for in .cls, and in label, cls or "
            "class of .json" + (f"; fields of its .json are: {fields}" if fields else "") + lost
        )
    counts = np.bincount(known, minlength=2).tolist()
    if min(counts) < 2:
        raise DataError(
            f"class {counts.index(min(counts))} has {min(counts)} samples in train's tars; each of 0 to "
            f"{len(counts) - 1} needs two: labels must count from 0 on without gaps{lost}"
        )
    return tuple(map(str, range(len(counts))))


def _check_faults(parts: Mapping[SplitName, _Part], faults: Faults) -> None:
    """Raises DataError where there are faults and they are fatal, or a split has nothing else."""
    faulty = [part for part in parts.values() if part.faults]
    if faulty and faults == "fatal":
        lost = "; ".join(_lost(part) for part in faulty)
        kept = Counter(y for y in parts["train"].columns["y"] if y >= 0)
        enough = bool(kept) and all(kept[c] >= 2 for c in parts["train"].lost if c >= 0)
        skip = ", or set data.faults to skip to leave them out" if enough else "; without them train has too few"
        raise DataError(f"{faulty[0].faults[0]}; {lost}; correct them{skip}")
    for part in faulty:
        if not part.tars:
            raise DataError(f"no sound sample for split {part.split}; {_lost(part)}; the first: {part.faults[0]}")


def _tell(parts: Mapping[SplitName, _Part], log: Log) -> None:
    """Logs what is skipped, joined and left out."""
    for name, part in parts.items():
        if part.passed_over:
            log(f"shard: {name}: members that are no picture and no label: {counted(part.passed_over)}")
        if part.apart:
            log(
                f"shard: {name}: {part.apart} samples have members that do not stand side by side; they are joined by "
                "name here, which webdataset itself does not do"
            )
        if part.faults:
            log(f"shard: {name}: {len(part.faults)} faults left out, {_lost(part)}; the first: {part.faults[0]}")


def _lost(part: _Part) -> str:
    """How many of how many examples have faults, by class."""
    kept = Counter(part.columns["y"])
    lost = part.lost.total()
    text = f"{lost} of {lost + kept.total()} examples of {part.split} have faults"
    if broken := len(part.faults) - len([f for f in part.faults if ", key " in f]):
        text += f", and the rest of {broken} tar(s) cannot be read"
    classes = [
        f"class {c}: {n} of {n + kept[c]}" if c >= 0 else f"label not known: {n} of {n + kept[c]}"
        for c, n in part.lost.most_common(_NAMED)
    ]
    return text + (f" ({', '.join(classes)})" if classes else "")


def _write_splits(
    folder: Path, parts: Mapping[SplitName, _Part], spec: DataSpec, seed: int, log: Log
) -> dict[SplitName, Split]:
    """Sets aside what no tar is named for, and writes the index of each split."""
    rows: dict[SplitName, tuple[_Part, IntArray]] = {
        name: (part, np.arange(len(part.columns["y"]))) for name, part in parts.items()
    }
    train = parts["train"]
    wanted: list[SplitName] = [name for name in ("val", "test") if name not in parts]
    if wanted:
        paths, shard = [path for path, _, _ in train.tars], np.array(train.columns["shard"], dtype=np.int64)
        aside, how = set_aside(paths, shard, train.columns["key"], train.y, wanted, seed)
        log(f"shard: no tar is named {' or '.join(wanted)}: {how}")
        rows |= {name: (train, members) for name, members in aside.items()}
    splits: dict[SplitName, Split] = {}
    for name in ("train", "val", "test"):
        part, members = rows[name]
        if not len(members):
            raise DataError(
                f"no sample is left for split {name}; allowed: tars with train, val and test in their names, or "
                "four samples of a class"
            )
        splits[name] = _split(folder, name, part, members, spec)
    return splits


def _split(folder: Path, name: SplitName, part: _Part, rows: IntArray, spec: DataSpec) -> Split:
    """Writes the index of some samples of a part. A tar may hold samples of more than one split."""
    tars, begins, counts = np.unique(np.array(part.columns["shard"])[rows], return_index=True, return_counts=True)
    shards = []
    for i, samples in zip(tars.tolist(), counts.tolist(), strict=True):
        path, size, sha256 = part.tars[i]
        shards.append(Shard(path=path, samples=samples, bytes=size, sha256=sha256))
    table = pa.table({name: part.columns[name] for name in SCHEMA.names}, schema=SCHEMA).take(pa.array(rows))
    tables = (table.slice(begin, shard.samples) for begin, shard in zip(begins.tolist(), shards, strict=True))
    return describe_rows(folder, name, shards, tables, spec)


def tars_location(folder: str, project: Path) -> str:
    """Where data.folder points to: an absolute folder, or an object store's prefix."""
    return folder.rstrip("/") if "://" in folder else str((project / folder).resolve())


def tars_spec(options: OwnParams) -> DataSpec:
    """Of pictures in tars; `ANY_CLASSES` where the number of classes is not given."""
    channels = 3 if options.channels == "auto" else options.channels
    return DataSpec(
        kind="image",
        shape=(channels, options.height, options.width),
        dtype="uint8",
        classes=tuple(map(str, range(options.num_classes))) if options.num_classes else ANY_CLASSES,
        likelihood=picture_likelihood(options, channels),
    )
