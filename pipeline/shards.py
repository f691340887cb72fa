"""Webdataset tars and the manifest that describes them: write, read, verify.

A sample is `<key>.png` or `<key>.npy` and, where the label is known, `<key>.cls` with the class index in ASCII. Images
are PNGs or arrays; a series is an array `[C, length]`, not padded; counts are an array `[2, n]` of the words that occur
and how often. The manifest is what DVC hashes and what every reader trusts, after `verify_shards` has checked it
against the tars.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import tarfile
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from webdataset import TarWriter
from webdataset.tariterators import base_plus_ext, group_by_keys

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import read_json, sha256_file
from pipeline.sources.base import Example

FORMAT: Literal[1] = 1
MANIFEST = "manifest.json"
Encoding = Literal["png", "npy"]
SplitName = Literal["train", "val", "test"]
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
# What Pillow's readers of the parts of a PNG raise for damage.
_PNG_ERRORS = (
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    OSError,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
)
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
    vocabulary: tuple[str, ...] = ()
    """The W words of counts, in the order of their values; empty for other kinds."""

    split_seed: int
    splits: dict[SplitName, Split]


def encode_example(example: Example, encoding: Encoding) -> dict[str, Any]:
    """A sample for a webdataset writer.

    Raises:
        DataError: the key holds what webdataset would read back as another key (a dot, a path), pass over (`__`), or
            what a tar's name field cannot take.
    """
    if not _KEY.fullmatch(example.key):
        raise DataError(
            f"key {example.key!r}: allowed are up to 80 letters, digits, '_' and '-', the first no '_' or '-'"
        )
    buffer = io.BytesIO()
    if encoding == "npy" and example.x.dtype == np.int32:
        words = np.flatnonzero(example.x)
        np.save(buffer, np.stack([words.astype(np.int32), example.x[words]]), allow_pickle=False)
    elif encoding == "png":
        # Images of one channel are stored grey. A fixed, low compression level: the same bytes every time, quickly.
        pixels = example.x[0] if example.x.shape[0] == 1 else example.x.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=3)
    else:
        np.save(buffer, np.ascontiguousarray(example.x), allow_pickle=False)
    sample: dict[str, Any] = {"__key__": example.key, encoding: buffer.getvalue()}
    if example.y is not None:
        sample["cls"] = str(example.y).encode()
    return sample


def check_example(x: npt.NDArray[Any], spec: DataSpec) -> None:
    """Whether values are what the spec says.

    Raises:
        ValueError: says what was found and what is expected.
    """
    found = f"{x.dtype} of shape {list(x.shape)}"
    if spec.kind == "series":
        channels, longest = spec.shape
        if x.dtype != np.float32 or x.ndim != 2 or x.shape[0] != channels or not 1 <= x.shape[1] <= longest:
            raise ValueError(f"{found}, expected float32 of [{channels}, 1 to {longest}]")
        if np.isinf(x).any():
            raise ValueError("an infinite value")
        if np.isnan(x).all():
            raise ValueError("no value that is known")
        return
    if x.dtype != np.dtype(spec.dtype) or x.shape != spec.shape:
        raise ValueError(f"{found}, expected {spec.dtype} of {list(spec.shape)}")
    if spec.kind == "counts" and x.min() < 0:
        raise ValueError(f"a negative count, {x.min()}")


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
        DataError: the tar is missing, truncated or damaged, or a sample is not what the spec says; names shard and
            key.
    """
    try:
        with path.open("rb") as file:
            for sample in group_by_keys(_members(file, path), handler=_raise):
                yield _decode(sample, path, spec, encoding)
    except FileNotFoundError as error:
        raise DataError(f"shard is missing: {path}; {_REMEDY}") from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole tar ({error}); {_REMEDY}") from error


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
    if absent := {"train", "val", "test"} - manifest.splits.keys():
        raise DataError(f"{path} is damaged: no split {min(absent)}; {_REMEDY}")
    for name, split in manifest.splits.items():
        if split.samples != sum(shard.samples for shard in split.shards):
            raise DataError(
                f"{path} is damaged: split {name} has {split.samples} samples, its shards others; {_REMEDY}"
            )
        if split.class_counts.keys() != set(manifest.spec.classes):
            raise DataError(f"{path} is damaged: the classes of split {name} are not those of the spec; {_REMEDY}")
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
        for shard in split.shards:
            path = folder / shard.path
            if not path.is_file():
                raise DataError(f"shard is missing: {path}; {_REMEDY}")
            if (size := path.stat().st_size) != shard.bytes:
                what = "truncated" if size < shard.bytes else "overgrown"
                raise DataError(f"{path}: {what}, {size} of {shard.bytes} bytes; {_REMEDY}")
            if sha256_file(path) != shard.sha256:
                raise DataError(f"{path}: damaged, its SHA-256 is not the manifest's; {_REMEDY}")


