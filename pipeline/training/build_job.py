"""From params to the Job of one training run: what `train` runs once and `sweep` runs per trial."""

from __future__ import annotations

from pathlib import Path

import torch

from ie_model.config import ModelConfig
from ie_model.objective import is_balanced
from ie_model.spec import DataSpec
from pipeline.config.methods import Method, apply_method, name_of
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.loading.in_memory import memory_bytes
from pipeline.data.shards.manifest import Manifest, read_manifest
from pipeline.data.shards.reading import Reading
from pipeline.errors import ParamsError
from pipeline.training import schedule
from pipeline.training.job import Job
from pipeline.training.label_subset import resolve_count
from pipeline.utils.files import sha256_file
from pipeline.utils.fingerprint import fingerprint


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
        method: one of `pipeline.config.methods.METHODS`; None keeps params.model and params.objective as they are.
        seed: of the label subset and of the run; None takes labels.seed and train.seed.
        steps: trains this many steps and no more.
        in_sweep: takes the epochs and steps of `sweep` instead of `train`.
        shards: folder of the shards, where it is not the project's.
    """
    model, objective = params.model, params.objective
    asked = params.sweep if in_sweep else params.train
    if method is not None:
        model, objective = apply_method(method, model, objective)
    if steps is None and in_sweep and objective.loss == "cross_entropy":
        steps = params.sweep.supervised_steps
    shards = shards or shards_folder(params, project)
    manifest = read_manifest(shards)
    num_points = manifest.splits["train"].samples
    length = schedule.run_length(params.train, asked.epochs, asked.min_steps, num_points)
    epochs, steps_per_epoch = (length.epochs, length.steps_per_epoch) if steps is None else (1, steps)
    class_sizes = list(manifest.splits["train"].class_counts.values())
    if objective.extended.align == "auto":
        # By all known labels: those that a run keeps are as many of each class.
        extended = objective.extended.model_copy(update={"align": is_balanced(class_sizes)})
        objective = objective.model_copy(update={"extended": extended})
    reading = choose_reading(params.reader, project, manifest)
    count = params.labels.count if label_count is None else label_count
    fields = {
        "method": name_of(model, objective) if method is None else method,
        "reading": reading.model_dump(mode="json"),
        "model": model.model_dump(mode="json"),
        "objective": objective.model_dump(mode="json"),
        "label_count": resolve_count(count, class_sizes),
        "label_seed": params.labels.seed if seed is None else seed,
        "epochs": epochs,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": length.batch_size,
        "learning_rate": params.train.learning_rate,
        "warmup": params.train.warmup,
        "seed": params.train.seed if seed is None else seed,
        "device": params.train.device,
        "precision": choose_precision(params.train.precision, params.train.device, manifest.spec, model),
        "compile": params.train.compile,
        "threads": params.sweep.threads_per_trial if in_sweep else params.train.threads_per_worker,
        "evaluation_batch_size": params.evaluate.batch_size,
    }
    # Where there is no fault, the numbers depend on the way of reading and, in a stream, on the slices alone.
    matters = {"mode", "faults"} | ({"slice_kb"} if reading.mode == "stream" else set())
    identity = fields | {
        "reading": reading.model_dump(mode="json", include=matters),
        "manifest": sha256_file(shards / "manifest.json"),
        "world_size": params.train.num_workers if world_size is None else world_size,
    }
    rest = {"fingerprint": fingerprint(identity), "shards": str(shards)}
    return Job.model_validate(fields | rest | {"checkpoint_every_s": params.train.checkpoint_every_s})


def choose_reading(reader: Reading, project: Path, manifest: Manifest) -> Reading:
    """What reader.mode `auto` stands for with this data, and where the cache is."""
    fits = memory_bytes(manifest, ("train", "val")) <= reader.memory_mb * 1_000_000
    mode = reader.mode if reader.mode != "auto" else "memory" if fits else "stream"
    return reader.model_copy(update={"mode": mode, "cache": str((project / reader.cache).resolve())})


def choose_precision(precision: str, device: str, spec: DataSpec, model: ModelConfig) -> str:
    """What `auto` stands for on this machine and with this data; the run's fingerprint and provenance hold the answer.

    Raises:
        ParamsError: bfloat16 is asked for where a CPU's gradients of it are not finite.
    """
    # A convolution that sees a single pixel or time has bfloat16 gradients of NaN on CPUs. Twice the least that works.
    least = 2 ** (len(model.channels) + 1)
    small = len(spec.shape) > 1 and min(spec.shape[1:]) < least
    if precision == "bfloat16" and device == "cpu" and small:
        what = "times" if spec.kind == "series" else "pixels to a side"
        raise ParamsError(
            f"train.precision is bfloat16, and the data have {min(spec.shape[1:])} {what}: on a CPU its gradients may "
            f"not be finite with fewer than {least}; allowed: auto or float32"
        )
    if precision != "auto":
        return precision
    if device == "cuda":
        # The driver's host may have no GPU: those that the workers have are taken for recent ones then.
        fast = not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        capabilities = torch.cpu.get_capabilities()
        fast = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        # Series differ in length, and the time that it saves on them and on vectors is little.
        fast = fast and not small and spec.kind not in ("series", "vector")
    return "bfloat16" if fast else "float32"
