"""Texts as counts of words, in any script.

A word is a run of at least three letters. Scripts that are written without blanks, or whose words are of few letters,
are counted as pairs of neighbouring letters instead: Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import cache

import numpy as np
import numpy.typing as npt

_WORD = re.compile("[a-z]{3,}")
_LETTERS = re.compile(r"[^\W\d_]+")
_PAIRED = (
    "\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff"
)
# Words that say nothing of a topic; each article ends with `reuter`.
_STOP = """
about after all also and any are because been before being but can could did does during each for from had has have her
him his how into its just may more most much must nor not now off only other our out over own per reuter reuters same
she should since some such than that the their them then there these they this those through too under until upon very
was were what when where which while who whose why will with would yet you your
"""
_STOP_WORDS = frozenset(_WORD.findall(_STOP))


def words(text: str) -> list[str]:
    """The words that are counted: lower-case, of at least three letters, and no stop words (of English)."""
    text = text.lower()
    found = _WORD.findall(text) if text.isascii() else _words_of_any_script(text)
    return [word for word in found if word not in _STOP_WORDS]


def _words_of_any_script(text: str) -> list[str]:
    # Composed: an umlaut of two characters is the same letter as one of one.
    text = unicodedata.normalize("NFKC", text)
    special, runs = _runs()
    if not special.search(text):  # ten times faster
        return [run for run in _LETTERS.findall(text) if len(run) >= 3]
    found = []
    for run, paired in runs.findall(text):
        if paired:
            found += [paired[i : i + 2] for i in range(max(1, len(paired) - 1))]
        elif len(run) >= 3:
            found.append(run)
    return found


@cache
def _runs() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What needs the second pattern, and that: a run of letters of alphabets, or one of letters that are paired. Vowel
    signs are parts of letters."""
    signs = "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in ("Mn", "Mc"))
    paired = re.compile(f"[{_PAIRED}]")
    of_pairs, others = "".join(paired.findall(signs)), paired.sub("", signs)
    runs = rf"((?:[^\W\d_{_PAIRED}]+|[{others}]+)+)|((?:(?=[{_PAIRED}])[^\W\d_]|[{of_pairs}])+)"
    return re.compile(f"[{_PAIRED}{others}]"), re.compile(runs)


def most_frequent(counts: Counter[str], num: int) -> tuple[str, ...]:
    """The `num` most frequent words; of equally frequent ones, the first of the alphabet."""
    return tuple(sorted(counts, key=lambda word: (-counts[word], word))[:num])


def count_words(text: str, places: Mapping[str, int]) -> npt.NDArray[np.int32]:
    """How often each word occurs, `[len(places)]`; `places` is where each is counted."""
    found = [places[word] for word in words(text) if word in places]
    # bincount of an empty list would be of floats.
    return np.bincount(np.array(found, dtype=np.int64), minlength=len(places)).astype(np.int32)
