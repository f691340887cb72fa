"""Which samples of tars that others made are train, val and test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np

from pipeline.data.shards.manifest import SplitName
from pipeline.data.sources.labels import SPLIT_WORDS
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

SHARE = 0.1
"""Of the tars, or of each class, that becomes val, and as much again test."""


def split_of(path: str) -> SplitName | None:
    """The split in a tar's name, or its folders', the nearest first; None where none has one.

    Words count whole and in any case: `imagenet-val-003.tar` and `Validation/003.tar` are val, `trainer.tar` is none.
    """
    for part in reversed(PurePosixPath(path).parts):
        words = [SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", part.lower()) if word in SPLIT_WORDS]
        if words:
            return words[-1]
    return None


def splits_by_name(paths: Iterable[str]) -> dict[SplitName, list[str]]:
    """Tars by `split_of`; those without a split in their name are train.

    Raises:
        DataError: no tar is train.
    """
    splits: dict[SplitName, list[str]] = {"train": [], "val": [], "test": []}
    for path in sorted(paths):
        splits[split_of(path) or "train"].append(path)
    if not splits["train"]:
        raise DataError("no tar is left for split train; name some train, or none by a split")
    return splits


def set_aside(
    paths: list[str], shard: IntArray, keys: Sequence[str], y: IntArray, wanted: list[SplitName], seed: int
) -> tuple[dict[SplitName, IntArray], str]:
    """Rows of train and of the wanted splits, and how they were chosen: whole tars where each split then has every
    class, else samples of each class.

    Args:
        paths: of train's tars.
        shard: which of them holds each sample, `[N]`.
        keys: of the samples, N.
        y: class index, -1 where the label is not known, `[N]`.
    """
    if (whole := _whole_tars(paths, shard, y, wanted, seed)) is not None:
        return whole, "whole tars are set aside"
    share = f"{round(100 * SHARE)} %"
    return _samples(keys, y, wanted, seed), (
        f"{share} of each class's samples are set aside; whole tars would leave a split without a class, or "
        "with samples without a label"
    )


def _whole_tars(
    paths: list[str], shard: IntArray, y: IntArray, wanted: list[SplitName], seed: int
) -> dict[SplitName, IntArray] | None:
    """A tar is of one split: those of the lowest hashes of seed and name are set aside, about a tenth for each. None
    where a split would lack a class of train's tars, train two of it, or where an example of val or test has no label.
    """
    order = sorted(range(len(paths)), key=lambda i: hashlib.sha256(f"{seed}/{paths[i]}".encode()).hexdigest())
    num = max(1, round(SHARE * len(paths)))
    if len(paths) < 1 + num * len(wanted):
        return None
    parts: dict[SplitName, IntArray] = {}
    for i, name in enumerate(wanted):
        parts[name] = np.flatnonzero(np.isin(shard, order[i * num : (i + 1) * num]))
    parts = {"train": np.flatnonzero(np.isin(shard, order[len(wanted) * num :])), **parts}
    known = np.unique(y[y >= 0])
    for name, rows in parts.items():
        counts = np.bincount(y[rows][y[rows] >= 0], minlength=1 + int(y.max(initial=0)))
        if (name != "train" and (y[rows] < 0).any()) or (counts[known] < (2 if name == "train" else 1)).any():
            return None
    return parts


def _samples(keys: Sequence[str], y: IntArray, wanted: list[SplitName], seed: int) -> dict[SplitName, IntArray]:
    """Of each class a tenth, at least one, as far as two stay in train: those of the lowest hashes of seed and key.
    Samples without a label stay in train."""
    ranks = np.array([hashlib.sha256(f"{seed}/{key}".encode()).digest() for key in keys], dtype="S32")
    parts: dict[SplitName, list[IntArray]] = {"train": [np.flatnonzero(y < 0)], **{name: [] for name in wanted}}
    nothing: IntArray = np.empty(0, dtype=np.int64)
    for c in np.unique(y[y >= 0]):
        members = np.flatnonzero(y == c)
        members = members[np.argsort(ranks[members], kind="stable")]
        num = max(1, round(SHARE * len(members)))
        for name in wanted:
            num = max(0, min(num, len(members) - 2))
            parts[name].append(members[:num])
            members = members[num:]
        parts["train"].append(members)
    return {name: np.sort(np.concatenate([*rows, nothing])) for name, rows in parts.items()}
