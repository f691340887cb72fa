"""Stage `sweep`: label counts x methods x seeds through Ray Tune, into one table and one plot.

A trial runs the training loop itself, one rank, not a Ray Train run of its own: on two cores a Ray Train run costs tens
of seconds before its first step, the loop in a Tune worker that is used again costs none (docs/architecture.md).

What a finished trial measured lies in the storage folder under the trial's fingerprint. An interrupted sweep goes on
with the trials that are not there, and one with a seed or a count more runs only what is new.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ie_model.inference import in_batches
from ie_model.measures import error_rate, mean_and_std
from pipeline.cluster import check_resources, ray_cluster
from pipeline.errors import DataError, TrainingError
from pipeline.figures import error_against_labels
from pipeline.files import atomic_file, atomic_folder, read_json, write_json
from pipeline.jobs import make_job, shards_folder
from pipeline.labels import labels_per_class
from pipeline.loop import Job, Trainer
from pipeline.params import Params
from pipeline.progress import Log, Meter, listening, time_left
from pipeline.reader import load_split
from pipeline.shards import Manifest, read_manifest, verify_shards

COLUMNS = (
    "method", "labels", "seed", "test_error_pct", "val_error_pct", "val_bound_nats", "epochs", "steps",
    "status", "error",
)  # fmt: skip


class TrialResult(BaseModel):
    """What one trial measured; a row of the table."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    method: str
    labels: int
    seed: int
    test_error_pct: float
    val_error_pct: float
    val_bound_nats: float | None
    epochs: int
    steps: int
    seconds: float


@dataclass(frozen=True)
class Trial:
    """One cell of the grid."""

    method: str
    labels: int
    seed: int
    job: Job


def sweep(params: Params, project: Path, log: Log, *, fresh: bool = False) -> Path:
    """Runs the trials that are not finished yet and writes results/sweep.

    Args:
        fresh: forget what earlier sweeps finished.

    Raises:
        ParamsError: a label count that the data cannot give.
        DataError: shards are missing or damaged.
        ResourceError: devices or disk are not there.
        TrainingError: every trial failed.
    """
    folder = shards_folder(params, project)
    manifest = read_manifest(folder)
    trials = plan_trials(params, project, manifest)
    verify_shards(folder, manifest)
    store = (project / params.storage.url).resolve() / "trials"
    if fresh:
        for trial in trials:
            shutil.rmtree(store / trial.job.fingerprint, ignore_errors=True)
    waiting = [trial for trial in trials if not (store / trial.job.fingerprint / "result.json").is_file()]
    log(f"sweep: {len(trials)} trials, {len(trials) - len(waiting)} already finished")
    failures = _run(waiting, store, params, log) if waiting else {}
    out = project / "results" / "sweep"
    _publish(trials, store, failures, out, log)
    return out


def plan_trials(params: Params, project: Path, manifest: Manifest) -> list[Trial]:
    """The grid in the order in which it is run: the largest trials of a method last."""
    sweep = params.sweep
    counts = manifest.splits["train"].class_counts
    trials = []
    for count, method, seed in itertools.product(sweep.label_counts, sweep.methods, sweep.seeds):
        labels = sum(labels_per_class(count, counts, seed).values())
        job = make_job(params, project, method=method, label_count=count, seed=seed, world_size=1, in_sweep=True)
        trials.append(Trial(method, labels, seed, job))
    return trials


def _run(trials: list[Trial], store: Path, params: Params, log: Log) -> dict[str, str]:
    """Runs trials through Ray Tune; returns the errors of those that failed, by fingerprint."""
    cuda = params.train.device == "cuda"
    threads, concurrent = params.train.threads_per_worker, params.sweep.max_concurrent
    store.mkdir(parents=True, exist_ok=True)
    with ray_cluster() as resources:
        # Not before: what Ray reads from the environment when it is imported is set by then.
        from ray import tune
        from ray.util.queue import Queue

        check_resources(resources, workers=1, threads=threads, device=params.train.device)
        per_trial = {"CPU": float(threads)} | ({"GPU": min(1.0, resources.get("GPU", 0) / concurrent)} if cuda else {})
        queue = Queue(actor_options={"num_cpus": 0})
        by_fingerprint = {trial.job.fingerprint: trial for trial in trials}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, store=str(store), queue=queue), per_trial),
            param_space={"job": tune.grid_search([trial.job.model_dump_json() for trial in trials])},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(store.parent), verbose=0, checkpoint_config=tune.CheckpointConfig()
            ),
        )
        watcher = _Watcher(by_fingerprint, log)
        with listening(queue, watcher):
            grid = tuner.fit()
        watcher.close()
        # Tune's own record of the grid is of no further use: results lie beside it, by fingerprint.
        shutil.rmtree(store.parent / "tune", ignore_errors=True)
    failures = {}
    for result in (grid[i] for i in range(len(grid))):
        metrics = result.metrics or {}
        config = Job.model_validate_json((result.config or {})["job"])
        if result.error is not None:
            failures[config.fingerprint] = " ".join(str(result.error).split())[-300:]
        elif "error" in metrics:
            failures[config.fingerprint] = str(metrics["error"])
    return failures


