"""Stage `train`: one Ray Train run, from shards to a model artifact."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from ie_model.artifact import load_artifact
from ie_model.networks import count_parameters
from pipeline.cluster.connection import queue_here, ray_cluster, wait_for_workers
from pipeline.cluster.failures import user_side
from pipeline.cluster.profiling import collect_traces, profiled
from pipeline.cluster.ray_session import LAST_FILE, RaySession
from pipeline.cluster.shard_staging import at_hand, shards_for_workers
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.loading.check import check_shards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest
from pipeline.errors import ResourceError, TrainingError
from pipeline.plots.figures import training_curves
from pipeline.results.loggers import History, Update, check_loggers, open_loggers
from pipeline.results.metric_catalog import TRAINED
from pipeline.results.origin import make_origin, write_origin
from pipeline.storage.run_storage import Storage, open_storage
from pipeline.training.build_job import make_job
from pipeline.training.checkpoint import read_progress
from pipeline.training.job import Job
from pipeline.training.label_plan import describe_labels, plan_labels
from pipeline.training.schedule import shortness
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TRAINING_SPLITS
from pipeline.utils.checksums import write_checksums
from pipeline.utils.files import atomic_file, atomic_folder, read_json, write_json
from pipeline.utils.hardware import hardware
from pipeline.utils.progress import Log, Meter, duration, listening
from pipeline.utils.provenance import commit, now
from pipeline.utils.rounding import percent

# How often an elastic run looks for room for more workers, seconds. Each time that it grows, it starts again from the
# last checkpoint.
_RESIZE_INTERVAL_S = 20.0


def train(params: Params, project: Path, log: Log) -> Path:
    """Trains the model that params describe and writes results/train.

    Resumes from the last checkpoint of an interrupted run with the same fingerprint.

    Raises:
        ParamsError: the labels asked for are not there.
        DataError: shards are missing or damaged.
        ResourceError: workers, devices or disk are not there.
        TrainingError: the run failed.
    """
    started = time.monotonic()
    check_loggers(params.train.loggers)
    log("train: checking the shards")
    job, manifest = prepare(params, project, log)
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"train: {line}"))
    storage.check()
    shards = shards_for_workers(Path(job.shards), storage, log)
    # Set before Ray starts, so that workers inherit it: a rank that times out waiting for another then fails.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(params.train.timeout_s)
    low, high = params.train.worker_range
    run, out = _run_name(job), project / "results" / "train"
    settings = make_origin("train", params, Path(job.shards), job.fingerprint).params
    loggers = open_loggers(params.train.loggers, project / "logs", run, settings, job.steps_per_epoch, log)
    with loggers as show, ray_cluster(lambda line: log(f"train: {line}")):
        wait_for_workers(low, params.train.threads_per_worker, params.train.device, log)
        log(
            f"train: {job.method}, {manifest.splits['train'].samples} examples, "
            f"{low if low == high else f'{low} to {high}'} worker(s) on {params.train.device}, run {job.fingerprint}"
        )
        steps = job.epochs * job.steps_per_epoch
        log(f"train: {steps} steps of {job.batch_size} points, {job.epochs} validations, {job.precision}")
        if warning := shortness(steps):
            log(f"train: warning: {warning}")
        log("train: starting workers")
        with _fit(job, params, storage, shards, out, show, log) as finished:
            show(_publish(finished, out, params, job))
    # Only now: until the artifact is in place, the run state is what a repeated `train` resumes from.
    with contextlib.suppress(ResourceError, OSError):
        if params.train.profile:
            traces = collect_traces(storage, run, project / "logs" / "profile" / run)
            none = "no trace: too few steps, or the storage took none"
            log(f"train: profile: {', '.join(traces) + f', in logs/profile/{run}' if traces else none}")
        storage.remove(run)
    metrics = read_json(out / "metrics.json", "training metrics")
    log(f"train: {_summary(metrics)}in {duration(time.monotonic() - started)}; model, history and curves in {out}")
    return out


def prepare(params: Params, project: Path, log: Log) -> tuple[Job, Manifest]:
    """What is checked before any work starts: manifest, labels, every byte of the shards that will be read.

    The sweep's label counts too: what the data cannot give is refused before hours of training, not after them.
    """
    dataset = ShardedDataset.open(shards_folder(params, project))
    class_sizes = dataset.manifest.splits["train"].class_counts
    for line in describe_labels(plan_labels(params, class_sizes), class_sizes):
        log(f"train: {line}")
    job = make_job(params, project)
    check_shards(dataset, TRAINING_SPLITS, job.reading)
    return job, dataset.manifest


def _run_name(job: Job) -> str:
    return f"train-{job.fingerprint}"


@contextlib.contextmanager
def _fit(job: Job, params: Params, storage: Storage, shards: str, out: Path, show: Update, log: Log) -> Iterator[Path]:
    """Runs to the end; yields the last checkpoint's folder, on this host's disk.

    Args:
        shards: see `pipeline.cluster.shard_staging.shards_for_workers`.
        out: where the history grows, an epoch at a time.
        show: takes the history so far after each epoch.
    """
    # The declared types of these are those of the older Ray Train.
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = params.train.device == "cuda"
    queue = queue_here()
    run, timeout_s = _run_name(job), params.train.timeout_s
    config = {"job": job.model_dump_json(), "queue": queue, "timeout_s": timeout_s, "shards": shards}
    config |= {
        "storage": storage.url,
        "run": run,
        "start": find_start(storage, run, log),
        "profile": params.train.profile,
    }

    # Actors that have nothing to do: one deals out Ray Data's data sets, and loads all of Ray Data; one gives the
    # workers' room back when this process has died, and on one machine Ray itself then ends.
    idle = {"DatasetsCallback"} | (set() if os.environ.get("RAY_ADDRESS") else {"PlacementGroupCleanerCallback"})

    class LeanTrainer(TorchTrainer):
        """Without what is idle here, and without a handler of its own for Ctrl-C, which ends in silence."""

        def _create_default_callbacks(self) -> list[Any]:
            # Where another version of Ray has no such method, this is not called, and nothing is lost but a second.
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if type(callback).__name__ not in idle]

        def _register_sigint_handler(self, controller: Any) -> None:
            """None: Python's own raises KeyboardInterrupt, and `ray_cluster` then ends Ray."""

    trainer = LeanTrainer(
        cast(Any, train_worker),  # declared without a return value, which Ray Train returns all the same
        train_loop_config=config,
        scaling_config=cast(Any, ScalingConfig)(
            num_workers=params.train.num_workers,
            elastic_resize_monitor_interval_s=_RESIZE_INTERVAL_S,
            use_gpu=cuda,
            resources_per_worker={"CPU": params.train.threads_per_worker} | ({"GPU": 1} if cuda else {}),
        ),
        torch_config=TorchConfig(backend="nccl" if cuda else "gloo", timeout_s=timeout_s),
        run_config=RunConfig(
            name=run,
            **storage.for_ray(),
            # Hosts that a cloud takes back with notice count apart and without limit, by Ray's default.
            failure_config=cast(Any, FailureConfig)(
                max_failures=params.train.max_failures, relax_collectives_on_preemption=True
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=params.train.checkpoints_to_keep),
        ),
    )
    watcher = _Watcher(job, out, show, log)
    try:
        with listening(queue, watcher):
            result: Any = trainer.fit()  # the declared type is that of the older Ray Train
    except Exception as error:
        raise user_side(error) from error
    finally:
        watcher.close()
    returned = result.return_value or {}
    if failure := returned.get("unshared"):
        raise ResourceError(failure)
    if failure := returned.get("error"):
        raise TrainingError(failure)
    if result.checkpoint is None:
        raise TrainingError(f"run {job.fingerprint} ended without a checkpoint in {storage.url}")
    with storage.at_hand(f"{run}/{Path(result.checkpoint.path).name}") as folder:
        yield folder


