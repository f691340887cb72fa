"""What `ie embed` takes, as examples that a model was made for: images and tables of them, arrays, series, texts,
vectors, shards, and tars of others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ie_model.artifact import Artifact
from ie_model.spec import DataSpec
from pipeline.data.example import Example, Values
from pipeline.data.loading.points import InShards
from pipeline.data.loading.shard_store import Store
from pipeline.data.sharding.external_tar_list import find_tars
from pipeline.data.sharding.external_tar_samples import read_tar
from pipeline.data.sharding.remote_file import StoreFile
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import MANIFEST
from pipeline.data.shards.reading import ONCE
from pipeline.data.shards.sample_codec import check_example, decode_values, padded
from pipeline.data.sources.bag_of_words import count_words
from pipeline.data.sources.encodings import decode_text
from pipeline.data.sources.labels import stripped
from pipeline.data.sources.rows import place, read_rows
from pipeline.data.sources.ts_format import read_labels, read_ts, standardised
from pipeline.data.sources.vector_files import ARRAY, TABLES, read_vectors
from pipeline.data.sources.vectors import standardised as standardise_vector
from pipeline.errors import DataError, FaultError
from pipeline.utils.images import SUFFIXES, decode_picture, picture_size

Item = Example | FaultError
"""An example in the model's shape, or the error of one that is damaged."""

_AT_ONCE = 256
_MOST_BYTES = 1_000_000_000
_TEXT = (".txt",)
_TAR = (".tar",)
_RAW_SERIES = "raw series, standardised by the model's own means and deviations"
# Each tar is read once, in its order, wherever it is.
_READING = ONCE.model_copy(update={"faults": "skip"})


@dataclass(frozen=True)
class Inputs:
    """Examples to encode."""

    total: int
    items: Iterator[Item]
    about: str = ""
    """How values were taken, where that is not the only way."""


def open_inputs(source: Path, artifact: Artifact, resize: bool) -> Inputs:
    """The examples of a file or a folder.

    Args:
        source: see `embed`.

    Raises:
        DataError: it is missing, damaged or not what the model takes; the message names it.
    """
    spec = artifact.model.spec
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    if not (source.is_dir() or source.is_file()):
        raise DataError(f"{source}: neither a file nor a folder")
    if source.is_dir() and (source / MANIFEST).is_file():
        return _from_shards(source, artifact)
    suffix = source.suffix.lower()
    if spec.kind == "image" and suffix in TABLES and suffix != ".npz" and source.is_file():
        return _from_table(source, spec, resize)
    if spec.kind == "image" and (suffix in _TAR or _holds_tars(source)):
        return _from_tars(source, spec)
    if spec.kind == "image" and (source.is_dir() or suffix in SUFFIXES):
        return _from_files(source, SUFFIXES, "image", lambda file: _image(file, spec, resize))
    if spec.kind == "counts" and (source.is_dir() or suffix in _TEXT):
        places = _word_places(artifact)
        found = _from_files(source, _TEXT, "text", lambda file: _counts(file, places))
        return replace(found, about=f"texts, counted by the model's own {len(places)} words")
    if spec.kind == "vector" and suffix in (*TABLES, ARRAY):
        return _from_vectors(source, artifact)
    if suffix == ".npy":
        return _from_array(source, artifact)
    if spec.kind == "series" and suffix == ".ts":
        return _from_ts(source, artifact)
    allowed = {
        "image": f"an image ({', '.join(SUFFIXES)}), a folder of images, a table with their paths (.csv, .tsv, "
        ".parquet), a .tar of them or a folder of such",
        "series": "a .ts file",
        "counts": "a text (.txt), a folder of texts",
        "vector": f"a table of vectors ({', '.join(TABLES)})",
    }[spec.kind]
    raise DataError(
        f"{source}: not something that can be embedded by a model of {spec.kind}; allowed: {allowed}, a .npy array, "
        f"a folder of shards with its {MANIFEST}"
    )


def _from_files(source: Path, suffixes: tuple[str, ...], what: str, read: Callable[[Path], Values]) -> Inputs:
    files = [source]
    if source.is_dir():
        files = sorted(f for f in source.rglob("*") if f.suffix.lower() in suffixes and f.is_file())
    if not files:
        raise DataError(f"{source}: no {what} in it (looked for {', '.join(suffixes)})")

    def items() -> Iterator[Item]:
        for file in files:
            key = file.relative_to(source).as_posix() if source.is_dir() else file.stem
            try:
                _check_file(file)
                yield Example(key, read(file), None)
            except FaultError as error:
                yield error

    return Inputs(len(files), items())


