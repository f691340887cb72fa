"""Run state in an object store, `s3://bucket/prefix`; see `pipeline.storage.run_storage.Storage`.

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
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
from fsspec.asyn import sync

from pipeline.errors import DataError, ResourceError

# Private there, because store.py's bytes are part of every run's fingerprint: two public names are not worth new ones.
from pipeline.storage.retries import failure_name, may_pass

_LONGEST_WAIT_S = 10.0
_FIRST_PATIENCE_S = 20.0
_AT_ONCE = 8
_PART = 16 << 20
_PAGE = 1000  # objects that one request may list or delete, at most
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Stored:
    """An object as a store lists it."""

    size: int
    etag: str
    """The store's own name for this content of the object."""


class Bucket:
    """Storage in an object store; see `pipeline.storage.run_storage.Storage`."""

    remote = True

    def __init__(
        self,
        url: str,
        patience_s: float = 20.0,
        tell: Callable[[str], None] | None = None,
        setting: str = "storage.url",
    ) -> None:
        """
        Args:
            patience_s: how long a store that does not answer is asked again, seconds.
            tell: called once for each such wait.
            setting: the param that names the bucket, for messages; only `storage.url` is written to.
        """
        self.url = url.rstrip("/")
        self._setting = setting
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

    def stored(self, name: str) -> Stored:
        """Size and ETag of a file. Raises FileNotFoundError where there is none."""
        answer = self.call("head_object", name)
        return Stored(answer["ContentLength"], answer["ETag"])

    def read_version(self, name: str, stored: Stored) -> bytes:
        """A file's bytes, where they are still those that were listed.

        Raises:
            FileNotFoundError: there is none any more.
            FileExistsError: it has changed; it is not downloaded then.
        """
        asked = {"Bucket": self._bucket, "Key": self._key(name)}
        data: bytes = self._again(name, lambda files: sync(files.loop, _read_version, files, asked, stored))
        return data

    def read_into(self, name: str, file: IO[bytes]) -> None:
        """Downloads into a file, part by part. Raises FileNotFoundError where there is none."""
        stored = self.stored(name)
        for start in range(0, stored.size, _PART):
            stop = min(start + _PART, stored.size)
            file.write(self._again(name, partial(_cat, self._path(name), start, stop)))

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[Upload]:
        """A file to be written front to back, part by part; see `Upload`."""
        upload = Upload(self, name)
        try:
            yield upload
        finally:
            upload.drop()

    def drop_parts(self, name: str) -> None:
        """Removes the parts of files below a folder that killed writers have left unfinished, if that is allowed."""
        asked = {"Bucket": self._bucket, "Prefix": f"{self._key(name)}/"}
        with contextlib.suppress(ResourceError):
            for left in self._again(name, partial(_call, "list_multipart_uploads", asked)).get("Uploads", ()):
                about = {"Bucket": self._bucket, "Key": left["Key"], "UploadId": left["UploadId"]}
                self._again(name, partial(_call, "abort_multipart_upload", about))

    def call(self, method: str, name: str, **arguments: Any) -> dict[str, Any]:
        """A request about one file. Raises as `read`."""
        asked = {"Bucket": self._bucket, "Key": self._key(name)} | arguments
        answer: dict[str, Any] = self._again(name, partial(_call, method, asked))
        return answer

    def write(self, name: str, data: bytes) -> None:
        self._again(name, lambda files: files.pipe_file(self._path(name), data))

    def files(self, name: str) -> list[str]:
        return sorted(self.sizes(name))

    def sizes(self, name: str) -> dict[str, int]:
        """Bytes of all files below a folder, by their names relative to it."""
        return {file: stored.size for file, stored in self.listed(name).items()}

    def sees(self, name: str) -> bool:
        try:
            return bool(self.listed(name))
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
        """Files of this host, by their new names. `done` is called for each, from several threads."""

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
        sizes = self.sizes(name)
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
        keys = [f"{name}/{file}" for file in self.listed(name)] or [name]
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

    def _delete(self, name: str, keys: list[str]) -> None:
        asked = {"Objects": [{"Key": self._key(key)} for key in keys], "Quiet": True}
        answer = self._again(name, lambda files: files.call_s3("delete_objects", Bucket=self._bucket, Delete=asked))
        if errors := answer.get("Errors"):
            raise ResourceError(f"{self.where(name)}: cannot be deleted ({errors[0].get('Code')})")

    def listed(self, name: str) -> dict[str, Stored]:
        """All files below a folder, by their names relative to it."""
        prefix = f"{self._key(name)}/" if self._key(name) else ""
        found: dict[str, Stored] = {}
        page: dict[str, str] = {}
        while True:
            asked = {"Bucket": self._bucket, "Prefix": prefix, "MaxKeys": _PAGE} | page
            answer = self._again(name, partial(_call, "list_objects_v2", asked))
            for item in answer.get("Contents", ()):
                if file := item["Key"].removeprefix(prefix):
                    found[file] = Stored(item["Size"], item["ETag"])
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
                        f"{self.url}: there is no such bucket; make it, or set {self._setting} to one that is there"
                    ) from error
                raise
            except Exception as error:
                if isinstance(error, PermissionError) or "Credential" in failure_name(error) or _code(error) in _DENIED:
                    needed = "list, read, write and delete" if self._setting == "storage.url" else "list and read"
                    raise ResourceError(
                        f"{self.where(name)}: the store denies access; this host's role, or the credentials in its "
                        f"environment, must be allowed to {needed} below {self.url}"
                    ) from error
                if isinstance(error, OSError) and (error.filename is not None or error.errno in _FULL):
                    raise  # this host's disk
                # 409: another condition on the same object is being looked at.
                if not may_pass(error) and failure_name(error) != "409":
                    raise ResourceError(f"{self.where(name)}: the store refuses ({failure_name(error)})") from error
                if time.monotonic() + wait > deadline:
                    raise ResourceError(
                        f"{self.where(name)}: the store does not answer ({failure_name(error)}), asked for "
                        f"{self.patience_s:.0f} s; when it is back, the same command resumes"
                    ) from error
            if self._tell is not None and not told:
                told = True
                self._tell(f"storage at {self.url} does not answer; trying again")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)


