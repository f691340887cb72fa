"""Webdataset tars that others made, read as they are: what is in them becomes an index and a manifest.

A sample is the members of a tar that have a name in common up to its first dot after the last slash: a picture
(`.png`, `.jpg`, `.jpeg` or `.webp`), and a label in `.cls` (ASCII digits) or in `label`, `cls` or `class` of `.json`.
Other members are not looked into. A tar that holds a pickle is refused: nothing here would open it, but others would.
"""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import write_json
from pipeline.index import SCHEMA, write_index
from pipeline.progress import Log
from pipeline.samples import decode_values
from pipeline.shards import FORMAT, MANIFEST, Manifest, Shard, Split, SplitName
from pipeline.sources.own import OwnParams
from pipeline.sources.pictures import picture_likelihood, picture_shape
from pipeline.store import Store, StoreSettings
from pipeline.store_file import StoreFile

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")
_PICKLES = (".pyd", ".pickle", ".pkl", ".pt", ".pth", ".joblib")
_WORDS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
ANY_CLASSES = tuple(map(str, range(100_000)))
"""Classes of a spec that leaves their number to the labels of train."""

_LARGEST_LABEL = 1 << 20


@dataclass(frozen=True, eq=False)
class ForeignSplit:
    """The tars of one split and the samples in them."""

    shards: tuple[Shard, ...]
    rows: pa.Table
    """As `pipeline.index.SCHEMA`."""

    faults: tuple[str, ...]
    """A line for each sample that was left out, and for each tar whose rest was."""


@dataclass
class _Sample:
    key: str
    picture: tuple[int, int, int] | None = None
    label: int | None = None
    wrong: list[str] = field(default_factory=list)


def split_of(path: str) -> SplitName | None:
    """The split that a tar's name says, or its folder's, the nearest first; None where none does.

    Words count whole and in any case: `imagenet-val-003.tar` and `Validation/003.tar` are val, `trainer.tar` is none.
    """
    for part in reversed(PurePosixPath(path).parts):
        words = [_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in _WORDS]
        if words:
            return words[-1]
    return None


def assign_splits(paths: Iterable[str], seed: int, share: float = 0.1) -> dict[SplitName, list[str]]:
    """Which tars are train, val and test.

    By their names, see `split_of`; those whose name says nothing are train. Where no tar is val (or test), whole train
    tars are set aside for it, at least one: those of the lowest hashes of seed and name.

    Raises:
        DataError: so few tars that a split would be empty.
    """
    splits: dict[SplitName, list[str]] = {"train": [], "val": [], "test": []}
    for path in sorted(paths):
        splits[split_of(path) or "train"].append(path)
    named = len(splits["train"])
    for name in ("val", "test"):
        if not splits[name] and named:
            ranked = sorted(splits["train"], key=lambda p: hashlib.sha256(f"{seed}/{p}".encode()).hexdigest())
            splits[name] = sorted(ranked[: max(1, round(share * named))])
            splits["train"] = [path for path in splits["train"] if path not in set(splits[name])]
    for name, members in splits.items():
        if not members:
            raise DataError(
                f"no tar is left for split {name}; allowed: tars with train, val and test in their names or folders, "
                "or at least three tars"
            )
    return splits


