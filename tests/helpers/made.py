"""Examples that are computed from their number, in a module of their own: worker processes import it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec
from pipeline.data.example import Examples, Values
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

SPEC = DataSpec(kind="image", shape=(1, 4, 5), dtype="uint8", classes=("a", "b"), likelihood="bernoulli")


@dataclass(frozen=True, eq=False)
class Made(Examples):
    """Images of one value, which tells their number."""

    keys: Sequence[str]
    y: IntArray
    unreadable: tuple[int, ...] = ()
    misshapen: tuple[int, ...] = ()
    seconds: float = 0.0
    """How long reading takes."""

    delay: Path | None = None
    """A file; reading takes so long only while it exists."""

    def read(self, i: int) -> Values:
        if self.delay is None or self.delay.exists():
            time.sleep(self.seconds)
        if i in self.unreadable:
            raise DataError(f"images.bin: {self.keys[i]} is damaged")
        return np.full((1, 4, 4 if i in self.misshapen else 5), i % 251, dtype=np.uint8)


def made(split: str, num: int, unreadable: tuple[int, ...] = (), misshapen: tuple[int, ...] = ()) -> Made:
    return Made([f"{split}-{i}" for i in range(num)], np.arange(num) % 2, unreadable, misshapen)
