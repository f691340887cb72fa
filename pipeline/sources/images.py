"""The user's own images: a folder of pictures for each class."""

from __future__ import annotations

from pipeline.sources.folders import find_in_class_folders
from pipeline.sources.own import Layout
from pipeline.sources.pictures import SUFFIXES, PictureSource


class Images(PictureSource):
    """See `pipeline.sources.base.Source`."""

    @property
    def name(self) -> str:
        return "images"

    def find(self) -> Layout:
        return find_in_class_folders(self.folder, SUFFIXES, "picture")
