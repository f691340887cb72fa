"""The manifest that describes a folder of shards: read it, verify the shards against it.

It is what DVC hashes and what every reader trusts, after `ShardedDataset.verify` has checked it against the tars.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ie_model.checksums import seal, unseal
from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.shards.sample_codec import Encoding
from pipeline.data.shards.tar_reader import REMEDY, write_tar
from pipeline.errors import DataError
from pipeline.utils.files import read_json, sha256_file, write_json

FORMAT: Literal[4] = 4
MANIFEST = "manifest.json"
SHARD_PATH = r"^[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*(/[^./\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*)*$"
"""Tars of others have names of any kind. No part begins with a dot, so none leads out."""

SplitName = Literal["train", "val", "test"]

LabelHash = Literal["sha256", "key64"]
"""By what a run chooses its labels: SHA-256 of (seed, class, key), or `ROW`'s hash of the key mixed with both."""

_MOST_SHA256 = 10_000_000


def label_hash(num_points: int) -> LabelHash:
    """SHA-256 as long as hashing the keys of train takes seconds."""
    return "sha256" if num_points <= _MOST_SHA256 else "key64"


class File(BaseModel):
    """A file of a folder of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.[a-z]+$")
    """Its name; no directories."""

    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Shard(File):
    """One tar."""

    path: str = Field(pattern=SHARD_PATH, max_length=1000)
    """Its name, with folders where tars of others are in some; none begins with a dot, so none leads out."""

    samples: int = Field(ge=1)


class Split(BaseModel):
    """Train, val or test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1)
    class_counts: dict[str, int]
    """Labelled examples by class name, in the order of the classes."""

    shards: tuple[Shard, ...] = Field(min_length=1)
    index: File
    """Place of each sample, see `pipeline.data.shards.index`."""

    keys: File
    """Names of the samples and their factors, in the same order."""


class Manifest(BaseModel):
    """Content and origin of a folder of shards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[4]
    source: str
    location: str = ""
    """Folder or `s3://...` prefix of the tars; empty where they are beside the manifest."""

    source_files: dict[str, str]
    """SHA-256 of the raw files, by name."""

    spec: DataSpec
    encoding: Encoding
    preprocessing: Preprocessing
    """What the values stand for: the words of counts, the scales of series."""

    split_seed: int
    skipped: dict[str, int] = {}
    """Examples left out because of `data.faults: skip`, by reason."""

    label_hash: LabelHash = "sha256"
    factors: tuple[str, ...] = ()
    """Columns of numbers beside the class, in the files of the keys."""

    splits: dict[SplitName, Split]


def write_shard(path: Path, samples: Sequence[dict[str, Any]]) -> Shard:
    """A tar of encoded samples and its description."""
    write_tar(path, samples)
    return Shard(path=path.name, samples=len(samples), bytes=path.stat().st_size, sha256=sha256_file(path))


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes it with the checksum of its own content."""
    absent = None if manifest.factors else {"factors"}  # without factors the file is as it was before there were any
    write_json(folder / MANIFEST, seal(manifest.model_dump(mode="json", exclude=absent)))


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
        manifest = Manifest.model_validate(unseal(raw))
        manifest.preprocessing.check(manifest.spec)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged at {where or 'its top'}: {first['msg']}; {REMEDY}") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}; {REMEDY}") from error
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
