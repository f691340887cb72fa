"""What `ie embed` is given in an object store, on this host for as long as it is read."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.data.shards.manifest import MANIFEST, read_manifest, write_manifest
from pipeline.errors import DataError, PipelineError, ResourceError
from pipeline.storage.object_path import ObjectPath, list_below
from pipeline.utils.progress import Log

_AT_ONCE = 8


@contextlib.contextmanager
def on_this_host(source: str, log: Log, *, with_folder: bool = False) -> Iterator[tuple[Path, Log]]:
    """A path as it is; of `s3://bucket/name` a copy in a temporary folder. Of shards come manifest and index alone.

    Args:
        with_folder: what is beside the object comes too, as the pictures of a table.

    Yields:
        the path, and `log` with the objects' own names in place of their copies'.

    Raises:
        DataError: there is no such object, or a key leads out of its folder.
        ResourceError: the store denies access or does not answer, or the temporary folder lacks the space.
    """
    if "://" not in source:
        yield Path(source), log
        return
    if not source.startswith("s3://"):
        raise DataError(f"{source}: allowed: a file or a folder, or s3://bucket/name of one")
    root = ObjectPath.of(source.rstrip("/"))
    with tempfile.TemporaryDirectory() as scratch:
        brought = root.parent if with_folder else root
        place = Path(scratch) / brought.name

        def named(text: str) -> str:
            return text.replace(str(place), str(brought))

        try:
            _bring(brought, place, log)
            yield place / root.name if with_folder else place, lambda line: log(named(line))
        except PipelineError as error:
            raise type(error)(named(str(error))) from error


def _bring(root: ObjectPath, place: Path, log: Log) -> None:
    """Copies an object to `place`, or all below a prefix into a folder there."""
    below = list_below(root)
    if below.unusable:
        raise DataError(f"{root}: key {below.unusable[0]!r} is no path below it")
    sizes = {path: stored.size for path, stored in below.files.items()}
    if not sizes:
        try:
            sizes = {root: root.size()}
        except FileNotFoundError as error:
            raise DataError(f"no such object, and none below it: {root}") from error
    elif root / MANIFEST in sizes:
        place.mkdir()
        _bring_index(root, place)
        return
    needed, free = sum(sizes.values()), shutil.disk_usage(place.parent).free
    what = f"{root}: {len(sizes)} object(s), {needed / 1e6:,.1f} MB"
    if needed > free:
        raise ResourceError(f"{what}; the temporary folder has {free / 1e6:,.1f} MB: set TMPDIR to a larger one")
    log(f"embed: {what}; copied to this host")

    def copy(path: ObjectPath) -> None:
        target = place if path == root else place / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.copy_to(target, sizes[path])

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(copy, sizes))


def _bring_index(root: ObjectPath, place: Path) -> None:
    """Manifest and index of shards; tars are read where they are, by ranges."""
    (root / MANIFEST).copy_to(place / MANIFEST)
    manifest = read_manifest(place)
    for split in manifest.splits.values():
        for file in (split.index, split.keys):
            (root / file.path).copy_to(place / file.path)
    if "://" not in manifest.location:
        write_manifest(place, manifest.model_copy(update={"location": str(root)}))
