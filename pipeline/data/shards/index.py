"""Place of each sample of a split in its tars: exact plans and random access for a format made for streams.

Two files a split, a row a sample, in the order of the manifest's shards and of the samples in them. The index is an
.npy file of rows of fixed width (`ROW`), which all processes of a host map: one file and not one a tar, since a process
may have 65,530 maps. The keys are a Parquet file with a row group a shard, which training does not read; the user's
factors are further columns of it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from mmap import MADV_DONTNEED, mmap
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ie_model.spec import DataSpec
from pipeline.data.shards.manifest import File, Shard, Split, SplitName
from pipeline.data.shards.sample_codec import Encoding
from pipeline.data.shards.tar_reader import REMEDY, iter_samples
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray
from pipeline.utils.files import sha256_file

SCHEMA = pa.schema(
    [("key", pa.string()), ("y", pa.int32()), ("offset", pa.int64()), ("size", pa.int64()), ("crc32", pa.uint32())]
)
"""Of a tar's rows while shards are written."""

ROW = np.dtype([("offset", "<i8"), ("key64", "<u8"), ("size", "<u4"), ("crc32", "<u4"), ("y", "<i4")])
"""Of the index: first byte in the tar, `key64` of the key, length and CRC-32 of these bytes, class (-1: not known)."""

Rows = npt.NDArray[np.void]


def factor_column(name: str) -> pa.Field:
    """A factor in Parquet files of keys and of latents; null where its value is missing."""
    return pa.field(f"factor_{name}", pa.float64())


_AT_ONCE = 2048


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
            start, stop, step = place.indices(len(self))
            names: list[str] = self._column.slice(start, max(0, stop - start)).to_pylist()[::step]
            return names
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
    """The samples of a split, N rows. Travels to other processes as paths; each maps the file."""

    path: Path
    keys_path: Path
    keys_sha256: str
    ends: IntArray
    """Rows up to and with each shard's last, `[shards]`."""

    num_classes: int

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dataclass_fields__}

    @cached_property
    def rows(self) -> np.memmap[Any, np.dtype[np.void]]:
        """The mapped file, `[N]` of `ROW`.

        Raises:
            DataError: it is not an index of this format, or has another number of rows; names the file.
        """
        try:
            rows: np.memmap[Any, np.dtype[np.void]] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{self.path}: damaged, not an index; {REMEDY}") from error
        if rows.dtype != ROW:
            raise DataError(f"{self.path}: rows of {rows.dtype.str}, not of this version's index; {REMEDY}")
        if rows.shape != (len(self),):
            raise DataError(f"{self.path}: {rows.size} rows, the manifest's shards have {len(self)}; {REMEDY}")
        return rows

    def at(self, positions: IntArray) -> Rows:
        """Rows at some positions, `[n]`.

        Pages stay in the host's cache and leave this process: the kernel maps 64 KB around each that is touched, and
        over an epoch that comes to gigabytes.
        """
        found = np.empty(len(positions), dtype=ROW)
        for begin in range(0, len(positions), _AT_ONCE):
            found[begin : begin + _AT_ONCE] = self.rows[positions[begin : begin + _AT_ONCE]]
            assert isinstance(self.rows.base, mmap)
            self.rows.base.madvise(MADV_DONTNEED)
        return found

    def shard_of(self, positions: IntArray | int) -> Any:
        """Which of the split's shards holds each position."""
        return np.searchsorted(self.ends, positions, side="right")

    def rows_of(self, shard: int) -> slice:
        """Positions of a shard's samples."""
        return slice(int(self.ends[shard - 1]) if shard else 0, int(self.ends[shard]))

    def classes(self, positions: IntArray) -> IntArray:
        """Class indices, -1 where the label is not known.

        Raises:
            DataError: one is no class; names the file and the row.
        """
        return self.checked(self.at(positions)["y"], positions)

    def checked(self, y: npt.NDArray[np.int32], positions: IntArray | slice) -> IntArray:
        """Classes read from some positions. Raises as `classes`."""
        wrong = np.flatnonzero((y < -1) | (y >= self.num_classes))
        if len(wrong):
            row = np.arange(len(self))[positions][wrong[0]]
            allowed = f"allowed: -1 to {self.num_classes - 1}"
            raise DataError(f"{self.path}: class {y[wrong[0]]} in row {row}; {allowed}; {REMEDY}")
        return y.astype(np.int64)

    @cached_property
    def y(self) -> IntArray:
        """Classes of all, 8 bytes a row. Raises as `classes`."""
        return self.checked(self.rows["y"], slice(None))

    @cached_property
    def keys(self) -> Keys:
        """Names of all, about 20 bytes a row.

        Raises:
            DataError: the file is damaged; names it.
        """
        return Keys(self._of_keys(["key"])["key"])

    @cached_property
    def factors(self) -> pa.Table:
        """A column of each factor, see `factor_column`, 8 bytes a row. Raises as `keys`."""
        return self._of_keys([name for name in pq.read_schema(self.keys_path).names if name != "key"])

    def _of_keys(self, columns: list[str]) -> pa.Table:
        if sha256_file(self.keys_path) != self.keys_sha256:
            raise DataError(f"{self.keys_path}: damaged, its SHA-256 is not the manifest's; {REMEDY}")
        return pq.read_table(self.keys_path, columns=columns)

    def key(self, position: int) -> str:
        """One name, for messages; reads those of its shard."""
        return self.keys_between(position, position + 1)[0]

    def keys_between(self, start: int, stop: int) -> list[str]:
        """Names of positions start..stop; reads those of their shards. Raises as `keys`."""
        shards = range(int(self.shard_of(start)), int(self.shard_of(stop - 1)) + 1)
        with self._damage_named():
            column = pq.ParquetFile(self.keys_path).read_row_groups(list(shards), columns=["key"])["key"]
        return Keys(column)[start - self.rows_of(shards[0]).start : stop - self.rows_of(shards[0]).start]

    def keys_of_shards(self) -> list[int]:
        """How many keys each shard has. Raises as `keys`."""
        with self._damage_named():
            about = pq.read_metadata(self.keys_path)
            return [about.row_group(shard).num_rows for shard in range(about.num_row_groups)]

    @contextlib.contextmanager
    def _damage_named(self) -> Iterator[None]:
        try:
            yield
        except (OSError, IndexError, pa.ArrowException) as error:
            raise DataError(f"{self.keys_path}: damaged, not the keys of {self.path.name}; {REMEDY}") from error


