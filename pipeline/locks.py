"""One sweep, and one search, at a time on a storage: a lock that its owner's death does not leave behind for long.

In a folder it is a lock of the system, which goes with its process. An object store has none: there it is an object
that is put only if none is there, and put again every few seconds as a sign of life. Who has given none for
`_GIVEN_UP_S`, by the store's own clock, or was a process of this very host and is no more, loses it to the next one
that asks; an owner that finds it taken (its store was away for long) ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.bucket import Bucket, Seen
from pipeline.errors import ResourceError
from pipeline.storage import Storage

_SIGN_OF_LIFE_S = 10.0
_GIVEN_UP_S = 60.0
_PATIENCE_S = 5.0


@contextlib.contextmanager
def alone(storage: Storage, what: str) -> Iterator[None]:
    """Holds the storage's lock of a stage, `what`, for its length.

    Raises:
        ResourceError: another process holds it; or has taken it over, while this one's signs of life did not arrive.
    """
    name = f"{what}.lock"
    if isinstance(storage, Bucket):
        with _Held(storage, name, what):
            yield
        return
    path = Path(storage.where(name))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise ResourceError(
            f"another {what} is under way on this storage ({path} is locked); wait for it, or set storage.url to "
            "another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()


class _Held:
    """A lock in an object store, from `__enter__` to `__exit__`."""

    def __init__(self, bucket: Bucket, name: str, what: str) -> None:
        # A sign of life that does not arrive is followed by another: no need to hold up the stage's end for it.
        self._bucket, self._name, self._what = Bucket(bucket.url, min(bucket.patience_s, _PATIENCE_S)), name, what
        self._about = {"token": uuid.uuid4().hex, "host": _ascii(socket.gethostname()), "pid": str(os.getpid())}
        self._about["place"] = _place()
        self._etag = ""
        self._over, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._live, daemon=True)

    def __enter__(self) -> None:
        self._etag = self._acquire()
        self._thread.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._over.set()
        self._thread.join()
        if self._lost:
            raise ResourceError(
                f"another {self._what} has taken this storage over ({self._bucket.where(self._name)}), because this "
                "one could not reach it for a while; what it finished is kept"
            ) from error
        with contextlib.suppress(ResourceError):  # it grows old by itself
            self._bucket.remove(self._name)

    def _acquire(self) -> str:
        for _ in range(3):
            etag = self._bucket.put_if(self._name, self._about, None)
            seen = None if etag else self._bucket.look(self._name)
            if etag is None and seen is None:
                continue  # let go of in between
            if seen is not None and seen.about.get("token") == self._about["token"]:
                etag = seen.etag  # ours: it arrived, its answer did not
            if seen is not None and etag is None and (_gone(seen) or seen.age_s > _GIVEN_UP_S):
                etag = self._bucket.put_if(self._name, self._about, seen.etag)
                seen = None if etag else self._bucket.look(self._name)
            if etag is not None:
                return etag
            if seen is not None:
                raise ResourceError(self._taken(seen))
        raise ResourceError(f"another {self._what} has just begun on this storage; wait for it")

    def _taken(self, seen: Seen) -> str:
        host, pid = seen.about.get("host", "?"), seen.about.get("pid", "?")
        return (
            f"another {self._what} is under way on this storage ({self._bucket.where(self._name)} is held by process "
            f"{pid} on {host}, alive {max(0.0, seen.age_s):.0f} s ago); wait for it, or, if it was killed, for "
            f"{_GIVEN_UP_S:.0f} s, or set storage.url to another place"
        )

    def _live(self) -> None:
        """Signs of life. One that does not arrive is no harm as long as a later one does."""
        while not self._over.wait(_SIGN_OF_LIFE_S):
            try:
                etag = self._bucket.put_if(self._name, self._about, self._etag)
                if etag is None:
                    seen = self._bucket.look(self._name)
                    if seen is not None and seen.about.get("token") == self._about["token"]:
                        etag = seen.etag
            except ResourceError:
                continue
            if etag is not None:
                self._etag = etag
            elif not self._over.is_set():
                self._lost = True
                # To the very thread: it may be asleep.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return


def _gone(seen: Seen) -> bool:
    """Whether the owner was a process of this very host, and is no more."""
    if seen.about.get("place") != _place() or not _place():
        return False
    try:
        os.kill(int(seen.about["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, ValueError, KeyError):
        return False
    return False


def _place() -> str:
    """Names this start of this host and this namespace of process numbers; empty where that cannot be told."""
    try:
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    except OSError:
        return ""
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def _ascii(text: str) -> str:
    return text.encode("ascii", "replace").decode()
