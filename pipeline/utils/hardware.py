"""Which processor and GPU a figure was made on."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def hardware() -> str:
    """Processor and cores of this machine, the widest vectors that PyTorch uses on it, and its GPU if it sees one."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    # Processors of one name differ: with bfloat16 a step takes half of the time.
    vectors = torch.backends.cpu.get_cpu_capability()
    if torch.cpu.get_capabilities().get("avx512_bf16"):
        vectors += " and bfloat16"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} cores, {model} with {vectors}, {gpu}"