def key64(key: str) -> int:
    """The first 8 bytes of the SHA-256 of a key."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def index_tar(path: Path, encoding: Encoding) -> pa.Table:
    """The rows of one tar of our own; reads all of it.

    Raises:
        DataError: it is missing, truncated or damaged.
    """
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for sample in iter_samples(path):
        if encoding not in sample:
            raise DataError(f"{path}, key {sample['__key__']}: no member .{encoding}")
        offset, size, crc = sample[f"__place__{encoding}"]
        row = sample["__key__"], int(sample.get("cls", b"-1")), offset, size, crc
        for name, value in zip(SCHEMA.names, row, strict=True):
            columns[name].append(value)
    return pa.table(columns, schema=SCHEMA)


def describe_split(folder: Path, name: SplitName, shards: Sequence[Shard], spec: DataSpec, encoding: Encoding) -> Split:
    """A split of tars in the folder; reads them and writes their index there.

    Raises:
        DataError: a tar is missing, truncated or damaged, or has not as many samples as described.
    """
    rows = (index_tar(folder / shard.path, encoding) for shard in shards)
    return describe_rows(folder, name, shards, rows, spec)


def describe_rows(
    folder: Path,
    name: SplitName,
    shards: Sequence[Shard],
    tables: Iterable[pa.Table],
    spec: DataSpec,
    factors: Sequence[str] = (),
) -> Split:
    """A split of tars whose rows are known, a table a tar; writes index and keys, the same rows as the same bytes.

    Memory: the rows of one tar.

    Args:
        tables: of `SCHEMA`, and the columns of `factors`.

    Raises:
        DataError: a tar has not as many rows as samples.
    """
    index, keys = folder / f"index-{name}.npy", folder / f"keys-{name}.parquet"
    counts, total = np.zeros(spec.num_classes, dtype=np.int64), sum(shard.samples for shard in shards)
    header = {"descr": np.lib.format.dtype_to_descr(ROW), "fortran_order": False, "shape": (total,)}
    names = pa.schema([SCHEMA.field("key"), *map(factor_column, factors)])
    with (
        index.open("wb") as file,
        pq.ParquetWriter(keys, names, compression="zstd", write_statistics=False) as writer,
    ):
        np.lib.format.write_array_header_2_0(file, header)
        for shard, table in zip(shards, tables, strict=True):
            if len(table) != shard.samples:
                raise DataError(f"{folder / shard.path}: {len(table)} rows for {shard.samples} samples")
            part = np.empty(len(table), dtype=ROW)
            for column in ("offset", "crc32", "y"):
                part[column] = table[column].to_numpy()
            part["size"] = table["size"].cast(pa.uint32()).to_numpy()
            part["key64"] = [key64(key) for key in table["key"].to_pylist()]
            file.write(part.tobytes())
            writer.write_table(table.select(names.names), row_group_size=len(table))
            counts += np.bincount(part["y"][part["y"] >= 0], minlength=spec.num_classes)
    return Split(
        samples=total,
        class_counts=dict(zip(spec.classes, counts.tolist(), strict=True)),
        shards=tuple(shards),
        index=_described(index),
        keys=_described(keys),
    )


def _described(path: Path) -> File:
    return File(path=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
