"""What the names of others mean: splits, examples without a label, classes that differ in nothing that one sees."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from pipeline.errors import DataError

OwnSplit = Literal["train", "val", "test"]

SPLIT_WORDS: dict[str, OwnSplit] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""In lower case."""

_GENERAL = r"[ _.-]?(set|data|dataset|split|images|imgs|files|texts|samples|examples)"
_SPLIT = re.compile(rf"({'|'.join(SPLIT_WORDS)})({_GENERAL})?")
_UNLABELLED = re.compile(
    rf"(train[ _.-]?)?(un|not)[ _.-]?(labell?ed|annotated|sup|supervised)({_GENERAL})?|(no|without)[ _.-]?labels?"
)
_AMBIGUOUS = re.compile("unknown|none|null|nan|unclassified|unsorted|uncategori[sz]ed|unassigned")
# What a text may begin or end with unseen: blanks of any kind, and marks of no width.
_BLANKS = r"[\s\ufeff\u200b\u200e\u200f]+"
_OUTER = re.compile(rf"^{_BLANKS}|{_BLANKS}$")


def split_word(name: str) -> OwnSplit | None:
    """The split that a folder or a table names: `Train`, `training_set`, `valid`, `dev`; None where it is none."""
    found = _SPLIT.fullmatch(stripped(name).lower())
    return SPLIT_WORDS[found[1]] if found else None


def means_unlabelled(name: str, where: str) -> bool:
    """Whether a folder's name or a table's label stands for examples without a label, in any usual spelling.

    Raises:
        DataError: it may as well be a class.
    """
    plain = stripped(name).lower()
    if _AMBIGUOUS.fullmatch(plain):
        raise DataError(
            f"{where}: {name!r} may be a class, or stand for examples without a label; name it unlabelled, or as a "
            "class by another word"
        )
    return bool(_UNLABELLED.fullmatch(plain))


def stripped(label: str) -> str:
    """Without blanks and invisible marks at its ends."""
    return _OUTER.sub("", label)


def check_unlike(labels: Iterable[str], where: str) -> None:
    """Refuses classes that differ in case, blanks, or in how their letters are encoded alone.

    Raises:
        DataError: names both.
    """
    seen: dict[str, str] = {}
    for label in labels:
        seen_as = "".join(c for c in label if unicodedata.category(c) != "Cf")  # marks of no width
        plain = " ".join(unicodedata.normalize("NFKC", seen_as).casefold().split())
        if (other := seen.setdefault(plain, label)) != label:
            # Codes where both would look the same.
            show = ascii if unicodedata.normalize("NFKC", other) == unicodedata.normalize("NFKC", label) else repr
            raise DataError(
                f"{where}: classes {show(other)} and {show(label)} differ in case, blanks or encoding alone; give both "
                "the same name, or names that differ"
            )