def _from_table(source: Path, spec: DataSpec, resize: bool) -> Inputs:
    """Pictures that a table names by `path`; labels are known where they are the model's classes."""
    index = {name: i for i, name in enumerate(spec.classes)}
    rows = list(read_rows(source))

    def items() -> Iterator[Item]:
        for number, row in rows:
            file = source.parent / row["path"]
            try:
                if not row["path"] or Path(row["path"]).is_absolute() or ".." in file.parts:
                    raise FaultError(f"path is {row['path']!r}; it must be relative to the table and stay beside it")
                if not file.is_file():
                    raise FaultError(f"no such file: {file}")
                _check_file(file)
                key = stripped(row["key"]) or row["path"]
                yield Example(key, _image(file, spec, resize), index.get(stripped(row["label"])))
            except FaultError as error:
                yield FaultError(f"{place(source, number)}: {error}")

    return Inputs(len(rows), items())


def _holds_tars(source: Path) -> bool:
    """Whether a folder holds tars, and no picture beside them."""
    if not source.is_dir():
        return False
    found = {file.suffix.lower() for file in source.rglob("*") if file.is_file()}
    return ".tar" in found and not found & set(SUFFIXES)


def _from_tars(source: Path, spec: DataSpec) -> Inputs:
    """Webdataset tars of others, their pictures scaled as `shard` does; labels are indices of the model's classes."""
    folder = source if source.is_dir() else source.parent
    store = Store(str(folder))
    paths = find_tars(store)[0] if source.is_dir() else [source.name]
    contents = {path: read_tar(StoreFile(store, path), store.where(path), spec) for path in paths}

    def items() -> Iterator[Item]:
        for path, content in contents.items():
            where = store.where(path)
            with (folder / path).open("rb") as file:
                for sample in content.samples:
                    if sample.wrong or sample.picture is None:
                        yield FaultError(f"{where}: key {sample.key}: {sample.wrong}")
                        continue
                    file.seek(sample.picture[0])
                    x = decode_values(file.read(sample.picture[1]), where, spec, "picture")
                    yield Example(sample.key, x, sample.label)
            if content.broken:
                yield FaultError(f"{where}: {content.broken}")

    total = sum(len(content.samples) + bool(content.broken) for content in contents.values())
    return Inputs(total, items(), "tars of pictures, scaled and cropped to the model's size")


def _check_file(file: Path) -> None:
    if not str(file).isprintable():
        raise FaultError(f"{str(file)!a}: its name is not UTF-8, or holds a control character; rename it")
    if (size := file.stat().st_size) > _MOST_BYTES:
        raise FaultError(f"{file}: {size / 1e6:,.0f} MB; at most {_MOST_BYTES / 1e6:,.0f} MB are read")


def _image(file: Path, spec: DataSpec, resize: bool) -> Values:
    """As `shard` makes them of a folder of images, so that a model sees what it was trained on."""
    channels, height, width = spec.shape
    data = file.read_bytes()
    if not resize:
        found = picture_size(data, str(file))
        if found != (height, width):
            raise DataError(
                f"{file}: {found[1]}x{found[0]} pixels, the model takes {width}x{height}; add --resize to scale and "
                "crop it"
            )
    return decode_picture(data, str(file), height, width, channels)


def _word_places(artifact: Artifact) -> dict[str, int]:
    words = artifact.preprocessing.vocabulary
    if not words:
        raise DataError("the model does not know its words, so that texts cannot be counted; give shards")
    return {word: i for i, word in enumerate(words)}


def _counts(file: Path, places: dict[str, int]) -> Values:
    try:
        counts = count_words(decode_text(file.read_bytes()), places)
    except ValueError as error:
        raise FaultError(f"{file}: {error}") from error
    if not counts.any():
        raise FaultError(f"{file}: none of the model's words")
    return counts


def _from_array(source: Path, artifact: Artifact) -> Inputs:
    """Rows of a .npy array: images as bytes, counts of the model's words, raw series of the model's channels."""
    spec = artifact.model.spec
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        # NumPy takes any other file for a pickle, and advises to load it as one.
        why = "no .npy file, or a pickle" if "pickle" in str(error) else str(error)
        raise DataError(f"{source}: not a .npy array that can be read ({why})") from error
    if array.ndim == len(spec.shape) and spec.shape[0] == 1 and array.shape[1:] == spec.shape[1:]:
        array = array[:, None]
    series = spec.kind == "series"
    dtypes = ("float32", "float64") if series else (spec.dtype,)
    fits = array.ndim == 3 and 1 <= array.shape[2] <= spec.shape[1] if series else array.shape[1:] == spec.shape
    if not fits or array.shape[1] != spec.shape[0] or array.dtype.name not in dtypes:
        shape = f"[N, {spec.shape[0]}, 1 to {spec.shape[1]}]" if series else f"[N, {', '.join(map(str, spec.shape))}]"
        raise DataError(
            f"{source}: {array.dtype} of shape {list(array.shape)}; the model takes {' or '.join(dtypes)} of {shape}"
        )
    if series:
        _check_scales(artifact)

    def items() -> Iterator[Item]:
        for i, row in enumerate(array):
            try:
                yield Example(f"{i:08d}", _row(np.array(row), artifact), None)
            except ValueError as error:
                yield FaultError(f"{source}, row {i}: {error}")

    words = f"counts of the model's own {spec.shape[0]} words, in their order"
    return Inputs(len(array), items(), _RAW_SERIES if series else words if spec.kind == "counts" else "")


