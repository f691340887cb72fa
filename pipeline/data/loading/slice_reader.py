"""Samples straight from the bytes of a tar, many at a time: no tarfile, no file opened for each."""

from __future__ import annotations

import functools
import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ie_model.spec import DataSpec
from pipeline.data.loading.shard_store import open_store
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import SplitName
from pipeline.data.shards.reading import Reading
from pipeline.data.shards.sample_codec import Encoding, decode_values, padded
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray

Values = npt.NDArray[Any]
Decoder = Callable[[bytes, int, int, Values], bool]
"""Of a buffer, a sample's first and last byte in it, and where its values go; False: not a sample of the usual form."""


@dataclass(frozen=True)
class Fault:
    """An unreadable sample."""

    position: int
    reason: str
    """A line without the shard and the key, or with both where the whole shard is at fault."""

    names_shard: bool = False
    whole_lane: bool = False
    """No other sample of its lane is readable either: see `pipeline.data.loading.stream`."""


class Slice:
    """Consecutive samples of one shard, read as one range of bytes and decoded as they are asked for."""

    def __init__(self, reader: SliceReader, positions: IntArray) -> None:
        """
        Args:
            positions: ascending, in one shard, not empty.
        """
        self.reader, self.positions = reader, positions
        rows = reader.index.at(positions)
        self.shard = reader.shards[reader.index.shard_of(positions[0])]
        self.start = int(rows["offset"][0])
        self._crc32 = rows["crc32"].tolist()
        self._first = (rows["offset"] - self.start).tolist()
        self._size = rows["size"].tolist()
        self._failed: str | None = None
        self._data = b""
        self._read()

    def decode(self, begin: int, out: Values) -> list[Fault]:
        """Decodes the samples from the begin-th on into `out`, `[k, *shape]`; those of faulty ones are left."""
        faults = []
        for i, row in enumerate(out, begin):
            if reason := self._decode_one(i, row):
                # A copy in the cache may have gone bad, with the store's own bytes still good.
                if self.reader.store.forget(self.shard):
                    self._read()
                    reason = self._decode_one(i, row)
                if reason:
                    faults.append(Fault(int(self.positions[i]), reason, self._failed is not None))
        return faults

    def _read(self) -> None:
        self._failed, self._data = None, b""
        size = self._first[-1] + self._size[-1]
        try:
            self._data = self.reader.store.read(self.shard, self.start, size)
        except DataError as error:
            self._failed = str(error)
            # A tar cut short still holds the samples before the cut.
            if "truncated" in self._failed:
                self._data = self.reader.store.read_range(self.shard.path, self.start, size)
                self._failed = None
        self._view = memoryview(self._data)

    def _decode_one(self, i: int, row: Values) -> str | None:
        """The reason where it cannot be decoded."""
        if self._failed is not None:
            return self._failed
        first = self._first[i]
        last = first + self._size[i]
        if last > len(self._data):
            return f"truncated, the shard ends before its byte {self.start + last}"
        if zlib.crc32(self._view[first:last]) != self._crc32[i]:
            return "damaged, its CRC-32 is not the index's"
        if self.reader.fast is not None and self.reader.fast(self._data, first, last, row):
            return None
        try:
            values = decode_values(self._data[first:last], "", self.reader.spec, self.reader.encoding)
        except DataError as error:
            return str(error).removeprefix(": ")
        row[...] = padded(values, self.reader.spec)
        return None


class SliceReader:
    """Reads slices of a split. Can be pickled."""

    def __init__(self, dataset: ShardedDataset, split: SplitName, reading: Reading) -> None:
        """
        Raises:
            DataError: the index is missing or damaged.
        """
        self.index, self.shards = dataset.index(split), dataset.shards(split)
        self.store = open_store(dataset, [split], reading)
        self.spec, self.encoding = dataset.spec, dataset.manifest.encoding
        self.fast = _fast_decoder(self.spec, self.encoding)

    def error(self, fault: Fault) -> DataError:
        """For the user, with shard and key."""
        if fault.names_shard:
            return DataError(fault.reason)
        where = self.store.where(self.shards[self.index.shard_of(fault.position)].path)
        return DataError(f"{where}, key {self.index.key(fault.position)}: {fault.reason}")

    def slice(self, positions: IntArray) -> Slice:
        """The samples at `positions`: ascending, in one shard, not empty.

        Raises:
            ResourceError: the store cannot be reached. `Slice.decode` reports damage.
        """
        return Slice(self, positions)

    def rows(self, positions: IntArray, out: Values, most_bytes: int = 1 << 20) -> list[Fault]:
        """Decodes samples at any positions into `out`, `[len(positions), *shape]`, shard by shard.

        Args:
            most_bytes: samples are read together where a range of about so many bytes holds them.
        """
        if not len(positions):
            return []
        order = np.argsort(positions, kind="stable")
        ascending = positions[order]
        shard, offset = self.index.shard_of(ascending), self.index.at(ascending)["offset"]
        faults: list[Fault] = []
        begin = 0
        for i in range(1, len(order) + 1):
            if i < len(order) and shard[i] == shard[begin] and offset[i] - offset[begin] < most_bytes:
                continue
            decoded = np.empty((i - begin, *self.spec.shape), self.spec.dtype)
            faults += self.slice(ascending[begin:i]).decode(0, decoded)
            out[order[begin:i]] = decoded
            begin = i
        return faults


def _fast_decoder(spec: DataSpec, encoding: Encoding) -> Decoder | None:
    """A decoder of what our own writer makes of images; whatever differs is left to `decode_values`."""
    if spec.kind != "image" or encoding == "picture":
        return None
    return _npy_decoder(spec) if encoding == "npy" else _png_decoder(spec)


def _npy_decoder(spec: DataSpec) -> Decoder:
    file = io.BytesIO()
    np.save(file, np.zeros(spec.shape, spec.dtype), allow_pickle=False)
    size = len(file.getvalue())
    header = file.getvalue()[: size - spec.num_values]
    return functools.partial(_decode_npy, header, size)


def _decode_npy(header: bytes, size: int, data: bytes, first: int, last: int, row: Values) -> bool:
    if last - first != size or not data.startswith(header, first):
        return False
    row[...] = np.frombuffer(data, np.uint8, size - len(header), first + len(header)).reshape(row.shape)
    return True


def _png_decoder(spec: DataSpec) -> Decoder:
    channels, height, width = spec.shape
    fields = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    ihdr = b"IHDR" + fields
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(fields)) + ihdr + struct.pack(">I", zlib.crc32(ihdr))
    mode = "L" if channels == 1 else "RGB"
    return functools.partial(_decode_png, start, mode, (width, height))


_IEND = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def _decode_png(
    start: bytes, mode: str, size: tuple[int, int], data: bytes, first: int, last: int, row: Values
) -> bool:
    """A PNG of one piece: Pillow unpacks the pixels, its slow reader of the parts around them is passed by."""
    begin = first + len(start) + 8
    stop = last - len(_IEND) - 4
    if not data.startswith(start, first) or data[begin - 4 : begin] != b"IDAT":
        return False
    if struct.unpack_from(">I", data, begin - 8)[0] != stop - begin or data[last - len(_IEND) : last] != _IEND:
        return False
    try:
        image = Image.frombytes(mode, size, data[begin:stop], "zip", mode, 0)
    except ValueError:
        return False
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    row[...] = pixels.reshape(row.shape) if mode == "L" else pixels.reshape(size[1], size[0], 3).transpose(2, 0, 1)
    return True
