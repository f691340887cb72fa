"""Kinds of raw data: one file each, registered here. A source turns raw files into Examples."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from pipeline.data.example import Example, Examples
from pipeline.data.sources.base import RawFile, Source
from pipeline.data.sources.basic_motions import BASIC_MOTIONS
from pipeline.data.sources.digits import DIGITS
from pipeline.data.sources.fashion_mnist import FASHION_MNIST
from pipeline.data.sources.glyphs import GLYPHS
from pipeline.data.sources.hand_pose import HAND_POSE
from pipeline.data.sources.image_folder import Images
from pipeline.data.sources.image_table import Table
from pipeline.data.sources.japanese_vowels import JAPANESE_VOWELS
from pipeline.data.sources.mnist import MNIST
from pipeline.data.sources.reuters import REUTERS
from pipeline.data.sources.series_files import Series
from pipeline.data.sources.svhn import SVHN, SVHN_EXTRA
from pipeline.data.sources.text_folder import Texts
from pipeline.data.sources.user_data import OwnParams, OwnSource
from pipeline.data.sources.vectors import Vectors
from pipeline.data.sources.walk import place_of

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
        HAND_POSE,
        GLYPHS,
    )
}
"""Data sets whose files are known."""

OWN: dict[str, type[OwnSource]] = {
    "images": Images,
    "table": Table,
    "texts": Texts,
    "series": Series,
    "vectors": Vectors,
}
"""The user's own data, read from data.folder."""


TARS = "tars"
"""Webdataset tars of others, which are read as they are: `pipeline.data.sharding.external_tars`."""


class Choice(Protocol):
    """What a source is chosen by: `pipeline.config.params.DataParams`."""

    @property
    def source(self) -> str:
        """A name in SOURCES or OWN."""
        ...

    @property
    def folder(self) -> str:
        """Folder of own data."""
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
    return OWN[data.source](place_of(data.folder, project), data.own, data.split_seed)


__all__ = [
    "OWN",
    "SOURCES",
    "TARS",
    "Example",
    "Examples",
    "OwnParams",
    "OwnSource",
    "RawFile",
    "Source",
    "make_source",
]
