"""All stages but the sweep in this process, without Ray, on params that make each as small as it can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config.params import Params, parse_params
from pipeline.stages.evaluate import evaluate
from pipeline.stages.fetch import fetch
from pipeline.stages.report import report
from pipeline.stages.shard import shard
from pipeline.stages.train import _publish
from pipeline.training.build_job import make_job
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from tests.helpers.project import small_params

TINY: dict[str, dict[str, Any]] = {
    "data": {"num_shards": 1, "val_size": 0.2},
    "model": {"r_dim": 4, "v_dim": 3, "channels": [4, 8], "hidden": 16, "decoder_hidden": [16]},
    "train": {"epochs": 1, "batch_size": 16, "warmup": 0.0, "num_workers": 1, "min_steps": 0, "precision": "float32"},
    "evaluate": {"oracle_steps": 3, "bound_samples": 1, "iw_samples": 2, "probe_seeds": [0]},
}


def tiny_params(**sections: dict[str, Any]) -> Params:
    """`small_params` with TINY and then `sections` over them."""
    raw = small_params(**TINY)
    for section, values in sections.items():
        raw[section] |= values
    return parse_params(raw)


def run_stages(params: Params, project: Path, lines: list[str]) -> Path:
    """fetch, shard, train, evaluate and report; returns results/."""
    log = lines.append
    fetch(params, project, log)
    shard(params, project, log)
    train_here(params, project)
    evaluate(params, project, log)
    report(params, project, log, with_sweep=False)
    return project / "results"


def train_here(params: Params, project: Path) -> None:
    """results/train by one rank in this process."""
    job = make_job(params, project, world_size=1)
    checkpoint = project / "checkpoint"
    Trainer(job, TrialSession(checkpoint, job)).run()
    _publish(checkpoint, project / "results" / "train", params, job)
