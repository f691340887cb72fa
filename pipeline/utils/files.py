"""Files that appear whole or not at all, and their checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, from_os_error

_CHUNK = 1 << 20


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` on success, removed on any failure.

    Raises:
        ResourceError: no space, no permission, or the like.
    """
    with resources():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            # mkstemp makes files private; published outputs follow the usual umask.
            part.chmod(0o666 & ~_umask())
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to fill; it takes `path`'s place on success and is removed on any failure.

    An old folder at `path` stays until the new one is complete.
    """
    with resources():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield part
            part.chmod(0o777 & ~_umask())
            put_in_place(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def put_in_place(part: Path, path: Path) -> None:
    """A folder takes the place of `path` on the same file system; killed in between, `remove_leftovers` repairs it."""
    if path.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
        os.replace(path, old / path.name)
        os.replace(part, path)
        shutil.rmtree(old)
    else:
        os.replace(part, path)


def remove_leftovers(path: Path) -> None:
    """Removes what an interrupted write of `path` left beside it (a killed process cannot clean up)."""
    if path.parent.is_dir():
        for part in path.parent.glob(f".{path.name}.*.part"):
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        for old in path.parent.glob(f".{path.name}.*.old"):
            if not path.exists() and (old / path.name).exists():
                os.replace(old / path.name, path)  # killed between the two renames of `atomic_folder`
            shutil.rmtree(old)


def write_json(path: Path, value: Any) -> None:
    """Sorted, indented JSON, atomically. NaN and infinity are refused: they are not JSON.

    Raises:
        ValueError: `value` holds a number that is not finite.
    """
    text = json_text(value)
    with atomic_file(path) as part:
        part.write_text(text)


def json_text(value: Any) -> str:
    """What `write_json` writes. Raises ValueError as that."""
    return json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_json(path: Path, what: str) -> Any:
    """Parsed JSON.

    Raises:
        DataError: the file is missing or is not JSON; `what` names it for the user.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(f"{what} is missing: {path}") from error
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise DataError(f"{what} is damaged, not JSON ({error}): {path}") from error


@contextlib.contextmanager
def resources() -> Iterator[None]:
    """Turns what the machine lacks into one line.

    Raises:
        ResourceError: in place of a user-facing OSError.
    """
    try:
        yield
    except OSError as error:
        known = from_os_error(error)
        if known is None:
            raise
        raise known from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
