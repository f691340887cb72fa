"""The ways to a raw file, one by one: which mirror is asked, how often, and what comes out of an archive."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import socket
import stat
import sys
import tarfile
import threading
import venv
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.downloaders import Deb, Https, Npm, Pypi, WayFailed, from_folder
from pipeline.data.downloaders.archives import extract_member, extract_wheel_member
from pipeline.data.downloaders.base import copy_at_most
from pipeline.data.sources import RawFile
from tests.helpers.debian import Archive, archive_in, needs_dpkg_deb
from tests.helpers.mute import MutePort
from tests.helpers.site import Site
from tests.helpers.wheels import index_in, needs_pip, write_wheel

CONTENT = np.random.default_rng(0).bytes(5000)
OTHER = CONTENT[::-1]


def raw_file(content: bytes = CONTENT, name: str = "data.bin", **places: tuple[str, ...]) -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), places)


@pytest.fixture
def mute(monkeypatch: pytest.MonkeyPatch) -> Iterator[MutePort]:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    made = MutePort()
    yield made
    made.close()


def test_the_next_mirror_is_asked_when_one_has_no_such_file(site: Site, tmp_path: Path) -> None:
    site.pages["/there"] = CONTENT
    origin = Https(tmp_path)(raw_file(https=(site.url("/gone"), site.url("/there"))), tmp_path / "target")
    assert origin == site.url("/there")
    assert site.asked == ["/gone", "/there"]


def test_the_next_mirror_is_asked_when_the_file_of_one_is_wrong(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/wrong": OTHER, "/right": CONTENT}
    Https(tmp_path)(raw_file(https=(site.url("/wrong"), site.url("/right"))), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT


def test_the_mirrors_after_the_one_that_served_are_left_alone(site: Site, tmp_path: Path) -> None:
    site.pages |= {"/a": CONTENT, "/b": CONTENT}
    Https(tmp_path)(raw_file(https=(site.url("/a"), site.url("/b"))), tmp_path / "target")
    assert site.asked == ["/a"]


def test_each_mirrors_answer_is_named(site: Site, tmp_path: Path) -> None:
    site.pages["/wrong"] = OTHER
    with pytest.raises(WayFailed, match=r"/gone: answered 404; .*/wrong is of SHA-256 [0-9a-f]{64}, expected"):
        Https(tmp_path)(raw_file(https=(site.url("/gone"), site.url("/wrong"))), tmp_path / "target")


def test_no_download_is_left_in_the_scratch_folder(site: Site, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    site.pages |= {"/cut.gz": gzip.compress(CONTENT)[:-9], "/data.gz": gzip.compress(CONTENT)}
    Https(scratch)(raw_file(https=(site.url("/cut.gz"), site.url("/data.gz"))), tmp_path / "target")
    assert list(scratch.iterdir()) == []


def test_a_host_that_cannot_be_reached_is_asked_once_for_all_files(mute: MutePort, tmp_path: Path) -> None:
    https = Https(tmp_path)
    for name in ("a", "b", "c"):
        with pytest.raises(WayFailed, match=r"127\.0\.0\.1: cannot be reached"):
            https(raw_file(name=name, https=(mute.url, mute.url)), tmp_path / "target")
    assert mute.connections == 1


def test_a_host_that_stops_answering_is_not_asked_again(site: Site, tmp_path: Path) -> None:
    def hang_up(handler: BaseHTTPRequestHandler) -> None:
        """Sends nothing."""

    site.pages |= {"/a": hang_up, "/b": CONTENT}
    with pytest.raises(WayFailed, match=r"^127\.0\.0\.1: does not answer; 127\.0\.0\.1: does not answer$"):
        Https(tmp_path)(raw_file(https=(site.url("/a"), site.url("/b"))), tmp_path / "target")
    assert site.asked == ["/a"]


def test_another_host_is_asked_when_one_cannot_be_reached(site: Site, mute: MutePort, tmp_path: Path) -> None:
    site.pages["/data.bin"] = CONTENT
    Https(tmp_path)(raw_file(https=(mute.url, site.url("/data.bin", "localhost"))), tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "url",
    [
        "http://mirror.invalid/data.bin",
        "http://127.0.0.1.mirror.invalid/data.bin",
        "http://127.0.0.1@mirror.invalid/data.bin",
        "ftp://mirror.invalid/data.bin",
        "file:///etc/hostname",
    ],
)
def test_anything_but_https_to_another_machine_is_refused_before_connecting(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[object] = []

    def no_network(host: object, *args: object, **kwargs: object) -> list[object]:
        looked_up.append(host)
        raise socket.gaierror("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(WayFailed, match=f"^{url}: not https$"):
        Https(tmp_path)(raw_file(https=(url,)), tmp_path / "target")
    assert looked_up == []


def test_a_download_without_an_end_is_cut_off(site: Site, tmp_path: Path) -> None:
    sent, hung_up = 0, threading.Event()

    def endless(handler: BaseHTTPRequestHandler) -> None:
        nonlocal sent
        handler.send_response(200)
        handler.end_headers()
        try:
            while sent < 500_000_000:
                sent += handler.wfile.write(bytes(65536))
        except OSError:
            hung_up.set()

    site.pages["/data.bin"] = endless
    with pytest.raises(WayFailed, match=r"data\.bin: longer than"):
        Https(tmp_path)(raw_file(https=(site.url("/data.bin"),)), tmp_path / "target")
    assert hung_up.wait(5)


def test_a_bomb_is_not_unpacked_to_its_end(tmp_path: Path) -> None:
    bomb = io.BytesIO(gzip.compress(bytes(40_000_000)))
    with gzip.GzipFile(fileobj=bomb) as stream:
        with pytest.raises(WayFailed, match="bomb: longer than the expected 5000 bytes"):
            copy_at_most(stream, tmp_path / "target", 5000, "bomb")
        assert stream.tell() < 4_000_000
    assert (tmp_path / "target").stat().st_size <= 5000


@pytest.mark.parametrize("cut", [3, 30, -4], ids=["in the header", "in the data", "in the checksum"])
def test_a_compressed_file_cut_anywhere_is_answered(tmp_path: Path, cut: int) -> None:
    (tmp_path / "data.bin.gz").write_bytes(gzip.compress(CONTENT)[:cut])
    with pytest.raises(WayFailed, match=r"data\.bin\.gz: truncated or damaged"):
        from_folder(tmp_path)(raw_file(), tmp_path / "target")


def test_a_folder_that_is_not_there_is_answered(tmp_path: Path) -> None:
    with pytest.raises(WayFailed, match=r"/nowhere has no data\.bin or data\.bin\.gz"):
        from_folder(tmp_path / "nowhere")(raw_file(), tmp_path / "target")


@pytest.mark.skipif(shutil.which("npm") is None, reason="needs npm, to pack a package of the test's own")
def test_a_package_is_packed_once_for_all_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    package = tmp_path / "package"
    package.mkdir()
    (package / "package.json").write_text(json.dumps({"name": "tiny", "version": "1.0.0"}))
    (package / "a.bin").write_bytes(CONTENT)
    (package / "b.bin").write_bytes(OTHER)
    npm = Npm(tmp_path)
    npm(raw_file(npm=(f"{package}:package/a.bin",)), tmp_path / "a")
    shutil.rmtree(package)
    npm(raw_file(OTHER, npm=(f"{package}:package/b.bin",)), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == OTHER


def packed(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        info = tarfile.TarInfo("package/a.bin")
        info.size = len(CONTENT)
        tar.addfile(info, io.BytesIO(CONTENT))
    return path


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_an_archive_damaged_anywhere_is_answered_or_gives_the_whole_member(
    tmp_path: Path, at: float, bit: int, cut: bool
) -> None:
    path = packed(tmp_path / "p.tgz")
    data = bytearray(path.read_bytes())
    where = int(at * len(data))
    if cut:
        del data[where:]
    else:
        data[where] ^= 1 << bit
    path.write_bytes(data)
    answer = ""
    try:
        extract_member(path, "package/a.bin", tmp_path / "target", len(CONTENT))
    except WayFailed as error:
        answer = str(error)
    # A gzip header holds bytes that mean nothing, and what follows the member is of no interest.
    assert "p.tgz" in answer or (tmp_path / "target").stat().st_size == len(CONTENT)


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive", b"\xfd7zXZ\x00" + bytes(99), b"BZh91AY&SY" + bytes(99)],
    ids=["empty", "text", "xz", "bz2"],
)
def test_what_is_no_package_is_answered(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.tgz").write_bytes(data)
    with pytest.raises(WayFailed, match=r"p\.tgz: damaged"):
        extract_member(tmp_path / "p.tgz", "package/a.bin", tmp_path / "target", 5000)


@pytest.mark.parametrize("mode", ["w:xz", "w:bz2"])
def test_another_compression_than_npms_is_not_unpacked(tmp_path: Path, mode: Literal["w:xz", "w:bz2"]) -> None:
    """Each has errors of its own for damage; npm's packages are always gzip."""
    with tarfile.open(tmp_path / "p.tgz", mode) as tar:
        tar.addfile(tarfile.TarInfo("package/a.bin"))
    with pytest.raises(WayFailed, match=r"p\.tgz: damaged"):
        extract_member(tmp_path / "p.tgz", "package/a.bin", tmp_path / "target", 5000)


