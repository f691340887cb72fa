"""A folder of shards with its manifest and indices: what every reader of examples is handed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ie_model.spec import DataSpec
from pipeline.data.shards.index import SplitIndex
from pipeline.data.shards.manifest import File, Manifest, Shard, SplitName, read_manifest
from pipeline.data.shards.tar_reader import EXTERNAL_REMEDY, REMEDY
from pipeline.errors import DataError
from pipeline.utils.files import sha256_file


@dataclass(frozen=True)
class ShardedDataset:
    """Splits of examples in tars, which may be elsewhere than the manifest."""

    folder: Path
    """Of the manifest and the indices."""

    manifest: Manifest
    _indices: dict[SplitName, SplitIndex] = field(default_factory=dict, init=False, repr=False, compare=False)
    """Those that were compared with the manifest: of 10^9 samples that takes half a minute."""

    @classmethod
    def open(cls, folder: Path) -> ShardedDataset:
        """Reads the manifest.

        Raises:
            DataError: it is missing, damaged, or written by another version.
        """
        return cls(folder, read_manifest(folder))

    @property
    def spec(self) -> DataSpec:
        """Kind, shape and classes of the examples."""
        return self.manifest.spec

    @property
    def location(self) -> str:
        """Folder or URL of the tars; a relative one is relative to the manifest's folder."""
        location = self.manifest.location or "."
        return location if "://" in location else str(self.folder / location)

    @property
    def remedy(self) -> str:
        """What helps where a tar is missing or damaged; for messages."""
        return EXTERNAL_REMEDY if self.manifest.encoding == "picture" else REMEDY

    def shards(self, split: SplitName) -> tuple[Shard, ...]:
        """Tars of a split, in the order of its index."""
        return self.manifest.splits[split].shards

    def index(self, split: SplitName) -> SplitIndex:
        """Where each sample of a split is.

        Raises:
            DataError: the index is missing, damaged, or not of the manifest's shards; names the file.
        """
        if split in self._indices:
            return self._indices[split]
        split_ = self.manifest.splits[split]
        for file in (split_.index, split_.keys):
            path = self.folder / file.path
            if not path.is_file():
                raise DataError(f"index is missing: {path}; {REMEDY}")
            # The keys are compared where they are read: training does not read them.
            if path.stat().st_size != file.bytes or (file == split_.index and sha256_file(path) != file.sha256):
                raise DataError(f"{path}: damaged, its size or SHA-256 is not the manifest's; {REMEDY}")
        ends = np.cumsum([shard.samples for shard in split_.shards])
        index, keys = (self.folder / file.path for file in (split_.index, split_.keys))
        found = SplitIndex(index, keys, split_.keys.sha256, ends, self.spec.num_classes)
        counts = found.keys_of_shards()
        if len(counts) != len(split_.shards):
            raise DataError(f"{keys}: has {len(counts)} shards, the manifest {len(split_.shards)}; {REMEDY}")
        for count, known in zip(counts, split_.shards, strict=True):
            if count != known.samples:
                what = f"{known.samples} examples by the manifest, {count} by its index {keys.name}"
                raise DataError(f"{self.folder / known.path}: {what}; {REMEDY}")
        assert len(found.rows) == len(found)
        self._indices[split] = found
        return found

    def verify(self, splits: Sequence[SplitName] | None = None) -> None:
        """Reads every byte of the indices and shards of `splits` (all when None), beside the manifest.

        Raises:
            DataError: a shard is missing, truncated or damaged; the message names it.
        """
        for name, split in self.manifest.splits.items():
            if splits is not None and name not in splits:
                continue
            files: tuple[File, ...] = (split.index, split.keys, *split.shards)
            for shard in files:
                path = self.folder / shard.path
                if not path.is_file():
                    raise DataError(f"shard is missing: {path}; {REMEDY}")
                if (size := path.stat().st_size) != shard.bytes:
                    what = "truncated" if size < shard.bytes else "overgrown"
                    raise DataError(f"{path}: {what}, {size} of {shard.bytes} bytes; {REMEDY}")
                if sha256_file(path) != shard.sha256:
                    raise DataError(f"{path}: damaged, its SHA-256 is not the manifest's; {REMEDY}")
