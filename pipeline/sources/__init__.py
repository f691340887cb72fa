"""Kinds of raw data: one file each, registered here. A source turns raw files into Examples."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.sources.base import Example, Examples, RawFile, Source
from pipeline.sources.basic_motions import BASIC_MOTIONS
from pipeline.sources.digits import DIGITS
from pipeline.sources.fashion_mnist import FASHION_MNIST
from pipeline.sources.images import Images
from pipeline.sources.japanese_vowels import JAPANESE_VOWELS
from pipeline.sources.mnist import MNIST
from pipeline.sources.own import OwnParams, OwnSource
from pipeline.sources.reuters import REUTERS
from pipeline.sources.series import Series
from pipeline.sources.svhn import SVHN, SVHN_EXTRA
from pipeline.sources.table import Table
from pipeline.sources.texts import Texts

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        MNIST,
        FASHION_MNIST,
        SVHN,
        SVHN_EXTRA,
        DIGITS,
        JAPANESE_VOWELS,
        BASIC_MOTIONS,
        REUTERS,
    )
}
"""Data sets whose files are known."""

OWN: dict[str, type[OwnSource]] = {"images": Images, "table": Table, "texts": Texts, "series": Series}
"""The user's own data, read from data.folder."""


class Choice(Protocol):
    """What a source is chosen by: `pipeline.params.DataParams`."""

    @property
    def source(self) -> str:
        """A name in SOURCES or OWN."""
        ...

    @property
    def folder(self) -> str:
        """Where own data lies."""
        ...

    @property
    def own(self) -> OwnParams:
        """What becomes of own data."""
        ...

    @property
    def split_seed(self) -> int:
        """Decides what becomes test, where own data does not say."""
        ...


def make_source(data: Choice, project: Path) -> Source:
    """The source that params choose; a relative data.folder starts from the project's."""
    if data.source in SOURCES:
        return SOURCES[data.source]
    return OWN[data.source](project.resolve() / data.folder, data.own, data.split_seed)


__all__ = ["OWN", "SOURCES", "Example", "Examples", "OwnParams", "OwnSource", "RawFile", "Source", "make_source"]
