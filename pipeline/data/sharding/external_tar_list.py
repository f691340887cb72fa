"""Which tars of others there are: listed by fetch with checksums, so that a change of their content is noticed."""

from __future__ import annotations

import os
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.data.loading.shard_store import Store
from pipeline.data.shards.manifest import SHARD_PATH, Manifest
from pipeline.data.shards.reading import Reading
from pipeline.data.sources.walk import Walk, checked_folder, counted, write_passed_over
from pipeline.errors import DataError
from pipeline.utils.files import write_json
from pipeline.utils.progress import Log, Meter


def list_tars(location: str, raw: Path, log: Log, reading: Reading | None = None) -> None:
    """Writes `files.json` in `raw`: names, sizes and SHA-256 of the tars at a location, by which later stages see that
    they changed. For an object store, the ETag stands in for the SHA-256.

    Raises:
        DataError: the folder is missing or has no tar, or a file that cannot be one.
        ResourceError: an object store cannot be reached.
    """
    store = Store(location, reading)
    paths, passed_over = find_tars(store)
    sizes = {path: store.size(path) for path in paths}
    if not store.remote:
        for path, size in sizes.items():
            _check_tar(Path(store.where(path)), size)
    meter, done, versions = Meter("fetch: tars", sum(sizes.values()) // 1_000_000, "MB"), 0, {}
    for path, size in sizes.items():
        versions[path] = store.version(path)
        done += size
        meter.update(done // 1_000_000)
    meter.close()
    write_passed_over(raw, passed_over)
    write_json(raw / "files.json", {"location": store.location, "bytes": sizes, "version": versions})
    log(
        f"fetch: tars, {len(sizes)} in {location}, {sum(sizes.values()) / 1e6:,.0f} MB; they stay where they are"
        + (f"; passed over: {counted(passed_over)}" if passed_over else "")
    )


def check_listed(manifest: Manifest, listed: Mapping[str, Any], raw: Path) -> None:
    """Whether the tars that were indexed are those that `list_tars` has seen.

    Raises:
        DataError: names the first that is not.
    """
    for path, sha256 in manifest.source_files.items():
        version = listed.get("version", {}).get(path, sha256)
        if path not in listed["bytes"] or ("://" not in manifest.location and version != sha256):
            raise DataError(f"{manifest.location}/{path}: changed since fetch, which {raw} lists; run `ie fetch` again")


def find_tars(store: Store) -> tuple[list[str], Counter[str]]:
    """Paths of the tars at a location, and how many other files there are. Raises as `list_tars`."""
    passed_over: Counter[str] = Counter()
    if store.remote:
        paths = store.list(".tar")
    else:
        walk = Walk(checked_folder(Path(store.location)), outside=True)
        paths = []
        for path in walk.below(walk.root):
            if path.suffix.lower() == ".tar":
                paths.append(path.relative_to(walk.root).as_posix())
            else:
                walk.pass_over(path)
        passed_over = walk.passed_over
    if not paths:
        packed = any(suffix in passed_over for suffix in (".gz", ".tgz", ".bz2", ".xz", ".zst"))
        raise DataError(
            f"no .tar in {store.location}"
            + (f"; there are: {counted(passed_over)}" if passed_over else "")
            + ("; unpack them to .tar, which are read at any place" if packed else "")
        )
    for name in paths:
        if len(name) > 1000 or not re.fullmatch(SHARD_PATH, name):
            raise DataError(
                f"{store.location}: the name {name[:200]!r} cannot be used; allowed: up to 1000 characters, without "
                "control characters and backslashes, and no part that begins with a dot"
            )
    return sorted(paths), passed_over


def _check_tar(path: Path, size: int) -> None:
    """Refuses, before all of it is read, what is no tar or terabytes of nothing. Raises DataError."""
    with path.open("rb") as file:
        start = file.read(tarfile.BLOCKSIZE)
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        packed = "; it is packed with gzip: unpack it" if start[:2] == b"\x1f\x8b" else ""
        raise DataError(f"{path}: not a tar ({error}){packed}") from error
    stored = os.stat(path).st_blocks * 512
    if size > 1_000_000_000 and stored < size // 10:
        raise DataError(f"{path}: {size:,} bytes, of which {stored:,} are stored; the rest is empty: no whole tar")
