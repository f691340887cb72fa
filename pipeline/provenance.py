"""Where a figure was made: commit and hardware."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def commit(project: Path) -> str:
    """The commit that is checked out, `-dirty` when tracked files differ from it; empty outside a git repository."""
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=12", "--dirty", "--exclude=*"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


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
