"""Which training points keep their label: a pure function of key, class, count and seed.

Within its class each key is ranked by a hash of (seed, class, key), and the first ones are taken. So the choice is
nested (100 labels inside 600 inside 1000), balanced, the same on every rank and independent of the shards' layout.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from pipeline.data.shards.index import ROW, SplitIndex, key64
from pipeline.data.shards.manifest import LabelHash
from pipeline.data.shards.tar_reader import REMEDY
from pipeline.errors import DataError, ParamsError
from pipeline.utils.arrays import IntArray
from pipeline.utils.process_pool import num_cpus

AUTO_LABELS = 100
AUTO_LABELS_OF_CLASS = 5
"""What the count `auto` asks for: so many labels over all classes, and at least so many of each."""

_AT_ONCE = 1 << 18
"""Rows; their columns fit into a processor's cache."""

Ranks = npt.NDArray[np.uint64]


def choose_labelled(
    keys: Iterable[str], y: IntArray, classes: Sequence[str], count: int | float | str, seed: int, ranking: LabelHash
) -> IntArray:
    """Positions of the points that keep their label, ascending.

    Args:
        keys: N names.
        y: their classes, `[N]`; -1 where the label is not known.
        classes: K class names.
        count: a whole number of labels over all classes (when K does not divide it, some classes get one more); a
            fraction of each class, rounded up; `all`; or `auto`, see `resolve_count`.
        seed: another seed, another subset.
        ranking: the manifest's.

    Raises:
        ParamsError: a class has fewer points than its part, or its part is fewer than two (leaving a point out of
            its own class's representation then leaves nothing).
        DataError: with `auto`, a class has fewer than two points.
    """
    sizes = np.bincount(y[y >= 0], minlength=len(classes)).tolist()
    parts = labels_per_class(count, dict(zip(classes, sizes, strict=True)), seed)
    lowest = _Lowest(list(parts.values()))
    if ranking == "sha256":
        ranks = _ranks_of_keys(seed, y, keys)
    else:
        ranks = _ranks_of_hashes(seed, y, np.array([key64(key) for key in keys], dtype=np.uint64), len(classes))
    lowest.add(y, ranks, np.arange(len(y)))
    return lowest.positions()


