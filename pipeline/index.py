"""Where each sample of a split lies in its tars: what gives exact plans and random access to a format made for streams.

A Parquet file a split, a row a sample, in the order of the manifest's shards and of the samples in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import sha256_file
from pipeline.samples import Encoding
from pipeline.shards import File, Manifest, Shard, Split, SplitName
from pipeline.sources.base import IntArray
from pipeline.tars import REMEDY, iter_samples

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("y", pa.int32()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("crc32", pa.uint32()),
    ]
)


class Keys(Sequence[str]):
    """A column of names as Arrow holds it: far smaller than as many Python strings."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._column = column

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        key: str = self._column[int(place)].as_py()
        return key

    def take(self, rows: IntArray) -> Keys:
        """Some of the names."""
        return Keys(self._column.take(pa.array(rows)))

    def order(self) -> IntArray:
        """Rows in the order of their names."""
        rows: IntArray = pc.sort_indices(self._column).to_numpy().astype(np.int64)
        return rows

    def __iter__(self) -> Iterator[str]:
        for chunk in self._column.iterchunks():
            yield from chunk.to_pylist()


@dataclass(frozen=True, eq=False)
class SplitIndex:
    """The samples of a split, N rows."""

    keys: Keys
    y: IntArray
    """Class index, -1 where the label is not known."""

    shard: IntArray
    """Which of the split's shards."""

    offset: IntArray
    """Where the bytes of its values begin in the tar."""

    size: IntArray
    """How many they are."""

    crc32: npt.NDArray[np.uint32]
    """Of these bytes."""

    def __len__(self) -> int:
        return len(self.y)


def index_tar(path: Path, shard: int, encoding: Encoding) -> pa.Table:
    """The rows of one tar of our own; reads all of it.

    Raises:
        DataError: it is missing, truncated or damaged.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for sample in iter_samples(path):
        if encoding not in sample:
            raise DataError(f"{path}, key {sample['__key__']}: no member .{encoding}")
        offset, size, crc = sample[f"__place__{encoding}"]
        row = sample["__key__"], int(sample.get("cls", b"-1")), shard, offset, size, crc
        for name, value in zip(SCHEMA.names, row, strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def write_index(path: Path, rows: pa.Table) -> File:
    """Writes the index of a split; the same rows give the same bytes."""
    pq.write_table(rows.cast(SCHEMA), path, compression="zstd")
    return File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def describe_split(folder: Path, name: SplitName, shards: Sequence[Shard], spec: DataSpec, encoding: Encoding) -> Split:
    """A split of tars that lie in the folder; reads them and writes their index there.

    Raises:
        DataError: a tar is missing, truncated or damaged.
    """
    rows = (index_tar(folder / shard.path, i, encoding) for i, shard in enumerate(shards))
    return describe_rows(folder, name, shards, rows, spec)


def describe_rows(
    folder: Path, name: SplitName, shards: Sequence[Shard], rows: Iterable[pa.Table], spec: DataSpec
) -> Split:
    """A split of tars whose rows are known, one table a tar; writes its index.

    Memory: about 170 bytes a row while it works.
    """
    table = pa.concat_tables(rows)
    y = table["y"].to_numpy()
    counts = np.bincount(y[y >= 0], minlength=spec.num_classes).tolist()
    return Split(
        samples=len(table),
        class_counts=dict(zip(spec.classes, counts, strict=True)),
        shards=tuple(shards),
        index=write_index(folder / f"index-{name}.parquet", table),
    )


def read_index(folder: Path, manifest: Manifest, split: SplitName) -> SplitIndex:
    """The index of a split.

    Raises:
        DataError: it is missing, damaged, or is not the index of the manifest's shards; names the file.
    """
    described = manifest.splits[split]
    path = folder / described.index.path
    if not path.is_file():
        raise DataError(f"index is missing: {path}; {REMEDY}")
    if path.stat().st_size != described.index.bytes or sha256_file(path) != described.index.sha256:
        raise DataError(f"{path}: damaged, its size or SHA-256 is not the manifest's; {REMEDY}")
    table = pq.read_table(path, schema=SCHEMA)
    y, shard, offset, size = (table[name].to_numpy().astype(np.int64) for name in ("y", "shard", "offset", "size"))
    index = SplitIndex(Keys(table["key"]), y, shard, offset, size, table["crc32"].to_numpy())
    counts = np.bincount(shard, minlength=len(described.shards)).tolist()
    if len(counts) > len(described.shards):
        raise DataError(f"{path}: has {len(counts)} shards, the manifest {len(described.shards)}; {REMEDY}")
    for count, known in zip(counts, described.shards, strict=True):
        if count != known.samples:
            what = f"{known.samples} examples by the manifest, {count} by its index {path.name}"
            raise DataError(f"{folder / known.path}: {what}; {REMEDY}")
    return index
