"""Mirrors on the web."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import pooch
import requests

from pipeline.data.downloaders.base import WayFailed, copy_at_most, mismatch, most_compressed, one_line, opened
from pipeline.data.sources import RawFile
from pipeline.errors import from_os_error

_TIMEOUT_S = 20
_CONNECT_TIMEOUT_S = 5
_CHUNK = 1 << 14
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Https:
    """Mirrors, one after the other, through pooch. A host that cannot be reached is not asked again.

    Args:
        scratch: folder for what is being unpacked.
        kept: folder of partial downloads, which a later run resumes.
    """

    def __init__(self, scratch: Path, kept: Path | None = None) -> None:
        self._scratch = scratch
        self._kept = kept or scratch
        self._dead_hosts: dict[str, str] = {}
        self._asked: set[str] = set()

    def __call__(self, file: RawFile, target: Path) -> str:
        answers = []
        urls = file.places.get("https", ())
        self._find_dead_hosts(urls)
        for url in urls:
            try:
                problem = self._bring(url, file, target)
            except WayFailed as error:
                answers.append(str(error))
                continue
            if problem is None:
                for other in urls:
                    self._partial(other).unlink(missing_ok=True)
                return url
            # One mirror that is out of date or intercepted must not hide the next.
            answers.append(f"{url} is {problem}")
        raise WayFailed("; ".join(answers) or "no mirror is known")

    def _bring(self, url: str, file: RawFile, target: Path) -> str | None:
        """What is wrong with the file that came, or None."""
        # The first part may be of an older file than the rest: then all of it is asked for, once.
        continued = self._partial(url).exists()
        try:
            self._download(url, file, target)
            problem = mismatch(target, file)
        except WayFailed:
            if not continued or self._partial(url).exists():
                raise
            problem = "damaged"
        if problem is not None and continued:
            self._download(url, file, target)
            problem = mismatch(target, file)
        return problem

    def _partial(self, url: str) -> Path:
        return self._kept / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.partial"

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
        downloader = _Download(file.size, self._partial(url))
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
            raise WayFailed(f"{url}: {one_line(error)}") from error
        downloaded = self._scratch / name
        with contextlib.closing(_Unlinked(downloaded)), opened(downloaded, url) as stream:
            copy_at_most(stream, target, file.size, url)


class _Download:
    """pooch's downloader, with an end to how much it writes, with its connection closed whatever happens, and going on
    where a download broke off if the server can: at once as long as more comes each time, and in a later run."""

    def __init__(self, size: int, partial: Path) -> None:
        self._limit, self._partial = most_compressed(size), partial

    def __call__(self, url: str, output_file: str, pooch_: Any) -> None:
        self._partial.parent.mkdir(parents=True, exist_ok=True)
        self._partial.touch()
        most = self._have()
        while True:
            try:
                self._go_on(url, pooch_)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if self._have() <= most:
                    if self._have() == 0:
                        self._partial.unlink()
                    raise
                most = self._have()
            except Exception:  # an answer, or no space: nothing that is worth to be gone on with
                self._partial.unlink()
                raise
        shutil.move(self._partial, output_file)

    def _have(self) -> int:
        return self._partial.stat().st_size

    def _go_on(self, url: str, pooch_: Any) -> None:
        have = self._have()
        try:
            self._get(url, have, pooch_)
        except _NotFromHere:
            self._partial.write_bytes(b"")
            self._get(url, 0, pooch_)

    def _get(self, url: str, have: int, pooch_: Any) -> None:
        responses: list[requests.Response] = []
        # Not compressed on its way: ranges would count compressed bytes.
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with self._partial.open("ab") as file:

            def check(response: requests.Response, *args: object, **kwargs: object) -> None:
                responses.append(response)
                if have and response.status_code == 200:
                    file.truncate(0)  # the server does not know ranges, and sends all
                    out.start_anew()
                starts = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
                if response.status_code == 416 or (response.status_code == 206 and not starts):
                    raise _NotFromHere

            out = _AtMost(file, self._limit, url, have)
            download = pooch.HTTPDownloader(
                progressbar=sys.stderr.isatty(),
                chunk_size=_CHUNK,
                timeout=(_CONNECT_TIMEOUT_S, _TIMEOUT_S),
                hooks={"response": check},
                headers=headers,
            )
            try:
                download(url, out, pooch_)
            finally:
                for response in responses:
                    response.close()


class _NotFromHere(Exception):
    """The server has no such range of the file."""


class _AtMost:
    """A file that refuses to grow beyond a limit."""

    def __init__(self, file: BinaryIO, limit: int, origin: str, have: int) -> None:
        self._file, self._left, self._limit, self._origin = file, limit - have, limit, origin

    def start_anew(self) -> None:
        self._left = self._limit

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


class _Unlinked:
    """Removes a file when closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def close(self) -> None:
        self._path.unlink(missing_ok=True)
