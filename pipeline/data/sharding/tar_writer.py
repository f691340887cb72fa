"""Packs the examples of one tar, one at a time: read, check, encode, write; records each sample's place.

Nothing here needs webdataset or PyTorch, so a writer process starts fast and stays small.
"""

from __future__ import annotations

import hashlib
import socket
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec
from pipeline.data.example import Example, Examples, RawSplit
from pipeline.data.sharding.tar_target import Target, Writing
from pipeline.data.shards.sample_codec import Encoding, check_example, encode_example
from pipeline.errors import DataError, ResourceError
from pipeline.utils.arrays import IntArray
from pipeline.utils.process_pool import Report

Faults = Literal["fatal", "skip"]
UNREADABLE = "cannot be read"
INVALID = "not as the spec says"
_MESSAGES_KEPT = 10


@dataclass(frozen=True, eq=False)
class Packing:
    """What all tars of a run share."""

    target: Target
    """Where the tars go."""

    spec: DataSpec
    encoding: Encoding
    examples: dict[RawSplit, Examples]
    folders: tuple[Path, ...] = ()
    """What a host must see to read the examples."""


@dataclass(frozen=True, eq=False)
class Tar:
    """One tar to be written."""

    name: str
    """Without `.tar`."""

    raw_split: RawSplit
    rows: IntArray
    """Which of the raw split's examples, in the order of the tar."""


@dataclass(frozen=True, eq=False)
class Packed:
    """One tar that was written; with no sample there is no file."""

    name: str
    bytes: int
    sha256: str
    keys: list[str]
    y: IntArray
    """Class index, -1 where the label is not known."""

    offset: IntArray
    """Where the bytes of a sample's values begin in the tar."""

    size: IntArray
    crc32: npt.NDArray[np.uint32]
    skipped: dict[str, int]
    """Examples left out, by reason."""

    messages: tuple[str, ...]
    """What was wrong with the first of them."""

    etag: str
    """Of the tar in an object store; else empty."""


class TarFile:
    """A tar written front to back, as `webdataset.TarWriter` writes it with time 0 and no owner, byte for byte.

    It tracks each member's place and the file's SHA-256, and keeps no list of members: `tarfile` and
    webdataset keep about a kilobyte of each sample until the tar is closed.
    """

    def __init__(self, file: Writing) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.bytes = 0

    def add(self, name: str, data: bytes) -> int:
        """Appends a member; returns where its data begin."""
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o444
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        start = self.bytes
        self._write(data)
        self._write(bytes(-len(data) % tarfile.BLOCKSIZE))
        return start

    def finish(self) -> str:
        """Writes the tar's end; returns the hex SHA-256 of the whole."""
        self._write(bytes(2 * tarfile.BLOCKSIZE))
        self._write(bytes(-self.bytes % tarfile.RECORDSIZE))
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.bytes += len(data)


def pack_tar(packing: Packing, tar: Tar, report: Report) -> Packed:
    """Writes one tar of `packing.target`, which appears as a whole. An example that cannot be read or is not what the
    spec says is left out, counted and named.

    Raises:
        DataError: a key cannot be stored; names it.
        ResourceError: this host does not see the data, or the tar cannot be written.
    """
    for folder in packing.folders:
        if not folder.exists():
            raise ResourceError(
                f"{socket.gethostname()} does not see {folder}; all hosts must see it at the same path, or "
                "data.folder be s3://bucket/prefix"
            )
    examples = packing.examples[tar.raw_split]
    keys: list[str] = []
    places = np.zeros((4, len(tar.rows)), dtype=np.int64)
    skipped: dict[str, int] = {}
    messages: list[str] = []
    etag = ""
    with packing.target.writing(tar.name) as file:
        writer = TarFile(file)
        for done, i in enumerate(tar.rows.tolist()):
            report(done)
            try:
                example = _read(examples, i, packing.spec)
            except _Fault as fault:
                skipped[fault.reason] = skipped.get(fault.reason, 0) + 1
                if len(messages) < _MESSAGES_KEPT:
                    messages.append(str(fault))
                continue
            sample = encode_example(example, packing.encoding)
            for field in sorted(sample.keys() - {"__key__"}):
                offset = writer.add(f"{example.key}.{field}", sample[field])
                if field == packing.encoding:
                    values = sample[field]
                    y = -1 if example.y is None else example.y
                    places[:, len(keys)] = y, offset, len(values), zlib.crc32(values)
            keys.append(example.key)
        sha256 = writer.finish()
        if keys:
            etag = file.keep()
    report(len(tar.rows))
    y, offset, size, crc32 = places[:, : len(keys)]
    crcs = crc32.astype(np.uint32)
    return Packed(tar.name, writer.bytes, sha256, keys, y, offset, size, crcs, skipped, tuple(messages), etag)


class _Fault(Exception):
    """An example that is not as it should be."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _read(examples: Examples, i: int, spec: DataSpec) -> Example:
    key, y = examples.keys[i], int(examples.y[i])
    try:
        x = examples.read(i)
    except DataError as error:
        message = str(error) if key in str(error) else f"example {key!r}: {error}"
        raise _Fault(UNREADABLE, message) from error
    try:
        check_example(x, spec)
    except ValueError as error:
        raise _Fault(INVALID, f"example {key!r}: {error}") from error
    return Example(key, x, y if y >= 0 else None)
