"""The user's own texts: a folder of .txt files for each class, as counts of train's most frequent words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import Examples, RawSplit, Values
from pipeline.data.sources.bag_of_words import count_words, most_frequent, words
from pipeline.data.sources.class_folders import find_in_class_folders
from pipeline.data.sources.encodings import decode_text
from pipeline.data.sources.image_files import class_indices
from pipeline.data.sources.user_data import LISTING, Layout, Listed, OwnSource, read_checked
from pipeline.data.sources.walk import Place
from pipeline.errors import DataError, FaultError
from pipeline.utils.arrays import IntArray
from pipeline.utils.progress import Meter, say


@dataclass(frozen=True, eq=False)
class TextFiles(Examples):
    """Examples that are a text file each, counted when they are read."""

    keys: Sequence[str]
    y: IntArray
    folder: Place
    files: Sequence[Listed]
    vocabulary: tuple[str, ...]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.vocabulary)}

    def read(self, i: int) -> Values:
        return count_words(read_text(self.folder, self.files[i]), self._places)


def read_text(folder: Place, file: Listed) -> str:
    """A text file's words.

    Raises:
        FaultError: as `decode_text`.
        DataError: as `read_checked`.
    """
    try:
        return decode_text(read_checked(folder, file))
    except ValueError as error:
        raise FaultError(f"{folder / file.path}: key {file.key}: {error}") from error


class Texts(OwnSource):
    """See `pipeline.data.sources.base.Source`. Texts without a word of the vocabulary are left out and counted."""

    @property
    def name(self) -> str:
        return "texts"

    @property
    def most_bytes(self) -> int:
        return 200_000_000

    def find(self) -> Layout:
        return find_in_class_folders(self.folder, (".txt",), "text")

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        size = len(self.vocabulary(raw))
        return DataSpec(kind="counts", shape=(size,), dtype="int32", classes=classes, likelihood="multinomial")

    def preprocessing(self, raw: Path) -> Preprocessing:
        return Preprocessing(vocabulary=self.vocabulary(raw))

    def vocabulary(self, raw: Path) -> tuple[str, ...]:
        return _vocabulary(self, raw, self.checksums(raw)[LISTING])

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, _ = self.read_listing(raw)
        files = self.split(raw, split)
        keys = [file.key for file in files]
        every = TextFiles(keys, class_indices(files, classes), self.folder, files, self.vocabulary(raw))
        kept = [i for i in range(len(files)) if _can_be_used(every, i)]
        if len(kept) < len(files):
            num = len(files) - len(kept)
            say(f"texts: {num} of {len(files)} of {split} left out, they have no word of the vocabulary")
        files = [files[i] for i in kept]
        return TextFiles([file.key for file in files], every.y[kept], self.folder, files, every.vocabulary)


@lru_cache(maxsize=2)  # asked for by spec, by the manifest and for each split, and all of train is read for it
def _vocabulary(texts: Texts, raw: Path, listing: str) -> tuple[str, ...]:
    """Train's most frequent words; `listing` is the checksum of the list of files."""
    files = texts.split(raw, "train")
    counts: Counter[str] = Counter()
    faults: list[FaultError] = []
    meter = Meter("words of train", len(files), "texts")
    for i, file in enumerate(files, 1):
        try:
            counts.update(words(read_text(texts.folder, file)))
        except FaultError as error:  # reported where the example is read
            faults.append(error)
        meter.update(i)
    meter.close()
    if len(counts) < 2:
        why = f"; {len(faults)} of {len(files)} cannot be read, the first: {faults[0]}" if faults else ""
        raise DataError(f"{texts.folder}: {len(counts)} word(s) in the texts of train; at least 2 are needed{why}")
    return most_frequent(counts, texts.options.num_words)


def _can_be_used(texts: TextFiles, i: int) -> bool:
    try:
        return bool(texts.read(i).any())
    except FaultError:
        return True  # its reader decides what becomes of it
