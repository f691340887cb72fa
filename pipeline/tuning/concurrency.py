"""How many trials run at once, and how Tune ends when it is interrupted."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Literal

# Trials on one GPU where sweep.max_concurrent leaves it open.
_AUTO_PER_GPU = 4


def end_when_interrupted() -> None:
    """Lets Ctrl-C end the stage. Tune would catch it and return as if all were done, with trials that never ran."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"


@dataclass(frozen=True)
class Packing:
    """How trials share the machine."""

    concurrent: int
    per_trial: dict[str, float]
    """What each reserves in Ray."""


def pack(resources: dict[str, float], *, threads: int, device: str, max_concurrent: int | Literal["auto"]) -> Packing:
    """As many trials side by side as fit, so that their threads are no more than the CPUs.

    A trial's threads are not changed to fill the machine: they are part of what its numbers depend on.

    Args:
        resources: `CPU` and `GPU` of the machine or cluster, enough for one trial.
    """
    slots = int(resources.get("CPU", 0) // threads)
    per_trial = {"CPU": float(threads)}
    if device != "cuda":
        return Packing(slots if max_concurrent == "auto" else min(max_concurrent, slots), per_trial)
    gpus = int(resources["GPU"])
    concurrent = min(_AUTO_PER_GPU * gpus if max_concurrent == "auto" else max_concurrent, slots)
    on_one = math.ceil(concurrent / gpus)
    # A trial's part is on one GPU, and Ray counts in ten-thousandths: rounded down, so that all of them fit.
    return Packing(concurrent, per_trial | {"GPU": math.floor(10_000 / on_one) / 10_000})
