"""Debian packages of the tests' own, and an apt-get that has only those."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

needs_dpkg_deb = pytest.mark.skipif(
    shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed; it makes the packages of these tests"
)

# What apt-get does with these tests' arguments: the last one names the package, which comes into the working folder.
_APT_GET = """#!/bin/sh
for package; do :; done
echo "$package" >> '{folder}/asked'
test -f '{folder}/says' && cat '{folder}/says' >&2 && exit 100
test -f "{folder}/$package.deb" && cp "{folder}/$package.deb" "${{package}}_1.0_all.deb" && exit 0
echo "W: Download is performed unsandboxed" >&2
echo "E: Unable to locate package $package" >&2
exit 100
"""


class Archive:
    """Packages that the tests' apt-get can bring."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        (self.bin / "apt-get").write_text(_APT_GET.format(folder=folder))
        (self.bin / "apt-get").chmod(0o755)

    def add(self, package: str, fill: Callable[[Path], None]) -> Path:
        """A package whose files `fill` writes, below a folder that stands for the root; returns its file."""
        tree = self.folder / "trees" / package
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "DEBIAN" / "control").write_text(
            f"Package: {package}\nVersion: 1.0\nArchitecture: all\nMaintainer: Nobody <nobody@example.invalid>\n"
            "Description: for a test\n"
        )
        fill(tree)
        built = self.folder / f"{package}.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zxz", "--build", str(tree), str(built)]
        subprocess.run(command, check=True, capture_output=True)
        return built

    @property
    def asked(self) -> list[str]:
        """The packages that apt-get was asked for."""
        asked = self.folder / "asked"
        return asked.read_text().split() if asked.exists() else []

    def fails_with(self, stderr: str) -> None:
        """From now on apt-get says this and fails."""
        (self.folder / "says").write_text(stderr)


def archive_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive whose apt-get is the first in PATH."""
    archive = Archive(folder)
    monkeypatch.setenv("PATH", f"{archive.bin}{os.pathsep}{os.environ['PATH']}")
    return archive