def find_start(storage: Storage, run: str, log: Log) -> str | None:
    """Where to start if Ray's record of the run's checkpoints cannot be read: the newest whole checkpoint's name.

    Ray writes the record in place: a head that loses its power meanwhile leaves half of it, which Ray then refuses.
    Checkpoints themselves appear whole or not at all.
    """
    name = f"{run}/checkpoint_manager_snapshot.json"
    record = storage.read(name)
    if record is None:
        return None
    ending = f"checkpoint_[^/]*/{LAST_FILE}"
    whole = [file.partition("/")[0] for file in storage.files(run) if re.fullmatch(ending, file)]
    try:
        if all(item["checkpoint_dir_name"] in whole for item in json.loads(record)["checkpoint_results"]):
            return None
    except (ValueError, KeyError, TypeError):
        pass  # half written
    newest = max(whole, default=None)
    log(f"train: Ray's record in {storage.where(run)} is damaged; going on from {newest or 'the start'}")
    storage.remove(name)
    return newest


def _published(row: dict[str, float]) -> dict[str, float]:
    """What is published of an epoch's row, by the names of metrics."""
    return {metric.name: row[metric.column] for metric in TRAINED if metric.column in row}


def _summary(metrics: dict[str, float]) -> str:
    """Error and bound on val, as far as a method has them, for a line of the log."""
    error = f"val error {percent(metrics['val_error_pct'])}, " if "val_error_pct" in metrics else ""
    bound = f"val bound {metrics['val_bound_nats']:.1f} nats, " if "val_bound_nats" in metrics else ""
    return error + bound


