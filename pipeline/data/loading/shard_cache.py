"""Copies of shards on a host's disk, shared by all its processes and bounded in size."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import ResourceError, from_os_error


class DamagedCopyError(Exception):
    """The bytes that came are not those of the checksum."""


class ShardCache:
    """A folder of copies named by their SHA-256, so that manifests and projects can share it.

    A copy appears under its name when all of it has been checked, and is then never written to. One process fetches
    it while the others wait. Room is made by removing the copies read longest ago; an open one stays readable.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        """
        Args:
            limit: bytes of all copies, those that are being written included.
        """
        self.folder, self.limit = folder, limit

    def get(self, sha256: str, size: int, parts: Callable[[], Iterable[bytes]]) -> Path | None:
        """The copy of a shard, made from its bytes `parts()` where there is none; None where there is no room for it.

        Raises:
            DamagedCopyError: the bytes are not those of the checksum.
            ResourceError: no space, no permission.
        """
        path = self.folder / f"{sha256}.tar"
        if self._use(path, size):
            return path
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._lock(sha256)):
                if self._use(path, size):  # another process was quicker
                    return path
                part = path.with_suffix(".part")
                if not self._reserve(part, size):
                    return None
                try:
                    self._write(part, sha256, size, parts())
                    os.replace(part, path)
                finally:
                    part.unlink(missing_ok=True)
        except OSError as error:
            known = from_os_error(error) or ResourceError(f"{self.folder}: shards cannot be copied here ({error})")
            raise known from error
        return path

    def remove(self, sha256: str) -> bool:
        """Removes a copy; False where there is none."""
        try:
            (self.folder / f"{sha256}.tar").unlink()
        except FileNotFoundError:
            return False
        return True

    def _use(self, path: Path, size: int) -> bool:
        try:
            if path.stat().st_size != size:
                path.unlink()  # cut short by a full disk or by hand
                return False
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _reserve(self, part: Path, size: int) -> bool:
        """Makes room and takes it, as an empty file of the size."""
        with FileLock(self.folder / "room.lock"):
            held: list[tuple[float, int, Path]] = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path.suffix == ".part" and path != part and self._abandoned(path):
                        path.unlink()
                    elif path.suffix in (".tar", ".part") and path != part:
                        status = path.stat()
                        held.append((status.st_mtime, status.st_size, path))
            total = size + sum(bytes_ for _, bytes_, _ in held)
            for _, bytes_, path in sorted(held):
                if total <= self.limit:
                    break
                if path.suffix == ".tar":
                    path.unlink(missing_ok=True)
                    total -= bytes_
            if total > self.limit:
                return False
            with part.open("wb") as file:
                file.truncate(size)
            return True

    def _abandoned(self, part: Path) -> bool:
        """Whether its writer was killed: it would hold the lock."""
        try:
            with FileLock(self._lock(part.stem), timeout=0):
                return True
        except Timeout:
            return False

    def _write(self, part: Path, sha256: str, size: int, parts: Iterable[bytes]) -> None:
        digest, written = hashlib.sha256(), 0
        with part.open("r+b") as file:
            for data in parts:
                digest.update(data)
                written += len(data)
                file.write(data)
        if written != size or digest.hexdigest() != sha256:
            raise DamagedCopyError(sha256)

    def _lock(self, sha256: str) -> Path:
        return self.folder / f"{sha256}.lock"
