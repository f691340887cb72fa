"""Where and when a figure was made: commit, hardware and time."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path


def commit(project: Path) -> str:
    """The commit that is checked out, `-dirty` when tracked files differ from it; empty outside a git repository.

    What the pipeline writes itself, results/ and dvc.lock, does not count: its first stages would make the last ones
    dirty.
    """
    found = _git(project, "rev-parse", "--short=12", "--verify", "--quiet", "HEAD")
    written = [f":(top,exclude){name}" for name in ("results", "dvc.lock")]
    changed = found and _git(project, "status", "--porcelain", "--untracked-files=no", "--", ":/", *written)
    return f"{found}-dirty" if changed else found


def _git(folder: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def now() -> str:
    """The time to the minute, UTC, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
