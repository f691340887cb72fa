"""What all ways share: their answer, and copying that ends where a file of the expected size ends."""

from __future__ import annotations

import contextlib
import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pipeline.data.sources import RawFile
from pipeline.errors import PipelineError
from pipeline.utils.files import sha256_file

_CHUNK = 1 << 20


class WayFailed(PipelineError):
    """What a way answered for one file. fetch tries the next way; only when all fail is it a user-facing error."""


Way = Callable[[RawFile, Path], str]
"""Writes a file to a path; returns where it came from."""


def mismatch(path: Path, file: RawFile) -> str | None:
    """What is wrong with a file that should be `file`, or None."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes long, expected {file.size}"
    if (found := sha256_file(path)) != file.sha256:
        return f"of SHA-256 {found}, expected {file.sha256}"
    return None


def copy_at_most(stream: IO[bytes] | gzip.GzipFile, target: Path, size: int, origin: str) -> None:
    """Copies a stream to a file, refusing to write more than `size` bytes (a decompression bomb, a wrong file).

    Raises:
        WayFailed: the stream is longer, or cannot be read to its end.
    """
    written = 0
    with target.open("wb") as out:
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
                raise WayFailed(f"{origin}: truncated or damaged ({one_line(error) or 'it ends early'})") from error
            if not chunk:
                return
            written += len(chunk)
            if written > size:
                raise WayFailed(f"{origin}: longer than the expected {size} bytes")
            out.write(chunk)


@contextlib.contextmanager
def opened(path: Path, name: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """`plain_or_gzip` of a file."""
    with path.open("rb") as file, plain_or_gzip(file, name) as stream:
        yield stream


@contextlib.contextmanager
def plain_or_gzip(stream: IO[bytes], name: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """The bytes of a stream as they are to be used: unpacked where the name ends in `.gz`."""
    if not name.endswith(".gz"):
        yield stream
        return
    with gzip.GzipFile(fileobj=stream) as unpacked:
        yield unpacked


def most_compressed(size: int) -> int:
    """Compression makes what cannot be compressed a little longer."""
    return size + size // 100 + 4096


def one_line(text: object, most: int = 200) -> str:
    """A text without line breaks, cut off."""
    return " ".join(str(text).split())[:most]
