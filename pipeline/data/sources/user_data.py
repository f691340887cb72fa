"""The user's own data, in a folder: fetch writes down what it finds there, with checksums; shard reads just that."""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from ie_model.spec import DataSpec
from pipeline.data.example import KEY, Examples, RawSplit
from pipeline.data.sources.base import PlainSource, RawFile
from pipeline.data.sources.labels import OwnSplit, check_unlike, stripped
from pipeline.data.sources.walk import Place, counted, size_of, write_passed_over
from pipeline.errors import DataError
from pipeline.storage.object_path import ObjectPath, objects_below
from pipeline.storage.object_store import Stored
from pipeline.utils.files import read_json, sha256_file
from pipeline.utils.progress import Log, Meter

LISTING = "files.json"
_COLUMNS = ("path", "label", "split", "key", "size")
_FORMAT = 1
_UNSAFE = re.compile("[^A-Za-z0-9]+")
_NO_FACTORS = ("path", "label", "split", "key", "x", "y")


class OwnParams(BaseModel):
    """What becomes of the user's own data, in sources `images`, `table`, `texts`, `series`, `vectors` and `tars`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    height: int = Field(ge=1, le=4096)
    """Of images, pixels: each is scaled until it covers height and width, and its middle is taken."""

    width: int = Field(ge=1, le=4096)
    """Of images, pixels."""

    channels: Literal["auto", 1, 3]
    """Of images: 1 is grey, 3 is colour. `auto`: grey where none of about 500 pictures, spread over the folder, has
    colour; colour for tars."""

    likelihood: Literal["auto", "bernoulli", "discretized_logistic"]
    """Of images; `auto`: `bernoulli` for one channel, `discretized_logistic` for three."""

    num_classes: int = Field(ge=0, le=100_000)
    """Of tars, whose labels are numbers: 0 derives it from the largest label in train."""

    num_words: int = Field(ge=2, le=1_000_000)
    """Of texts: as many of train's most frequent words are counted, if it has so many."""

    test_size: float = Field(gt=0, lt=1)
    """Share of each class that becomes test where the folder has no test split of its own."""

    factors: tuple[Annotated[str, Field(max_length=100)], ...] = Field((), max_length=100)
    """Of tables and vectors: numeric columns beside the label, such as a site or an angle, that `evaluate` looks for in
    r and v. The model never sees them."""

    @field_validator("factors")
    @classmethod
    def _check_factors(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        plain = [name.lower() for name in names]
        for name in names:
            if plain.count(name.lower()) > 1 or not name.isprintable() or name != stripped(name) or not name:
                raise ValueError(f"{name!r}; allowed: names of columns, each once")
            if name.lower() in _NO_FACTORS:
                raise ValueError(f"{name!r} is no factor; allowed: columns other than {', '.join(_NO_FACTORS)}")
        return names


@dataclass(frozen=True, slots=True)
class Found:
    """A file that holds an example, or a whole split of them."""

    path: str
    """Relative to data.folder, with `/` on every system."""

    label: str | None
    """Its class's name, or None where that is not known."""

    split: OwnSplit | None
    """None: train, of which test is to be carved."""

    key: str
    """See `Example.key`."""

    factors: tuple[float | None, ...] = field(default=(), kw_only=True)
    """Value of each of `OwnSource.file_factors`; None where it is missing."""


@dataclass(frozen=True, slots=True)
class Listed(Found):
    """A file as fetch has seen it."""

    size: int
    version: str
    """SHA-256 of its bytes; in an object store its ETag, which spares a download."""


@dataclass(frozen=True)
class Layout:
    """Content of data.folder."""

    classes: tuple[str, ...]
    files: tuple[Found, ...]
    ignored: Counter[str] = field(default_factory=Counter)
    """How many files were passed over, by what they are."""

    notes: tuple[str, ...] = ()
    """What names were taken for, where they are not the usual ones; a line of the log each."""


@dataclass(frozen=True)
class OwnSource(PlainSource, ABC):
    """Base of the sources of own data; see `pipeline.data.sources.base.Source`."""

    folder: Place
    """data.folder; absolute."""

    options: OwnParams
    seed: int
    """Decides with `options.test_size` what becomes test where the folder does not say."""

    @property
    def files(self) -> tuple[RawFile, ...]:
        return ()

    @property
    def num_classes(self) -> int | None:
        return None

    @property
    def num_train(self) -> int | None:
        return None

    @property
    @abstractmethod
    def name(self) -> str:
        """As in params.yaml's data.source."""

    @property
    @abstractmethod
    def most_bytes(self) -> int:
        """A larger file is refused before it is read."""

    @property
    def factor_names(self) -> tuple[str, ...]:
        """See `pipeline.data.sources.base.Source.factor_names`."""
        return self.options.factors

    @property
    def file_factors(self) -> tuple[str, ...]:
        """Those of `options.factors` that are known file by file."""
        return self.options.factors

    @abstractmethod
    def find(self) -> Layout:
        """Looks through data.folder.

        Raises:
            DataError: it is missing, or its layout is not one of docs/data.md; the message names what.
        """

    @abstractmethod
    def spec(self, raw: Path) -> DataSpec:
        """See `pipeline.data.sources.base.Source.spec`."""

    @abstractmethod
    def examples(self, raw: Path, split: RawSplit) -> Examples:
        """See `pipeline.data.sources.base.Source.examples`."""

    def factors(self, raw: Path, split: RawSplit) -> npt.NDArray[np.float64]:
        """See `pipeline.data.sources.base.Source.factors`."""
        values = [file.factors for file in self.split(raw, split)]
        return np.array(values, dtype=np.float64).reshape(len(values), len(self.file_factors))

    def write_listing(self, raw: Path, log: Log) -> None:
        """Writes down in `raw` which files there are, and their checksums. Raises as `find`."""
        objects_below.cache_clear()
        layout = self.find()
        _check_classes(self.folder, layout)
        meter = Meter(f"fetch: {self.name}", len(layout.files), "files")
        listed = []
        for i, file in enumerate(layout.files, 1):
            listed.append(Listed(**asdict(file), **self._seen(self.folder / file.path)))
            meter.update(i)
        meter.close()
        version = "etag" if isinstance(self.folder, ObjectPath) else "sha256"
        _write(raw / LISTING, self.name, layout.classes, [*_COLUMNS, version, *self.file_factors], listed)
        write_passed_over(raw, layout.ignored)
        for note in layout.notes:
            log(f"fetch: {self.name}: {note}")
        ignored = counted(layout.ignored)
        twice = len(listed) - len({file.version for file in listed})
        log(
            f"fetch: {self.name}, {len(listed)} files, {len(layout.classes)} classes in {self.folder}"
            + (f"; passed over: {ignored}" if ignored else "")
            + (f"; {twice} have the same content as another" if twice else "")
        )

    def _seen(self, path: Place) -> dict[str, Any]:
        """Size and version of a file."""
        if isinstance(path, ObjectPath):
            assert isinstance(self.folder, ObjectPath)
            stored = objects_below(self.folder).files[path]
            return {"size": self.checked_size(path, stored.size), "version": stored.etag}
        try:
            return {"size": self.checked_size(path), "version": sha256_file(path)}
        except FileNotFoundError as error:
            raise DataError(f"{path}: was taken away while it was being read") from error

    def checked_size(self, path: Place, size: int | None = None) -> int:
        """Bytes of a file, where they are not known already.

        Raises:
            DataError: more than `most_bytes`.
        """
        if (size := size_of(path) if size is None else size) > self.most_bytes:
            most = self.most_bytes // 1_000_000
            raise DataError(f"{path}: {size // 1_000_000:,} MB; a file of {self.name} has at most {most:,} MB")
        return size

    def read_listing(self, raw: Path) -> tuple[tuple[str, ...], list[Listed]]:
        """The classes and the files that `write_listing` has found.

        Raises:
            DataError: the list is missing, damaged or of another source.
        """
        path = raw / LISTING
        if not path.is_file():
            raise DataError(f"raw file is missing: {path}; run `ie fetch`")
        found = read_json(path, f"{self.name}'s list of files")
        try:
            if (found["format"], found["source"]) != (_FORMAT, self.name):
                raise ValueError(f"it is of source {found['source']!r}, format {found['format']!r}")
            if (of := tuple(found["columns"][len(_COLUMNS) + 1 :])) != self.file_factors:
                raise ValueError(f"its factors are {list(of)}, data.own.factors {list(self.file_factors)}")
            classes = tuple(found["classes"])
            files = [_row(values, len(of)) for values in found["files"]]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: not a list of files for {self.name} ({error}); run `ie fetch`") from error
        return classes, files

    def checksums(self, raw: Path) -> dict[str, str]:
        """SHA-256 of the list of files, by its name; the files themselves are checked as they are read."""
        self.read_listing(raw)
        return {LISTING: sha256_file(raw / LISTING)}

    def val_keys(self, raw: Path) -> frozenset[str]:
        """Keys of the examples of raw train that the folder sets aside as val; empty: val is carved by a seed. Raises
        as `read_listing`."""
        return frozenset(file.key for file in self.read_listing(raw)[1] if file.split == "val")

    def split(self, raw: Path, split: RawSplit) -> list[Listed]:
        """The files of a raw split, in the order of their paths; those of val are of raw train. Raises as
        `read_listing`."""
        _, files = self.read_listing(raw)
        test = {file.key for file in files if file.split == "test"}
        test |= carve_test([file for file in files if file.split is None], self.options.test_size, self.seed)
        found = [file for file in files if (file.key in test) == (split == "test")]
        if not found:
            raise DataError(
                f"{self.folder}: no example for {split}; classes of two examples give none to test: add examples, or "
                "a folder test/"
            )
        return found


def read_checked(folder: Place, file: Listed) -> bytes:
    """The bytes of a file.

    Raises:
        DataError: it is gone, or not what fetch has seen.
        ResourceError: an object store denies access or does not answer.
    """
    path = folder / file.path
    try:
        if isinstance(path, ObjectPath):
            return path.read_version(Stored(file.size, file.version))
        with path.open("rb") as stream:
            data = stream.read(file.size + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: gone since fetch; run `ie fetch` again") from error
    except FileExistsError as error:
        raise DataError(f"{path}: changed since fetch; run `ie fetch` again") from error
    if len(data) != file.size or hashlib.sha256(data).hexdigest() != file.version:
        raise DataError(f"{path}: changed since fetch; run `ie fetch` again")
    return data


def carve_test(files: Iterable[Found], share: float, seed: int) -> set[str]:
    """Keys of the files that become test: a share of each class, at least one of three, and so that two are left in
    train; chosen by a hash of (seed, class, key). Files without a label stay in train."""
    by_class: dict[str, list[str]] = {}
    for file in files:
        if file.label is not None:
            by_class.setdefault(file.label, []).append(file.key)
    chosen: set[str] = set()
    for label, keys in by_class.items():
        num = min(max(1, round(share * len(keys))), max(0, len(keys) - 2))
        chosen.update(sorted(keys, key=lambda key: _rank(seed, label, key))[:num])
    return chosen


def key_of(path: str) -> str:
    """A key for a relative path: readable, and different for different paths. It depends on nothing else, so that it
    stays when other files come or go."""
    where = PurePosixPath(path)
    readable = _UNSAFE.sub("-", "/".join([*where.parts[-2:-1], where.stem])).strip("-")[:60].rstrip("-")
    # Always with the hash: a.png and a.jpg, or a-b/c and a/b-c, would be one key without.
    return f"{readable or 'file'}-{hashlib.sha256(path.encode()).hexdigest()[:16]}"


def _rank(seed: int, label: str, key: str) -> str:
    return hashlib.sha256(f"{seed}/test/{label}/{key}".encode()).hexdigest()


def _check_classes(folder: Place, layout: Layout) -> None:
    check_unlike(layout.classes, str(folder))
    if len(layout.classes) < 2:
        there = f"one class, {layout.classes[0]!r}" if layout.classes else "no classes"
        raise DataError("; ".join([f"{folder}: {there}; at least two are needed", *layout.notes]))
    sizes = Counter(file.label for file in layout.files if file.split in (None, "train"))
    for label in layout.classes if any(file.label for file in layout.files) else ():
        if sizes[label] < 2:
            raise DataError(f"{folder}: class {label!r} has {sizes[label]} example(s) in train; at least 2 are needed")


def _row(values: Any, num_factors: int) -> Listed:
    path, label, split, key, size, version, *factors = values
    inside = isinstance(path, str) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts
    if not inside or not KEY.fullmatch(key) or split not in ("train", "val", "test", None):
        raise ValueError(f"entry {values!r:.80}")
    if len(factors) != num_factors or not all(value is None or math.isfinite(value) for value in factors):
        raise ValueError(f"entry {values!r:.80}")
    return Listed(path, label, split, key, size, version, factors=tuple(factors))


def _write(path: Path, name: str, classes: tuple[str, ...], columns: list[str], files: list[Listed]) -> None:
    """A file a line, so that two lists can be compared."""
    head = json.dumps({"format": _FORMAT, "source": name, "classes": classes, "columns": columns}, ensure_ascii=False)
    rows = ",\n".join(
        json.dumps([f.path, f.label, f.split, f.key, f.size, f.version, *f.factors], ensure_ascii=False) for f in files
    )
    path.write_text(f'{head[:-1]}, "files": [\n{rows}\n]}}\n', encoding="utf-8")
