"""Stage `fetch`: raw files, by an ordered list of ways, each checked against the same checksums."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from pipeline.config.params import Params
from pipeline.data.downloaders import Deb, Https, Npm, Pypi, Way, WayFailed, from_folder, kept_before, mismatch
from pipeline.data.sharding.external_tar_list import list_tars
from pipeline.data.sharding.external_tars import tars_location
from pipeline.data.sources import TARS, OwnSource, RawFile, Source, make_source
from pipeline.errors import DataError, FetchError
from pipeline.storage.object_path import ObjectPath
from pipeline.utils.files import atomic_file, atomic_folder, remove_leftovers, sha256_file
from pipeline.utils.progress import Log


def fetch(params: Params, project: Path, log: Log) -> Path:
    """Brings the raw files of data.source into data/raw/<source>, which appears as a whole; returns it.

    Files that were fetched before are kept by checksum in .cache/raw, so a repeated run needs no network.

    Raises:
        FetchError: files could not be fetched by any way; the message names all, with each way's answer.
        DataError: own data is not in the layout of its source; the message names what.
        ResourceError: no space, no permission.
    """
    if params.data.source == TARS:
        _check_checkout(params.data.folder, project)
        return fetch_tars(params, project, log)
    source = make_source(params.data, project)
    if isinstance(source, OwnSource):
        _check_checkout(params.data.folder, project)
        return fetch_own(source, project, log)
    return fetch_source(source, params.data.ways, params.data.folder, project, log)


def fetch_source(source: Source, ways: tuple[str, ...], folder: str, project: Path, log: Log) -> Path:
    """`fetch` of any source; see there."""
    out = project / "data" / "raw" / source.name
    cache = project / ".cache" / "raw"
    remove_leftovers(out)
    with atomic_folder(out) as part, _scratch(out) as scratch:
        if source.bundled:
            source.write_bundled(part)
        by_name = _ways(ways, folder, project, out, cache, Path(scratch))
        answers: list[tuple[RawFile, str]] = []
        for file in source.files:
            if source.bundled:
                if problem := mismatch(part / file.name, file):
                    raise FetchError(f"{source.name}: {file.name}, made from an installed package, is {problem}")
            elif answer := _bring(file, by_name, part / file.name, log):
                # On with the others: what is fetched is kept, and the user learns of all that is missing at once.
                answers.append((file, answer))
            else:
                _keep(part / file.name, cache / file.sha256)
        if answers:
            raise FetchError(_missing(answers, len(source.files)))
    log(f"fetch: {source.name}, {len(source.files)} files in {out}")
    return out


def fetch_own(source: OwnSource, project: Path, log: Log) -> Path:
    """Lists the user's own files, with checksums, in data/raw/<source>; they stay where they are. Raises as `fetch`."""
    out = project.resolve() / "data" / "raw" / source.name
    folder = source.folder if isinstance(source.folder, ObjectPath) else source.folder.resolve()
    if folder.is_relative_to(out) or out.is_relative_to(folder):
        # The list replaces all files there.
        raise DataError(f"data.folder is {folder}, and fetch writes to {out}; one must not contain the other")
    remove_leftovers(out)
    with atomic_folder(out) as part:
        source.write_listing(part, log)
    return out


def fetch_tars(params: Params, project: Path, log: Log) -> Path:
    """Lists tars of others in data/raw/tars; they stay where they are. Raises as `fetch`."""
    out = project.resolve() / "data" / "raw" / TARS
    remove_leftovers(out)
    with atomic_folder(out) as part:
        list_tars(tars_location(params.data.folder, project), part, log, params.reader)
    return out


def _check_checkout(folder: str, project: Path) -> None:
    """That a queued experiment, which DVC runs in a checkout of git's files, has all of the user's data there.

    Raises:
        DataError: git does not track data in a relative folder. It is not read from DVC_ROOT instead: DVC would not see
            when it changes.
    """
    root = os.environ.get("DVC_ROOT")
    if root is None or "://" in folder or Path(folder).is_absolute() or Path(root).resolve() == project.resolve():
        return
    here, there = project / folder, Path(root) / folder
    present = {path.name for path in here.iterdir()} if here.is_dir() else set()
    if there.is_dir() and (missing := sorted({path.name for path in there.iterdir()} - present)):
        raise DataError(
            f"data.folder is {folder}: git does not track {missing[0]} there, so a queued experiment's checkout lacks "
            f"it; give the absolute path, -S data.folder={there.resolve()}"
        )


def _scratch(out: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for downloads, named so that `remove_leftovers` finds it after a kill."""
    return tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=out.parent)


def _ways(names: tuple[str, ...], folder: str, project: Path, out: Path, cache: Path, scratch: Path) -> dict[str, Way]:
    ways: dict[str, Way] = {}
    for name in names:
        if name == "disk":
            ways[name] = kept_before(out, cache)
        elif name == "https":
            ways[name] = Https(scratch, cache)
        elif name == "npm":
            ways[name] = Npm(scratch)
        elif name == "deb":
            ways[name] = Deb(scratch)
        elif name == "pypi":
            ways[name] = Pypi(scratch)
        else:
            ways[name] = from_folder(project / folder)
    return ways


def _bring(file: RawFile, ways: dict[str, Way], target: Path, log: Log) -> str | None:
    """Takes the first way whose file matches the checksum; where none does, returns all answers."""
    answers = []
    for name, way in ways.items():
        try:
            origin = way(file, target)
        except WayFailed as error:
            answers.append(f"{name}: {error}")
            target.unlink(missing_ok=True)
            continue
        problem = mismatch(target, file)
        if problem is None:
            log(f"fetch: {file.name} from {origin}")
            return None
        answers.append(f"{name}: {origin} is {problem}")
        target.unlink()
    return " | ".join(answers)


def _missing(answers: list[tuple[RawFile, str]], num_files: int) -> str:
    """One line on all missing files; those with the same answers share them."""
    by_answer: dict[str, list[str]] = {}
    for file, answer in answers:
        by_answer.setdefault(answer, []).append(file.name)
    said = "; ".join(f"{', '.join(names)}: {answer}" for answer, names in by_answer.items())
    checksums = ", ".join(f"{file.name} {file.sha256}" for file, _ in answers)
    return (
        f"{len(answers)} of {num_files} file(s) could not be fetched. {said}. Put them into a folder, set data.folder "
        f"to it and data.ways to [folder]; SHA-256: {checksums}"
    )


def _keep(path: Path, cached: Path) -> None:
    """A second name in the cache: DVC removes a stage's outputs before it runs the stage again."""
    if cached.is_file() and sha256_file(cached) == cached.name:
        return
    with atomic_file(cached) as part:
        part.unlink()
        try:
            os.link(path, part)
        except OSError:  # another file system, or one without links
            shutil.copyfile(path, part)