def _trial(config: dict[str, Any], store: str, queue: Any) -> None:
    """What Tune runs for each trial: train, score the test split once, keep the result."""
    from ray import tune

    job = Job.model_validate_json(config["job"])
    folder = Path(store) / job.fingerprint
    session = TrialSession(folder / "checkpoint", job, queue)
    try:
        trainer = Trainer(job, session)
        last = trainer.run()
        result = TrialResult(
            fingerprint=job.fingerprint,
            method=job.method,
            labels=len(trainer.data.labelled),
            seed=job.seed,
            test_error_pct=score_test(trainer),
            val_error_pct=last["val_error"],
            val_bound_nats=last.get("val_bound"),
            epochs=trainer.state.epoch,
            steps=trainer.state.step,
            seconds=round(trainer.state.seconds, 1),
        )
    except Exception as error:
        # Reported as a row, not raised: one failed trial must not end the others, nor its worker that goes on with
        # them. The log keeps the traceback.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.log").write_text(traceback.format_exc())
        tune.report({"error": f"{type(error).__name__}: {error}"})
        return
    write_json(folder / "result.json", result.model_dump())
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    (folder / "error.log").unlink(missing_ok=True)
    session.tell({"finished": result.model_dump()})
    tune.report({"test_error_pct": result.test_error_pct})


def score_test(trainer: Trainer) -> float:
    """Error of the classifier (rule 1) on the test split, in percent; read once, after the last epoch."""
    folder = Path(trainer.job.shards)
    test = load_split(folder, read_manifest(folder), "test")
    model, artifact = trainer.published, trainer.artifact()
    r = artifact.class_representations
    with torch.no_grad():
        predicted = torch.cat(
            [
                model.classify(model.embed(batch), r).argmax(1).cpu()
                for batch in in_batches(test.x, trainer.job.evaluation_batch_size, trainer.session.device)
            ]
        )
    return 100 * error_rate(predicted.numpy(), test.y)


class TrialSession:
    """A trial of one rank that keeps its last checkpoint in a folder; see `pipeline.loop.Session`."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, job: Job, queue: Any = None) -> None:
        self.device = torch.device(job.device)
        self._folder, self._job, self._queue = folder, job, queue

    def wrap(self, module: nn.Module) -> nn.Module:
        return module.to(self.device)

    def all_reduce(self, values: Tensor) -> Tensor:
        return values

    @contextlib.contextmanager
    def restore(self) -> Iterator[Path | None]:
        yield self._folder if self._folder.is_dir() else None

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        with atomic_folder(self._folder) as part:
            write_checkpoint(part)

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        self.tell({"fingerprint": self._job.fingerprint, "share": step / total_steps})

    def tell(self, item: dict[str, Any]) -> None:
        """Passes an item to whoever watches, if anybody does."""
        with contextlib.suppress(Exception):
            if self._queue is not None:
                self._queue.put_nowait(item)


class _Watcher:
    """Shows how far the trials are, and each one's result when it ends."""

    def __init__(self, trials: dict[str, Trial], log: Log) -> None:
        self._shares = dict.fromkeys(trials, 0.0)
        self._finished, self._log = 0, log
        self._meter = Meter("sweep", len(trials), "trials", every_s=30.0)

    def __call__(self, item: dict[str, Any]) -> None:
        if "finished" in item:
            result = TrialResult.model_validate(item["finished"])
            self._finished += 1
            self._shares[result.fingerprint] = 1.0
            self._log(
                f"sweep: {self._finished}/{len(self._shares)} {result.method}, {result.labels} labels, "
                f"seed {result.seed}: test error {result.test_error_pct:.2f} % ({time_left(result.seconds)} min)"
            )
        else:
            self._shares[item["fingerprint"]] = item["share"]
        self._meter.update(round(sum(self._shares.values()), 2), f"{self._finished} finished")

    def close(self) -> None:
        self._meter.close()


def _publish(trials: list[Trial], store: Path, failures: dict[str, str], out: Path, log: Log) -> None:
    """results/sweep: a row a trial, means over seeds, the plot."""
    rows: list[dict[str, Any]] = []
    seconds = 0.0
    for trial in trials:
        path = store / trial.job.fingerprint / "result.json"
        if path.is_file():
            result = _read_result(path)
            seconds += result.seconds
            measured = result.model_dump(exclude={"fingerprint", "seconds"})
            row = {name: round(value, 6) if isinstance(value, float) else value for name, value in measured.items()}
            row |= {"status": "finished", "error": ""}
        else:
            error = failures.get(trial.job.fingerprint, "did not run")
            log(f"sweep: FAILED {trial.method}, {trial.labels} labels, seed {trial.seed}: {error}; see {path.parent}")
            row = {
                "method": trial.method,
                "labels": trial.labels,
                "seed": trial.seed,
                "status": "failed",
                "error": error,
            }
        rows.append(row)
    finished = [row for row in rows if row["status"] == "finished"]
    if not finished:
        raise TrainingError(f"all {len(rows)} trials of the sweep failed; the first: {rows[0]['error']}")
    out.mkdir(parents=True, exist_ok=True)
    with atomic_file(out / "table.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    metrics: dict[str, float] = {"trials_finished": len(finished), "trials_failed": len(rows) - len(finished)}
    for method, labels in dict.fromkeys((row["method"], row["labels"]) for row in finished):
        errors = [row["test_error_pct"] for row in finished if (row["method"], row["labels"]) == (method, labels)]
        mean, std, num = mean_and_std(errors)
        metrics |= {
            f"{method}_{labels}_test_error_pct": round(mean, 4),
            f"{method}_{labels}_test_error_std": round(std, 4),
            f"{method}_{labels}_n": num,
        }
    write_json(out / "metrics.json", metrics)
    write_json(out / "timing.json", {"trial_seconds": round(seconds, 1)})
    error_against_labels(out / "table.csv", out / "error_against_labels.png")


def _read_result(path: Path) -> TrialResult:
    try:
        return TrialResult.model_validate(read_json(path, "a trial's result"))
    except ValueError as error:
        raise DataError(f"{path} was written by another version or is damaged; remove its folder") from error