def index_foreign(
    store: Store, paths: Sequence[str], split: SplitName, spec: DataSpec, faults: Literal["fatal", "skip"], log: Log
) -> ForeignSplit:
    """Reads every byte of the tars of one split, and decodes every picture once.

    Args:
        paths: of tars, relative to the store's location.
        spec: of images; pictures are scaled to its shape, and labels are indices of its classes.
        faults: `skip` leaves faulty samples out and lists them.

    Raises:
        DataError: a tar is missing, or none of its samples is sound; or a fault, where those are fatal: a tar that is
            truncated or damaged, a sample without a picture or with one that cannot be decoded, a label that is no
            class, a sample without a label in val or test, a key that occurs twice. A pickle or a name that leads out
            of the tar is an error always. Names tar and key.
        ResourceError: an object store cannot be reached.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    shards: list[Shard] = []
    found: list[str] = []
    seen: set[str] = set()

    def fault(line: str) -> None:
        if faults == "fatal":
            raise DataError(f"{line}; mend it, or set data.faults to skip to leave it out")
        found.append(line)

    for path in paths:
        file = StoreFile(store, path)
        where, rows = store.where(path), 0
        try:
            for sample in _samples(file, where, spec):
                if split != "train" and sample.label is None and not sample.wrong:
                    sample.wrong.append(f"no label, which a sample of {split} needs (.cls, or label in .json)")
                if sample.picture is None and not sample.wrong:
                    sample.wrong.append(f"no picture ({', '.join(_PICTURES)})")
                if sample.key in seen and not sample.wrong:
                    sample.wrong.append(f"the key occurs twice in split {split}")
                if sample.wrong:
                    fault(f"{where}, key {sample.key!r}: {sample.wrong[0]}")
                    continue
                assert sample.picture is not None
                seen.add(sample.key)
                label = -1 if sample.label is None else sample.label
                for name, value in zip(SCHEMA.names, (sample.key, label, len(shards), *sample.picture), strict=True):
                    columns[name].append(value)
                rows += 1
        except _NotWhole as error:
            fault(f"{where}: {error}")
        if not rows:
            if faults == "skip" and found:
                continue
            raise DataError(f"{where}: holds no sample; take it out of the folder")
        shards.append(Shard(path=path, samples=rows, bytes=file.size, sha256=file.sha256()))
    if not shards:
        raise DataError(f"{store.location}: no sound sample for split {split}; the first fault: {found[0]}")
    if found:
        log(f"shard: {split}: {len(found)} faults left out; the first: {found[0]}")
    return ForeignSplit(tuple(shards), pa.table(columns, schema=SCHEMA), tuple(found))


def write_foreign_manifest(
    folder: Path,
    location: str,
    spec: DataSpec,
    seed: int,
    faults: Literal["fatal", "skip"],
    log: Log,
    settings: StoreSettings | None = None,
) -> Manifest:
    """Indexes the tars at a location and writes manifest and indices into `folder`; the tars stay where they are.

    Args:
        location: an absolute folder, or a prefix `s3://bucket/...`.
        seed: of setting tars aside, see `assign_splits`.

    Raises:
        DataError: see `index_foreign` and `assign_splits`; or there are no tars, or their names cannot be used.
        ResourceError: an object store cannot be reached.
    """
    store = Store(location, settings)
    paths = store.list(".tar")
    if not paths:
        raise DataError(f"no .tar in {location}")
    parts = assign_splits(paths, seed)
    for name, members in parts.items():
        by_name = sum(split_of(path) == name for path in members)
        log(f"shard: {name}: {len(members)} tars, {by_name} by their names")
    splits: dict[SplitName, Split] = {}
    skipped = 0
    # Train first: it says how many classes there are, where the spec does not.
    for name, members in parts.items():
        read = index_foreign(store, members, name, spec, faults, log)
        skipped += len(read.faults)
        y = read.rows["y"].to_numpy()
        counted = name == "train" and spec.classes == ANY_CLASSES
        if counted:
            spec = spec.model_copy(update={"classes": _numbered(1 + max(1, int(y.max(initial=-1))))})
        counts = np.bincount(y[y >= 0], minlength=spec.num_classes).tolist()
        if counted and min(counts) < 2:
            raise DataError(
                f"class {spec.classes[counts.index(min(counts))]} has {min(counts)} samples in train's tars; each of "
                f"0 to {spec.num_classes - 1} needs two: labels must count from 0 on without gaps"
            )
        splits[name] = Split(
            samples=len(read.rows),
            class_counts=dict(zip(spec.classes, counts, strict=True)),
            shards=read.shards,
            index=write_index(folder / f"index-{name}.parquet", read.rows),
        )
    manifest = Manifest(
        format=FORMAT,
        source="tars",
        location=store.location,
        source_files={shard.path: shard.sha256 for split in splits.values() for shard in split.shards},
        spec=spec,
        encoding="picture",
        split_seed=seed,
        skipped={"fault": skipped} if skipped else {},
        splits=splits,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def list_tars(location: str, raw: Path, log: Log, settings: StoreSettings | None = None) -> None:
    """Writes `files.json` in `raw`: names and sizes of the tars at a location, by which `fetch` sees that they changed.

    Raises:
        DataError: the folder is missing or has no tar.
        ResourceError: an object store cannot be reached.
    """
    store = Store(location, settings)
    sizes = {path: store.size(path) for path in store.list(".tar")}
    if not sizes:
        raise DataError(f"no .tar in {location}")
    write_json(raw / "files.json", {"location": store.location, "bytes": sizes})
    log(f"fetch: tars, {len(sizes)} in {location}, {sum(sizes.values()) / 1e6:,.0f} MB; they stay where they are")


def tars_location(folder: str, project: Path) -> str:
    """Where data.folder points to: an absolute folder, or an object store's prefix."""
    return folder.rstrip("/") if "://" in folder else str((project / folder).resolve())


