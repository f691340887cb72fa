"""The manifest that describes a folder of shards: read it, verify the shards against it.

It is what DVC hashes and what every reader trusts, after `verify_shards` has checked it against the tars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file
from pipeline.samples import Encoding
from pipeline.tars import REMEDY, write_tar

FORMAT: Literal[2] = 2
MANIFEST = "manifest.json"
SplitName = Literal["train", "val", "test"]


class File(BaseModel):
    """A file of a folder of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.[a-z]+$")
    """Its name; no directories."""

    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(File):
    """One tar."""

    path: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=-]*(/[A-Za-z0-9_][A-Za-z0-9_.+=-]*)*$", max_length=1000)
    """Its name, with folders where tars of others lie in some; none begins with a dot, so none leads out."""

    samples: int = Field(ge=1)


class Split(BaseModel):
    """Train, val or test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1)
    class_counts: dict[str, int]
    """Labelled examples by class name, in the order of the classes."""

    shards: tuple[Shard, ...] = Field(min_length=1)
    index: File
    """Where each sample lies, see `pipeline.index`."""


class Manifest(BaseModel):
    """What lies in a folder of shards, and what it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2]
    source: str
    location: str = ""
    """Folder or `s3://...` prefix of the tars; empty where they lie beside the manifest."""

    source_files: dict[str, str]
    """SHA-256 of the raw files, by name."""

    spec: DataSpec
    encoding: Encoding
    vocabulary: tuple[str, ...] = ()
    """The W words of counts, in the order of their values; empty for other kinds."""

    split_seed: int
    skipped: dict[str, int] = {}
    """Examples left out because of `data.faults: skip`, by reason."""

    splits: dict[SplitName, Split]


def write_shard(path: Path, samples: Sequence[dict[str, Any]]) -> Shard:
    """A tar of encoded samples and its description."""
    write_tar(path, samples)
    return Shard(path=path.name, samples=len(samples), bytes=path.stat().st_size, sha256=sha256_file(path))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        DataError: it is missing, damaged, or written by another version.
    """
    path = folder / MANIFEST
    raw = read_json(path, "the shards' manifest (run `ie shard`)")
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise DataError(f"{path}: format {raw.get('format')!r}, this version reads {FORMAT}; {REMEDY}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged at {where or 'its top'}: {first['msg']}; {REMEDY}") from error
    if absent := {"train", "val", "test"} - manifest.splits.keys():
        raise DataError(f"{path} is damaged: no split {min(absent)}; {REMEDY}")
    for name, split in manifest.splits.items():
        if split.samples != sum(shard.samples for shard in split.shards):
            raise DataError(f"{path} is damaged: split {name} has {split.samples} samples, its shards others; {REMEDY}")
        if split.class_counts.keys() != set(manifest.spec.classes):
            raise DataError(f"{path} is damaged: the classes of split {name} are not those of the spec; {REMEDY}")
    # The file has its keys sorted.
    splits = {
        name: split.model_copy(update={"class_counts": {c: split.class_counts[c] for c in manifest.spec.classes}})
        for name, split in manifest.splits.items()
    }
    return manifest.model_copy(update={"splits": splits})


def verify_shards(folder: Path, manifest: Manifest, splits: Sequence[str] | None = None) -> None:
    """Reads every byte of the shards of `splits` (all when None).

    Raises:
        DataError: a shard is missing, truncated or damaged; the message names it.
    """
    for name, split in manifest.splits.items():
        if splits is not None and name not in splits:
            continue
        files: tuple[File, ...] = (split.index, *split.shards)
        for shard in files:
            path = folder / shard.path
            if not path.is_file():
                raise DataError(f"shard is missing: {path}; {REMEDY}")
            if (size := path.stat().st_size) != shard.bytes:
                what = "truncated" if size < shard.bytes else "overgrown"
                raise DataError(f"{path}: {what}, {size} of {shard.bytes} bytes; {REMEDY}")
            if sha256_file(path) != shard.sha256:
                raise DataError(f"{path}: damaged, its SHA-256 is not the manifest's; {REMEDY}")
