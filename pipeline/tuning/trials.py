"""One trial of a sweep: what it is called, what Tune runs for it, and what is kept of it.

A trial runs the training loop itself, one rank, not a Ray Train run of its own: on two cores a Ray Train run costs tens
of seconds before its first step, the loop in a Tune worker that is used again costs none (docs/decisions.md).

Results of a finished trial are in the storage folder under the trial's fingerprint.
"""

from __future__ import annotations

import contextlib
import itertools
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from threadpoolctl import threadpool_limits

from ie_model.artifact import Artifact, save_artifact
from ie_model.inference import classify, collect, in_batches
from ie_model.metrics.measures import error_rate
from pipeline.cluster.shard_staging import at_hand
from pipeline.config.methods import Method
from pipeline.config.params import EvaluateParams, Params
from pipeline.data.loading.in_memory import load_split
from pipeline.data.loading.splits import open_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest
from pipeline.errors import DataError, ParamsError, ResourceError, TrainingError
from pipeline.evaluation.load_model import read_model
from pipeline.evaluation.metrics import measure_model
from pipeline.results.metrics_table import flat
from pipeline.storage.run_storage import Storage, open_storage, read_record, write_record
from pipeline.training.build_job import make_job
from pipeline.training.job import Job
from pipeline.training.label_plan import plan_labels
from pipeline.training.label_subset import choose_labelled, labels_per_class
from pipeline.training.local_session import TrialSession, giving_memory_back, trial_session
from pipeline.training.trainer import Trainer
from pipeline.utils.fingerprint import MEASURING, fingerprint
from pipeline.utils.hardware import hardware


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

    # Empty in results that were kept before these were recorded.
    hardware: str = ""
    commit: str = ""


_MEASURED = {"test_error_pct", "measures", "measured_as"}


@dataclass(frozen=True)
class Trial:
    """One cell of the grid."""

    method: Method
    labels: int
    seed: int
    job: Job


@dataclass(frozen=True)
class Task:
    """What all trials of a sweep share; travels to the workers."""

    storage: str
    """Its url."""

    patience_s: float
    """How long an object store that does not answer is asked again, seconds."""

    shards: str
    """See `pipeline.cluster.shard_staging.shards_for_workers`."""

    queue: Any
    settings: EvaluateParams | None
    """Of every measure; None asks for the error of the classifier alone."""

    oracle: str
    """Name, in the storage, of the oracle that judges swaps."""

    measured_as: str
    retries: int
    commit: str


def plan_trials(params: Params, project: Path, manifest: Manifest) -> list[Trial]:
    """The grid in the order in which it is run and published.

    Raises:
        ParamsError: a label count that the data cannot give, or two that come to the same.
    """
    sweep = params.sweep
    sizes = manifest.splits["train"].class_counts
    counts = plan_labels(params, sizes).sweep
    trials = []
    seen: dict[tuple[int, str, int], int] = {}
    for (i, count), method, seed in itertools.product(enumerate(counts), sweep.methods, sweep.seeds):
        labels = sum(labels_per_class(count, sizes, seed).values())
        # Rows of a table differ by their number of labels.
        other = seen.setdefault((labels, method, seed), i)
        if other != i:
            raise ParamsError(
                f"sweep.label_counts[{other}] ({counts[other]}) and [{i}] ({count}) both come to {labels} "
                "labels; take one of them out"
            )
        job = make_job(params, project, method=method, label_count=count, seed=seed, world_size=1, in_sweep=True)
        trials.append(Trial(method, labels, seed, job))
    return trials


def measured_as(params: Params) -> str:
    """Names what a trial's measures depend on besides its model; empty where only the error is asked."""
    if params.sweep.measures == "errors":
        return ""
    return fingerprint({"evaluate": params.evaluate.model_dump(mode="json")}, MEASURING)


def name_of_trial(fingerprint: str) -> str:
    """Of its folder in the storage."""
    return f"trials/{fingerprint}"


def finished_result(storage: Storage, fingerprint: str, asked: str) -> TrialResult | None:
    """What a trial left; None where it is not finished, or lacks the measures that are asked for.

    Raises:
        DataError: it is damaged or of another version.
    """
    name = f"{name_of_trial(fingerprint)}/result.json"
    record = read_record(storage, name, "a trial's result")
    if record is None:
        return None
    try:
        result = TrialResult.model_validate(record)
    except ValueError as error:
        where = storage.where(name)
        raise DataError(f"{where} was written by another version or is damaged; remove its folder") from error
    _check_trial(record, fingerprint, storage.where(name))
    return result if asked in ("", result.measured_as) else None


def read_trained(storage: Storage, fingerprint: str) -> dict[str, Any] | None:
    """The columns of a trial's result that are known when it is trained; None where it is not.

    Raises:
        DataError: they are damaged or of another version or trial.
    """
    name = f"{name_of_trial(fingerprint)}/trained.json"
    record = read_record(storage, name, "a trial's record")
    if record is None:
        return None
    if record.keys() != TrialResult.model_fields.keys() - _MEASURED:
        raise DataError(f"{storage.where(name)} was written by another version or is damaged; remove its folder")
    _check_trial(record, fingerprint, storage.where(name))
    return record


def _check_trial(record: dict[str, Any], fingerprint: str, where: str) -> None:
    if record["fingerprint"] != fingerprint:
        raise DataError(f"{where} is of another trial, {record['fingerprint']}; remove its folder")


@giving_memory_back()
def run_trial(config: dict[str, Any], task: Task) -> None:
    """What Tune runs for each trial: train, measure on the test split once, keep model and result.

    A failure is reported as a row, not raised: one failed trial must not end the others, nor the worker that they
    share. `error.log` in the trial's folder keeps the tracebacks of all its attempts.
    """
    from ray import tune

    job = Job.model_validate_json(config["job"])
    name = name_of_trial(job.fingerprint)
    log, written = f"{name}/error.log", ""
    storage = open_storage(task.storage, patience_s=task.patience_s, tell=lambda line: session.tell({"waiting": line}))
    session = trial_session(storage, f"{name}/checkpoint", job, task.queue)
    session.tell({"fingerprint": job.fingerprint, "share": 0.0})
    with contextlib.suppress(ResourceError):
        storage.remove(log)
    for attempt in range(1 + task.retries):
        try:
            result = _attempt(job, session, storage, task)
            write_record(storage, f"{name}/result.json", result.model_dump())
            break
        except Exception as error:
            written += f"attempt {attempt + 1} of {1 + task.retries}\n{traceback.format_exc()}\n"
            with contextlib.suppress(ResourceError):
                storage.write(log, written.encode())
                if isinstance(error, DataError):
                    # The checkpoint may be what cannot be read.
                    storage.remove(f"{name}/checkpoint")
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            if attempt == task.retries or isinstance(error, (TrainingError, ParamsError)):
                session.tell({"failed": job.fingerprint, "error": text})
                tune.report({"error": text})
                return
            session.tell({"again": job.fingerprint, "error": text})
    with contextlib.suppress(ResourceError):
        storage.remove(log)
    session.tell({"finished": result.model_dump()})
    tune.report({"finished": 1})


def _attempt(job: Job, session: TrialSession, storage: Storage, task: Task) -> TrialResult:
    name = name_of_trial(job.fingerprint)
    # Also where the model is there already and no trainer sets them: measuring must not take the other trials' cores.
    torch.set_num_threads(job.threads)
    with threadpool_limits(job.threads), at_hand(job, task.shards) as here:
        trained = _train(here, session, storage, task.commit)
        with storage.at_hand(f"{name}/artifact") as folder:
            artifact = read_model(folder, job.device)
        if (found := artifact.provenance.get("fingerprint")) != job.fingerprint:
            raise DataError(f"{storage.where(name)}/artifact is of another trial, {found}; remove its folder")
        oracle = None
        if task.settings is not None:
            with storage.at_hand(task.oracle) as folder:
                oracle = read_model(folder, job.device)
        scored = score(here, artifact, task.settings, oracle)
    return TrialResult(
        **trained,
        test_error_pct=scored.get("test_error_classifier_pct"),
        measures=scored if task.settings is not None else {},
        measured_as=task.measured_as,
    )


def _train(job: Job, session: TrialSession, storage: Storage, commit: str) -> dict[str, Any]:
    """Trains unless the trial's model is there already; returns the result's columns that are known by then."""
    name = name_of_trial(job.fingerprint)
    trained = read_trained(storage, job.fingerprint)
    if trained is None:
        trainer = Trainer(job, session)
        last = trainer.run()
        with storage.filling(f"{name}/artifact", "config.json") as part:
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
            "hardware": hardware(),
            "commit": commit,
        }
        write_record(storage, f"{name}/trained.json", trained)
        storage.remove(f"{name}/checkpoint")
    return trained


def score(job: Job, artifact: Artifact, settings: EvaluateParams | None, oracle: Artifact | None) -> dict[str, float]:
    """A trial's model on the test split.

    Args:
        settings: of every measure; None asks for the error of the classifier alone.
        oracle: judges swaps; needed where settings are given.
    """
    dataset = ShardedDataset.open(Path(job.shards))
    test = load_split(dataset, "test", reading=job.reading)
    if settings is not None and oracle is not None:
        train = open_split(dataset, "train", job.reading)
        ranking = dataset.manifest.label_hash
        rows = choose_labelled(train.keys, train.y, dataset.spec.classes, job.label_count, job.label_seed, ranking)
        return flat(measure_model(artifact, train, rows, test, oracle, settings, job.device))
    if artifact.model.num_codes == 1:
        return {}
    batches = in_batches(test.x, job.evaluation_batch_size, job.device)
    predicted = collect(batches, lambda batch: classify(artifact, batch).argmax(1))
    return {"test_error_classifier_pct": 100 * error_rate(predicted.numpy(), test.y)}
