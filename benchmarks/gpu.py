"""The main run on a GPU, in this process and without Ray: `python benchmarks/gpu.py`, minutes on one card.

params.yaml's run of MNIST (100 labels, the extended objective) on `cuda` by one rank: in bfloat16, which `auto` comes
to there, in float32, and with its networks compiled. Writes benchmarks/results/gpu.json: test error, steps a second
with validation counted in, and seconds before the first step.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.common import Unsaved, make_params  # noqa: E402
from benchmarks.publish import write  # noqa: E402
from pipeline.training.build_job import make_job  # noqa: E402
from pipeline.training.trainer import Trainer  # noqa: E402
from pipeline.tuning.trials import score  # noqa: E402
from pipeline.utils.hardware import hardware  # noqa: E402
from pipeline.utils.provenance import commit  # noqa: E402

RUNS: dict[str, dict[str, Any]] = {
    "bfloat16": {"precision": "bfloat16"},
    "float32": {"precision": "float32"},
    "bfloat16-compiled": {"precision": "bfloat16", "compile": True},
}


def measure(name: str, train: dict[str, Any]) -> list[dict[str, Any]]:
    """One run to its end: its rows."""
    params = make_params(train={"device": "cuda", "num_workers": 1} | train)
    began = time.monotonic()
    job = make_job(params, REPOSITORY, world_size=1)
    trainer = Trainer(job, Unsaved(REPOSITORY / ".runs" / "unused", job))
    first = trainer.session.device
    loaded = time.monotonic() - began
    trainer.run()
    torch.cuda.synchronize(first)
    error = score(job, trainer.artifact(), None, None)["test_error_classifier_pct"]
    seconds = trainer.state.seconds
    return [
        {"name": f"{name}-test-error", "value": round(error, 2), "unit": "%", "n": 1},
        {"name": f"{name}-steps", "value": round(trainer.state.step / seconds, 1), "unit": "steps/s", "n": 1},
        {"name": f"{name}-training", "value": round(seconds, 1), "unit": "s", "n": 1},
        {"name": f"{name}-before-training", "value": round(loaded, 1), "unit": "s", "n": 1},
        {"name": f"{name}-memory", "value": torch.cuda.max_memory_allocated() // 2**20, "unit": "MiB", "n": 1},
    ]


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name, train in RUNS.items():
        torch.cuda.reset_peak_memory_stats()
        rows += measure(name, train)
        print(json.dumps(rows[-5:]), flush=True)
        where = {"commit": commit(REPOSITORY), "hardware": hardware(), "torch": torch.__version__}
        record = {"command": "python benchmarks/gpu.py"} | where | {"rows": rows}
        write("gpu", record)


if __name__ == "__main__":
    main()
