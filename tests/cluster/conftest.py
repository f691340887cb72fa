"""One lab for all tests of clusters, and a record of what they measured."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import add
from tests.cluster.lab import ADDRESSES, Lab, missing
from tests.cluster.launched import Laptop

# Enough epochs for a fault in the middle, about a second each on two busy cores.
TRAIN: dict[str, Any] = {"epochs": 25, "num_workers": 2, "max_failures": 3}


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Laptop, head and three workers."""
    if why := missing():
        pytest.skip(why)
    # Not pytest's folder: the paths of Ray's sockets below it would be too long.
    folder = Path(tempfile.mkdtemp(prefix="ie-lab-"))
    made = Lab(folder / "l")
    try:
        made.set_up(tuple(ADDRESSES))
        yield made
    finally:
        made.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def laptop(lab: Lab) -> Laptop:
    """A project on the laptop; nothing launched yet."""
    return Laptop(lab, train=TRAIN, sweep={"methods": ["supervised", "plain"], "epochs": 8})


@pytest.fixture(autouse=True)
def _mended(lab: Lab) -> Iterator[None]:
    """Whatever a test did to hosts: afterwards all are on, plugged in and see their storage."""
    yield
    for name in ADDRESSES:
        if name not in lab.running:
            lab.boot(name)
        lab.plug(name)
    lab.storage(there=True)


@pytest.fixture(scope="session")
def record() -> Iterator[dict[str, Any]]:
    """What tests measured, by fault; added as a run to benchmarks/results/faults.json where IE_FAULTS is set."""
    measured: dict[str, Any] = {}
    yield measured
    if os.environ.get("IE_FAULTS"):
        add(measured, round(os.getloadavg()[2], 1))
