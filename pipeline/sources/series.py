"""The user's own series: a pair NAME_TRAIN.ts and NAME_TEST.ts. Channels, classes and length are what the files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.sources.base import Examples, RawSplit
from pipeline.sources.folders import checked_folder, checked_link
from pipeline.sources.own import Found, Layout, OwnSource, read_checked
from pipeline.sources.ts import Case, read_labels, read_ts, scaled, scales

_ENDS: dict[RawSplit, str] = {"train": "_TRAIN.ts", "test": "_TEST.ts"}


class Series(OwnSource):
    """See `pipeline.sources.base.Source`."""

    @property
    def name(self) -> str:
        return "series"

    def find(self) -> Layout:
        root = checked_folder(self.folder)
        files = []
        for split, end in _ENDS.items():
            found = sorted(path for path in root.iterdir() if path.name.endswith(end))
            if len(found) != 1:
                there = ", ".join(path.name for path in found) or "none"
                raise DataError(f"{root}: expected one file NAME{end}; found: {there}")
            if found[0].is_symlink():
                checked_link(found[0], root)
            files.append(Found(found[0].name, None, split, split))
        if files[0].path.removesuffix(_ENDS["train"]) != files[1].path.removesuffix(_ENDS["test"]):
            raise DataError(f"{root}: {files[0].path} and {files[1].path} are no pair; their names must be the same")
        path = root / files[0].path
        channels, labels = read_labels(path)
        cases = read_ts(path, channels, labels)
        for label, num in zip(labels, np.bincount([case.y for case in cases], minlength=len(labels)), strict=True):
            if num < 2:
                raise DataError(f"{path}: class {label!r} has {num} case(s); at least 2 are needed")
        read_ts(root / files[1].path, channels, labels)
        return Layout(labels, tuple(files))

    def spec(self, raw: Path) -> DataSpec:
        cases = [case for split in _ENDS for case in self._read(raw, split)]
        classes, _ = self.read_listing(raw)
        shape = (cases[0].x.shape[0], max(case.x.shape[1] for case in cases))
        return DataSpec(kind="series", shape=shape, dtype="float32", classes=classes, likelihood="gaussian")

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        train = self._read(raw, "train")
        # From train alone, for test too: what is known of test must not shape what the model sees.
        mean, deviation = scales(self._path(raw, "train"), train)
        return scaled(
            self._path(raw, split), split, train if split == "train" else self._read(raw, split), mean, deviation
        )

    def _path(self, raw: Path, split: RawSplit) -> Path:
        (file,) = self.split(raw, split)
        return self.folder / file.path

    def _read(self, raw: Path, split: RawSplit) -> list[Case]:
        (file,) = self.split(raw, split)
        read_checked(self.folder, file)
        channels, labels = read_labels(self._path(raw, "train"))
        return read_ts(self.folder / file.path, channels, labels)
