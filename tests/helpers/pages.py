"""The pages that users read, as something that can be run: their commands, their Python and their diffs."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.helpers.project import REPOSITORY, environment

# A new machine runs these; .ci/run does so in a fresh clone. Here the environment is there already.
SETUP = ("make env", "source .venv/bin/activate")


def text(page: str) -> str:
    """A page by its path in the repository."""
    return (REPOSITORY / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page in a language, as they stand."""
    return re.findall(rf"^```{language}\n(.*?)^```", text(page), flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    """The lines of the page's `sh` blocks, without comments and without SETUP."""
    lines = [re.sub(r"\s+# .*$", "", line) for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#") and line not in SETUP]


class Shell:
    """A shell in a project's folder, with an `ie` that runs the code which lies there."""

    def __init__(self, project: Path, tools: Path) -> None:
        self.project = project
        tools.mkdir(parents=True, exist_ok=True)
        ie = tools / "ie"
        ie.write_text('#!/bin/sh\nexec python -m pipeline "$@"\n')
        ie.chmod(0o755)
        self._variables = environment()
        self._variables["PATH"] = f"{tools}:{self._variables['PATH']}"
        # The project's own modules, wherever the package is installed from.
        self._variables["PYTHONPATH"] = str(project)

    def run(self, command: str, **variables: str) -> str:
        """A command as typed, which must succeed; returns what it printed."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.project,
            env=self._variables | variables,
            capture_output=True,
            text=True,
            timeout=1500,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_all(self, typed: Iterable[str]) -> dict[str, str]:
        """Commands in order, with what each printed."""
        return {command: self.run(command) for command in typed}

    def python(self, *code: str) -> str:
        """Blocks of Python one after the other in one interpreter, in the project's folder."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", "\n".join(code)],
            cwd=self.project,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def apply_diff(project: Path, block: str) -> None:
    """A `diff` block of a page: `--- path`, then changes, parted by `@@`.

    Each change's lines that start with a blank or `-` must occur once in the file, in a row; those with `+` come in.
    """
    path: Path | None = None
    for part in re.split(r"^(?=--- )|^@@\n", block, flags=re.MULTILINE):
        lines = part.splitlines()
        if lines and lines[0].startswith("--- "):
            path = project / lines.pop(0).removeprefix("--- ")
        if not lines:
            continue
        assert path is not None
        before = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-"))
        after = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+"))
        content = path.read_text()
        assert content.count(before) == 1, f"{path}: {content.count(before)} times\n{before}"
        path.write_text(content.replace(before, after))


def write_files(project: Path, code: Iterable[str]) -> None:
    """Blocks of Python whose first line is `# path/of/a/file.py` become these files."""
    for block in code:
        place, _, rest = block.partition("\n")
        if re.fullmatch(r"# [\w/]+\.py", place):
            (project / place.removeprefix("# ")).write_text(rest)


def copied(finished: Path, folder: Path) -> Path:
    """A project of one's own that starts where `finished` has come to."""
    shutil.copytree(finished, folder, symlinks=True)
    return folder
