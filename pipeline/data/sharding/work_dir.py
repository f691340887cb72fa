"""The hidden folder in which a run of `shard` works, so that a killed one resumes.

It is beside the result, since DVC removes a stage's outputs before it runs the stage. `shards/` becomes the result
(without tars where these are in an object store), `rows/` holds a Parquet file for each finished tar, with its
description and its rows of the index, and `scratch/` the tars that are being written.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.sharding.tar_target import Target
from pipeline.data.sharding.tar_writer import Packed
from pipeline.data.shards.index import SCHEMA
from pipeline.data.shards.manifest import Shard
from pipeline.errors import ResourceError
from pipeline.utils.files import atomic_file, put_in_place, resources

_META = b"tar"


class Unfinished:
    """Finished tars of a run that is not finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shards = folder / "shards"
        self.scratch = folder / "scratch"
        self._rows = folder / "rows"

    def open(self) -> None:
        """Makes the folders; removes what was never finished."""
        for folder in (self.shards, self.scratch, self._rows):
            folder.mkdir(exist_ok=True)
        finished = {f"{path.stem}.tar" for path in self._rows.glob("*.parquet")}
        unfinished = [path for path in self.shards.iterdir() if path.name not in finished]
        # A writer whose run was killed may end a moment later: `missing_ok`. What it wrote is in scratch, not here.
        for path in (*unfinished, *self.scratch.iterdir(), *self._rows.glob("*.part")):
            path.unlink(missing_ok=True)

    def keep(self, packed: Packed) -> None:
        """Notes that a tar is finished."""
        columns: list[Any] = [packed.keys, packed.y, packed.offset, packed.size, packed.crc32]
        described = {
            "samples": len(packed.keys),
            "bytes": packed.bytes,
            "sha256": packed.sha256,
            "skipped": packed.skipped,
            "messages": packed.messages,
            "etag": packed.etag,
        }
        table = pa.table(
            [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)],
            schema=SCHEMA.with_metadata({_META: json.dumps(described).encode()}),
        )
        with atomic_file(self._path(packed.name)) as part:
            pq.write_table(table, part, compression="zstd", write_page_checksum=True)

    def has(self, name: str, target: Target, *, allow_skipped: bool) -> bool:
        """Whether a tar was finished and is whole; with `allow_skipped`, leaving out examples."""
        try:
            about = self.about(name)
            if about["skipped"] and not allow_skipped:
                return False
            if len(self.rows(name)) != about["samples"]:
                return False
            if about["samples"] == 0:
                return True
            return target.holds(name, about["bytes"], about["sha256"], about["etag"])
        except (OSError, pa.ArrowException, ValueError, KeyError):
            return False

    def about(self, name: str) -> dict[str, Any]:
        """Samples, bytes and SHA-256 of a finished tar; what it leaves out."""
        described: dict[str, Any] = json.loads(pq.read_schema(self._path(name)).metadata[_META])
        return described

    def shard(self, name: str) -> Shard | None:
        """A finished tar as the manifest describes it; None where all of its examples were left out."""
        about = self.about(name)
        if about["samples"] == 0:
            return None
        return Shard(path=f"{name}.tar", samples=about["samples"], bytes=about["bytes"], sha256=about["sha256"])

    def rows(self, name: str) -> pa.Table:
        """The rows of the index for a finished tar."""
        return pq.read_table(self._path(name), page_checksum_verification=True).replace_schema_metadata(None)

    def finished(self) -> int:
        """How many tars are."""
        return len(list(self._rows.glob("*.parquet")))

    def publish(self, out: Path) -> None:
        """The shards take the place of `out`."""
        put_in_place(self.shards, out)

    def _path(self, name: str) -> Path:
        return self._rows / f"{name}.parquet"


@contextlib.contextmanager
def unfinished(out: Path, fingerprint: str) -> Iterator[Unfinished]:
    """The folder of the run that writes `out` from these inputs; those of other inputs are removed.

    When the block ends it is removed, unless the block failed and a tar is finished.

    Raises:
        ResourceError: no space, no permission; or another run is writing the same.
    """
    with resources():
        out.parent.mkdir(parents=True, exist_ok=True)
        mine = out.parent / f".{out.name}.{fingerprint}.work"
        for other in out.parent.glob(f".{out.name}.*.work"):
            if other != mine:
                with contextlib.suppress(ResourceError), _locked(other):
                    shutil.rmtree(other)
        mine.mkdir(exist_ok=True)
        with _locked(mine):
            run = Unfinished(mine)
            run.open()
            try:
                yield run
            finally:
                if not run.shards.exists() or run.finished() == 0:
                    shutil.rmtree(mine)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """A lock that the system gives back when the process ends, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(f"another `ie shard` works in {folder}; wait for it, or stop it") from error
        except OSError as error:
            # Some network file systems have no locks: two runs at once are then not found out.
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)
