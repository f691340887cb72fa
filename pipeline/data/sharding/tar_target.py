"""Where tars are written: beside the manifest, or straight into an object store. A tar appears there as a whole."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from pipeline.data.shards.manifest import MANIFEST, Manifest, read_manifest
from pipeline.errors import DataError, ResourceError
from pipeline.storage.object_store import Bucket, Stored
from pipeline.utils.files import sha256_file


class Writing(Protocol):
    """A tar under way; without `keep` nothing of it stays."""

    def write(self, data: bytes) -> object:
        """Appends."""
        ...

    def keep(self) -> str:
        """The tar is complete, and appears; returns the ETag that a store gives it."""
        ...


class Target(Protocol):
    """A place for tars. Can be pickled; travels to the writers."""

    @property
    def location(self) -> str:
        """See `Manifest.location`."""
        ...

    def writing(self, name: str) -> AbstractContextManager[Writing]:
        """Writes one tar."""
        ...

    def holds(self, name: str, size: int, sha256: str, etag: str) -> bool:
        """Whether a tar is there and whole: by size and SHA-256, in a store by size and ETag."""
        ...

    def publish(self, folder: Path) -> None:
        """All tars are there; `folder` holds their indices and manifest."""
        ...


@dataclass(frozen=True)
class TarFolder:
    """Tars in a folder; see `Target`."""

    folder: Path
    scratch: Path
    """Where a tar is until it is complete; on the same file system."""

    @property
    def location(self) -> str:
        return ""

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Writing]:
        host = socket.gethostname()
        part = self.scratch / f".{name}.{host}.{os.getpid()}.part"
        if not self.scratch.is_dir():
            raise ResourceError(
                f"{host} does not see {self.scratch}; all hosts must see the project's folder at the same path, or "
                "storage.url be s3://bucket/prefix"
            )
        try:
            with part.open("wb") as file:
                yield _Part(file, part, self.folder / f"{name}.tar")
        finally:
            part.unlink(missing_ok=True)

    def holds(self, name: str, size: int, sha256: str, etag: str) -> bool:
        path = self.folder / f"{name}.tar"
        return path.is_file() and path.stat().st_size == size and sha256_file(path) == sha256

    def publish(self, folder: Path) -> None:
        """They are in it."""


@dataclass(frozen=True)
class _Part:
    file: Any
    part: Path
    path: Path

    def write(self, data: bytes) -> object:
        return self.file.write(data)

    def keep(self) -> str:
        self.file.close()
        os.replace(self.part, self.path)
        return ""


@dataclass(frozen=True)
class TarStore:
    """Tars in an object store, below a name of their own; see `Target`. None is on a host's disk."""

    bucket: Bucket
    name: str

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @property
    def location(self) -> str:
        return self.bucket.where(self.name)

    @cached_property
    def _there(self) -> dict[str, Stored]:
        return self.bucket.listed(self.name)

    def writing(self, name: str) -> AbstractContextManager[Writing]:
        return self.bucket.writing(f"{self.name}/{name}.tar")

    def holds(self, name: str, size: int, sha256: str, etag: str) -> bool:
        return self._there.get(f"{name}.tar") == Stored(size, etag)

    def publish(self, folder: Path) -> None:
        """Indices, then the manifest: without it readers see nothing."""
        self.bucket.put(folder, self.name, MANIFEST)
        self.bucket.drop_parts(self.name)

    def published(self, folder: Path) -> Manifest | None:
        """The manifest of a run that has published the same tars before, and its indices, brought to `folder`.

        Raises:
            DataError: an object is missing, or is not the manifest's; names it.
        """
        if MANIFEST not in self._there:
            return None
        remedy = f"remove {self.location} from the store, then `ie shard` again"
        self._bring(folder, MANIFEST)
        manifest = read_manifest(folder)
        for split in manifest.splits.values():
            for file in (split.index, split.keys, *split.shards):
                found = self._there.get(file.path)
                if found is None or found.size != file.bytes:
                    what = "is missing" if found is None else f"{found.size} bytes"
                    what = f"{what}, {file.bytes} by the manifest there"
                    raise DataError(f"{self.location}/{file.path}: {what}; {remedy}")
            for file in (split.index, split.keys):
                self._bring(folder, file.path)
                if sha256_file(folder / file.path) != file.sha256:
                    what = "damaged, its SHA-256 is not the manifest's"
                    raise DataError(f"{self.location}/{file.path}: {what}; {remedy}")
        return manifest

    def _bring(self, folder: Path, name: str) -> None:
        with (folder / name).open("wb") as file:
            self.bucket.read_into(f"{self.name}/{name}", file)
