"""The samples of one webdataset tar that others made.

A sample is the members of a tar that have a name in common up to its first dot after the last slash: a picture
(`.png`, `.jpg`, `.jpeg` or `.webp`), and a label in `.cls` (ASCII digits) or in `label`, `cls` or `class` of `.json`.
Its members need not stand side by side. Other members are not looked into, and counted. A tar that holds a pickle is
refused: nothing here would open it, but others would.
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, cast

from ie_model.spec import DataSpec
from pipeline.data.sharding.remote_file import StoreFile
from pipeline.data.shards.sample_codec import decode_values
from pipeline.errors import DataError
from pipeline.utils.images import MOST_BYTES

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LABELS = (".cls", ".json")
_PICKLES = (".pyd", ".pickle", ".pkl", ".pt", ".pth", ".joblib")
_FIELDS = ("label", "cls", "class")
_LARGEST_LABEL = 1 << 20
_NAMES_KEPT = 3


@dataclass(slots=True)
class Sample:
    """What a tar holds of one sample."""

    key: str
    picture: tuple[int, int, int] | None = None
    """Offset, size and CRC-32."""

    label: int | None = None
    wrong: str = ""
    """The first thing that is wrong with it."""

    examples: int = 1
    """Pictures that are lost with it: more than one where names have dots."""

    names: list[str] = field(default_factory=list)
    """Of its first members."""

    dotted: list[str] = field(default_factory=list)
    """Suffixes that hold one of a picture or label after another: `.seg.png`, or names with dots."""


@dataclass
class TarContent:
    """What was found in one tar."""

    samples: list[Sample]
    """In the order of their pictures."""

    passed_over: Counter[str]
    """Members that are neither picture nor label, by suffix."""

    fields: Counter[str]
    """Of .json members without a label: how many have each field."""

    apart: int
    """Samples whose members do not stand side by side."""

    broken: str
    """Why the tar cannot be read to its end, or empty."""


def read_tar(file: StoreFile, where: str, spec: DataSpec) -> TarContent:
    """Reads every byte of a tar, and decodes every picture once.

    Args:
        where: names the tar, for errors.
        spec: of images; labels are indices of its classes.

    Raises:
        DataError: a pickle, or a name that leads out of the tar; names tar and member.
    """
    samples: dict[str, Sample] = {}
    content = TarContent([], Counter(), Counter(), 0, "")
    apart: set[str] = set()
    before = ""
    try:
        for name, place, data in _members(file, where):
            folder, _, base = name.rpartition("/")
            stem, dot, suffix = base.partition(".")
            key, suffix = (f"{folder}/{stem}" if folder else stem), dot + suffix.lower()
            if place is None or not suffix.endswith((*PICTURES, *LABELS)):
                content.passed_over[suffix or "without a suffix" if place else "no plain file"] += 1
                continue
            sample = samples.setdefault(key, Sample(key))
            again = bool(sample.names) and key != before
            if again:
                apart.add(key)
            if len(sample.names) < _NAMES_KEPT:
                sample.names.append(base)
            if suffix in (*PICTURES, *LABELS):
                _take(sample, suffix, place, data, spec, again, content.fields)
            else:
                sample.dotted.append(suffix)
            before = key
    except _NotWhole as error:
        content.broken = str(error)
        samples.pop(before, None)  # more of its members may be lost
    for key, sample in list(samples.items()):
        dotted = [suffix for suffix in sample.dotted if suffix.endswith(PICTURES)]
        if sample.picture is not None or not dotted:
            content.passed_over.update(sample.dotted)
        if sample.picture is None and not sample.wrong:
            if sample.label is None and not dotted:  # a .json of something else
                content.passed_over[".json"] += len(sample.names) - len(sample.dotted)
                del samples[key]
            sample.wrong, sample.examples = _no_picture(sample), max(1, len(dotted))
        content.apart += key in apart and not sample.wrong
    # A picture's place is where the reader finds it; those without one come first, in the order found.
    content.samples = sorted(samples.values(), key=lambda sample: (sample.picture or (-1,))[0])
    return content


def _no_picture(sample: Sample) -> str:
    dotted = next((name for name in sample.names if name.lower().endswith(PICTURES)), None)
    if dotted is not None:
        return (
            f"no picture: a sample's name ends at the first dot, and {dotted!r} has one before its suffix; write '-' "
            "or '_' there"
        )
    return f"no picture ({', '.join(PICTURES)}) has this name; there is {', '.join(sample.names)}"


def _take(
    sample: Sample,
    suffix: str,
    place: tuple[int, int, int],
    data: bytes,
    spec: DataSpec,
    again: bool,
    fields: Counter[str],
) -> None:
    """Adds a member to its sample."""
    if suffix in PICTURES:
        if sample.picture is not None:
            sample.wrong = sample.wrong or ("the key occurs twice" if again else "more than one picture")
            sample.examples += 1
            return
        sample.picture = place
        if place[1] > MOST_BYTES:
            sample.wrong = sample.wrong or f"a picture of {place[1] // 1_000_000:,} MB"
            return
        try:
            decode_values(data, suffix, spec, "picture")
        except DataError as error:
            sample.wrong = sample.wrong or str(error)
    else:
        try:
            label = _label(suffix, data, place[1], spec.num_classes, fields)
        except ValueError as error:
            sample.wrong = sample.wrong or str(error)
            return
        if sample.label is not None and label not in (None, sample.label):
            sample.wrong = sample.wrong or f"two labels, {sample.label} and {label}"
        sample.label = label if sample.label is None else sample.label


def _label(suffix: str, data: bytes, size: int, num_classes: int, fields: Counter[str]) -> int | None:
    """None where a .json names no label."""
    if size > _LARGEST_LABEL:
        raise ValueError(f"{suffix} of {size:,} bytes, no label")
    text = data.decode("utf-8-sig", errors="replace").strip()
    if suffix == ".json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(".json cannot be parsed") from error
        found = found if isinstance(found, dict) else {}
        name = next((name for name in _FIELDS if found.get(name) is not None), None)
        if name is None:
            fields.update(list(found)[:20])
            return None
        label: Any = found[name]
        text = str(label).strip()
        # Digits as a text are as clear as a number; `true` is not.
        if type(label) not in (int, str) or not re.fullmatch("[0-9]{1,9}", text):
            raise ValueError(f"{name} of .json is {text[:20]!r}, not a whole number from 0 on")
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= num_classes:
        raise ValueError(f"class {text[:20]!r}; allowed: 0 to {num_classes - 1}")
    return int(text)


class _NotWhole(Exception):
    """The tar cannot be read on from here."""


def _members(file: StoreFile, where: str) -> Iterator[tuple[str, tuple[int, int, int] | None, bytes]]:
    """Name, place (offset, size, CRC-32; None where it is no plain file) and bytes of each member that is no folder;
    bytes are empty where not needed."""
    end = 0
    try:
        with tarfile.open(fileobj=cast(Any, file), mode="r:") as tar:
            for info in tar:
                _check_name(info, where)
                left = max(0, file.size - info.offset_data)
                if not 0 <= info.size <= left:
                    raise _NotWhole(f"truncated, member {info.name!r} has {left} of {info.size} bytes")
                end = info.offset_data + -(-info.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                data, name = b"", info.name.removeprefix("./")
                if not info.isreg() or info.issparse():
                    if not info.isdir():
                        yield name, None, data
                    continue
                most = MOST_BYTES if name.lower().endswith(PICTURES) else _LARGEST_LABEL
                if name.lower().endswith((*PICTURES, *LABELS)) and info.size <= most:
                    file.seek(info.offset_data)
                    data = file.read(info.size)
                yield name, (info.offset_data, info.size, zlib.crc32(data)), data
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _NotWhole(f"not a whole tar ({error})") from error
    file.seek(end)
    if file.read(2 * tarfile.BLOCKSIZE) != bytes(2 * tarfile.BLOCKSIZE):
        raise _NotWhole(f"truncated or damaged after byte {end}, where the tar should end")


def _check_name(info: tarfile.TarInfo, where: str) -> None:
    name = info.name.replace("\\", "/")
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where}: member {info.name!r} points outside the tar")
    # Every suffix counts: a reader may split names at any dot.
    if any(f".{part}" in _PICKLES for part in PurePosixPath(name).name.lower().split(".")[1:]):
        raise DataError(f"{where}: member {info.name!r} is a pickle, which can run code; take it out of the tar")
