"""A folder for each class, with its examples as files: what both images and texts may be laid out as."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.sources.base import RawSplit
from pipeline.sources.own import Found, Layout, key_of

UNLABELLED = "unlabelled"
_README = "README.md"


def find_in_class_folders(folder: Path, suffixes: tuple[str, ...], what: str) -> Layout:
    """The files of `<class>/...`, or of `train/<class>/...` and `test/<class>/...`; `unlabelled/` holds examples whose
    class is not known. Whatever lies anywhere below a class's folder is of that class.

    Args:
        suffixes: of the files that are examples, in lower case; others are passed over, and counted.
        what: such a file in a word, for messages.

    Raises:
        DataError: the folder is missing or laid out in another way; the message names file or folder.
    """
    walk = _Walk(checked_folder(folder), suffixes, what)
    top = walk.folders(walk.root)
    if "train" not in top or not walk.folders(top["train"]):
        if "test" in top and walk.folders(top["test"]):
            raise DataError(f"{folder}: has test/ with folders in it, but no train/ with the folders of the classes")
        return walk.layout(walk.split(walk.root, None))
    if others := sorted(top.keys() - {"train", "test", UNLABELLED}):
        raise DataError(f"{top[others[0]]}: lies beside train/; with a folder train/, classes are folders inside it")
    walk.pass_over(walk.root)
    files = walk.split(top["train"], "train" if "test" in top else None)
    if UNLABELLED in top:
        files += walk.files(top[UNLABELLED], None, "train")
    if "test" in top:
        classes = {file.label for file in files}
        for name, path in walk.folders(top["test"]).items():
            if name == UNLABELLED:
                raise DataError(f"{path}: examples without a label belong into train/ or beside it")
            if name not in classes:
                raise DataError(f"{path}: train/ has no such class")
        files += walk.split(top["test"], "test")
    return walk.layout(files)


def checked_folder(folder: Path) -> Path:
    """The folder without links in its path.

    Raises:
        DataError: it is missing, or no folder.
    """
    if not folder.exists():
        raise DataError(f"data.folder: no such folder: {folder}")
    if not folder.is_dir():
        raise DataError(f"data.folder is a file, {folder}; give the folder that it lies in")
    return folder.resolve()


def checked_link(path: Path, root: Path) -> None:
    """Refuses a link that leads nowhere, out of `root`, or to a folder (which could hold itself).

    Raises:
        DataError: names the link.
    """
    target = path.resolve()
    if not target.exists():
        raise DataError(f"{path}: a link that leads nowhere")
    if not target.is_relative_to(root):
        raise DataError(f"{path}: a link that leaves data.folder; copy what it leads to")
    if target.is_dir():
        raise DataError(f"{path}: a link to a folder; copy or move the folder itself")


@dataclass
class _Walk:
    root: Path
    suffixes: tuple[str, ...]
    what: str
    ignored: Counter[str] = field(default_factory=Counter)

    def layout(self, files: list[Found]) -> Layout:
        classes = tuple(sorted({file.label for file in files if file.label is not None}))
        return Layout(classes, tuple(sorted(files, key=lambda file: file.path)), self.ignored)

    def folders(self, folder: Path) -> dict[str, Path]:
        """Folders right inside `folder` that are not hidden, by name."""
        return {path.name: path for path in self._entries(folder, count=False) if path.is_dir()}

    def split(self, folder: Path, split: RawSplit | None) -> list[Found]:
        """The files of a folder of class folders."""
        self.pass_over(folder)
        found = []
        for name, path in self.folders(folder).items():
            if name == UNLABELLED:
                found += self.files(path, None, None if split is None else "train")
            else:
                found += self.files(path, name, split)
        return found

    def pass_over(self, folder: Path) -> None:
        """Counts the files right inside a folder of folders; none may be an example."""
        for path in self._entries(folder):
            if path.is_dir() or (path.name == _README and folder == self.root):
                continue
            if path.suffix.lower() in self.suffixes:
                raise DataError(f"{path}: lies in no class's folder")
            self.ignored[_kind(path)] += 1

    def files(self, folder: Path, label: str | None, split: RawSplit | None) -> list[Found]:
        """All examples below a folder."""
        found = []
        for path in self._below(folder):
            if path.suffix.lower() in self.suffixes:
                name = path.relative_to(self.root).as_posix()
                found.append(Found(name, label, split, key_of(name)))
            else:
                self.ignored[_kind(path)] += 1
        if not found:
            raise DataError(f"{folder}: no {self.what} in it (looked for {', '.join(self.suffixes)})")
        return found

    def _below(self, folder: Path) -> Iterator[Path]:
        for path in self._entries(folder):
            if path.is_dir():
                yield from self._below(path)
            else:
                yield path

    def _entries(self, folder: Path, count: bool = True) -> list[Path]:
        """Folders and plain files that are not hidden, by name."""
        found = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = Path(entry.path)
                try:
                    entry.name.encode()
                except UnicodeEncodeError as error:
                    raise DataError(f"{entry.path!a}: its name is not UTF-8; rename it") from error
                if entry.name.startswith("."):
                    self.ignored["hidden"] += count
                    continue
                if entry.is_symlink():
                    checked_link(path, self.root)
                if not (entry.is_dir() or entry.is_file()):
                    raise DataError(f"{path}: neither a file nor a folder")
                found.append(path)
        return found


def _kind(path: Path) -> str:
    return path.suffix.lower() or "without an extension"
