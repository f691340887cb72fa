"""Rows chosen by a hash of their key: the same in any order, layout and process."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def lowest(keys: Iterable[str], num: int, among: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
    """Rows of the `num` keys with the lowest SHA-256, ascending: the same keys in any order, and nested.

    Args:
        among: which rows may be taken; all where it is None.
    """
    ranked = (
        (hashlib.sha256(key.encode()).digest(), row) for row, key in enumerate(keys) if among is None or among[row]
    )
    return np.array(sorted(row for _, row in heapq.nsmallest(num, ranked)), dtype=np.int64)
