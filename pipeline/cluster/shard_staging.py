"""Shards for workers that do not see the head's disk: published once in the object store of run state.

What a run is does not depend on it: a job's fingerprint holds the manifest beside the project's shards.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import MANIFEST, File, Manifest, read_manifest, write_manifest
from pipeline.errors import DataError
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Storage
from pipeline.training.job import Job
from pipeline.utils.files import sha256_file
from pipeline.utils.progress import Log, Meter


def shards_for_workers(folder: Path, storage: Storage, log: Log) -> str:
    """Where the workers of a cluster read the shards of a folder, `s3://...`; empty where they see the folder itself.

    They are taken not to where storage is an object store and RAY_ADDRESS names a cluster: then the shards are put
    there, what is missing of them.

    Raises:
        DataError: a shard is missing.
        ResourceError: the store cannot be written to.
    """
    if not isinstance(storage, Bucket) or not os.environ.get("RAY_ADDRESS"):
        return ""
    return publish_shards(folder, storage, log)


def published_as(folder: Path) -> str:
    """The name, in the storage, of a folder's shards; the manifest's hash is part of it."""
    return f"shards/{folder.name}/{sha256_file(folder / MANIFEST)}"


def publish_shards(folder: Path, bucket: Bucket, log: Log) -> str:
    """Puts what is not there yet, in its full size; the manifest comes last. Returns the place."""
    name, dataset = published_as(folder), ShardedDataset.open(folder)
    manifest, tars = dataset.manifest, Path(dataset.location)
    paths = {file.path: (folder / file.path, file.bytes) for file in _index_files(manifest)}
    if "://" not in manifest.location:
        shards = (shard for split in manifest.splits.values() for shard in split.shards)
        paths |= {shard.path: (tars / shard.path, shard.bytes) for shard in shards}
    there = bucket.sizes(name)
    missing = {file: path for file, (path, size) in paths.items() if there.get(file) != size}
    for file, path in missing.items():
        if not path.is_file() or path.stat().st_size != paths[file][1]:
            raise DataError(f"shard is missing or not of its size: {path}; {dataset.remedy}")
    if missing or MANIFEST not in there:
        total = sum(paths[file][1] for file in missing)
        log(f"shards: {len(missing)} of {len(paths)} files, {total / 1e6:,.0f} MB, to {bucket.where(name)}")
        meter, lock, done = Meter("shards", len(missing), "files"), threading.Lock(), [0]

        def count(_: str) -> None:
            with lock:
                done[0] += 1
                meter.update(done[0])

        try:
            bucket.put_files({f"{name}/{file}": path for file, path in missing.items()}, count)
        finally:
            meter.close()
        bucket.write(f"{name}/{MANIFEST}", (folder / MANIFEST).read_bytes())
    return bucket.where(name)


@contextlib.contextmanager
def at_hand(job: Job, url: str) -> Iterator[Job]:
    """The job with a folder of shards that this host has: manifest and indices, with the tars' place, `url`.

    Args:
        url: what `shards_for_workers` returned; empty: the job's own folder is seen here.

    Raises:
        DataError: manifest or indices are not there, or are not what was published.
        ResourceError: the store cannot be read.
    """
    if not url:
        yield job
        return
    with tempfile.TemporaryDirectory() as name:
        fetch_manifest(url, Path(name))
        yield with_cache(job.model_copy(update={"shards": name}))


def with_cache(job: Job) -> Job:
    """The job with a folder for copies of shards that this host can write to: its own names a place on the head."""
    reading = job.reading.model_copy(update={"cache": str(writable(Path(job.reading.cache)))})
    return job.model_copy(update={"reading": reading})


def fetch_manifest(url: str, folder: Path) -> Manifest:
    """Writes manifest and indices of published shards into a folder; the manifest then has the tars' location.

    Raises as `at_hand`; the indices are checked when they are read.
    """
    place, _, sha256 = url.rpartition("/")
    bucket, path = Bucket(place), folder / MANIFEST
    path.write_bytes(_read(bucket, f"{sha256}/{MANIFEST}"))
    if sha256_file(path) != sha256:
        raise DataError(f"{url}/{MANIFEST}: damaged, its SHA-256 is not that of its folder's name; remove the folder")
    manifest = read_manifest(folder)
    for file in _index_files(manifest):
        (folder / file.path).write_bytes(_read(bucket, f"{sha256}/{file.path}"))
    if "://" not in manifest.location:
        manifest = manifest.model_copy(update={"location": url})
        write_manifest(folder, manifest)
    return manifest


def _index_files(manifest: Manifest) -> list[File]:
    return [file for split in manifest.splits.values() for file in (split.index, split.keys)]


def _read(bucket: Bucket, name: str) -> bytes:
    data = bucket.read(name)
    if data is None:
        raise DataError(f"{bucket.where(name)} is missing; the next run publishes it again")
    return data


def writable(cache: Path) -> Path:
    """The cache where this host can have it there: its path is that of the head's project."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    return Path(tempfile.gettempdir()) / f"ie-cache-{os.getuid()}"
