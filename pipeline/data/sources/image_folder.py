"""The user's own images: a folder of pictures for each class."""

from __future__ import annotations

from pipeline.data.sources.class_folders import find_in_class_folders
from pipeline.data.sources.image_files import PictureSource
from pipeline.data.sources.user_data import Layout
from pipeline.utils.images import MOST_BYTES, SUFFIXES


class Images(PictureSource):
    """See `pipeline.data.sources.base.Source`."""

    @property
    def name(self) -> str:
        return "images"

    @property
    def most_bytes(self) -> int:
        return MOST_BYTES

    def find(self) -> Layout:
        return find_in_class_folders(self.folder, SUFFIXES, "picture")
