"""Texts as counts of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

_WORD = re.compile("[a-z]{3,}")
# Words that say nothing of a topic; each article ends with `reuter`.
_STOP = """
about after all also and any are because been before being but can could did does during each for from had has have her
him his how into its just may more most much must nor not now off only other our out over own per reuter reuters same
she should since some such than that the their them then there these they this those through too under until upon very
was were what when where which while who whose why will with would yet you your
"""
_STOP_WORDS = frozenset(_WORD.findall(_STOP))


def words(text: str) -> list[str]:
    """The words that are counted: lower-case, of at least three letters, and no stop words."""
    return [word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def most_frequent(counts: Counter[str], num: int) -> tuple[str, ...]:
    """The `num` most frequent words; of equally frequent ones, the first of the alphabet."""
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:num])


def count_words(text: str, places: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """How often each word occurs, `[len(places)]`; `places` says where each is counted."""
    found = [places[word] for word in words(text) if word in places]
    # bincount of an empty list would be of floats.
    return np.bincount(np.array(found, dtype=np.int64), minlength=len(places)).astype(np.int32)
