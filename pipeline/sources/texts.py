"""The user's own texts: a folder of .txt files for each class, as counts of train's most frequent words."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ie_model.spec import DataSpec
from pipeline.errors import DataError, FaultError
from pipeline.progress import Meter, say
from pipeline.sources.base import Examples, IntArray, RawSplit, Values
from pipeline.sources.folders import find_in_class_folders
from pipeline.sources.own import LISTING, Layout, Listed, OwnSource, read_checked
from pipeline.sources.pictures import class_indices
from pipeline.sources.words import count_words, most_frequent, words


@dataclass(frozen=True, eq=False)
class TextFiles(Examples):
    """Examples that are a text file each, counted when they are read."""

    keys: Sequence[str]
    y: IntArray
    folder: Path
    files: Sequence[Listed]
    vocabulary: tuple[str, ...]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    def read(self, i: int) -> Values:
        return count_words(read_text(self.folder, self.files[i]), self._places)


def read_text(folder: Path, file: Listed) -> str:
    """A text file's words.

    Raises:
        FaultError: it is not UTF-8.
        DataError: as `read_checked`.
    """
    try:
        return read_checked(folder, file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{folder / file.path}: key {file.key}"
        raise FaultError(f"{where}: not a text in UTF-8 (byte {error.start}: {error.reason})") from error


class Texts(OwnSource):
    """See `pipeline.sources.base.Source`. Texts without a word of the vocabulary are left out and counted."""

    @property
    def name(self) -> str:
        return "texts"

    def find(self) -> Layout:
        return find_in_class_folders(self.folder, (".txt",), "text")

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        size = len(self.vocabulary(raw))
        return DataSpec(kind="counts", shape=(size,), dtype="int32", classes=classes, likelihood="multinomial")

    def vocabulary(self, raw: Path) -> tuple[str, ...]:
        return _vocabulary(self, raw, self.checksums(raw)[LISTING])

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, _ = self.read_listing(raw)
        files = self.split(raw, split)
        keys = [file.key for file in files]
        every = TextFiles(keys, class_indices(files, classes), self.folder, files, self.vocabulary(raw))
        kept = [i for i in range(len(files)) if _can_be_used(every, i)]
        if len(kept) < len(files):
            say(f"texts: {len(files) - len(kept)} of {split} left out, they have no word of the vocabulary")
        files = [files[i] for i in kept]
        return TextFiles([file.key for file in files], every.y[kept], self.folder, files, every.vocabulary)


@lru_cache(maxsize=2)  # asked for by spec, by the manifest and for each split, and all of train is read for it
def _vocabulary(texts: Texts, raw: Path, listing: str) -> tuple[str, ...]:
    """Train's most frequent words; `listing` is the checksum of the list of files."""
    files = texts.split(raw, "train")
    counts: Counter[str] = Counter()
    meter = Meter("words of train", len(files), "texts")
    for i, file in enumerate(files, 1):
        with contextlib.suppress(FaultError):  # told where the example is read
            counts.update(words(read_text(texts.folder, file)))
        meter.update(i)
    meter.close()
    if len(counts) < 2:
        raise DataError(f"{texts.folder}: {len(counts)} word(s) in the texts of train; at least 2 are needed")
    return most_frequent(counts, texts.options.num_words)


def _can_be_used(texts: TextFiles, i: int) -> bool:
    try:
        return bool(texts.read(i).any())
    except FaultError:
        return True  # whoever reads it decides what becomes of it
