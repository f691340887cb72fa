"""Bytes of shards, wherever they are: beside the manifest, in another folder, or in an object store.

An object store's address and credentials come from the environment (`AWS_ENDPOINT_URL`, `AWS_ACCESS_KEY_ID`, ...) and
appear in no message: an error has its kind, and names the shard.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from pipeline.data.loading.shard_cache import DamagedCopyError, ShardCache
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Shard, SplitName
from pipeline.data.shards.reading import Reading
from pipeline.data.shards.tar_reader import EXTERNAL_REMEDY
from pipeline.errors import DataError, ResourceError
from pipeline.storage.retries import failure_name, may_pass
from pipeline.utils.files import sha256_file

_OPEN_FILES = 64
_PART = 8 << 20
_FIRST_WAIT_S = 0.5
"""Before the second attempt; it doubles each time."""
_LONGEST_WAIT_S = 30.0
_T = TypeVar("_T")


class Store:
    """Byte ranges of files below one place. Can be pickled; files and connections are each process's own."""

    def __init__(
        self,
        location: str,
        reading: Reading | None = None,
        shards: Sequence[Shard] = (),
        remedy: str = EXTERNAL_REMEDY,
    ) -> None:
        """
        Args:
            location: a folder, or a prefix `s3://bucket/...` (any scheme of an installed fsspec file system).
            reading: retries and cache of an object store; not needed for a folder.
            shards: what will be read. Where they are more than the cache may hold, the first of them that fit are
                copied and the others are read by ranges: copies that push each other out would help nobody.
            remedy: what helps where a tar is missing or cut short; for messages.
        """
        self.location = location.rstrip("/") if "://" in location else location
        self._cache_folder = Path(reading.cache) if reading else Path()
        self._cache_bytes = reading.cache_mb * 1_000_000 if reading else 0
        self._retries = reading.retries if reading else 0
        self.remote = "://" in location
        self.remedy = remedy
        self.cached: frozenset[str] = frozenset()
        if self.remote and self._cache_bytes:
            total, names = 0, set()
            for shard in shards:
                if shard.sha256 not in names and total + shard.bytes <= self._cache_bytes:
                    total += shard.bytes
                    names.add(shard.sha256)
            self.cached = frozenset(names)
        self._local: _Opened | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_local": None}

    def where(self, path: str) -> str:
        """A file's full name, for messages."""
        return f"{self.location}/{path}" if self.remote else str(Path(self.location) / path)

    def read(self, shard: Shard, offset: int, size: int) -> bytes:
        """Bytes of a shard.

        Raises:
            DataError: the shard is missing or ends before; names it.
            ResourceError: it cannot be reached, or not be read; names it.
        """
        if shard.sha256 in self.cached:
            data = self._copy_of(shard, offset, size)
        else:
            data = self.read_range(shard.path, offset, size)
        if len(data) != size:
            where = self.where(shard.path)
            raise DataError(f"{where}: truncated, ends before byte {offset + size} of {shard.bytes}; {self.remedy}")
        return data

    def forget(self, shard: Shard) -> bool:
        """Drops a copy that has proved to be damaged; False where there is none and the store itself is to blame."""
        if shard.sha256 not in self.cached:
            return False
        self._opened().close(shard.sha256)
        return self._cache().remove(shard.sha256)

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """As `read`, from the store itself; fewer bytes where the file ends."""
        if size == 0:
            return b""
        if self.remote:
            return self._again(path, lambda: self._get(path, offset, size))
        try:
            return os.pread(self._opened().descriptor(path, Path(self.location) / path), size, offset)
        except FileNotFoundError as error:
            raise DataError(f"shard is missing: {self.where(path)}; {self.remedy}") from error
        except OSError as error:
            raise ResourceError(f"{self.where(path)}: cannot be read ({error.strerror})") from error

    def size(self, path: str) -> int:
        """Bytes of a file. Raises as `read`."""
        if self.remote:
            return self._again(path, lambda: int(self._opened().files(self.location).size(self.where(path))))
        try:
            return (Path(self.location) / path).stat().st_size
        except FileNotFoundError as error:
            raise DataError(f"shard is missing: {self.where(path)}; {self.remedy}") from error

    def version(self, path: str) -> str:
        """Version of a file's content: its SHA-256, or an object store's ETag. Raises as `read`."""
        if self.remote:
            found = self._again(path, lambda: self._opened().files(self.location).info(self.where(path)))
            return str(found.get("ETag", ""))
        try:
            return sha256_file(Path(self.location) / path)
        except FileNotFoundError as error:
            raise DataError(f"shard is missing: {self.where(path)}; {self.remedy}") from error

    def list(self, suffix: str) -> list[str]:
        """Names, relative to the location, of all files below it that end so; sorted. Raises as `read`."""
        if self.remote:
            found = self._again("", lambda: list(self._opened().files(self.location).find(self.location)))
            prefix = self.location.split("://", 1)[1] + "/"
            return sorted(name.removeprefix(prefix) for name in found if name.endswith(suffix))
        root = Path(self.location)
        if not root.is_dir():
            raise DataError(f"folder of shards is missing: {root}")
        return sorted(p.relative_to(root).as_posix() for p in root.rglob(f"*{suffix}") if p.is_file())

    def _copy_of(self, shard: Shard, offset: int, size: int) -> bytes:
        opened = self._opened()
        descriptor = opened.held(shard.sha256)
        if descriptor is None:
            try:
                path = self._cache().get(shard.sha256, shard.bytes, lambda: self._parts(shard))
            except DamagedCopyError:
                # The samples' own checksums then find the damaged ones.
                path = None
            if path is None:  # no room for it, or its bytes are not the manifest's
                return self.read_range(shard.path, offset, size)
            # Open, it can be read to its end even when another process removes it.
            descriptor = opened.descriptor(shard.sha256, path)
        return os.pread(descriptor, size, offset)

    def _parts(self, shard: Shard) -> Any:
        """All of a shard's bytes, part by part. The cache compares them with the manifest."""
        for offset in range(0, shard.bytes, _PART):
            yield self.read_range(shard.path, offset, min(_PART, shard.bytes - offset))

    def _cache(self) -> ShardCache:
        return ShardCache(self._cache_folder, self._cache_bytes)

    def _get(self, path: str, offset: int, size: int) -> bytes:
        files = self._opened().files(self.location)
        data: bytes = files.cat_file(self.where(path), start=offset, end=offset + size)
        return data

    def _again(self, path: str, attempt: Callable[[], _T]) -> _T:
        """The result of an attempt; failures that may pass are tried again, with waits that double."""
        where = self.where(path) if path else self.location
        for tries in range(self._retries + 1):
            try:
                return attempt()
            except FileNotFoundError as error:
                raise DataError(f"shard is missing: {where}; {self.remedy}") from error
            except PermissionError as error:
                raise ResourceError(
                    f"{where}: the store denies access; give credentials that may read it in the environment"
                ) from error
            except Exception as error:
                if not may_pass(error):
                    if failure_name(error) == "416":  # a range that begins past the end
                        raise DataError(f"{where}: truncated, shorter than in the manifest; {self.remedy}") from error
                    raise ResourceError(f"{where}: cannot be read from the store ({failure_name(error)})") from error
                if tries == self._retries:
                    raise ResourceError(
                        f"{where}: cannot be read from the store in {tries + 1} attempts ({failure_name(error)}); "
                        "try again later, or raise reader.retries"
                    ) from error
                time.sleep(min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2**tries))
        raise AssertionError("not reached")

    def _opened(self) -> _Opened:
        # A forked child must not use its parent's connections.
        if self._local is None or self._local.process != os.getpid():
            self._local = _Opened()
        return self._local


