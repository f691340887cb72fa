"""Checksums of a folder of results, which whatever reads results checks first.

`checksums.json` is written last. Text files count with `\\n` at their line ends, so that git may change them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ie_model.checksums import seal, unseal
from pipeline.errors import DataError
from pipeline.utils.files import read_json, sha256_file, write_json

CHECKSUMS = "checksums.json"
_FORMAT = 1
_TEXT = (".csv", ".html", ".json")
# Written for people: nothing reads them back, and `ie summary` writes them again.
_UNREAD = (".md", ".tex")
# A folder whose files carry checksums of their own.
_SEALED = "model"


@dataclass(frozen=True)
class Checksums:
    """Content of a checksums.json."""

    where: str
    """The file, for messages."""

    files: dict[str, str]
    """SHA-256 by a file's name, relative to the folder."""

    def below(self, folder: Path, name: str) -> list[str]:
        """Files of `name`, a folder in `folder`: those that have a checksum, and those that are there."""
        there = (path.relative_to(folder).as_posix() for path in (folder / name).iterdir())
        return sorted({*there, *(file for file in self.files if file.startswith(name))})

    def check(self, name: str, found: Callable[[], str], where: str, command: str) -> None:
        """Compares a file with its checksum.

        Args:
            found: computes the file's checksum.
            where: the file, for messages.
            command: makes the file again.

        Raises:
            DataError: the file has no checksum, or is not the one that was written.
        """
        if name not in self.files:
            raise DataError(f"{self.where} has no checksum of {name}; run `{command}` again: {where}")
        if self.files[name] != found():
            raise DataError(f"not as `{command}` wrote it, by {CHECKSUMS}; run `{command}` again: {where}")


def write_checksums(folder: Path) -> None:
    """Writes the checksums of all files below a folder that something reads, but for a model, which carries its own."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    kept = (name for name in names if name != CHECKSUMS and not _left_out(name))
    record = {"format": _FORMAT, "files": {name: file_checksum(folder / name) for name in kept}}
    write_json(folder / CHECKSUMS, seal(record))


def check_results(folder: Path, names: Iterable[str], command: str) -> None:
    """Compares files of a folder of results with its checksums.json.

    Args:
        names: of the files, relative to the folder; a name that ends in `/` is a folder of files, all of which count.
        command: writes the folder, for messages.

    Raises:
        DataError: a file is missing, has no checksum or another one; the message names it.
    """
    path = folder / CHECKSUMS
    known: Checksums | None = None
    for name in names:
        if not (folder / name).exists():
            raise DataError(f"{name} is missing (run `{command}`): {folder / name}")
        if known is None:
            known = parse_checksums(read_json(path, f"the checksums of the results (run `{command}` again)"), str(path))
        for each in known.below(folder, name) if name.endswith("/") else (name,):
            file = folder / each
            if not file.is_file():
                raise DataError(f"{each} is missing (run `{command}`): {file}")
            known.check(each, lambda file=file: file_checksum(file), str(file), command)  # type: ignore[misc]


def parse_checksums(record: Any, where: str) -> Checksums:
    """The parsed JSON of a checksums.json.

    Raises:
        DataError: it is damaged or of another version.
    """
    try:
        content = unseal(record)
    except ValueError as error:
        raise DataError(f"{where} is damaged: {error}") from error
    if content.get("format") != _FORMAT:
        raise DataError(f"{where}: format {content.get('format')!r}, this version reads {_FORMAT}")
    files = content.get("files")
    if not isinstance(files, dict) or not all(isinstance(value, str) for value in files.values()):
        raise DataError(f"{where} is damaged: it holds no checksums of files")
    return Checksums(where, files)


def file_checksum(path: Path) -> str:
    """SHA-256 of a file as `checksums.json` holds it. Text files are read whole."""
    return bytes_checksum(path.name, path.read_bytes()) if path.suffix in _TEXT else sha256_file(path)


def bytes_checksum(name: str, data: bytes) -> str:
    """As `file_checksum`, of a file that is in memory."""
    if name.endswith(_TEXT):
        data = data.replace(b"\r\n", b"\n")
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: Path, record: dict[str, Any]) -> None:
    """A JSON file that carries its own checksum, atomically."""
    write_json(path, seal(record))


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """What `write_sealed` wrote.

    Raises:
        DataError: the file is missing or damaged; `what` names it for the user.
    """
    try:
        return unseal(read_json(path, what))
    except ValueError as error:
        raise DataError(f"{what} is damaged: {error}: {path}") from error


def parse_sealed(data: bytes, what: str, where: str) -> dict[str, Any]:
    """As `read_sealed`, of a file that is in memory. Raises DataError."""
    try:
        return unseal(json.loads(data))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is damaged: {error}: {where}") from error


def _left_out(name: str) -> bool:
    parts = Path(name).parts
    return parts[0] == _SEALED or name.endswith(_UNREAD) or any(part.startswith(".") for part in parts)
