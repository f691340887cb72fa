"""A file of a store as Python's file objects are, for readers that go through it once from the front."""

from __future__ import annotations

import hashlib
import io

from pipeline.data.loading.shard_store import Store

_BLOCK = 8 << 20


class StoreFile(io.RawIOBase):
    """A file of a store for tarfile, read in blocks and each block once; its SHA-256 comes on the way."""

    def __init__(self, store: Store, path: str) -> None:
        self._store, self._path = store, path
        self.size = store.size(path)
        self._at = 0
        self._digest = hashlib.sha256()
        self._blocks: dict[int, bytes] = {}
        self._next = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size < 0 else min(self.size, self._at + size)
        parts = []
        while self._at < stop:
            number, within = divmod(self._at, _BLOCK)
            data = self._block(number)[within : within + stop - self._at]
            if not data:
                break
            parts.append(data)
            self._at += len(data)
        return b"".join(parts)

    def sha256(self) -> str:
        """Of the whole file."""
        while self._next * _BLOCK < self.size:
            self._block(self._next)
        return self._digest.hexdigest()

    def _block(self, number: int) -> bytes:
        while self._next <= number:
            offset = self._next * _BLOCK
            data = self._store.read_range(self._path, offset, min(_BLOCK, self.size - offset))
            self._digest.update(data)
            # tarfile goes back by a header at most.
            self._blocks = {n: b for n, b in self._blocks.items() if n == self._next - 1} | {self._next: data}
            self._next += 1
        if number not in self._blocks:
            offset = number * _BLOCK
            return self._store.read_range(self._path, offset, min(_BLOCK, self.size - offset))
        return self._blocks[number]
