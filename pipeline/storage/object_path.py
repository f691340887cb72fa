"""Files of an object store by path, for readers of the user's data: what `pathlib` offers of a name, and reading."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.errors import DataError
from pipeline.storage.object_store import Bucket, Stored

_SCHEME = "/s3:/"


class ObjectPath(PurePosixPath):
    """`s3://bucket/name`. It holds no connection and can be pickled; each process opens its own."""

    __slots__ = ()

    @classmethod
    def of(cls, url: str) -> ObjectPath:
        """The path of `s3://bucket/prefix`."""
        return cls(_SCHEME + url.removeprefix("s3://"))

    def __str__(self) -> str:
        text = super().__str__()
        return f"s3://{text[len(_SCHEME) :]}" if text.startswith(_SCHEME) else text

    def size(self) -> int:
        """Bytes. Raises as `read_bytes`."""
        return self._bucket.stored(self._name).size

    def read_bytes(self) -> bytes:
        """
        Raises:
            FileNotFoundError: there is no such object.
            ResourceError: the store denies access or does not answer.
        """
        data = self._bucket.read(self._name)
        if data is None:
            raise FileNotFoundError(str(self))
        return data

    def read_version(self, stored: Stored) -> bytes:
        """The bytes, where they are still those of a listing.

        Raises:
            FileExistsError: the object has changed; it is not downloaded then. Others as `read_bytes`.
        """
        return self._bucket.read_version(self._name, stored)

    def copy_to(self, path: Path, size: int | None = None) -> None:
        """Writes the object to a file of this host.

        Raises:
            DataError: there is no such object, or it has not the `size` of its listing.
            ResourceError: the store denies access or does not answer.
        """
        try:
            with path.open("wb") as file:
                self._bucket.read_into(self._name, file)
        except FileNotFoundError as error:
            raise DataError(f"{self} is missing, or has gone while it was read") from error
        if size is not None and path.stat().st_size != size:
            raise DataError(f"{self}: {path.stat().st_size} of {size} bytes came")

    def open(self, mode: str = "rb") -> IO[bytes]:
        """The object as a temporary file without a name, of its size on this host's disk. Raises as `read_bytes`."""
        assert mode == "rb"
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed by the caller
        self._bucket.read_into(self._name, file)
        file.seek(0)
        return file

    @property
    def _bucket(self) -> Bucket:
        return connected(self.parts[2])

    @property
    def _name(self) -> str:
        return "/".join(self.parts[3:])


@lru_cache(maxsize=8)
def connected(name: str) -> Bucket:
    """A bucket of the user's data."""
    return Bucket(f"s3://{name}", setting="data.folder (embed: INPUT)")


@dataclass(frozen=True)
class Objects:
    """All objects below a prefix at one time."""

    root: ObjectPath
    files: dict[ObjectPath, Stored] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)
    """Keys that are no path: with an empty part or one of dots, or of an object where others have a folder."""

    _inside: dict[ObjectPath, set[ObjectPath]] = field(default_factory=dict)

    def entries(self, folder: ObjectPath) -> list[ObjectPath]:
        """Files and folders right inside a folder, by name."""
        return sorted(self._inside.get(folder, ()))

    def is_dir(self, path: ObjectPath) -> bool:
        """Whether objects are below the path."""
        return path in self._inside

    def count(self, path: ObjectPath) -> int:
        """How many objects a path stands for: itself, or all below."""
        if not self.is_dir(path):
            return 1
        return sum(self.count(inner) for inner in self._inside[path])

    def add(self, name: str, stored: Stored) -> None:
        """Adds an object by its name below the prefix."""
        if name.endswith("/") and not stored.size:  # what the store's console puts for an empty folder
            return
        path = self.root / name
        if str(path) != f"{self.root}/{name}" or ".." in path.parts:
            self.unusable.append(name)
            return
        self.files[path] = stored
        while path != self.root and path not in self._inside.setdefault(path.parent, set()):
            self._inside[path.parent].add(path)
            path = path.parent


def list_below(root: ObjectPath) -> Objects:
    """Lists all objects below a prefix.

    Raises:
        ResourceError: the store denies access, does not answer, or has no such bucket.
    """
    found = Objects(root)
    for name, stored in sorted(root._bucket.listed(root._name).items()):
        found.add(name, stored)
    for path in [path for path in found.files if found.is_dir(path)]:
        del found.files[path]
        found.unusable.append(path.relative_to(root).as_posix())
    return found


@lru_cache(maxsize=1)
def objects_below(root: ObjectPath) -> Objects:
    """`list_below` of a stage, which looks at its folder more than once."""
    return list_below(root)
