"""Emoji as colour PNG files, a folder for each of their nine categories."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.own_folders.brought import npm_package

_PACKAGE, _SET = "emoji-datasource-twitter@16.0.0", "twitter"
_NO_CATEGORY = "Component"  # five tones of skin, which are no emoji of their own
_TONES = ("1F3FB", "1F3FD", "1F3FF")  # light, medium and dark


def make_emoji(folder: Path) -> None:
    """2,854 pictures of 64x64 with a transparent ground, a third of them people in three tones of skin."""
    with tempfile.TemporaryDirectory() as scratch:
        package = npm_package(_PACKAGE, "*", Path(scratch))
        for category, image in _listed(json.loads((package / "emoji.json").read_text())):
            place = folder / category.lower().replace(" & ", "-")
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package / "img" / _SET / "64" / image, place / image)


def _listed(table: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Category and file of each picture."""
    there = f"has_img_{_SET}"
    for emoji in table:
        if emoji["category"] == _NO_CATEGORY:
            continue
        tones = emoji.get("skin_variations", {})
        for picture in (emoji, *(tones[tone] for tone in _TONES if tone in tones)):
            if picture[there]:
                yield emoji["category"], picture["image"]
