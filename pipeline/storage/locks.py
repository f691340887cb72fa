"""One sweep, and one search, at a time on a storage: a lock of the system, released when its process ends.

In a folder the lock is a file there. For an object store it is a file of this host and user: two hosts that sweep on
one store at once train the same trials twice and lose nothing, because a trial's result is written whole, by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import ResourceError
from pipeline.storage.run_storage import Storage


@contextlib.contextmanager
def alone(storage: Storage, what: str) -> Iterator[None]:
    """Holds the storage's lock of a stage, `what`.

    Raises:
        ResourceError: another process holds it.
    """
    path = _lock_path(storage, what)
    message = f"another {what} is running on {storage.url} ({path} is locked)"
    with locked(path, f"{message}; wait for it, or set storage.url to another place"):
        yield


@contextlib.contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Holds the lock of a file, which stays.

    Raises:
        ResourceError: another process holds it; `message` is for the user.
    """
    lock = FileLock(path, timeout=0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise ResourceError(message) from error
    try:
        yield
    finally:
        lock.release()


def _lock_path(storage: Storage, what: str) -> Path:
    if not storage.remote:
        return Path(storage.where(f"{what}.lock"))
    name = hashlib.sha256(f"{storage.url} {what}".encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"ie-{os.getuid()}-{name}.lock"