class Upload:
    """A file of a bucket that is written front to back and appears when it is kept. Memory: a part."""

    def __init__(self, bucket: Bucket, name: str) -> None:
        self._bucket, self._name = bucket, name
        self._buffer, self._size = bytearray(), 0
        self._id = ""
        self._parts: list[dict[str, Any]] = []

    def write(self, data: bytes) -> None:
        """Appends. Raises as `Bucket.write`."""
        self._buffer += data
        self._size += len(data)
        if len(self._buffer) >= _PART:
            self._put_part()

    def keep(self) -> str:
        """Lets the file appear; returns its ETag.

        Raises:
            ResourceError: the store denies access or does not answer, or has another number of bytes then.
        """
        if not self._id:
            self._bucket.call("put_object", self._name, Body=bytes(self._buffer))
        else:
            if self._buffer:
                self._put_part()
            asked = {"UploadId": self._id, "MultipartUpload": {"Parts": self._parts}}
            with contextlib.suppress(FileNotFoundError):  # done already: an attempt whose answer was lost
                self._bucket.call("complete_multipart_upload", self._name, **asked)
            self._id = ""
        stored = self._bucket.stored(self._name)
        if stored.size != self._size:
            raise ResourceError(f"{self._bucket.where(self._name)}: has {stored.size} of {self._size} bytes written")
        return stored.etag

    def drop(self) -> None:
        """Removes what was not kept."""
        if self._id:
            with contextlib.suppress(ResourceError, FileNotFoundError):
                self._bucket.call("abort_multipart_upload", self._name, UploadId=self._id)
            self._id = ""

    def _put_part(self) -> None:
        if not self._id:
            self._id = self._bucket.call("create_multipart_upload", self._name)["UploadId"]
        number = len(self._parts) + 1
        asked = {"UploadId": self._id, "PartNumber": number, "Body": bytes(self._buffer)}
        answer = self._bucket.call("upload_part", self._name, **asked)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})
        self._buffer.clear()


def _call(method: str, arguments: dict[str, Any], files: Any) -> Any:
    return files.call_s3(method, **arguments)


def _cat(path: str, start: int, stop: int, files: Any) -> Any:
    return files.cat_file(path, start=start, end=stop)


async def _read_version(files: Any, asked: dict[str, Any], stored: Stored) -> bytes:
    answer = await files._call_s3("get_object", **asked)
    body = answer["Body"]
    try:
        if Stored(answer["ContentLength"], answer["ETag"]) != stored:
            raise FileExistsError(f"{asked['Key']}: changed")
        data: bytes = await body.read()
    finally:
        body.close()
    return data


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
