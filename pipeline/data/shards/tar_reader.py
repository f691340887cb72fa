"""The tars of webdataset: write one, and read its members with nothing passed over.

webdataset's own iterator passes over what it does not know, and tarfile takes a header that it cannot read for the
tar's end. Here every member must be a sample's, and the tar must end where its last member does.

webdataset brings in PyTorch: it is imported where a tar is read, so that writing shards starts without it.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ie_model.spec import DataSpec
from pipeline.data.example import Example
from pipeline.data.shards.sample_codec import Encoding, decode_sample
from pipeline.errors import DataError

REMEDY = "run `dvc repro --force shard` to write the shards again"
EXTERNAL_REMEDY = "restore these tars, or run `ie fetch` and `ie shard` for those that are there now"


def write_tar(path: Path, samples: Sequence[dict[str, Any]]) -> None:
    """A tar of encoded samples. The same samples give the same bytes: time, owner and mode are fixed."""
    from webdataset import TarWriter

    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
        for sample in samples:
            writer.write(sample)


def iter_samples(path: Path) -> Iterator[dict[str, Any]]:
    """The samples of a tar, in its order: `__key__` and the bytes of each field.

    Beside a field's bytes stands `__place__<field>`: offset in the tar, length and CRC-32 of those bytes.

    Raises:
        DataError: the tar is missing, truncated or damaged, or a member is not a sample's; names tar and member.
    """
    from webdataset.tariterators import group_by_keys

    try:
        with path.open("rb") as file:
            places: dict[str, tuple[int, int, int]] = {}
            for sample in group_by_keys(_members(file, path, places), handler=_raise):
                key = sample["__key__"]
                for field in [name for name in sample if not name.startswith("__")]:
                    sample[f"__place__{field}"] = places.pop(f"{key}.{field}")
                yield sample
    except FileNotFoundError as error:
        raise DataError(f"shard is missing: {path}; {REMEDY}") from error
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a whole tar ({error}); {REMEDY}") from error


def iter_shard(path: Path, spec: DataSpec, encoding: Encoding) -> Iterator[Example]:
    """The examples of one tar, in its order.

    Raises:
        DataError: the tar is missing, truncated or damaged, or a sample is not of the spec; names shard and
            key.
    """
    for sample in iter_samples(path):
        yield decode_sample(sample, path, spec, encoding)


def _members(file: BinaryIO, path: Path, places: dict[str, tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
    """Names and bytes of a tar's members, for webdataset's grouping by key; fills `places`."""
    from webdataset.tariterators import base_plus_ext

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
                raise DataError(f"{path}: truncated, member {info.name!r} has {left} of {info.size} bytes; {REMEDY}")
            file.seek(info.offset_data)
            data = file.read(info.size)
            # webdataset lower-cases the field.
            key, field = base_plus_ext(info.name)
            places[f"{key}.{field.lower()}"] = info.offset_data, info.size, zlib.crc32(data)
            end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            yield {"fname": info.name, "data": data, "__url__": str(path)}
    file.seek(end)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise DataError(f"{path}: truncated or damaged after byte {end}, where the tar should end; {REMEDY}")


def _check_member(info: tarfile.TarInfo, path: Path) -> None:
    from webdataset.tariterators import base_plus_ext

    name = info.name
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
        raise DataError(f"{path}: member {name!r} points outside the shard")
    if not info.isreg() or info.issparse():
        raise DataError(f"{path}: member {name!r} is not a plain file")
    key, field = base_plus_ext(name)
    # Names in `__` are webdataset's own: by `k.__bad__` a sample would be passed over without a word.
    if key is None or name.startswith("__") or field.startswith("__"):
        raise DataError(f"{path}: member {name!r} is not <key>.<field> of a sample")


def _raise(error: Exception) -> bool:
    raise error
