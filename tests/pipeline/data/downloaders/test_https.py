"""Downloads that break off are gone on with, in the same run and in the next, and never end in a file that is wrong."""

from __future__ import annotations

import hashlib
import socket
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.downloaders import Https, WayFailed
from pipeline.data.sources import RawFile
from pipeline.errors import FetchError
from pipeline.stages.fetch import fetch_source
from tests.helpers.site import Site
from tests.pipeline.stages.test_fetch import Log, Tiny, left_in

CONTENT = np.random.default_rng(0).bytes(300_000)


def raw_file(url: str, content: bytes = CONTENT, name: str = "data.bin") -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), {"https": (url,)})


@dataclass
class Dropping:
    """A page whose connection is cut after `most` bytes, the first `times` times."""

    most: int
    times: int
    ranges: bool = True
    content: bytes = CONTENT
    starts: list[int] = field(default_factory=list)
    """Where each answer began."""

    def __call__(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and self.ranges else 0
        self.starts.append(start)
        if start >= len(self.content):
            handler.send_error(416)
            return
        rest = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(rest)))
        handler.end_headers()
        if len(self.starts) > self.times:
            handler.wfile.write(rest)
            return
        handler.wfile.write(rest[: self.most])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)


def test_a_download_that_breaks_off_again_and_again_goes_on_where_it_was(site: Site, tmp_path: Path) -> None:
    site.pages["/data.bin"] = page = Dropping(most=100_000, times=2)
    Https(tmp_path)(raw_file(site.url("/data.bin")), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert len(page.starts) > 1 and page.starts == sorted(set(page.starts))
    assert [path.name for path in tmp_path.iterdir()] == ["target"]


def test_a_server_without_ranges_is_asked_once_more_and_then_given_up(site: Site, tmp_path: Path) -> None:
    site.pages["/data.bin"] = page = Dropping(most=100_000, times=1, ranges=False)
    Https(tmp_path)(raw_file(site.url("/data.bin")), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT
    site.pages["/data.bin"] = page = Dropping(most=100_000, times=99, ranges=False)
    with pytest.raises(WayFailed):
        Https(tmp_path)(raw_file(site.url("/data.bin")), tmp_path / "target")
    assert page.starts == [0, 0]


def test_the_next_run_goes_on_where_the_last_one_was_cut_off(site: Site, tmp_path: Path) -> None:
    source = Tiny((raw_file(site.url("/data.bin")),))
    # As a kill leaves it.
    url = site.url("/data.bin")
    partial = tmp_path / ".cache" / "raw" / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    partial.write_bytes(CONTENT[:120_000])
    site.pages["/data.bin"] = page = Dropping(most=0, times=0)
    out = fetch_source(source, ("https",), "own", tmp_path, Log())
    assert (out / "data.bin").read_bytes() == CONTENT
    assert page.starts == [120_000]
    assert left_in(tmp_path) == [f".cache/raw/{source.files[0].sha256}", "data/raw/tiny/data.bin"]


@pytest.mark.parametrize("old", [CONTENT[::-1][:1000], CONTENT + b"more", CONTENT], ids=["another", "longer", "whole"])
def test_a_first_part_that_does_not_fit_is_thrown_away(site: Site, tmp_path: Path, old: bytes) -> None:
    url = site.url("/data.bin")
    (tmp_path / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.partial").write_bytes(old)
    site.pages["/data.bin"] = page = Dropping(most=0, times=0)
    Https(tmp_path, tmp_path)(raw_file(url), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT
    assert page.starts[-1] == 0 and len(page.starts) == 2


def test_a_range_that_was_not_asked_for_is_not_taken(site: Site, tmp_path: Path) -> None:
    def liar(handler: BaseHTTPRequestHandler) -> None:
        part = CONTENT[5:] if handler.headers.get("Range") else CONTENT
        handler.send_response(206 if handler.headers.get("Range") else 200)
        handler.send_header("Content-Range", f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part)

    url = site.url("/data.bin")
    (tmp_path / f"{hashlib.sha256(url.encode()).hexdigest()[:32]}.partial").write_bytes(CONTENT[:1000])
    site.pages["/data.bin"] = liar
    Https(tmp_path, tmp_path)(raw_file(url), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT


def test_fetch_goes_on_after_a_missing_file_and_names_all_that_are_missing(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/b": b"b" * 9, "/wrong": b"x" * len(CONTENT)}
    files = [raw_file(site.url(f"/{name}"), name.encode() * 9, name) for name in ("a", "b", "c")]
    files.append(raw_file(site.url("/wrong"), name="d"))
    log = Log()
    with pytest.raises(FetchError) as caught:
        fetch_source(Tiny(tuple(files)), ("disk", "https"), "own", tmp_path, log)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("3 of 4 file(s) could not be fetched. a: disk: ")
    for part in ("/a: answered 404", "; c: disk", "; d: disk", "/wrong is of SHA-256", f"d {files[3].sha256}"):
        assert part in message
    assert "b from http" in str(log)
    asked = len(site.asked)
    with pytest.raises(FetchError, match=r"^3 of 4 "):
        fetch_source(Tiny(tuple(files)), ("disk", "https"), "own", tmp_path, log)
    assert "/b" not in site.asked[asked:], "what was fetched is kept"


def test_files_with_the_same_answer_share_it(tmp_path: Path) -> None:
    files = tuple(RawFile(name, "0" * 64, 5) for name in ("a", "b"))
    with pytest.raises(FetchError, match=r"^2 of 2 file\(s\) .* a, b: disk: "):
        fetch_source(Tiny(files), ("disk",), "own", tmp_path, Log())
