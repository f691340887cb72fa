"""The user's own series: a pair NAME_TRAIN.ts and NAME_TEST.ts. Channels, classes and length are what the files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import Examples, RawSplit
from pipeline.data.sources.labels import check_unlike, split_word
from pipeline.data.sources.ts_format import Case, read_labels, read_ts, scaled, scales
from pipeline.data.sources.user_data import Found, Layout, OwnSource, read_checked
from pipeline.data.sources.walk import Place, Walk, checked_folder, counted
from pipeline.errors import DataError

_SPLITS: tuple[RawSplit, ...] = ("train", "test")


class Series(OwnSource):
    """See `pipeline.data.sources.base.Source`."""

    @property
    def name(self) -> str:
        return "series"

    @property
    def most_bytes(self) -> int:
        return 2_000_000_000

    def find(self) -> Layout:
        root = checked_folder(self.folder)
        walk = Walk(root, strict=False)
        found: dict[str | None, list[Place]] = {}
        for path in walk.below(root):
            name, _, word = path.stem.rpartition("_")
            split = split_word(word) if path.suffix.lower() == ".ts" and path.parent == root and name else None
            found.setdefault(split, []).append(path)
        for path in found.get(None, []):
            walk.pass_over(path)
        if others := found.get("val"):
            raise DataError(
                f"{others[0]}: append its cases to NAME_TRAIN.ts; val is carved from train by data.val_size"
            )
        files = [_only_file(root, split, found.get(split, []), walk) for split in _SPLITS]
        if len({file.path.rpartition("_")[0] for file in files}) > 1:
            raise DataError(f"{root}: {files[0].path} and {files[1].path} are no pair; their names must be the same")
        for file in files:
            self.checked_size(root / file.path)
        path = root / files[0].path
        channels, labels = read_labels(path)
        check_unlike(labels, str(path))
        cases = read_ts(path, channels, labels)
        for label, num in zip(labels, np.bincount([case.y for case in cases], minlength=len(labels)), strict=True):
            if num < 2:
                raise DataError(f"{path}: class {label!r} has {num} case(s); at least 2 are needed")
        read_ts(root / files[1].path, channels, labels)
        return Layout(labels, tuple(files), walk.passed_over)

    def spec(self, raw: Path) -> DataSpec:
        cases = [case for split in _SPLITS for case in self._read(raw, split)]
        classes, _ = self.read_listing(raw)
        shape = (cases[0].x.shape[0], max(case.x.shape[1] for case in cases))
        return DataSpec(kind="series", shape=shape, dtype="float32", classes=classes, likelihood="gaussian")

    def preprocessing(self, raw: Path) -> Preprocessing:
        # From train alone, for test too: what is known of test must not shape what the model sees.
        return scales(self._path(raw, "train"), self._read(raw, "train"))

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        train = self._read(raw, "train")
        cases = train if split == "train" else self._read(raw, split)
        return scaled(self._path(raw, split), split, cases, scales(self._path(raw, "train"), train))

    def _path(self, raw: Path, split: RawSplit) -> Place:
        (file,) = self.split(raw, split)
        return self.folder / file.path

    def _read(self, raw: Path, split: RawSplit) -> list[Case]:
        (file,) = self.split(raw, split)
        read_checked(self.folder, file)
        channels, labels = read_labels(self._path(raw, "train"))
        return read_ts(self.folder / file.path, channels, labels)


def _only_file(root: Place, split: RawSplit, found: list[Place], walk: Walk) -> Found:
    """The file of a split. Raises DataError where there is none, or more than one."""
    if len(found) != 1:
        there = ", ".join(path.name for path in found) or "none"
        others = counted(walk.passed_over)
        raise DataError(
            f"{root}: expected one file NAME_{split.upper()}.ts; found: {there}"
            + (f"; others: {others}" if others else "")
        )
    return Found(found[0].name, None, split, split)
