"""Where a figure was made: commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
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


def hardware() -> str:
    """Processor and cores of this machine, and its GPU if PyTorch sees one."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {model}, {gpu}"
