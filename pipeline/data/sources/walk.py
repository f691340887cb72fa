"""Walks through the user's folder: every file in it is an example, or is counted as passed over."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import DataError
from pipeline.storage.object_path import ObjectPath, objects_below
from pipeline.utils.files import read_json, write_json
from pipeline.utils.progress import say

_EVERY_S = 5.0
# What systems put into folders and archives.
_SYSTEM = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini")

Place = Path | ObjectPath
"""A file or folder of this machine, or of an object store."""


def place_of(folder: str, project: Path) -> Place:
    """What data.folder names: a URL, or a folder, which may be relative to the project's."""
    return ObjectPath.of(folder) if "://" in folder else project.resolve() / folder


def size_of(path: Place) -> int:
    """Bytes of a file. Raises FileNotFoundError where there is none."""
    return path.size() if isinstance(path, ObjectPath) else path.stat().st_size


def checked_folder(folder: Place) -> Place:
    """The folder without links in its path.

    Raises:
        DataError: it is missing, or no folder.
        ResourceError: it is in an object store that cannot be listed.
    """
    if isinstance(folder, ObjectPath):
        if not objects_below(folder).files:
            raise DataError(f"data.folder: no object below {folder}/")
        return folder
    if not folder.exists():
        raise DataError(f"data.folder: no such folder: {folder}")
    if not folder.is_dir():
        raise DataError(f"data.folder is a file, {folder}; give the folder that holds it")
    return folder.resolve()


def checked_link(path: Path, root: Path) -> None:
    """Refuses a link that leads nowhere, out of `root`, or to a folder (which could hold itself).

    Raises:
        DataError: names the link.
    """
    try:
        target = path.resolve()
    except (RuntimeError, OSError) as error:  # a loop: RuntimeError up to Python 3.12
        raise DataError(f"{path}: a link that leads to itself") from error
    if path.is_symlink() and target == path.absolute():  # a loop, from Python 3.13 on
        raise DataError(f"{path}: a link that leads to itself")
    if not target.exists():
        raise DataError(f"{path}: a link that leads nowhere")
    if not target.is_relative_to(root):
        raise DataError(f"{path}: a link that leaves data.folder; copy what it leads to")
    if target.is_dir():
        raise DataError(f"{path}: a link to a folder; copy or move the folder itself")


@dataclass
class Walk:
    """Looks at each folder below `root` once."""

    root: Place
    """As `checked_folder` gives it."""

    strict: bool = True
    """Whether a name that is not UTF-8, a link that leads elsewhere, a pipe or a device is a DataError, and so is an
    object's name that is no path. Else they are passed over: where examples are named by the user, what else is there
    does not matter."""

    outside: bool = False
    """Whether links to files anywhere are followed."""

    passed_over: Counter[str] = field(default_factory=Counter)
    """How many files are no examples, by what they are."""

    _seen: dict[Place, list[Place]] = field(default_factory=dict)
    _num_entries: int = 0
    _told: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if isinstance(self.root, ObjectPath) and (unusable := objects_below(self.root).unusable):
            if self.strict:
                raise DataError(f"{self.root}/{unusable[0]}: its name is no path of a file; rename the object")
            self.passed_over["object whose name is no path"] += len(unusable)

    def folders(self, folder: Place) -> dict[str, Place]:
        """Folders right inside `folder`, by name."""
        return {path.name: path for path in self.entries(folder) if self._is_dir(path)}

    def files(self, folder: Place) -> list[Place]:
        """Files right inside `folder`."""
        return [path for path in self.entries(folder) if not self._is_dir(path)]

    def below(self, folder: Place) -> Iterator[Place]:
        """All files below `folder`, which may be millions: their names are not kept."""
        todo = [folder]
        while todo:
            inner, here = [], todo.pop()
            for path in self._seen[here] if here in self._seen else self._look_at(here):
                if self._is_dir(path):
                    inner.append(path)
                else:
                    yield path
            todo += reversed(inner)

    def pass_over(self, path: Place) -> None:
        """Counts a file that is no example."""
        self.passed_over[path.suffix.lower() or "without a suffix"] += 1

    def entries(self, folder: Place) -> list[Place]:
        """Folders and plain files in order of their names, without those that are hidden or a system's own."""
        if folder not in self._seen:
            self._seen[folder] = list(self._look_at(folder))
        return self._seen[folder]

    def _is_dir(self, path: Place) -> bool:
        if isinstance(path, ObjectPath):
            assert isinstance(self.root, ObjectPath)
            return objects_below(self.root).is_dir(path)
        return path.is_dir()

    def _look_at(self, folder: Place) -> Iterator[Place]:
        for path, count, check in self._inside(folder):
            self._num_entries += 1
            if time.monotonic() - self._told > _EVERY_S:
                self._told = time.monotonic()
                say(f"{self.root}: {self._num_entries:,} files and folders so far")
            if path.name.startswith("."):
                self.passed_over["hidden"] += count()
            elif path.name in _SYSTEM or path.name in _SYSTEM_FILES:
                self.passed_over[f"of the system ({path.name})"] += count()
            else:
                try:
                    check()
                except DataError:
                    if self.strict:
                        raise
                    self.passed_over["link, pipe or name that is not UTF-8"] += 1
                else:
                    yield path

    def _inside(self, folder: Place) -> Iterator[_Entry]:
        if isinstance(folder, ObjectPath):
            assert isinstance(self.root, ObjectPath)
            objects = objects_below(self.root)
            for item in objects.entries(folder):
                yield _Entry(item, partial(objects.count, item), lambda: None)
            return
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                yield _Entry(path, partial(_count, entry), partial(self._check, path, entry))

    def _check(self, path: Path, entry: os.DirEntry[str]) -> None:
        try:
            entry.name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{entry.path!a}: its name is not UTF-8; rename it") from error
        if entry.is_symlink() and not (self.outside and path.is_file()):
            checked_link(path, Path(self.root))
        if not (entry.is_dir() or entry.is_file()):
            raise DataError(f"{path}: neither a file nor a folder; take it out of data.folder")


class _Entry(NamedTuple):
    """What stands in a folder."""

    path: Place
    num_files: Callable[[], int]
    """That it is, or holds."""

    check: Callable[[], None]
    """Raises DataError where it cannot be read."""


def _count(entry: os.DirEntry[str]) -> int:
    """A file, or the files below a folder."""
    if not entry.is_dir(follow_symlinks=False):
        return 1
    return sum(len(files) for _, _, files in os.walk(entry.path))


def counted(counts: Counter[str]) -> str:
    """What `passed_over` holds, in a line."""
    return ", ".join(f"{num} {what}" for what, num in sorted(counts.items()))


_PASSED_OVER = "passed_over.json"


def write_passed_over(raw: Path, counts: Counter[str]) -> None:
    """Keeps what fetch has passed over for the stages that say what was found; it is no part of the data."""
    write_json(raw / _PASSED_OVER, dict(sorted(counts.items())))


def read_passed_over(raw: Path) -> dict[str, int]:
    """Files passed over by what they are; none for data that has no such file.

    Raises:
        DataError: the file is damaged.
    """
    if not (raw / _PASSED_OVER).is_file():
        return {}
    counts = read_json(raw / _PASSED_OVER, "the count of files passed over (run `ie fetch`)")
    if not isinstance(counts, dict) or not all(isinstance(num, int) for num in counts.values()):
        raise DataError(f"the count of files passed over is damaged; run `ie fetch`: {raw / _PASSED_OVER}")
    return counts
