"""What a worker keeps from one trial to the next."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from tests.helpers.project import REPOSITORY

# A thread that frees all it took but the last block, below which glibc keeps the rest. Prints what is held after one as
# it is, and after one that gives its memory back, in MiB above the beginning.
CODE = """
import threading
from pathlib import Path
from pipeline.training.local_session import giving_memory_back

def held():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

kept = []
def trial():
    blocks = [bytearray(100_000) for _ in range(3000)]
    kept.append(blocks[-1])

before = held()
for work in (trial, giving_memory_back()(trial)):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(held() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone keeps freed memory"
)
def test_what_a_trials_thread_has_freed_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    as_it_is, given_back = map(float, done.stdout.split())
    assert as_it_is > 200
    assert given_back < 50
