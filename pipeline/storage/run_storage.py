"""Where run state lives while a run is under way: a folder that all hosts see, or a prefix of an object store.

Everything in it goes by a name relative to `storage.url`, such as `trials/<fingerprint>/result.json`. Files appear as a
whole in both; a folder does so in its own way, see `Storage.filling`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from ie_model.checksums import seal
from pipeline.storage.object_store import Bucket
from pipeline.utils.checksums import parse_sealed
from pipeline.utils.files import atomic_file, atomic_folder, json_text


class Storage(Protocol):
    """Run state by name. Can be pickled; travels to the workers."""

    url: str
    """An absolute folder, or `s3://bucket/prefix`."""

    remote: bool
    """Whether it is an object store."""

    def where(self, name: str) -> str:
        """A name in full, for messages."""
        ...

    def check(self) -> None:
        """That a run may begin: it can be written to, read and deleted from. Raises ResourceError where not."""
        ...

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """A file that appears, or changes, as a whole."""
        ...

    def files(self, name: str) -> list[str]:
        """Files below a folder, relative to it, sorted; none where there is no folder."""
        ...

    def sees(self, name: str) -> bool:
        """Whether this host sees a folder that another one has made."""
        ...

    def filling(self, name: str, last: str) -> contextlib.AbstractContextManager[Path]:
        """A folder on this host's disk to fill, which then appears as `name`.

        Args:
            last: the file that an object store gets when it has all others: a folder without it is not whole, and
                nobody may take it for one. Where folders can be renamed, all of it appears at once.
        """
        ...

    def put(self, folder: Path, name: str, last: str) -> None:
        """As `filling`, with the content of a folder of this host."""
        ...

    def at_hand(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A whole folder on this host's disk, to be read; a copy where it is in an object store."""
        ...

    def remove(self, name: str) -> None:
        """Removes a file or a folder, if there is one."""
        ...

    def for_ray(self, below: str = "") -> dict[str, Any]:
        """`storage_path`, and `storage_filesystem` where there must be one, of Ray's RunConfig."""
        ...


class Folder:
    """Storage in a folder; see `Storage`."""

    remote = False

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, str(path)

    def where(self, name: str) -> str:
        return str(self.path / name)

    def check(self) -> None:
        """Nothing to check: the first write finds out."""

    def read(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        with atomic_file(self.path / name) as part:
            part.write_bytes(data)

    def files(self, name: str) -> list[str]:
        folder = self.path / name
        # Hidden ones are folders that are being filled.
        found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
        return sorted(path.as_posix() for path in found if not path.parts[0].startswith("."))

    def sees(self, name: str) -> bool:
        return (self.path / name).is_dir()

    def filling(self, name: str, last: str) -> contextlib.AbstractContextManager[Path]:
        return atomic_folder(self.path / name)

    def put(self, folder: Path, name: str, last: str) -> None:
        with self.filling(name, last) as part:
            shutil.copytree(folder, part, dirs_exist_ok=True)

    @contextlib.contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        yield self.path / name

    def remove(self, name: str) -> None:
        path = self.path / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def for_ray(self, below: str = "") -> dict[str, Any]:
        return {"storage_path": str(self.path / below)}


def open_storage(
    url: str, project: Path = Path(), *, patience_s: float = 20.0, tell: Callable[[str], None] | None = None
) -> Storage:
    """The storage that `storage.url` names.

    Args:
        project: what a relative folder is relative to.
        patience_s: how long an object store that does not answer is asked again, seconds.
        tell: called once for each such wait.
    """
    if "://" in url:
        return Bucket(url, patience_s, tell)
    return Folder((project / url).resolve())


def write_record(storage: Storage, name: str, value: dict[str, Any]) -> None:
    """As `pipeline.utils.checksums.write_sealed`."""
    storage.write(name, json_text(seal(value)).encode())


def read_record(storage: Storage, name: str, what: str) -> dict[str, Any] | None:
    """What `write_record` wrote; None where there is no file.

    Raises:
        DataError: it is damaged; `what` names it for the user.
    """
    data = storage.read(name)
    if data is None:
        return None
    return parse_sealed(data, what, storage.where(name))