def test_a_damaged_sparse_member_is_answered(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("package/a.bin")
        info.size, info.pax_headers = len(CONTENT), {"GNU.sparse.map": "a,b"}
        tar.addfile(info, io.BytesIO(CONTENT))
    with pytest.raises(WayFailed, match=r"p\.tgz: damaged"):
        extract_member(tmp_path / "p.tgz", "package/a.bin", tmp_path / "target", 5000)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    return archive_in(tmp_path / "archive", monkeypatch)


def fill(tree: Path) -> None:
    """Files of every kind that a package may hold."""
    folder = tree / "usr" / "share" / "tiny"
    (folder / "folder").mkdir(parents=True)
    (folder / "plain").write_bytes(CONTENT)
    (folder / "packed.gz").write_bytes(gzip.compress(OTHER))
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(40_000_000)))
    (folder / "cut.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    (folder / "symlink").symlink_to("plain")
    (folder / "outside").symlink_to("/etc/hostname")
    (folder / "z-hardlink").hardlink_to(folder / "plain")


def deb_file(member: str, content: bytes = CONTENT, package: str = "tiny") -> RawFile:
    return raw_file(content, deb=(f"{package}:usr/share/tiny/{member}",))


@needs_dpkg_deb
def test_files_come_out_of_a_debian_package_plain_or_compressed_after_one_download(
    archive: Archive, tmp_path: Path
) -> None:
    archive.add("tiny", fill)
    deb = Deb(tmp_path)
    assert deb(deb_file("plain"), tmp_path / "a") == "Debian package tiny"
    deb(deb_file("packed.gz", OTHER), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (tmp_path / "b").read_bytes() == OTHER
    assert archive.asked == ["tiny"]


@needs_dpkg_deb
@pytest.mark.parametrize(
    ("member", "answer"),
    [
        ("absent", "no member usr/share/tiny/absent"),
        ("symlink", "usr/share/tiny/symlink is not a regular file"),
        ("outside", "usr/share/tiny/outside is not a regular file"),
        ("z-hardlink", "usr/share/tiny/z-hardlink is not a regular file"),
        ("folder", "usr/share/tiny/folder is not a regular file"),
        ("../../../etc/hostname", "no member"),
        ("bomb.gz", "longer than the expected 5000 bytes"),
        ("cut.gz", "truncated or damaged"),
    ],
)
def test_what_is_no_file_of_the_expected_size_never_leaves_a_debian_package(
    archive: Archive, tmp_path: Path, member: str, answer: str
) -> None:
    archive.add("tiny", fill)
    with pytest.raises(WayFailed, match=rf"^tiny_1\.0_all\.deb.*{answer}"):
        Deb(tmp_path)(deb_file(member), tmp_path / "target")
    assert not (tmp_path / "target").exists() or (tmp_path / "target").stat().st_size <= 5000


@needs_dpkg_deb
def test_an_oversize_member_of_a_debian_package_is_cut_off(archive: Archive, tmp_path: Path) -> None:
    def large(tree: Path) -> None:
        (tree / "usr" / "share" / "tiny").mkdir(parents=True)
        (tree / "usr" / "share" / "tiny" / "large").write_bytes(bytes(3_000_000))

    archive.add("tiny", large)
    with pytest.raises(
        WayFailed, match=r"^tiny_1\.0_all\.deb:usr/share/tiny/large: longer than the expected 5000 bytes$"
    ):
        Deb(tmp_path)(deb_file("large"), tmp_path / "target")
    assert (tmp_path / "target").stat().st_size <= 5000


@needs_dpkg_deb
@pytest.mark.parametrize("at", [0.0, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "overwritten"])
def test_a_damaged_debian_package_is_answered(archive: Archive, tmp_path: Path, at: float, cut: bool) -> None:
    path = archive.add("tiny", fill)
    data = bytearray(path.read_bytes())
    where = int(at * len(data))
    data[where:] = b"" if cut else data[where : where + 4].translate(bytes(range(255, -1, -1))) + data[where + 4 :]
    path.write_bytes(data)
    with pytest.raises(WayFailed, match=r"^tiny_1\.0_all\.deb: damaged \(dpkg-deb.+\)$"):
        Deb(tmp_path)(deb_file("absent"), tmp_path / "target")


@needs_dpkg_deb
def test_a_package_that_apt_does_not_know_is_asked_for_once_and_named(archive: Archive, tmp_path: Path) -> None:
    deb = Deb(tmp_path)
    for _ in range(2):
        with pytest.raises(
            WayFailed,
            match=r"^apt-get download absent: Unable to locate package absent; apt's package lists may be missing or "
            r"old: run `apt-get update`$",
        ):
            deb(deb_file("f", package="absent"), tmp_path / "target")
    assert archive.asked == ["absent"]


@needs_dpkg_deb
@pytest.mark.parametrize(
    ("stderr", "answer", "update"),
    [
        (
            "Err:1 http://deb.invalid tiny\nE: Failed to fetch http://deb.invalid/t.deb  Temporary failure resolving "
            "'deb.invalid'\nE: Some files failed to download\n",
            r"Temporary failure resolving 'deb\.invalid'; Some files failed to download$",
            False,
        ),
        (
            "E: Failed to fetch http://deb.invalid/t.deb  404  Not Found\n",
            r"404 Not Found; .*run `apt-get update`$",
            True,
        ),
        ("E: Can't find a source to download version '1' of 'tiny'\n", r"a source .*; .*run `apt-get update`$", True),
        ("apt-get: broken\n", r"apt-get download tiny: apt-get: broken$", False),
        (" \n", r"apt-get download tiny: exit code 100$", False),
    ],
    ids=["no network", "old lists", "no lists", "no error line", "silent"],
)
def test_what_apt_says_is_the_answer(archive: Archive, tmp_path: Path, stderr: str, answer: str, update: bool) -> None:
    archive.fails_with(stderr)
    with pytest.raises(WayFailed, match=answer) as caught:
        Deb(tmp_path)(deb_file("f"), tmp_path / "target")
    assert ("apt-get update" in str(caught.value)) == update


def test_a_machine_without_debians_tools_is_answered(
    archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(WayFailed, match=r"^apt-get is not installed$"):
        Deb(tmp_path)(deb_file("f"), tmp_path / "target")
    monkeypatch.setenv("PATH", str(archive.bin))
    with pytest.raises(WayFailed, match=r"^dpkg-deb is not installed$"):
        Deb(tmp_path)(deb_file("f"), tmp_path / "target")
    assert archive.asked == []


def test_no_debian_package_is_known_for_a_file_without_one(tmp_path: Path) -> None:
    with pytest.raises(WayFailed, match=r"^no package is known$"):
        Deb(tmp_path)(raw_file(), tmp_path / "target")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return index_in(tmp_path / "index", monkeypatch)


def wheel_file(content: bytes = CONTENT, place: str = "tiny==1.0:tiny/data/a.bin") -> RawFile:
    return raw_file(content, pypi=(place,))


@needs_pip
def test_files_come_out_of_a_wheel_plain_or_compressed_after_one_download(index: Path, tmp_path: Path) -> None:
    wheel = write_wheel(index, "tiny", {"tiny/data/a.bin": CONTENT, "tiny/data/b.bin.gz": gzip.compress(OTHER)})
    pypi = Pypi(tmp_path)
    assert pypi(wheel_file(), tmp_path / "a") == "Python package tiny==1.0"
    wheel.unlink()
    pypi(wheel_file(OTHER, "tiny==1.0:tiny/data/b.bin.gz"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (tmp_path / "b").read_bytes() == OTHER


@needs_pip
@pytest.mark.parametrize("package", ["absent==1.0", "tiny==2.0"], ids=["package", "version"])
def test_a_package_or_version_that_pip_does_not_know_is_named(index: Path, tmp_path: Path, package: str) -> None:
    write_wheel(index, "tiny", {"tiny/data/a.bin": CONTENT})
    with pytest.raises(WayFailed, match=f"^pip download {package}: No matching distribution found for {package}$"):
        Pypi(tmp_path)(wheel_file(place=f"{package}:tiny/data/a.bin"), tmp_path / "target")


@needs_pip
def test_a_package_that_would_have_to_be_built_is_refused_and_nothing_of_it_runs(index: Path, tmp_path: Path) -> None:
    setup = f"open({str(tmp_path / 'ran')!r}, 'w')".encode()
    with tarfile.open(index / "tiny-1.0.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("tiny-1.0/setup.py")
        info.size = len(setup)
        tar.addfile(info, io.BytesIO(setup))
    with pytest.raises(WayFailed, match="No matching distribution found for tiny==1.0$"):
        Pypi(tmp_path)(wheel_file(), tmp_path / "target")
    assert not (tmp_path / "ran").exists()


@needs_pip
def test_an_index_that_cannot_be_reached_is_told_from_one_without_the_package(
    index: Path, mute: MutePort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", mute.url)
    pypi = Pypi(tmp_path)
    for _ in range(2):
        with pytest.raises(WayFailed, match=r"^pip download tiny==1\.0: the package index cannot be reached$"):
            pypi(wheel_file(), tmp_path / "target")
    assert mute.connections == 2  # pip's one retry; the second file asks nobody


@needs_pip
def test_a_wheel_that_is_none_is_answered_in_pips_words(index: Path, tmp_path: Path) -> None:
    path = write_wheel(index, "tiny", {"tiny/data/a.bin": CONTENT})
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(WayFailed, match=r"^pip download tiny==1\.0: .*tiny-1\.0-py3-none-any\.whl is invalid\.$"):
        Pypi(tmp_path)(wheel_file(), tmp_path / "target")


def test_a_python_without_pip_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(WayFailed, match=r"^pip is not installed for .*/bare/bin/python$"):
        Pypi(tmp_path)(wheel_file(), tmp_path / "target")


def test_no_wheel_is_known_for_a_file_without_one(tmp_path: Path) -> None:
    with pytest.raises(WayFailed, match=r"^no package is known$"):
        Pypi(tmp_path)(raw_file(), tmp_path / "target")


def zip_of(path: Path, name: str, content: bytes, mode: int = 0, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr, info.compress_type = mode << 16, compression
    with zipfile.ZipFile(path, "w") as packed_:
        packed_.writestr(info, content)
    return path


def test_only_the_wanted_member_leaves_a_wheel_whatever_else_it_holds(tmp_path: Path) -> None:
    members = {"../../outside": b"x", "/tmp/absolute": b"x", "tiny/a.bin": CONTENT}
    wheel = write_wheel(tmp_path / "in", "tiny", members)
    (tmp_path / "in" / "side").mkdir()
    extract_wheel_member(wheel, "tiny/a.bin", tmp_path / "in" / "side" / "a", len(CONTENT))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "in/side/a",
        "in/tiny-1.0-py3-none-any.whl",
    ]
    assert (tmp_path / "in" / "side" / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFIFO], ids=["link", "folder", "pipe"])
def test_what_is_no_plain_file_never_leaves_a_wheel(tmp_path: Path, kind: int) -> None:
    zip_of(tmp_path / "p.whl", "tiny/a.bin", b"/etc/hostname", kind | 0o644)
    with pytest.raises(WayFailed, match=r"^p\.whl: tiny/a\.bin is not a regular file$"):
        extract_wheel_member(tmp_path / "p.whl", "tiny/a.bin", tmp_path / "target", 5000)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("mode", [0, stat.S_IFREG | 0o644, 0o600], ids=["none", "file", "rights alone"])
def test_plain_files_of_all_makers_of_zip_files_are_taken(tmp_path: Path, mode: int) -> None:
    zip_of(tmp_path / "p.whl", "tiny/a.bin", CONTENT, mode)
    extract_wheel_member(tmp_path / "p.whl", "tiny/a.bin", tmp_path / "target", len(CONTENT))
    assert (tmp_path / "target").read_bytes() == CONTENT


@pytest.mark.parametrize("member", ["tiny/absent", "tiny/", "../a.bin", "/tiny/a.bin", "a.bin"])
def test_a_member_that_a_wheel_does_not_have_is_answered(tmp_path: Path, member: str) -> None:
    zip_of(tmp_path / "p.whl", "tiny/a.bin", CONTENT)
    with pytest.raises(WayFailed, match=f"^p\\.whl: no member {member}$"):
        extract_wheel_member(tmp_path / "p.whl", member, tmp_path / "target", 5000)


@pytest.mark.parametrize("name", ["tiny/a.bin", "tiny/a.bin.gz"])
def test_a_member_that_says_that_it_is_too_large_is_not_unpacked(tmp_path: Path, name: str) -> None:
    zip_of(tmp_path / "p.whl", name, bytes(3_000_000))
    with pytest.raises(WayFailed, match=f"^p\\.whl:{name}: longer than the expected 5000 bytes$"):
        extract_wheel_member(tmp_path / "p.whl", name, tmp_path / "target", 5000)
    assert not (tmp_path / "target").exists()


def test_a_bomb_in_a_wheel_is_cut_off_whatever_it_says_of_its_size(tmp_path: Path) -> None:
    size = 40_000_000
    path = zip_of(tmp_path / "p.whl", "tiny/a.bin", bytes(size))
    told = path.read_bytes().replace(size.to_bytes(4, "little"), (5000).to_bytes(4, "little"))
    path.write_bytes(told)
    with zipfile.ZipFile(path) as packed_:
        assert packed_.getinfo("tiny/a.bin").file_size == 5000
    with pytest.raises(WayFailed, match=r"p\.whl.*(damaged|longer)"):
        extract_wheel_member(path, "tiny/a.bin", tmp_path / "target", 5000)
    assert (tmp_path / "target").stat().st_size <= 5000


def test_a_compressed_bomb_in_a_wheel_is_cut_off(tmp_path: Path) -> None:
    zip_of(tmp_path / "p.whl", "tiny/a.gz", gzip.compress(bytes(5_000_000)))
    with pytest.raises(WayFailed, match=r"^p\.whl:tiny/a\.gz: longer than the expected 5000 bytes$"):
        extract_wheel_member(tmp_path / "p.whl", "tiny/a.gz", tmp_path / "target", 5000)
    assert (tmp_path / "target").stat().st_size <= 5000


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2], ids=["lzma", "bzip2"])
def test_another_compression_than_wheels_is_not_unpacked(tmp_path: Path, compression: int) -> None:
    """zipfile unpacks these without a limit."""
    zip_of(tmp_path / "p.whl", "tiny/a.bin", CONTENT, compression=compression)
    with pytest.raises(WayFailed, match=r"^p\.whl: tiny/a\.bin is compressed in another way than wheels are$"):
        extract_wheel_member(tmp_path / "p.whl", "tiny/a.bin", tmp_path / "target", 5000)


def test_an_encrypted_member_of_a_wheel_is_answered(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "p.whl", "tiny/a.bin", CONTENT)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(WayFailed, match=r"^p\.whl: damaged \(.*encrypted"):
        extract_wheel_member(path, "tiny/a.bin", tmp_path / "target", 5000)


@pytest.mark.parametrize("data", [b"", b"no archive", b"PK\x05\x06" + b"\xff" * 18], ids=["empty", "text", "no entry"])
def test_what_is_no_wheel_is_answered(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.whl").write_bytes(data)
    with pytest.raises(WayFailed, match=r"^p\.whl: damaged"):
        extract_wheel_member(tmp_path / "p.whl", "tiny/a.bin", tmp_path / "target", 5000)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_a_wheel_damaged_anywhere_is_answered_or_gives_the_whole_member(
    tmp_path: Path, at: float, bit: int, cut: bool
) -> None:
    # Little content: most of the file is what zipfile must make sense of.
    path = zip_of(tmp_path / "p.whl", "tiny/a.bin", CONTENT[:60])
    data = bytearray(path.read_bytes())
    where = int(at * len(data))
    if cut:
        del data[where:]
    else:
        data[where] ^= 1 << bit
    path.write_bytes(data)
    answer = ""
    try:
        extract_wheel_member(path, "tiny/a.bin", tmp_path / "target", 60)
    except WayFailed as error:
        answer = str(error)
    assert "p.whl" in answer or (tmp_path / "target").read_bytes() == CONTENT[:60]