def tars_spec(options: OwnParams) -> DataSpec:
    """Of pictures in tars; `ANY_CLASSES` where the number of classes is not given."""
    return DataSpec(
        kind="image",
        shape=picture_shape(options),
        dtype="uint8",
        classes=_numbered(options.num_classes) if options.num_classes else ANY_CLASSES,
        likelihood=picture_likelihood(options),
    )


def _numbered(num: int) -> tuple[str, ...]:
    return tuple(map(str, range(num)))


class _NotWhole(Exception):
    """The tar cannot be read on from here."""


def _samples(file: StoreFile, where: str, spec: DataSpec) -> Iterator[_Sample]:
    """The samples of a tar whose members are complete."""
    sample: _Sample | None = None
    for name, place, data in _members(file, where):
        folder, _, base = name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        key, suffix = (f"{folder}/{stem}" if folder else stem), dot + suffix.lower()
        if sample is None or sample.key != key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        _take(sample, suffix, place, data, spec)
    if sample is not None:
        yield sample


def _take(sample: _Sample, suffix: str, place: tuple[int, int, int], data: bytes, spec: DataSpec) -> None:
    """Adds a member to its sample."""
    if suffix in _PICTURES:
        if sample.picture is not None:
            sample.wrong.append("more than one picture")
            return
        sample.picture = place
        try:
            decode_values(data, suffix, spec, "picture")
        except DataError as error:
            sample.wrong.append(str(error))
    elif suffix in (".cls", ".json"):
        try:
            label = _label(suffix, data, spec.num_classes)
        except ValueError as error:
            sample.wrong.append(str(error))
            return
        if sample.label is not None and label not in (None, sample.label):
            sample.wrong.append(f"two labels, {sample.label} and {label}")
        sample.label = label if sample.label is None else sample.label


def _label(suffix: str, data: bytes, num_classes: int) -> int | None:
    """None where a .json names no label."""
    text = data.decode("utf-8", errors="replace").strip()
    label: Any = text
    if suffix == ".json":
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(".json cannot be parsed") from error
        named = [
            name for name in ("label", "cls", "class") if isinstance(fields, dict) and fields.get(name) is not None
        ]
        if not named:
            return None
        label = fields[named[0]]
        if type(label) is not int:
            raise ValueError(f"{named[0]} of .json is {str(label)[:20]!r}, not a whole number")
        text = str(label)
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= num_classes:
        raise ValueError(f"class {text[:20]!r}; allowed: 0 to {num_classes - 1}")
    return int(text)


def _members(file: StoreFile, where: str) -> Iterator[tuple[str, tuple[int, int, int], bytes]]:
    """Name, place (offset, size, CRC-32) and bytes of each plain file; bytes are empty where not needed."""
    end = 0
    try:
        with tarfile.open(fileobj=cast(Any, file), mode="r:") as tar:
            for info in tar:
                _check_name(info, where)
                left = max(0, file.size - info.offset_data)
                if not 0 <= info.size <= left:
                    raise _NotWhole(f"truncated, member {info.name!r} has {left} of {info.size} bytes")
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not info.isreg() or info.issparse():
                    continue
                data = b""
                name = info.name.removeprefix("./")
                label = name.lower().endswith((".cls", ".json"))
                if name.lower().endswith(_PICTURES) or (label and info.size <= _LARGEST_LABEL):
                    file.seek(info.offset_data)
                    data = file.read(info.size)
                yield name, (info.offset_data, info.size, zlib.crc32(data)), data
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _NotWhole(f"not a whole tar ({error})") from error
    file.seek(end)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise _NotWhole(f"truncated or damaged after byte {end}, where the tar should end")


def _check_name(info: tarfile.TarInfo, where: str) -> None:
    name = info.name.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where}: member {info.name!r} points outside the tar")
    # Every suffix counts: a reader may split names at any dot.
    if any(f".{part}" in _PICKLES for part in PurePosixPath(name).name.lower().split(".")[1:]):
        raise DataError(f"{where}: member {info.name!r} is a pickle, which can run code; take it out of the tar")
