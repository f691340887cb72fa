"""Run state in an object store, `s3://bucket/prefix`; see `pipeline.storage.Storage`.

A store puts single objects as a whole, and knows no folders and no renames. So a folder is whole when the object that
is put last is there, and is never changed afterwards: what changes goes by a new name.

Address and credentials come from the environment, or from the host's role, and appear in no message.
"""

from __future__ import annotations

import contextlib
import errno
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from pipeline.errors import DataError, ResourceError

# Private there, because store.py's bytes are part of every run's fingerprint: two public names are not worth new ones.
from pipeline.store import _name as kind_of
from pipeline.store import _passes as passes

_LONGEST_WAIT_S = 10.0
_FIRST_PATIENCE_S = 20.0
_AT_ONCE = 8
_PAGE = 1000  # objects that one request may list or delete, at most
_T = TypeVar("_T")


@dataclass(frozen=True)
class Seen:
    """What a store says of an object."""

    etag: str
    about: dict[str, str]
    """What its writer noted of it."""

    age_s: float
    """Since it was put, by the store's own clock."""


class Bucket:
    """Storage in an object store; see `pipeline.storage.Storage`."""

    remote = True

    def __init__(self, url: str, patience_s: float = 20.0, tell: Callable[[str], None] | None = None) -> None:
        """
        Args:
            patience_s: how long a store that does not answer is asked again, seconds.
            tell: hears once of each such wait.
        """
        self.url = url.rstrip("/")
        self.patience_s = patience_s
        self._bucket, _, self._prefix = self.url.removeprefix("s3://").partition("/")
        self._tell = tell
        self._files: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_files": None, "_tell": None}

    def where(self, name: str) -> str:
        return f"{self.url}/{name}" if name else self.url

    def check(self) -> None:
        """
        Raises:
            ResourceError: there is no such bucket, it does not answer, or something of all that a run does is denied.
        """
        # A run's patience is for a store that has answered before.
        bucket = Bucket(self.url, min(self.patience_s, _FIRST_PATIENCE_S), self._tell)
        name = f".check-{uuid.uuid4().hex}"
        bucket.sizes("no such folder")
        bucket.write(name, b"")
        if bucket.read(name) is None:
            raise ResourceError(f"{self.where(name)} is not there after it was written")
        bucket.remove(name)

    def read(self, name: str) -> bytes | None:
        try:
            data: bytes = self._again(name, lambda files: files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return data

    def write(self, name: str, data: bytes) -> None:
        self._again(name, lambda files: files.pipe_file(self._path(name), data))

    def files(self, name: str) -> list[str]:
        return sorted(self.sizes(name))

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of all files below a folder, by their names relative to it."""
        return self._list(name)

    def sees(self, name: str) -> bool:
        try:
            return bool(self._list(name))
        except ResourceError:
            return False

    @contextlib.contextmanager
    def filling(self, name: str, last: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
            self.put(Path(folder), name, last)

    def put(self, folder: Path, name: str, last: str) -> None:
        found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
        self.put_files({f"{name}/{file}": folder / file for file in found if file != last})
        self.put_files({f"{name}/{last}": folder / last})

    def put_files(self, paths: dict[str, Path], done: Callable[[str], None] | None = None) -> None:
        """Files of this host, by their new names. `done` hears of each; from several threads."""

        def put(name: str) -> None:
            self._again(name, lambda files: files.put_file(str(paths[name]), self._path(name)))
            if done is not None:
                done(name)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(put, paths))

    @contextlib.contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        """
        Raises:
            DataError: there is no such folder, or a file of it has gone meanwhile.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.download(name, Path(folder))
            yield Path(folder)

    def download(self, name: str, folder: Path) -> None:
        """A folder's files into one of this host. Raises as `at_hand`."""
        sizes = self._list(name)
        if not sizes:
            raise DataError(f"{self.where(name)} is missing")

        def get(file: str) -> None:
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            source = f"{name}/{file}"
            try:
                self._again(source, lambda files: files.get_file(self._path(source), str(path)))
            except FileNotFoundError as error:
                raise DataError(f"{self.where(source)} has gone while it was read") from error
            if path.stat().st_size != sizes[file]:
                raise DataError(f"{self.where(source)}: {path.stat().st_size} of {sizes[file]} bytes came")

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(get, sizes))

    def remove(self, name: str) -> None:
        keys = [f"{name}/{file}" for file in self._list(name)] or [name]
        # Records and what makes a folder whole go first: interrupted, this leaves nothing that looks whole.
        first = [key for key in keys if key.endswith(".json")]
        for part in (first, [key for key in keys if key not in set(first)]):
            for start in range(0, len(part), _PAGE):
                self._delete(name, part[start : start + _PAGE])

    def for_ray(self, below: str = "") -> dict[str, Any]:
        import pyarrow.fs

        # Ray writes its own record without patience: it is tried again for about half a minute.
        files = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(_file_system(attempts=8)))
        return {"storage_path": self._path(below), "storage_filesystem": files}

    def put_if(self, name: str, about: dict[str, str], etag: str | None) -> str | None:
        """Puts an object that holds the time and what its writer notes of it, unless another was quicker.

        Args:
            etag: what the object must be now; None: it must not be there.

        Returns:
            Its new etag; None where the condition did not hold.
        """
        condition = {"IfNoneMatch": "*"} if etag is None else {"IfMatch": etag}
        try:
            answer = self._again(name, lambda files: self._put(files, name, about, condition))
        except (FileExistsError, FileNotFoundError):
            return None
        new: str = answer["ETag"]
        return new

    def _put(self, files: Any, name: str, about: dict[str, str], condition: dict[str, str]) -> Any:
        try:
            # The time makes each etag another: they are hashes of the content.
            body = f"{time.time_ns()}".encode()
            return files.call_s3(
                "put_object", Bucket=self._bucket, Key=self._key(name), Body=body, Metadata=about, **condition
            )
        except Exception as error:
            if kind_of(error) in ("412", "PreconditionFailed"):
                raise FileExistsError(name) from error
            raise

    def look(self, name: str) -> Seen | None:
        """What a store says of an object; None where there is none."""
        try:
            answer = self._again(
                name, lambda files: files.call_s3("head_object", Bucket=self._bucket, Key=self._key(name))
            )
        except FileNotFoundError:
            return None
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return Seen(answer["ETag"], answer["Metadata"], (now - answer["LastModified"]).total_seconds())

    def _delete(self, name: str, keys: list[str]) -> None:
        asked = {"Objects": [{"Key": self._key(key)} for key in keys], "Quiet": True}
        answer = self._again(name, lambda files: files.call_s3("delete_objects", Bucket=self._bucket, Delete=asked))
        if errors := answer.get("Errors"):
            raise ResourceError(f"{self.where(name)}: cannot be deleted ({errors[0].get('Code')})")

    def _list(self, name: str) -> dict[str, int]:
        prefix = f"{self._key(name)}/" if self._key(name) else ""
        found: dict[str, int] = {}
        page: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._bucket, "Prefix": prefix, "MaxKeys": _PAGE} | page
            answer = self._again(name, partial(_call, "list_objects_v2", asked))
            for item in answer.get("Contents", ()):
                if file := item["Key"].removeprefix(prefix):
                    found[file] = item["Size"]
            if not answer.get("IsTruncated"):
                return found
            page = {"ContinuationToken": answer["NextContinuationToken"]}

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._prefix, name)))

    def _path(self, name: str) -> str:
        return "/".join(filter(None, (self._bucket, self._key(name))))

    def _again(self, name: str, attempt: Callable[[Any], _T]) -> _T:
        """The result of an attempt; what may pass is tried again, with waits that double.

        Raises:
            FileNotFoundError: there is no such object.
            FileExistsError: a condition does not hold.
            ResourceError: everything else.
        """
        deadline, wait, told = time.monotonic() + self.patience_s, 0.5, False
        while True:
            try:
                if self._files is None:
                    self._files = _file_system(attempts=1)
                return attempt(self._files)
            except (FileNotFoundError, FileExistsError) as error:
                if _code(error) == "NoSuchBucket":
                    raise ResourceError(
                        f"{self.url}: there is no such bucket; make it, or set storage.url to one that is there"
                    ) from error
                raise
            except Exception as error:
                if isinstance(error, PermissionError) or "Credential" in kind_of(error) or _code(error) in _DENIED:
                    raise ResourceError(
                        f"{self.where(name)}: the store denies access; this host's role, or the credentials in its "
                        f"environment, must be allowed to list, read, write and delete below {self.url}"
                    ) from error
                if isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL):
                    raise  # this host's disk
                # 409: another condition on the same object is being looked at.
                if not passes(error) and kind_of(error) != "409":
                    raise ResourceError(f"{self.where(name)}: the store refuses ({kind_of(error)})") from error
                if time.monotonic() + wait > deadline:
                    raise ResourceError(
                        f"{self.where(name)}: the store does not answer ({kind_of(error)}), asked for "
                        f"{self.patience_s:.0f} s; when it is back, the same command goes on"
                    ) from error
            if self._tell is not None and not told:
                told = True
                self._tell(f"storage at {self.url} does not answer; trying again")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)


def _call(method: str, arguments: dict[str, Any], files: Any) -> Any:
    return files.call_s3(method, **arguments)


_FULL = {errno.ENOSPC, errno.EDQUOT}
_DENIED = {"SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken", "AuthorizationHeaderMalformed"}


def _code(error: BaseException) -> str:
    """The store's own word for a failure."""
    for seen in (error, error.__cause__):
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _file_system(attempts: int) -> Any:
    files: Any = fsspec.filesystem(
        "s3",
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": 10,
            "read_timeout": 60,
            "retries": {"total_max_attempts": attempts, "mode": "standard"},
        },
    )
    files.retries = attempts
    return files
