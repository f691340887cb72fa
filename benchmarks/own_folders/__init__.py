"""Six folders of data as users have it, made of packages and of chance with a fixed seed; `FOLDERS` names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.own_folders.digits import make_digits
from benchmarks.own_folders.emoji import make_emoji
from benchmarks.own_folders.features import make_features
from benchmarks.own_folders.letters import make_letters
from benchmarks.own_folders.texts import make_texts
from benchmarks.own_folders.waveforms import make_waveforms

FOLDERS: dict[str, Callable[[Path], None]] = {
    "digits": make_digits,
    "emoji": make_emoji,
    "letters": make_letters,
    "texts": make_texts,
    "waveforms": make_waveforms,
    "features": make_features,
}
"""Each fills a folder that is not there yet."""
