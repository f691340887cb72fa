"""Which training points keep their label: a pure function of key, class, count and seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import ParamsError

IntArray = npt.NDArray[np.int64]


def choose_labelled(
    keys: Sequence[str], y: IntArray, classes: Sequence[str], count: int | float | str, seed: int
) -> IntArray:
    """Positions of the points that keep their label, ascending.

    Within its class each key is ranked by a hash of (seed, class, key), and the first ones are taken. So the choice is
    nested (100 labels inside 600 inside 1000), balanced, the same on every rank and independent of the shards' layout.

    Args:
        keys: N names.
        y: their classes, `[N]`; -1 where the label is not known.
        classes: K class names.
        count: a whole number of labels over all classes (when K does not divide it, some classes get one more); a
            fraction of each class, rounded up; or `all`.
        seed: another seed, another subset.

    Raises:
        ParamsError: a class has fewer points than its part, or its part is fewer than two (leaving a point out of
            its own class's representation then leaves nothing).
    """
    sizes = np.bincount(y[y >= 0], minlength=len(classes)).tolist()
    parts = labels_per_class(count, dict(zip(classes, sizes, strict=True)), seed)
    chosen: list[int] = []
    for c, name in enumerate(classes):
        members = np.flatnonzero(y == c)
        members = members[np.argsort([_rank(seed, c, keys[i]) for i in members.tolist()], kind="stable")]
        chosen += members[: parts[name]].tolist()
    return np.array(sorted(chosen), dtype=np.int64)


def labels_per_class(count: int | float | str, class_sizes: Mapping[str, int], seed: int) -> dict[str, int]:
    """How many labels each class keeps, by name; `class_sizes` are the classes' points. Raises as above."""
    parts = dict(zip(class_sizes, _parts(count, list(class_sizes.values()), seed), strict=True))
    for name, size in class_sizes.items():
        if parts[name] > size:
            raise ParamsError(
                f"labels.count is {count}: class {name!r} would need {parts[name]} labelled points and has {size}; "
                f"allowed: at most {min(class_sizes.values()) * len(class_sizes)} for equal parts, or all"
            )
        if parts[name] < 2:
            raise ParamsError(
                f"labels.count is {count}: class {name!r} would keep {parts[name]} labelled point(s) of {size}; "
                "allowed: what leaves at least 2 in each class"
            )
    return parts


def _parts(count: int | float | str, sizes: list[int], seed: int) -> list[int]:
    num_classes = len(sizes)
    if count == "all":
        return sizes
    if isinstance(count, float):
        return [math.ceil(count * size) for size in sizes]
    assert isinstance(count, int)
    each, rest = divmod(count, num_classes)
    # The classes that get one more come in an order that depends on the seed alone, so that counts stay nested.
    extra = sorted(range(num_classes), key=lambda c: _rank(seed, c, "extra label"))[:rest]
    return [each + (c in extra) for c in range(num_classes)]


def _rank(seed: int, cls: int, key: str) -> str:
    return hashlib.sha256(f"{seed}/{cls}/{key}".encode()).hexdigest()
