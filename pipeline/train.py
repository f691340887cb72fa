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

from ie_model.networks import count_parameters
from pipeline.cluster import queue_here, ray_cluster, wait_for_workers
from pipeline.errors import ResourceError, TrainingError
from pipeline.failures import user_side
from pipeline.figures import training_curves
from pipeline.files import atomic_file, atomic_folder, read_json, write_json
from pipeline.jobs import make_job, shards_folder
from pipeline.labels import labels_per_class
from pipeline.loop import Job, Trainer
from pipeline.params import Params
from pipeline.progress import Log, Meter, listening, time_left
from pipeline.provenance import commit, hardware
from pipeline.ray_session import LAST_FILE, RaySession
from pipeline.shards import Manifest, read_manifest
from pipeline.storage import Storage, open_storage
from pipeline.training_data import TRAINING_SPLITS, check_shards
from pipeline.travel import at_hand, shards_for_workers

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
    job, manifest = prepare(params, project, log)
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"train: {line}"))
    storage.check()
    shards = shards_for_workers(Path(job.shards), storage, log)
    # Set before Ray starts, so that workers inherit it: a rank that waits in vain for another then says so.
    os.environ["RAY_TRAIN_COLLECTIVE_TIMEOUT_S"] = str(params.train.timeout_s)
    low, high = params.train.worker_range
    with ray_cluster():
        wait_for_workers(low, params.train.threads_per_worker, params.train.device, log)
        log(
            f"train: {job.method}, {job.label_count} labels of {manifest.splits['train'].samples} examples, "
            f"{low if low == high else f'{low} to {high}'} worker(s) on {params.train.device}, run {job.fingerprint}"
        )
        out = project / "results" / "train"
        with _fit(job, params, storage, shards, out, log) as finished:
            _publish(finished, out, job)
    # Only now: until the artifact is in place, the run state is what a repeated `train` goes on from.
    with contextlib.suppress(ResourceError, OSError):
        storage.remove(_run_name(job))
    metrics = read_json(out / "metrics.json", "training metrics")
    taken = time_left(metrics_seconds(out))
    log(f"train: {_summary(metrics)}{taken} min of training; model, history and curves in {out}")
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
def _fit(job: Job, params: Params, storage: Storage, shards: str, out: Path, log: Log) -> Iterator[Path]:
    """Runs to the end; yields the last checkpoint's folder, on this host's disk.

    Args:
        shards: see `pipeline.travel.shards_for_workers`.
        out: where the history grows, an epoch at a time.
    """
    # The declared types of these are those of the older Ray Train.
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = params.train.device == "cuda"
    queue = queue_here()
    run, timeout_s = _run_name(job), params.train.timeout_s
    config = {"job": job.model_dump_json(), "queue": queue, "timeout_s": timeout_s, "shards": shards}
    config |= {"storage": storage.url, "run": run, "start": find_start(storage, run, log)}

    # Actors that have nothing to do: one deals out Ray Data's data sets, and loads all of Ray Data; one gives the
    # workers' room back when this process has died, and on one machine Ray itself then ends.
    idle = {"DatasetsCallback"} | (set() if os.environ.get("RAY_ADDRESS") else {"PlacementGroupCleanerCallback"})

    class LeanTrainer(TorchTrainer):
        """Without what is idle here."""

        def _create_default_callbacks(self) -> list[Any]:
            # Where another version of Ray has no such method, this is not called, and nothing is lost but a second.
            callbacks: list[Any] = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if type(callback).__name__ not in idle]

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
    watcher = _Watcher(job, out, log)
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
    """Shows what rank 0 reports, and keeps the curves of the run on disk for whoever draws them meanwhile."""

    def __init__(self, job: Job, out: Path, log: Log) -> None:
        self._job, self._out, self._log = job, out, log
        self._meter: Meter | None = None
        self._world_size = 0
        self._began: tuple[float, int] | None = None
        """When the first epoch that this run finished was over, and which it was."""

    def __call__(self, item: dict[str, Any]) -> None:
        if "waiting" in item:
            self._log(f"train: {item['waiting']}")
            return
        if "epoch" in item:
            if item["world_size"] != self._world_size:
                if self._world_size:
                    self._log(f"train: {item['world_size']} worker(s) now, {self._world_size} before")
                self._world_size = item["world_size"]
            seen = _summary({f"{name}{unit}": item[name] for name, unit in _UNITS.items() if name in item})
            write_history(self._out, item["history"])
            left = self._left(item["epoch"])
            self._log(f"train: epoch {item['epoch']}/{self._job.epochs}, {seen}loss {item['loss']:.2f}{left}")
            return
        if self._meter is None:
            self._meter = Meter("train", item["total_steps"], "steps")
        self._meter.update(item["step"], f"{item['points_per_s']:.0f} points/s")

    def _left(self, epoch: int) -> str:
        """Time left by the mean of this run's epochs but the first, which starts slowly."""
        if self._began is None:
            self._began = time.monotonic(), epoch
            return ""
        done, left = epoch - self._began[1], self._job.epochs - epoch
        if done <= 0 or left == 0:
            return ""
        return f"; about {time_left((time.monotonic() - self._began[0]) / done * left)} min left"

    def close(self) -> None:
        if self._meter is not None:
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
            Trainer(job, session).run()
    except TrainingError as error:
        # Every rank sees the same sums and so the same error: returned, not raised, because no restart can mend it.
        return {"error": str(error)}
    return {}


def _publish(checkpoint: Path, out: Path, job: Job) -> None:
    """results/train out of the finished run: model, history, metrics, time, curves."""
    progress = read_json(checkpoint / "progress.json", "the last checkpoint")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_folder(out / "model") as part:
        shutil.copytree(checkpoint / "artifact", part, dirs_exist_ok=True)
    history = progress["history"]
    write_history(out, history)
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
    where = {"commit": commit(out), "hardware": hardware()}
    write_json(out / "timing.json", where | {"seconds": round(progress["seconds"], 1)})
    training_curves(out / "history.csv", out / "curves.png")


def write_history(out: Path, history: list[dict[str, float]]) -> None:
    """history.csv: a row an epoch."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "history.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(history[-1]))
        writer.writeheader()
        writer.writerows(history)


def _num_parameters(folder: Path) -> int:
    from ie_model.artifact import load_artifact

    return count_parameters(load_artifact(folder).model)