class _Opened:
    """What one process has open: files, the most recently used ones, and the file system of the store."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self._descriptors: OrderedDict[str, int] = OrderedDict()
        self._files: Any = None

    def held(self, name: str) -> int | None:
        if name in self._descriptors:
            self._descriptors.move_to_end(name)
        return self._descriptors.get(name)

    def descriptor(self, name: str, path: Path) -> int:
        if (held := self.held(name)) is not None:
            return held
        self._descriptors[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        if len(self._descriptors) > _OPEN_FILES:
            os.close(self._descriptors.popitem(last=False)[1])
        return self._descriptors[name]

    def close(self, name: str) -> None:
        if name in self._descriptors:
            os.close(self._descriptors.pop(name))

    def files(self, location: str) -> Any:
        if self._files is None:
            protocol = location.split("://", 1)[0]
            options: dict[str, Any] = {}
            if protocol == "s3":
                # One attempt, soon given up: `_again` is the only place that tries again.
                options = {
                    "config_kwargs": {
                        "connect_timeout": 10,
                        "read_timeout": 60,
                        "retries": {"total_max_attempts": 1, "mode": "standard"},
                    }
                }
            self._files = fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False, **options)
            if protocol == "s3":
                self._files.retries = 1
        return self._files

    def __del__(self) -> None:
        if self.process == os.getpid():
            for descriptor in self._descriptors.values():
                os.close(descriptor)


def open_store(dataset: ShardedDataset, splits: Sequence[SplitName], reading: Reading | None = None) -> Store:
    """The store of a data set's tars, for reading some of its splits."""
    shards = [shard for split in splits for shard in dataset.shards(split)]
    return Store(dataset.location, reading, shards, dataset.remedy)
