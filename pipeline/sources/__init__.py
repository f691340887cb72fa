"""Kinds of raw data: one file each, registered here. A source turns raw files into Examples."""

from __future__ import annotations

from pipeline.sources.base import Example, RawFile, Source
from pipeline.sources.basic_motions import BASIC_MOTIONS
from pipeline.sources.digits import DIGITS
from pipeline.sources.fashion_mnist import FASHION_MNIST
from pipeline.sources.japanese_vowels import JAPANESE_VOWELS
from pipeline.sources.mnist import MNIST
from pipeline.sources.reuters import REUTERS

SOURCES: dict[str, Source] = {
    source.name: source for source in (MNIST, FASHION_MNIST, DIGITS, JAPANESE_VOWELS, BASIC_MOTIONS, REUTERS)
}

__all__ = ["SOURCES", "Example", "RawFile", "Source"]
