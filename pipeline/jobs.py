"""From params to the Job of one training run: what `train` runs once and `sweep` runs per trial."""

from __future__ import annotations

from pathlib import Path

import torch

from pipeline.files import sha256_file
from pipeline.fingerprint import fingerprint
from pipeline.loop import Job
from pipeline.methods import Method, apply_method, name_of
from pipeline.params import Params, ReaderParams
from pipeline.reader import memory_bytes
from pipeline.shards import Manifest, read_manifest
from pipeline.training_data import Reading


def shards_folder(params: Params, project: Path) -> Path:
    """Where `shard` writes and everything else reads."""
    return (project / "data" / "shards" / params.data.source).resolve()


def make_job(
    params: Params,
    project: Path,
    *,
    method: Method | None = None,
    label_count: int | float | str | None = None,
    seed: int | None = None,
    world_size: int | None = None,
    in_sweep: bool = False,
    steps: int | None = None,
    shards: Path | None = None,
) -> Job:
    """The run that params describe, or the trial of a sweep that differs from it in method, labels and seed.

    Args:
        method: one of `pipeline.methods.METHODS`; None keeps params.model and params.objective as they are.
        seed: of the label subset and of the run; None takes labels.seed and train.seed.
        steps: trains this many steps and no more.
        in_sweep: takes the epochs and steps of `sweep` instead of `train`.
        shards: folder of the shards, where it is not the project's.
    """
    model, objective = params.model, params.objective
    steps_per_epoch, epochs = None, params.sweep.epochs if in_sweep else params.train.epochs
    if method is not None:
        model, objective = apply_method(method, model, objective)
    if steps is None and in_sweep and objective.loss == "cross_entropy":
        steps = params.sweep.supervised_steps
    if steps is not None:
        steps_per_epoch, epochs = steps, 1
    shards = shards or shards_folder(params, project)
    reading = choose_reading(params.reader, project, read_manifest(shards))
    fields = {
        "method": name_of(model, objective) if method is None else method,
        "reading": reading.model_dump(mode="json"),
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
        "precision": choose_precision(params.train.precision, params.train.device),
        "compile": params.train.compile,
        "threads": params.train.threads_per_worker,
        "evaluation_batch_size": params.evaluate.batch_size,
    }
    # Where there is no fault, the numbers depend on the way of reading and, in a stream, on the slices alone.
    matters = {"mode", "faults"} | ({"slice_kb"} if reading.mode == "stream" else set())
    identity = fields | {
        "reading": reading.model_dump(mode="json", include=matters),
        "manifest": sha256_file(shards / "manifest.json"),
        "world_size": params.train.num_workers if world_size is None else world_size,
    }
    return Job.model_validate(fields | {"fingerprint": fingerprint(identity), "shards": str(shards)})


def choose_reading(reader: ReaderParams, project: Path, manifest: Manifest) -> Reading:
    """What reader.mode `auto` stands for with this data, and where the cache is."""
    fits = memory_bytes(manifest, ("train", "val")) <= reader.memory_mb * 1_000_000
    mode = reader.mode if reader.mode != "auto" else "memory" if fits else "stream"
    return Reading(**reader.model_dump() | {"mode": mode, "cache": str((project / reader.cache).resolve())})


def choose_precision(precision: str, device: str) -> str:
    """What `auto` stands for on this machine; the run's fingerprint and provenance hold the answer."""
    if precision != "auto":
        return precision
    if device == "cuda":
        # The driver's host may have no GPU: those that the workers have are taken for recent ones then.
        fast = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return "bfloat16" if fast else "float32"
