"""Kinds of raw data: one file each, registered here. A source turns raw files into Examples."""

from __future__ import annotations

from pipeline.sources.base import Example, RawFile, Source
from pipeline.sources.digits import DIGITS
from pipeline.sources.fashion_mnist import FASHION_MNIST
from pipeline.sources.mnist import MNIST

SOURCES: dict[str, Source] = {source.name: source for source in (MNIST, FASHION_MNIST, DIGITS)}

__all__ = ["SOURCES", "Example", "RawFile", "Source"]
