"""A rank as Ray Train makes it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from pipeline.cluster.connection import ray_cluster
from pipeline.cluster.ray_session import RaySession
from pipeline.storage.run_storage import open_storage
from tests.helpers.project import REPOSITORY, run


def rank_of_a_run(config: dict[str, Any]) -> dict[str, Any]:
    """What rank 0 finds: a sum over the ranks."""
    session = RaySession(None, open_storage(config["storage"]), "run", 60.0, None)
    total = session.ranks.sum(torch.tensor([session.rank + 1.0]))
    return {"world_size": session.world_size, "sum": total.item()}


def fit(storage: str, workers: int) -> None:
    """Prints what rank 0 of a run on this machine returns; in a process of its own, which Ray changes."""
    with ray_cluster(lambda line: None):
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        result: Any = TorchTrainer(
            cast(Any, rank_of_a_run),
            train_loop_config={"storage": storage},
            scaling_config=ScalingConfig(num_workers=workers),
            run_config=RunConfig(name="run", storage_path=storage),
        ).fit()
    print(json.dumps(result.return_value))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_sum_over_all_of_them(tmp_path: Path, workers: int) -> None:
    code = f"from tests.pipeline.cluster.test_ray_session import fit; fit({str(tmp_path)!r}, {workers})"
    done = run(REPOSITORY, sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    sum_of_ranks = workers * (workers + 1) / 2
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"world_size": workers, "sum": sum_of_ranks}