def _members(file: BinaryIO, path: Path) -> Iterator[dict[str, Any]]:
    """Names and bytes of a tar's members, for webdataset's grouping by key.

    webdataset's own iterator passes over what it does not know, and tarfile takes a header that it cannot read for the
    tar's end. Here every member must be a sample's, and the tar must end where its last member does.
    """
    seen: set[str] = set()
    size = os.fstat(file.fileno()).st_size
    end = 0
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for info in tar:
            _check_member(info, path)
            if info.name in seen:
                raise DataError(f"{path}: member {info.name!r} occurs twice")
            seen.add(info.name)
            # Looked at before reading: a damaged header may state more bytes than the memory holds.
            left = max(0, size - info.offset_data)
            if not 0 <= info.size <= left:
                raise DataError(f"{path}: truncated, member {info.name!r} has {left} of {info.size} bytes; {_REMEDY}")
            file.seek(info.offset_data)
            data = file.read(info.size)
            end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield {"fname": info.name, "data": data, "__url__": str(path)}
    file.seek(end)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise DataError(f"{path}: truncated or damaged after byte {end}, where the tar should end; {_REMEDY}")


def _check_member(info: tarfile.TarInfo, path: Path) -> None:
    name = info.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise DataError(f"{path}: member {name!r} points outside the shard")
    if not info.isreg() or info.issparse():
        raise DataError(f"{path}: member {name!r} is not a plain file")
    key, field = base_plus_ext(name)
    # Names in `__` are webdataset's own: by `k.__bad__` a sample would be passed over without a word.
    if key is None or name.startswith("__") or field.startswith("__"):
        raise DataError(f"{path}: member {name!r} is not <key>.<field> of a sample")


def _decode(sample: dict[str, Any], path: Path, spec: DataSpec, encoding: Encoding) -> Example:
    key = sample["__key__"]
    where = f"{path}, key {key}"
    unknown = sorted(name for name in sample if not name.startswith("__") and name not in (encoding, "cls"))
    if unknown:
        raise DataError(f"{where}: unexpected member .{unknown[0]}; allowed: .{encoding} and .cls")
    if encoding not in sample:
        raise DataError(f"{where}: no member .{encoding}")
    x = (_decode_png if encoding == "png" else _decode_npy)(sample[encoding], where, spec)
    if "cls" not in sample:
        return Example(key, x, None)
    text = sample["cls"].decode("ascii", errors="replace")
    # int() refuses very long numbers by a ValueError of its own.
    if not text.isdigit() or len(text) > 9 or int(text) >= spec.num_classes:
        raise DataError(f"{where}: class {text[:20]!r}; allowed: 0 to {spec.num_classes - 1}")
    return Example(key, x, int(text))


def _decode_png(data: bytes, where: str, spec: DataSpec) -> npt.NDArray[np.uint8]:
    channels, height, width = spec.shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # The header alone has been read: a picture of another size is never unpacked.
            if (image.mode, image.height, image.width) != (mode, height, width):
                raise DataError(
                    f"{where}: {image.mode} picture of {image.height}x{image.width}, "
                    f"the manifest says {mode} of {height}x{width}"
                )
            pixels = np.asarray(image)
    except _PNG_ERRORS as error:
        raise DataError(f"{where}: .png cannot be decoded ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _decode_npy(data: bytes, where: str, spec: DataSpec) -> npt.NDArray[Any]:
    # Not np.load: it would open zip archives too, and reserve whatever size the header states.
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("version other than 1.0")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, EOFError, OSError, RecursionError, tokenize.TokenError) as error:
        # The header is a Python literal: each of these is what numpy raises for some damage to it.
        raise DataError(f"{where}: .npy cannot be decoded ({error})") from error
    if dtype != np.dtype(spec.dtype) or fortran_order or not _shape_fits(shape, spec):
        raise DataError(f"{where}: {dtype} of shape {list(shape)}, the manifest says {_stored_shape(spec)}")
    values = file.read()
    size = math.prod(shape)
    if len(values) != size * dtype.itemsize:
        raise DataError(f"{where}: .npy holds {len(values)} of {size * dtype.itemsize} bytes")
    x: npt.NDArray[Any] = np.frombuffer(values, dtype=dtype).reshape(shape)
    try:
        if spec.kind == "counts":
            x = _dense_counts(x, spec.shape[0])
        check_example(x, spec)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return x


def _shape_fits(shape: tuple[int, ...], spec: DataSpec) -> bool:
    """Whether a stored array can be an example, before its values are looked at."""
    if spec.kind == "series":
        return len(shape) == 2 and shape[0] == spec.shape[0] and 1 <= shape[1] <= spec.shape[1]
    if spec.kind == "counts":
        return len(shape) == 2 and shape[0] == 2 and shape[1] <= spec.shape[0]
    return shape == spec.shape


def _stored_shape(spec: DataSpec) -> str:
    if spec.kind == "series":
        return f"{spec.dtype} of [{spec.shape[0]}, 1 to {spec.shape[1]}]"
    if spec.kind == "counts":
        return f"{spec.dtype} of [2, at most {spec.shape[0]}]"
    return f"{spec.dtype} of {list(spec.shape)}"


def _dense_counts(pairs: npt.NDArray[np.int32], num_words: int) -> npt.NDArray[np.int32]:
    words, counts = pairs
    if words.size and (words.min() < 0 or words.max() >= num_words or (np.diff(words) <= 0).any()):
        raise ValueError(f"words are not rising indices below {num_words}")
    if (counts < 1).any():
        raise ValueError("a word that does not occur")
    dense = np.zeros(num_words, dtype=np.int32)
    dense[words] = counts
    return dense


def _raise(error: Exception) -> bool:
    raise error