def _row(x: npt.NDArray[Any], artifact: Artifact) -> Values:
    """Raises ValueError: not an example of the model's data."""
    spec = artifact.model.spec
    if spec.kind == "series":
        if np.isinf(x).any():
            raise ValueError("an infinite value")
        x = standardised(x.astype(np.float64), artifact.preprocessing)
    check_example(x, spec)
    return padded(x, spec)


def _check_scales(artifact: Artifact) -> None:
    if not artifact.preprocessing.means:
        raise DataError(
            "the model does not know the means and deviations of its channels, so that raw series cannot be "
            "standardised; give shards"
        )


def _from_vectors(source: Path, artifact: Artifact) -> Inputs:
    """Rows of a table, raw, its columns in any order; labels are known where they are the model's classes."""
    spec, scales = artifact.model.spec, artifact.preprocessing
    if not scales.means:
        raise DataError("the model does not know the means and deviations of its features; give shards")
    rows = read_vectors(source, source.read_bytes())
    about = "vectors, standardised by the model's own means and deviations"
    x = rows.x
    if scales.features and rows.features:
        place = {name: i for i, name in enumerate(rows.features)}
        if missing := [name for name in scales.features if name not in place]:
            raise DataError(f"{source}: no column {missing[0]!r}, which is a feature of the model")
        x = x[:, [place[name] for name in scales.features]]
        if extra := len(place) - len(scales.features):
            about += f"; {extra} other column(s) are not read"
    elif x.shape[1] != spec.shape[0]:
        raise DataError(f"{source}: {x.shape[1]} features, the model takes {spec.shape[0]}")
    index = {name: i for i, name in enumerate(spec.classes)}
    labels, keys = (rows.words.get(name, [""] * len(x)) for name in ("label", "key"))

    def items() -> Iterator[Item]:
        for i, (row, label, key) in enumerate(zip(x, labels, keys, strict=True)):
            try:
                yield Example(stripped(key) or f"{i:08d}", standardise_vector(row, scales), index.get(stripped(label)))
            except ValueError as error:
                yield FaultError(f"{source}: row {i + 1}: {error}")

    return Inputs(len(x), items(), about)


def _from_ts(source: Path, artifact: Artifact) -> Inputs:
    """Cases of a .ts file, raw; labels are known where they are the model's classes."""
    spec = artifact.model.spec
    _check_scales(artifact)
    channels, labels = read_labels(source)
    if channels != spec.shape[0]:
        raise DataError(f"{source}: {channels} channels, the model takes {spec.shape[0]}")
    cases = read_ts(source, channels, labels)
    index = {name: i for i, name in enumerate(spec.classes)}

    def items() -> Iterator[Item]:
        for i, case in enumerate(cases):
            try:
                yield Example(f"{i:08d}", _row(case.x, artifact), index.get(labels[case.y]))
            except ValueError as error:
                yield FaultError(f"{source}: line {case.line}: {error}")

    return Inputs(len(cases), items(), _RAW_SERIES)


def _from_shards(source: Path, artifact: Artifact) -> Inputs:
    """All splits, read through their index, wherever the tars are; each sample is checked by its CRC-32."""
    dataset, spec = ShardedDataset.open(source), artifact.model.spec
    manifest, found = dataset.manifest, dataset.spec
    if (found.kind, found.shape) != (spec.kind, spec.shape):
        raise DataError(
            f"{source}: {found.kind} of shape {list(found.shape)}, the model takes {spec.kind} of {list(spec.shape)}"
        )
    if difference := manifest.preprocessing.difference(artifact.preprocessing):
        raise DataError(
            f"{source}: made for another model, {difference}; give the raw data (.ts, .npy or texts), which is taken "
            "as the model's own was"
        )
    splits = [InShards(dataset, name, _READING, torch.device("cpu")) for name in manifest.splits]
    # A class index means the same only where the classes are the same.
    same_classes = found.classes == spec.classes

    def items() -> Iterator[Item]:
        for points in splits:
            keys, y = points.index.keys, points.index.y
            for begin in range(0, len(y), _AT_ONCE):
                positions = np.arange(begin, min(begin + _AT_ONCE, len(y)))
                x, faults = points.look(positions)
                for i, values in zip(positions.tolist(), x.numpy(), strict=True):
                    label = int(y[i]) if same_classes and y[i] >= 0 else None
                    yield FaultError(str(faults[i])) if i in faults else Example(keys[i], values, label)

    return Inputs(sum(split.samples for split in manifest.splits.values()), items())