def choose_in_index(
    index: SplitIndex, class_sizes: Mapping[str, int], count: int | float | str, seed: int, ranking: LabelHash
) -> IntArray:
    """As `choose_labelled`, of the points of an index, by all processors that this process may use.

    Memory: the chosen positions, and some rows of each processor.

    Raises:
        DataError: the index's labels are not those that the manifest counts; names the file.
    """
    parts = list(labels_per_class(count, class_sizes, seed).values())
    num = min(num_cpus(), len(index.ends))
    shards = [range(i * len(index.ends) // num, (i + 1) * len(index.ends) // num) for i in range(num)]
    with ThreadPoolExecutor(num) as threads:
        found = list(threads.map(lambda some: _lowest_of(index, some, parts, seed, ranking), shards))
    if np.stack([lowest.counts for lowest in found]).sum(axis=0).tolist() != list(class_sizes.values()):
        raise DataError(f"{index.path}: its labels by class are not those of the manifest; {REMEDY}")
    for other in found[1:]:
        found[0].add(*other.kept())
    return found[0].positions()


def _lowest_of(index: SplitIndex, shards: range, parts: list[int], seed: int, ranking: LabelHash) -> _Lowest:
    lowest = _Lowest(parts)
    end = index.rows_of(shards[-1]).stop
    for start in range(index.rows_of(shards[0]).start, end, _AT_ONCE):
        stop = min(end, start + _AT_ONCE)
        # Read, not mapped: once and in order.
        offset = index.rows.offset + start * ROW.itemsize
        rows = np.fromfile(index.path, dtype=ROW, count=stop - start, offset=offset)
        y = index.checked(rows["y"], slice(start, stop))
        if ranking == "sha256":
            ranks = _ranks_of_keys(seed, y, index.keys_between(start, stop))
        else:
            ranks = _ranks_of_hashes(seed, y, rows["key64"], len(parts))
        lowest.add(y, ranks, np.arange(start, stop))
    return lowest


class _Lowest:
    """Of the points that were added, those of the lowest rank of each class."""

    def __init__(self, parts: Sequence[int]) -> None:
        """
        Args:
            parts: how many of each class, K.
        """
        self.parts, self.counts = np.array(parts, dtype=np.int64), np.zeros(len(parts), dtype=np.int64)
        self._limit = np.full(len(parts), np.iinfo(np.uint64).max, dtype=np.uint64)
        self._kept: list[tuple[IntArray, Ranks, IntArray]] = []
        self._enough = max(_AT_ONCE, int(self.parts.sum()))

    def add(self, y: IntArray, ranks: Ranks, positions: IntArray) -> None:
        """Classes (-1: never chosen), ranks and positions, `[n]` each."""
        self.counts += np.bincount(y[y >= 0], minlength=len(self.parts))
        new = np.flatnonzero((ranks <= self._limit[y]) & (y >= 0))
        self._kept.append((y[new], ranks[new], positions[new]))
        if sum(len(part[0]) for part in self._kept[1:]) > self._enough:
            self.kept()

    def kept(self) -> tuple[IntArray, Ranks, IntArray]:
        """What is chosen so far, by class and rank."""
        y, ranks, positions = (np.concatenate(column) for column in zip(*self._kept, strict=True))
        order = np.lexsort((positions, ranks, y))
        y, ranks, positions = y[order], ranks[order], positions[order]
        first = np.searchsorted(y, np.arange(len(self.parts)))
        chosen = np.arange(len(y)) - first[y] < self.parts[y]
        full = np.flatnonzero((np.bincount(y, minlength=len(self.parts)) >= self.parts) & (self.parts > 0))
        self._limit[full] = ranks[first[full] + self.parts[full] - 1]
        self._kept = [(y[chosen], ranks[chosen], positions[chosen])]
        return self._kept[0]

    def positions(self) -> IntArray:
        """Of what is chosen, ascending."""
        return np.sort(self.kept()[2])


def labels_per_class(count: int | float | str, class_sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """How many labels each class keeps, by name; `class_sizes` are the classes' points. Raises as above."""
    sizes = list(class_sizes.values())
    asked, count = count, resolve_count(count, sizes)
    parts = dict(zip(class_sizes, _parts(count, sizes, seed), strict=True))
    if asked == "auto":
        for name, size in class_sizes.items():
            if size < 2:
                raise DataError(f"class {name!r} has {size} labelled example(s) in train; at least 2 are needed")
    for name, size in class_sizes.items():
        if parts[name] > size:
            raise ParamsError(
                f"labels.count is {count}: class {name!r} would need {parts[name]} labelled points and has {size}; "
                f"allowed: at most {min(sizes) * len(sizes)} for equal parts, all, or auto"
            )
        if parts[name] < 2:
            raise ParamsError(
                f"labels.count is {count}: class {name!r} would keep {parts[name]} labelled point(s) of {size}; "
                "allowed: what leaves at least 2 in each class"
            )
    return parts


def resolve_count(count: int | float | str, sizes: Sequence[int]) -> int | float | str:
    """What `auto` stands for with classes of these sizes; any other count as it is.

    AUTO_LABELS, or AUTO_LABELS_OF_CLASS of each class where that is more: a whole number where every class has its
    equal part, `all` where there are no more labels than that, else `auto`: a small class gives all that it has, and
    the others share the rest equally.
    """
    if count != "auto":
        return count
    wanted = _auto_total(sizes)
    if wanted >= sum(sizes):
        return "all"
    return wanted if math.ceil(wanted / len(sizes)) <= min(sizes) else "auto"


def _auto_total(sizes: Sequence[int]) -> int:
    return max(AUTO_LABELS, AUTO_LABELS_OF_CLASS * len(sizes))


def _parts(count: int | float | str, sizes: list[int], seed: int) -> list[int]:
    num_classes = len(sizes)
    if count == "all":
        return sizes
    if count == "auto":
        return _capped_parts(_auto_total(sizes), sizes, seed)
    if isinstance(count, float):
        return [math.ceil(count * size) for size in sizes]
    assert isinstance(count, int)
    each, rest = divmod(count, num_classes)
    extra = _order_of_extras(num_classes, seed)[:rest]
    return [each + (c in extra) for c in range(num_classes)]


def _capped_parts(total: int, sizes: list[int], seed: int) -> list[int]:
    """Parts of `total` as equal as the sizes allow; the sum of sizes is more than `total`."""
    left, level = total, 0
    for i, size in enumerate(sorted(sizes)):
        level = left // (len(sizes) - i)
        if size > level:
            break
        left -= size
    rest = total - sum(min(size, level) for size in sizes)
    extra = [c for c in _order_of_extras(len(sizes), seed) if sizes[c] > level][:rest]
    return [min(size, level) + (c in extra) for c, size in enumerate(sizes)]


def _order_of_extras(num_classes: int, seed: int) -> list[int]:
    """Which classes get one more first. It depends on the seed alone, so that counts stay nested."""
    return sorted(range(num_classes), key=lambda c: _rank(seed, c, "extra label"))


def _rank(seed: int, cls: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}/{cls}/{key}".encode()).digest()


def _ranks_of_keys(seed: int, y: IntArray, keys: Iterable[str]) -> Ranks:
    """First 8 bytes of `_rank`: about 0.5 us a key. Of points without a label, 0."""
    none = bytes(8)
    ranks = b"".join(_rank(seed, c, key)[:8] if c >= 0 else none for c, key in zip(y.tolist(), keys, strict=True))
    return np.frombuffer(ranks, dtype=">u8").astype(np.uint64)


def _ranks_of_hashes(seed: int, y: IntArray, hashes: Ranks, num_classes: int) -> Ranks:
    """Hashes of the keys, mixed with seed and class by the finalizer of SplitMix64: about 0.01 us a key."""
    salts = np.array([int.from_bytes(_rank(seed, c, "")[:8], "little") for c in range(num_classes)], dtype=np.uint64)
    ranks = salts[y]
    ranks ^= hashes
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        ranks ^= ranks >> np.uint64(shift)
        ranks *= np.uint64(factor)
    ranks ^= ranks >> np.uint64(31)
    return ranks