class _Watcher:
    """Shows what rank 0 reports, and keeps the curves of the run on disk, to be drawn meanwhile."""

    def __init__(self, job: Job, out: Path, show: Update, log: Log) -> None:
        self._job, self._out, self._show, self._log = job, out, show, log
        self._meter = Meter("train", job.epochs * job.steps_per_epoch, "steps")
        self._world_size = 0

    def __call__(self, item: dict[str, Any]) -> None:
        if "waiting" in item:
            self._log(f"train: {item['waiting']}")
        elif "resumed" in item:
            step, steps = item["step"], self._job.epochs * self._job.steps_per_epoch
            within = f", step {step} of {steps}" if step % self._job.steps_per_epoch else ""
            self._log(f"train: resuming from epoch {item['resumed']} of {self._job.epochs}{within}")
        elif "epoch" in item:
            self._end_epoch(item)
        else:
            self._meter.update(item["step"], f"{item['points_per_s']:.0f} points/s")

    def _end_epoch(self, item: dict[str, Any]) -> None:
        if item["world_size"] != self._world_size:
            if self._world_size:
                self._log(f"train: {item['world_size']} worker(s) now, {self._world_size} before")
            self._world_size = item["world_size"]
        seen = _summary(_published(item))
        write_history(self._out, item["history"])
        seconds = self._meter.left(item["epoch"] * self._job.steps_per_epoch)
        left = f"; {duration(seconds)} left" if seconds else ""
        self._log(f"train: epoch {item['epoch']}/{self._job.epochs}, {seen}loss {item['loss']:.2f}{left}")
        self._show(item["history"])

    def close(self) -> None:
        self._meter.close()


def train_worker(config: dict[str, Any]) -> dict[str, Any]:
    """What Ray Train runs on each worker."""
    storage, run = open_storage(config["storage"]), config["run"]
    session = RaySession(config["queue"], storage, run, config["timeout_s"], config["start"])
    if blind := session.count_blind():
        if storage.remote:
            must = "the role of each host, or the credentials in its environment, must be allowed to read there"
        else:
            must = "on a cluster, storage.url must be a folder that all hosts see at the same path"
        return {
            "unshared": f"{blind} of {session.world_size} workers do not see the run's folder {storage.where(run)}: "
            f"{must}; `ie doctor` names the hosts"
        }
    try:
        with at_hand(Job.model_validate_json(config["job"]), config["shards"]) as job:
            trainer = Trainer(job, session)
            with contextlib.ExitStack() as stack:
                if config["profile"]:
                    profiling = profiled(storage, run, session.rank, job.device)
                    trainer.after_step = stack.enter_context(profiling)
                trainer.run()
    except TrainingError as error:
        # Every rank sees the same sums and so the same error: returned, not raised, because no restart can help.
        return {"error": str(error)}
    return {}


def _publish(checkpoint: Path, out: Path, params: Params, job: Job) -> History:
    """results/train out of the finished run: model, history, metrics, time, curves. Returns the history."""
    progress = read_progress(checkpoint)
    out.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out / "model") as part:
        shutil.copytree(checkpoint / "artifact", part, dirs_exist_ok=True)
    history = progress.history
    write_history(out, history)
    artifact = load_artifact(out / "model")
    last = history[-1]
    metrics = {
        "loss_nats": last["loss"],
        "epochs": progress.epoch,
        "steps": progress.step,
        "labels": sum(artifact.provenance["labels_per_class"].values()),
        "unlabelled": artifact.provenance["num_unlabelled"],
        "parameters": count_parameters(artifact.model),
    }
    metrics |= _published(last)
    write_json(out / "metrics.json", {name: round(value, 6) for name, value in metrics.items()})
    where = {"commit": commit(out), "hardware": hardware(), "finished": now()}
    write_json(out / "timing.json", where | {"seconds": round(progress.seconds, 1)})
    training_curves(out / "history.csv", out / "curves.png")
    write_origin(out, make_origin("train", params, Path(job.shards), job.fingerprint))
    write_checksums(out)
    return history


def write_history(out: Path, history: History) -> None:
    """history.csv: a row an epoch."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "history.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[-1]))
        writer.writeheader()
        writer.writerows(history)
