"""Which processor and GPU a figure was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


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
