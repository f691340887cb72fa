"""The benchmarks run: what they report is of the run that they made."""

from __future__ import annotations

import json
import sys

from tests.helpers.project import REPOSITORY, succeed


def test_one_run_of_the_sharding_benchmark_reports_speed_and_the_memory_of_stage_and_writers() -> None:
    output = succeed(REPOSITORY, sys.executable, "benchmarks/sharding.py", "--once", "computed", "4000", "2", ".")
    run = json.loads(output.splitlines()[-1])
    assert (run["data"], run["examples"], run["writers"]) == ("computed", 4040, 2)
    assert run["examples_per_s"] > 100
    # Neither the stage nor a writer loads PyTorch, which alone takes more than 200 MiB.
    assert 0 < run["writer_memory_mib"] < run["memory_mib"] < 200
