"""From params to the Job of one training run: what `train` runs once and `sweep` runs per trial."""

from __future__ import annotations

from pathlib import Path

from ie_model.config import ExtendedConfig
from pipeline.files import sha256_file
from pipeline.fingerprint import fingerprint
from pipeline.loop import Job
from pipeline.params import Params


def shards_folder(params: Params, project: Path) -> Path:
    """Where `shard` writes and everything else reads."""
    return (project / "data" / "shards" / params.data.source).resolve()


def make_job(
    params: Params,
    project: Path,
    *,
    method: str | None = None,
    label_count: int | float | str | None = None,
    seed: int | None = None,
    world_size: int | None = None,
    in_sweep: bool = False,
) -> Job:
    """The run that params describe, or the trial of a sweep that differs from it in method, labels and seed.

    Args:
        method: None keeps params.objective as it is.
        seed: of the label subset and of the run; None takes labels.seed and train.seed.
        in_sweep: takes the epochs and steps of `sweep` instead of `train`.
    """
    model, objective = params.model, params.objective
    steps_per_epoch, epochs = None, params.sweep.epochs if in_sweep else params.train.epochs
    if method == "supervised":
        # Cross-entropy alone, on a dense layer: the baseline must not owe anything to the method.
        model = model.model_copy(update={"classifier": "network"})
        objective = objective.model_copy(update={"method": "supervised", "extended": _off(objective.extended)})
        steps_per_epoch, epochs = params.sweep.supervised_steps, 1
    elif method == "plain":
        objective = objective.model_copy(update={"method": "equivae", "extended": _off(objective.extended)})
    elif method == "extended":
        on = objective.extended.model_copy(update={"enabled": True})
        objective = objective.model_copy(update={"method": "equivae", "extended": on})
    shards = shards_folder(params, project)
    fields = {
        "method": method or method_of(params),
        "model": model.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "label_count": params.labels.count if label_count is None else label_count,
        "label_seed": params.labels.seed if seed is None else seed,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": params.train.batch_size,
        "learning_rate": params.train.learning_rate,
        "warmup_steps": params.train.warmup_steps,
        "seed": params.train.seed if seed is None else seed,
        "device": params.train.device,
        "threads": params.train.threads_per_worker,
        "evaluation_batch_size": params.evaluate.batch_size,
    }
    identity = fields | {
        "manifest": sha256_file(shards / "manifest.json"),
        "world_size": params.train.num_workers if world_size is None else world_size,
    }
    return Job.model_validate(fields | {"fingerprint": fingerprint(identity), "shards": str(shards)})


def method_of(params: Params) -> str:
    """The name under which tables list a run with these params."""
    if params.objective.method == "supervised":
        return "supervised"
    return "extended" if params.objective.extended.enabled else "plain"


def _off(extended: ExtendedConfig) -> ExtendedConfig:
    return extended.model_copy(update={"enabled": False})
