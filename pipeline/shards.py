"""Webdataset tars and the manifest that describes them: write, read, verify.

A sample is `<key>.png` or `<key>.npy` and, where the label is known, `<key>.cls` with the class index in ASCII. The
manifest is what DVC hashes and what every reader trusts, after `verify_shards` has checked it against the tars.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from webdataset import TarWriter
from webdataset.tariterators import group_by_keys, tar_file_iterator

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file
from pipeline.sources.base import Example

FORMAT = 1
MANIFEST = "manifest.json"
Encoding = Literal["png", "npy"]
_REMEDY = "run `dvc repro --force shard` to write the shards again"


class Shard(BaseModel):
    """One tar."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\.tar$")
    """File name, in the manifest's own folder."""

    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class Split(BaseModel):
    """Train, val or test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    samples: int = Field(ge=1)
    class_counts: dict[str, int]
    """Labelled examples by class name, in the order of the classes."""

    shards: tuple[Shard, ...] = Field(min_length=1)


class Manifest(BaseModel):
    """What lies in a folder of shards, and what it was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    source: str
    source_files: dict[str, str]
    """SHA-256 of the raw files, by name."""

    spec: DataSpec
    encoding: Encoding
    split_seed: int
    splits: dict[Literal["train", "val", "test"], Split]


def encode_example(example: Example, encoding: Encoding) -> dict[str, Any]:
    """A sample for a webdataset writer.

    Raises:
        DataError: the key holds a dot or a path, which webdataset would read back as another key.
    """
    if not example.key or "." in example.key or "/" in example.key or "\\" in example.key:
        raise DataError(f"key {example.key!r}: allowed are names without dots and slashes")
    buffer = io.BytesIO()
    if encoding == "png":
        # Images of one channel are stored grey. A fixed, low compression level: the same bytes every time, quickly.
        pixels = example.x[0] if example.x.shape[0] == 1 else example.x.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=3)
    else:
        np.save(buffer, np.ascontiguousarray(example.x), allow_pickle=False)
    sample: dict[str, Any] = {"__key__": example.key, encoding: buffer.getvalue()}
    if example.y is not None:
        sample["cls"] = str(example.y).encode()
    return sample


def write_shard(path: Path, samples: Sequence[dict[str, Any]]) -> Shard:
    """A tar of encoded samples. The same samples give the same bytes: time, owner and mode are fixed."""
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
        for sample in samples:
            writer.write(sample)
    return Shard(path=path.name, samples=len(samples), bytes=path.stat().st_size, sha256=sha256_file(path))


def iter_shard(path: Path, spec: DataSpec, encoding: Encoding) -> Iterator[Example]:
    """The examples of one tar, in its order.

    Fields are decoded by name: nothing else in a tar is ever looked into, least of all a pickle.

    Raises:
        DataError: the tar is missing or truncated, or a sample is not what the spec says; names shard and key.
    """
    try:
        with path.open("rb") as file:
            members = ({**member, "__url__": str(path)} for member in tar_file_iterator(file, handler=_raise))
            for sample in group_by_keys(_checked_names(members, path), handler=_raise):
                yield _decode(sample, path, spec, encoding)
    except FileNotFoundError as error:
        raise DataError(f"shard is missing: {path}; {_REMEDY}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a whole tar ({error.args[0] if error.args else error}); {_REMEDY}") from error


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder of shards.

    Raises:
        DataError: it is missing, damaged, or written by another version.
    """
    path = folder / MANIFEST
    raw = read_json(path, "the shards' manifest (run `ie shard`)")
    if isinstance(raw, dict) and raw.get("format") != FORMAT:
        raise DataError(f"{path}: format {raw.get('format')!r}, this version reads {FORMAT}; {_REMEDY}")
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(f"{path} is damaged at {where or 'its top'}: {first['msg']}; {_REMEDY}") from error
    for name, split in manifest.splits.items():
        if split.samples != sum(shard.samples for shard in split.shards):
            raise DataError(f"{path} is damaged: split {name} has {split.samples} samples, its shards others; {_REMEDY}")
        if tuple(split.class_counts) != manifest.spec.classes:
            raise DataError(f"{path} is damaged: the classes of split {name} are not those of the spec; {_REMEDY}")
    return manifest


def verify_shards(folder: Path, manifest: Manifest, splits: Sequence[str] | None = None) -> None:
    """Reads every byte of the shards of `splits` (all when None).

    Raises:
        DataError: a shard is missing, truncated or damaged; the message names it.
    """
    for name, split in manifest.splits.items():
        if splits is not None and name not in splits:
            continue
        for shard in split.shards:
            path = folder / shard.path
            if not path.is_file():
                raise DataError(f"shard is missing: {path}; {_REMEDY}")
            if (size := path.stat().st_size) != shard.bytes:
                raise DataError(f"{path}: truncated or overgrown, {size} of {shard.bytes} bytes; {_REMEDY}")
            if sha256_file(path) != shard.sha256:
                raise DataError(f"{path}: damaged, its SHA-256 is not the manifest's; {_REMEDY}")


def _checked_names(members: Iterator[dict[str, Any]], path: Path) -> Iterator[dict[str, Any]]:
    for member in members:
        name = str(member["fname"])
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise DataError(f"{path}: member {name!r} points outside the shard")
        yield member


def _decode(sample: dict[str, Any], path: Path, spec: DataSpec, encoding: Encoding) -> Example:
    key = sample["__key__"]
    where = f"{path}, key {key}"
    unknown = sorted(name for name in sample if not name.startswith("__") and name not in (encoding, "cls"))
    if unknown:
        raise DataError(f"{where}: unexpected member .{unknown[0]}; allowed: .{encoding} and .cls")
    if encoding not in sample:
        raise DataError(f"{where}: no member .{encoding}")
    x = _decode_array(sample[encoding], where, encoding)
    if x.shape != spec.shape or x.dtype != np.uint8:
        raise DataError(f"{where}: {x.dtype} of shape {list(x.shape)}, the manifest says uint8 of {list(spec.shape)}")
    if "cls" not in sample:
        return Example(key, x, None)
    text = sample["cls"].decode("ascii", errors="replace")
    if not text.isdigit() or int(text) >= spec.num_classes:
        raise DataError(f"{where}: class {text[:20]!r}; allowed: 0 to {spec.num_classes - 1}")
    return Example(key, x, int(text))


def _decode_array(data: bytes, where: str, encoding: Encoding) -> npt.NDArray[np.uint8]:
    try:
        if encoding == "npy":
            array: npt.NDArray[np.uint8] = np.load(io.BytesIO(data), allow_pickle=False)
            return array
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (UnidentifiedImageError, ValueError, EOFError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: .{encoding} cannot be decoded ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _raise(error: Exception) -> bool:
    raise error
