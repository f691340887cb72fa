"""A folder for each class, with its examples as files: what both images and texts may be laid out as."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.data.sources.labels import OwnSplit, means_unlabelled, split_word, stripped
from pipeline.data.sources.user_data import Found, Layout, key_of
from pipeline.data.sources.walk import Place, Walk, checked_folder
from pipeline.errors import DataError

UNLABELLED = "unlabelled"


def find_in_class_folders(folder: Place, suffixes: tuple[str, ...], what: str) -> Layout:
    """The files of `<class>/...`, or of `train/<class>/...`, `val/<class>/...` and `test/<class>/...`; `unlabelled/`
    holds examples whose class is not known. Splits and `unlabelled` may have any usual spelling. A file anywhere below
    a class's folder is of that class.

    Args:
        suffixes: of the files that are examples, in lower case; others are passed over, and counted.
        what: such a file in a word, for messages.

    Raises:
        DataError: the folder is missing or laid out in another way; the message names file or folder.
    """
    root = checked_folder(folder)
    finder = _Finder(root, Walk(root), suffixes, what)
    top = finder.walk.folders(root)
    named = {name: word for name in top if (word := split_word(name))}
    nested = {name: word for name, word in named.items() if finder.walk.folders(top[name])}
    if "train" not in nested.values():
        if nested:
            raise DataError(f"{top[min(nested)]}: holds folders as a split does, but there is no train/ beside it")
        if len(named) > 1:
            raise DataError(
                f"{root}: {', '.join(f'{name}/' for name in sorted(named))} hold no folders of classes; "
                f"put the {what}s into a folder for each class there, or name labels in a table (data.source: table)"
            )
        return finder.layout(finder.classes(root, None))
    return finder.layout(_splits(finder, top))


def _splits(finder: _Finder, top: dict[str, Place]) -> list[Found]:
    """The files of a folder of splits."""
    folders: dict[OwnSplit, Place] = {}
    unlabelled = []
    for name, path in top.items():
        word = split_word(name)
        if word is None and not means_unlabelled(name, str(path)):
            raise DataError(f"{path}: stands beside train/; with a folder train/, classes are folders inside it")
        if word is None:
            unlabelled.append(path)
        elif word in folders:
            raise DataError(f"{folders[word]} and {path}: both are {word}; join them, or take one away")
        else:
            folders[word] = path
            if name != word:
                finder.notes.append(f"{name}/ is {word}")
    finder.pass_over(finder.root)
    files = finder.classes(folders["train"], "train" if "test" in folders else None)
    for path in unlabelled:
        files += finder.unlabelled(path, "train")
    trained = {file.label for file in files}
    for split in ("val", "test"):
        if split in folders:
            found = finder.classes(folders[split], split, trained)
            finder.notes += [f"{len(found)} {finder.what}s are val by {folders[split].name}/"] * (split == "val")
            files += found
    return files


@dataclass
class _Finder:
    root: Place
    walk: Walk
    suffixes: tuple[str, ...]
    what: str
    notes: list[str] = field(default_factory=list)

    def layout(self, files: list[Found]) -> Layout:
        classes = tuple(sorted({file.label for file in files if file.label is not None}))
        if len(classes) == 1 and (inner := self.walk.folders(self.root / classes[0])):
            names = ", ".join(sorted(inner)[:3])
            self.notes.append(f"the only class holds folders ({names}, ...); if those are the classes, give that one")
        files.sort(key=lambda file: file.path)
        return Layout(classes, tuple(files), self.walk.passed_over, tuple(self.notes))

    def classes(self, folder: Place, split: OwnSplit | None, allowed: set[str | None] | None = None) -> list[Found]:
        """The files of a folder of class folders."""
        self.pass_over(folder)
        found = []
        for name, path in self.walk.folders(folder).items():
            if means_unlabelled(name, str(path)):
                if allowed is not None:
                    raise DataError(f"{path}: examples without a label belong into train/ or beside it")
                found += self.unlabelled(path, None if split is None else "train")
            elif allowed is not None and stripped(name) not in allowed:
                raise DataError(f"{path}: train/ has no such class")
            else:
                if name != stripped(name):
                    self.notes.append(f"{str(path.relative_to(self.root))!r} is class {stripped(name)!r}")
                found += self.files(path, stripped(name), split)
        return found

    def unlabelled(self, folder: Place, split: OwnSplit | None) -> list[Found]:
        """The files of a folder of examples without a label."""
        if folder.name != UNLABELLED:
            self.notes.append(f"{folder.relative_to(self.root)}/ holds examples without a label")
        return self.files(folder, None, split)

    def pass_over(self, folder: Place) -> None:
        """Counts the files right inside a folder of folders; none may be an example."""
        for path in self.walk.files(folder):
            if path.suffix.lower() in self.suffixes:
                raise DataError(f"{path}: is in no class's folder")
            self.walk.pass_over(path)

    def files(self, folder: Place, label: str | None, split: OwnSplit | None) -> list[Found]:
        """All examples below a folder."""
        found = []
        for path in self.walk.below(folder):
            if path.suffix.lower() in self.suffixes:
                name = path.relative_to(self.root).as_posix()
                found.append(Found(name, label, split, key_of(name)))
            else:
                self.walk.pass_over(path)
        if not found:
            raise DataError(f"{folder}: no {self.what} in it (looked for {', '.join(self.suffixes)})")
        return found
