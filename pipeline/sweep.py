"""Stage `sweep`: label counts x methods x seeds through Ray Tune, into one table and one plot.

A trial runs the training loop itself, one rank, not a Ray Train run of its own: on two cores a Ray Train run costs tens
of seconds before its first step, the loop in a Tune worker that is used again costs none (docs/architecture.md).

What a finished trial measured lies in the storage folder under the trial's fingerprint. An interrupted sweep goes on
with the trials that are not there, and one with a seed or a count more runs only what is new.
"""

from __future__ import annotations

import csv
import itertools
import shutil
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ie_model.artifact import Artifact, save_artifact
from ie_model.inference import classify, collect, in_batches
from ie_model.measures import error_rate, mean_and_std
from pipeline.cluster import queue_here, ray_cluster, wait_for_workers
from pipeline.errors import DataError, TrainingError
from pipeline.figures import error_against_labels
from pipeline.files import atomic_file, atomic_folder, read_json, write_json
from pipeline.fingerprint import MEASURING, fingerprint
from pipeline.jobs import make_job, shards_folder
from pipeline.labels import choose_labelled, labels_per_class
from pipeline.loop import Job, Trainer
from pipeline.measure import flat
from pipeline.methods import Method
from pipeline.models import read_model
from pipeline.oracle import oracle_folder
from pipeline.params import EvaluateParams, Params
from pipeline.progress import Log, Meter, listening, time_left
from pipeline.reader import load_split
from pipeline.scoring import measure_model
from pipeline.sessions import TrialSession
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
    test_error_pct: float | None
    """None for the plain VAE, which has no classes."""

    val_error_pct: float | None
    val_bound_nats: float | None
    epochs: int
    steps: int
    seconds: float
    measures: dict[str, float]
    """Every measure of `evaluate`, where sweep.measures asks for all."""

    measured_as: str
    """Hash of what the measures depend on besides the model."""


@dataclass(frozen=True)
class Trial:
    """One cell of the grid."""

    method: Method
    labels: int
    seed: int
    job: Job


def sweep(params: Params, project: Path, log: Log, *, fresh: bool = False, out: Path | None = None) -> Path:
    """Runs the trials that are not finished yet and writes results/sweep, or `out`.

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
    measured_as = _measured_as(params)
    waiting = [trial for trial in trials if not _is_finished(store / trial.job.fingerprint, measured_as)]
    log(f"sweep: {len(trials)} trials, {len(trials) - len(waiting)} already finished")
    failures = _run(waiting, store, params, project, log) if waiting else {}
    out = out or project / "results" / "sweep"
    _publish(trials, store, failures, out, log, measured_as)
    return out


def _measured_as(params: Params) -> str:
    """Names what a trial's measures depend on besides its model; empty where only the error is asked."""
    if params.sweep.measures == "errors":
        return ""
    return fingerprint({"evaluate": params.evaluate.model_dump(mode="json")}, MEASURING)


def _is_finished(folder: Path, measured_as: str) -> bool:
    """Whether a trial's result is there, with the measures that are asked for."""
    path = folder / "result.json"
    return path.is_file() and measured_as in ("", _read_result(path).measured_as)


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


def _run(trials: list[Trial], store: Path, params: Params, project: Path, log: Log) -> dict[str, str]:
    """Runs trials through Ray Tune; returns the errors of those that failed, by fingerprint."""
    cuda = params.train.device == "cuda"
    threads, concurrent = params.train.threads_per_worker, params.sweep.max_concurrent
    store.mkdir(parents=True, exist_ok=True)
    settings = params.evaluate if params.sweep.measures == "all" else None
    # Before the trials, which would each train one for itself.
    oracle = str(oracle_folder(params, project, log)) if settings is not None else ""
    with ray_cluster():
        # Not before: what Ray reads from the environment when it is imported is set by then.
        from ray import tune

        resources = wait_for_workers(1, threads, params.train.device, log)
        per_trial = {"CPU": float(threads)} | ({"GPU": min(1.0, resources.get("GPU", 0) / concurrent)} if cuda else {})
        queue = queue_here()
        fixed = {"store": str(store), "queue": queue, "settings": settings, "oracle": oracle}
        fixed["measured_as"] = _measured_as(params)
        by_fingerprint = {trial.job.fingerprint: trial for trial in trials}
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, **fixed), per_trial),
            param_space={"job": tune.grid_search([trial.job.model_dump_json() for trial in trials])},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(store.parent),
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(),
                # A trial whose host is lost starts again elsewhere, from its last checkpoint.
                failure_config=tune.FailureConfig(max_failures=params.train.max_failures),
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


def _trial(
    config: dict[str, Any], store: str, queue: Any, settings: EvaluateParams | None, oracle: str, measured_as: str
) -> None:
    """What Tune runs for each trial: train, measure on the test split once, keep model and result."""
    from ray import tune

    job = Job.model_validate_json(config["job"])
    folder = Path(store) / job.fingerprint
    session = TrialSession(folder / "checkpoint", job, queue)
    try:
        trained = _train(job, session, folder)
        scored = score(job, read_model(folder / "artifact", job.device), settings, oracle)
        error = scored.get("test_error_classifier_pct")
        kept = scored if settings is not None else {}
        result = TrialResult(**trained, test_error_pct=error, measures=kept, measured_as=measured_as)
    except Exception as error:
        # Reported as a row, not raised: one failed trial must not end the others, nor its worker that goes on with
        # them. The log keeps the traceback.
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.log").write_text(traceback.format_exc())
        tune.report({"error": f"{type(error).__name__}: {error}"})
        return
    write_json(folder / "result.json", result.model_dump())
    (folder / "error.log").unlink(missing_ok=True)
    session.tell({"finished": result.model_dump()})
    tune.report({"finished": 1})


def _train(job: Job, session: TrialSession, folder: Path) -> dict[str, Any]:
    """Trains unless the trial's model is there already; returns the result's columns that are known by then."""
    record = folder / "trained.json"
    if not record.is_file():
        trainer = Trainer(job, session)
        last = trainer.run()
        with atomic_folder(folder / "artifact") as part:
            save_artifact(part, trainer.artifact())
        trained = {
            "fingerprint": job.fingerprint,
            "method": job.method,
            "labels": len(trainer.data.labelled),
            "seed": job.seed,
            "val_error_pct": last.get("val_error"),
            "val_bound_nats": last.get("val_bound"),
            "epochs": trainer.state.epoch,
            "steps": trainer.state.step,
            "seconds": round(trainer.state.seconds, 1),
        }
        write_json(record, trained)
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    result: dict[str, Any] = read_json(record, "a trial's record")
    return result


def score(job: Job, artifact: Artifact, settings: EvaluateParams | None, oracle: str) -> dict[str, float]:
    """A trial's model on the test split.

    Args:
        settings: of every measure; None asks for the error of the classifier alone.
        oracle: folder of the oracle that judges swaps.
    """
    folder = Path(job.shards)
    manifest = read_manifest(folder)
    test = load_split(folder, manifest, "test")
    if settings is not None:
        train = load_split(folder, manifest, "train")
        rows = choose_labelled(train.keys, train.y, manifest.spec.classes, job.label_count, job.label_seed)
        judge = read_model(Path(oracle), job.device)
        return flat(measure_model(artifact, train, train.take(rows), test, judge, settings, job.device))
    if artifact.model.num_codes == 1:
        return {}
    batches = in_batches(test.x, job.evaluation_batch_size, job.device)
    predicted = collect(batches, lambda batch: classify(artifact, batch).argmax(1))
    return {"test_error_classifier_pct": 100 * error_rate(predicted.numpy(), test.y)}


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
                f"seed {result.seed}: {_outcome(result)} ({time_left(result.seconds)} min)"
            )
        else:
            self._shares[item["fingerprint"]] = item["share"]
        self._meter.update(round(sum(self._shares.values()), 2), f"{self._finished} finished")

    def close(self) -> None:
        self._meter.close()


def _publish(trials: list[Trial], store: Path, failures: dict[str, str], out: Path, log: Log, measured_as: str) -> None:
    """results/sweep: a row a trial, means over seeds, the plot."""
    rows: list[dict[str, Any]] = []
    kept_measures: dict[str, dict[str, float]] = {}
    seconds = 0.0
    for trial in trials:
        path = store / trial.job.fingerprint / "result.json"
        # An older result with other measures is not what was asked for.
        if _is_finished(path.parent, measured_as):
            result = _read_result(path)
            seconds += result.seconds
            more = {"fingerprint", "seconds", "measures", "measured_as"}
            measured = result.model_dump(exclude=more, exclude_none=True)
            kept_measures[trial.job.fingerprint] = result.measures if measured_as else {}
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
    _write_measures(out / "measures.csv", trials, kept_measures)
    metrics: dict[str, float] = {"trials_finished": len(finished), "trials_failed": len(rows) - len(finished)}
    for method, labels in dict.fromkeys((row["method"], row["labels"]) for row in finished):
        cell = [row for row in finished if (row["method"], row["labels"]) == (method, labels)]
        errors = [row["test_error_pct"] for row in cell if "test_error_pct" in row]
        if not errors:
            continue
        mean, std, num = mean_and_std(errors)
        metrics |= {
            f"{method}_{labels}_test_error_pct": round(mean, 4),
            f"{method}_{labels}_test_error_std": round(std, 4),
            f"{method}_{labels}_n": num,
        }
    write_json(out / "metrics.json", metrics)
    write_json(out / "timing.json", {"trial_seconds": round(seconds, 1)})
    error_against_labels(out / "table.csv", out / "error_against_labels.png")


def _write_measures(path: Path, trials: list[Trial], measures: dict[str, dict[str, float]]) -> None:
    """A line for each measure of each trial; only the heading where the sweep asked for errors alone."""
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("method", "labels", "seed", "measure", "value"))
        for trial in trials:
            for name, value in measures.get(trial.job.fingerprint, {}).items():
                writer.writerow((trial.method, trial.labels, trial.seed, name, value))


def _outcome(result: TrialResult) -> str:
    if result.test_error_pct is None:
        return f"val bound {result.val_bound_nats:.1f} nats"
    return f"test error {result.test_error_pct:.2f} %"


def _read_result(path: Path) -> TrialResult:
    try:
        return TrialResult.model_validate(read_json(path, "a trial's result"))
    except ValueError as error:
        raise DataError(f"{path} was written by another version or is damaged; remove its folder") from error
