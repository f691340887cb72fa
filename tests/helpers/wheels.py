"""Wheels of the tests' own, and an index for pip that has only those."""

from __future__ import annotations

import os
import sys
import zipfile
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

# Not by importlib.util: its look for pip would set setuptools aside in this process, and torch.compile needs that.
needs_pip = pytest.mark.skipif(PathFinder.find_spec("pip") is None, reason=f"pip is not installed for {sys.executable}")


def write_wheel(folder: Path, package: str, members: dict[str, bytes]) -> Path:
    """A wheel of version 1.0 with some files besides what a wheel must have."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{package}-1.0.dist-info"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": "",
    }
    path = folder / f"{package}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
        for name, text in texts.items():
            wheel.writestr(name, text)
    return path


def index_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """From now on pip knows the files of this folder and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder
