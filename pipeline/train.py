"""Stage `train`: one Ray Train run, from shards to a model artifact."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ie_model.networks import count_parameters
from pipeline.cluster import check_resources, ray_cluster
from pipeline.errors import PipelineError, ResourceError, TrainingError, from_os_error
from pipeline.figures import training_curves
from pipeline.files import atomic_file, atomic_folder, read_json, write_json
from pipeline.jobs import make_job, shards_folder
from pipeline.labels import labels_per_class
from pipeline.loop import Job, Trainer
from pipeline.params import Params
from pipeline.progress import Log, Meter, listening, time_left
from pipeline.ranks import connect_ranks
from pipeline.shards import Manifest, read_manifest
from pipeline.training_data import TRAINING_SPLITS, check_shards


def train(params: Params, project: Path, log: Log) -> Path:
    """Trains the model that params describe and writes results/train.

    Resumes from the last checkpoint of an interrupted run with the same fingerprint.

    Raises:
        ParamsError: the labels asked for are not there.
        DataError: shards are missing or damaged.
        ResourceError: workers, devices or disk are not there.
        TrainingError: the run failed.
    """
    job, manifest = prepare(params, project, log)
    storage = (project / params.storage.url).resolve()
    # Set before Ray starts, so that workers inherit it: a rank that waits in vain for another then says so.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(params.train.timeout_s)
    with ray_cluster() as resources:
        check_resources(
            resources,
            workers=params.train.num_workers,
            threads=params.train.threads_per_worker,
            device=params.train.device,
        )
        log(
            f"train: {job.method}, {job.label_count} labels of {manifest.splits['train'].samples} examples, "
            f"{params.train.num_workers} worker(s) on {params.train.device}, run {job.fingerprint}"
        )
        out = project / "results" / "train"
        with _fit(job, params, storage, log) as finished:
            _publish(finished, out, job)
    # Only now: until the artifact is in place, the run state is what a repeated `train` goes on from.
    shutil.rmtree(storage / _run_name(job), ignore_errors=True)
    metrics = read_json(out / "metrics.json", "training metrics")
    log(f"train: {_summary(metrics)}{time_left(metrics_seconds(out))} min; model in {out / 'model'}")
    return out


def prepare(params: Params, project: Path, log: Log) -> tuple[Job, Manifest]:
    """What is checked before any work starts: manifest, labels, every byte of the shards that will be read."""
    folder = shards_folder(params, project)
    manifest = read_manifest(folder)
    labels_per_class(params.labels.count, manifest.splits["train"].class_counts, params.labels.seed)
    job = make_job(params, project)
    check_shards(folder, manifest, TRAINING_SPLITS, job.reading)
    return job, manifest


def metrics_seconds(out: Path) -> float:
    """Seconds of training behind results/train, over all attempts."""
    return float(read_json(out / "timing.json", "training time")["seconds"])


def _run_name(job: Job) -> str:
    return f"train-{job.fingerprint}"


@contextlib.contextmanager
def _fit(job: Job, params: Params, storage: Path, log: Log) -> Iterator[Path]:
    """Runs to the end; yields the last checkpoint's folder."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.util.queue import Queue

    cuda = params.train.device == "cuda"
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        cast(Any, train_worker),  # declared without a return value, which Ray Train returns all the same
        train_loop_config={"job": job.model_dump_json(), "queue": queue},
        scaling_config=ScalingConfig(
            num_workers=params.train.num_workers,
            use_gpu=cuda,
            resources_per_worker={"CPU": params.train.threads_per_worker} | ({"GPU": 1} if cuda else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo", timeout_s=params.train.timeout_s),
        run_config=RunConfig(
            name=_run_name(job),
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=params.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=params.train.checkpoints_to_keep),
        ),
    )
    watcher = _Watcher(job, log)
    try:
        with listening(queue, watcher):
            result: Any = trainer.fit()  # the declared type is that of the older Ray Train
    except Exception as error:
        raise _user_side(error) from error
    finally:
        watcher.close()
    if failure := (result.return_value or {}).get("error"):
        raise TrainingError(failure)
    if result.checkpoint is None:
        raise TrainingError(f"run {job.fingerprint} ended without a checkpoint in {storage}")
    with result.checkpoint.as_directory() as folder:
        yield Path(folder)


# What is published of an epoch's row, and the unit that its name ends in.
_UNITS = {
    "val_error": "_pct",
    "val_bound": "_nats",
    "val_nll": "_nats",
    "val_prune_error": "_nats",
    "kl": "_nats",
    "prune_gap": "_nats",
    "classes_alive": "",
    "skipped": "",
}


def _summary(metrics: dict[str, float]) -> str:
    """Error and bound on val, as far as a method has them, for a line of the log."""
    error = f"val error {metrics['val_error_pct']:.2f} %, " if "val_error_pct" in metrics else ""
    bound = f"val bound {metrics['val_bound_nats']:.1f} nats, " if "val_bound_nats" in metrics else ""
    return error + bound


class _Watcher:
    """Shows what rank 0 reports."""

    def __init__(self, job: Job, log: Log) -> None:
        self._job, self._log = job, log
        self._meter: Meter | None = None

    def __call__(self, item: dict[str, Any]) -> None:
        if "epoch" in item:
            seen = _summary({f"{name}{unit}": item[name] for name, unit in _UNITS.items() if name in item})
            self._log(f"train: epoch {item['epoch']}/{self._job.epochs}, {seen}loss {item['loss']:.2f}")
            return
        if self._meter is None:
            self._meter = Meter("train", item["total_steps"], "steps")
        self._meter.update(item["step"], f"{item['points_per_s']:.0f} points/s")

    def close(self) -> None:
        if self._meter is not None:
            self._meter.close()


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs on each worker."""
    session = RaySession(config["queue"])
    job = Job.model_validate_json(config["job"])
    try:
        Trainer(job, session).run()
    except TrainingError as error:
        # Every rank sees the same sums and so the same error: returned, not raised, because no restart can mend it.
        return {"error": str(error)}
    return {}


class RaySession:
    """A rank of a Ray Train run; see `pipeline.loop.Session`."""

    def __init__(self, queue: Any) -> None:
        import ray.train
        import ray.train.torch

        self._train, self._queue = ray.train, queue
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.ranks = connect_ranks()

    def wrap(self, module: nn.Module) -> nn.Module:
        import ray.train.torch

        wrapped: nn.Module = ray.train.torch.prepare_model(
            # The buffers are the same on all ranks from the start.
            module,
            parallel_strategy_kwargs={"broadcast_buffers": False},
        )
        return wrapped

    def all_reduce(self, values: Tensor) -> Tensor:
        if self.world_size > 1:
            torch.distributed.all_reduce(values)
        return values

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        checkpoint = self._train.get_checkpoint()
        if checkpoint is None:
            yield None
            return
        with checkpoint.as_directory() as folder:
            yield Path(folder)

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        if self.rank != 0:
            self._train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder))
            self._train.report(metrics, checkpoint=self._train.Checkpoint.from_directory(folder))
        self._tell(metrics)

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        if self.rank == 0:
            self._tell({"step": step, "total_steps": total_steps, "points_per_s": points_per_s})

    def _tell(self, item: dict[str, Any]) -> None:
        # Whoever watches may be gone (a laptop closed, a driver killed); the run goes on without it.
        with contextlib.suppress(Exception):
            self._queue.put_nowait(item)


def _user_side(error: Exception) -> Exception:
    """What the user can mend in a failed run: a worker's own PipelineError, a worker or rank that was lost.

    Anything else is a bug of a worker and is returned as it came, with its traceback.
    """
    failures = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        for cause in _causes(failures[rank]):
            if isinstance(cause, PipelineError):
                return cause
            if (resource := _full_disk(cause)) is not None:
                return resource
            if _is_lost_rank(cause):
                text = " ".join(str(cause).split())[:200]
                return TrainingError(
                    f"rank {rank} waited in vain for another, which was lost or is out of step ({text}); "
                    "`ie train` goes on from the last checkpoint; a longer wait is train.timeout_s"
                )
    for cause in _causes(error):
        if (resource := _full_disk(cause)) is not None:
            return resource
        if type(cause).__name__ == "BroadcastCollectiveTimeoutError":
            return TrainingError("ranks reported unequally often: " + " ".join(str(cause).split())[:300])
    return error


def _full_disk(error: BaseException) -> ResourceError | None:
    known = from_os_error(error) if isinstance(error, OSError) else None
    # What crosses processes or pyarrow's file systems keeps the words, not always the number.
    if known is None and "No space left on device" in str(error):
        return ResourceError("no space left on the device, in the storage folder or in the temporary one")
    return known


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


# How torch's process groups word a peer that does not answer: gloo and NCCL raise plain RuntimeErrors.
_LOST_RANK = (
    "Timed out waiting",
    "Connection closed by peer",
    "Connection reset by peer",
    "Read error",
    "NCCL timeout",
)


def _is_lost_rank(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_RANK)


def _publish(checkpoint: Path, out: Path, job: Job) -> None:
    """results/train out of the finished run: model, history, metrics, time, curves."""
    progress = read_json(checkpoint / "progress.json", "the last checkpoint")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out / "model") as part:
        shutil.copytree(checkpoint / "artifact", part, dirs_exist_ok=True)
    history = progress["history"]
    with atomic_file(out / "history.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[-1]))
        writer.writeheader()
        writer.writerows(history)
    provenance = read_json(out / "model" / "config.json", "the model's config")["provenance"]
    last = history[-1]
    metrics = {
        "loss_nats": last["loss"],
        "epochs": progress["epoch"],
        "steps": progress["step"],
        "labels": sum(provenance["labels_per_class"].values()),
        "unlabelled": provenance["num_unlabelled"],
        "parameters": _num_parameters(out / "model"),
    }
    metrics |= {f"{name}{unit}": last[name] for name, unit in _UNITS.items() if name in last}
    write_json(out / "metrics.json", {name: round(value, 6) for name, value in metrics.items()})
    write_json(out / "timing.json", {"seconds": round(progress["seconds"], 1)})
    training_curves(out / "history.csv", out / "curves.png")


def _num_parameters(folder: Path) -> int:
    from ie_model.artifact import load_artifact

    return count_parameters(load_artifact(folder).model)
