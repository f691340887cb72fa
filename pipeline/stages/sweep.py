"""Stage `sweep`: label counts x methods x seeds through Ray Tune, into one table and one plot.

An interrupted sweep resumes with the trials that have no result yet, and one with a seed or a count more runs only what
is new: results are kept by fingerprint (`pipeline.tuning.trials`).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import keep_keys_here, queue_here, ray_cluster, wait_for_workers
from pipeline.cluster.shard_staging import shards_for_workers
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.loading.check import check_shards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.evaluation.oracle_store import oracle_at_hand
from pipeline.results.origin import make_origin
from pipeline.storage.locks import alone
from pipeline.storage.run_storage import Storage, open_storage
from pipeline.training.build_job import choose_reading
from pipeline.training.job import Job
from pipeline.tuning.concurrency import end_when_interrupted, pack
from pipeline.tuning.progress import Watcher
from pipeline.tuning.trials import Task, Trial, finished_result, measured_as, name_of_trial, plan_trials, run_trial
from pipeline.tuning.write_results import publish
from pipeline.utils.progress import Log, listening
from pipeline.utils.provenance import commit


def sweep(params: Params, project: Path, log: Log, *, fresh: bool = False, out: Path | None = None) -> Path:
    """Runs the trials that are not finished yet and writes results/sweep, or `out`.

    Args:
        fresh: forget what earlier sweeps finished.

    Raises:
        ParamsError: a label count that the data cannot give.
        DataError: shards are missing or damaged.
        ResourceError: devices or disk are not there, or another sweep uses the same storage.
        TrainingError: every trial failed.
    """
    folder = shards_folder(params, project)
    dataset = ShardedDataset.open(folder)
    manifest = dataset.manifest
    trials = plan_trials(params, project, manifest)
    storage = open_storage(
        params.storage.url,
        project,
        patience_s=params.train.timeout_s / 2,
        tell=lambda line: log(f"sweep: {line}"),
    )
    storage.check()
    with alone(storage, "sweep"):
        log("sweep: checking the shards")
        check_shards(dataset, ("train", "val", "test"), choose_reading(params.reader, project, manifest))
        if fresh:
            for trial in trials:
                storage.remove(name_of_trial(trial.job.fingerprint))
        asked = measured_as(params)
        waiting = [trial for trial in trials if finished_result(storage, trial.job.fingerprint, asked) is None]
        log(f"sweep: {len(trials)} trials, {len(trials) - len(waiting)} already finished")
        failures = _run(waiting, storage, params, project, log) if waiting else {}
        out = out or project / "results" / "sweep"
        baseline = params.sweep.baseline or params.sweep.methods[0]
        publish(
            trials,
            storage,
            failures,
            out,
            log,
            asked=asked,
            source=params.data.source,
            baseline=baseline,
            origin=make_origin("sweep", params, folder),
        )
        done = sum(finished_result(storage, trial.job.fingerprint, asked) is not None for trial in trials)
        log(f"sweep: {done} of {len(trials)} trials finished; summary.md, results.parquet and a plot in {out}")
    return out


def _run(trials: list[Trial], storage: Storage, params: Params, project: Path, log: Log) -> dict[str, str]:
    """Runs trials through Ray Tune; returns the errors of those that failed, by fingerprint."""
    threads, device = params.sweep.threads_per_trial, params.train.device
    settings = params.evaluate if params.sweep.measures == "all" else None
    shards, oracle = shards_for_workers(shards_folder(params, project), storage, log), ""
    if settings is not None:
        # Before the trials, which would each train one for itself.
        with oracle_at_hand(params, project, storage, log) as (oracle, _):
            pass
    with ray_cluster(lambda line: log(f"sweep: {line}")), _tunes_folder(storage) as folder:
        # Not before: what Ray reads from the environment when it is imported is set by then.
        from ray import tune

        end_when_interrupted()
        keep_keys_here()
        resources = wait_for_workers(1, threads, device, log, in_trials=True)
        packing = pack(resources, threads=threads, device=device, max_concurrent=params.sweep.max_concurrent)
        queue = queue_here()
        task = Task(
            storage=storage.url,
            patience_s=params.train.timeout_s / 2,
            shards=shards,
            queue=queue,
            settings=settings,
            oracle=oracle,
            measured_as=measured_as(params),
            retries=params.sweep.retries,
            commit=commit(project),
        )
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(run_trial, task=task), packing.per_trial),
            param_space={"job": tune.grid_search([trial.job.model_dump_json() for trial in trials])},
            # A worker that is used again has paid for its start and its imports.
            tune_config=tune.TuneConfig(max_concurrent_trials=packing.concurrent, reuse_actors=True),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder),
                verbose=0,
                # Of a trial whose worker or host is lost: it starts again elsewhere, from its last checkpoint. What is
                # raised inside it is tried again by the trial itself.
                failure_config=tune.FailureConfig(max_failures=max(params.sweep.retries, params.train.max_failures)),
                checkpoint_config=tune.CheckpointConfig(),
            ),
        )
        watcher = Watcher({trial.job.fingerprint: trial for trial in trials}, packing.concurrent, log)
        try:
            with listening(queue, watcher):
                grid = tuner.fit()
        finally:
            watcher.close()
    return _failures(grid, storage)


@contextlib.contextmanager
def _tunes_folder(storage: Storage) -> Iterator[Path]:
    """Where Tune keeps its own record of the grid while it runs: of no further use, results are in the storage.

    Only the driver writes there, and trials report no checkpoints to Tune: any folder of this host will do.
    """
    with contextlib.ExitStack() as stack:
        if storage.remote:
            yield Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        else:
            yield Path(storage.url)
            shutil.rmtree(Path(storage.url) / "tune", ignore_errors=True)


def _failures(grid: Any, storage: Storage) -> dict[str, str]:
    """Errors by fingerprint, of trials that failed and of trials whose worker was lost."""
    failures = {}
    for result in (grid[i] for i in range(len(grid))):
        metrics = result.metrics or {}
        name = Job.model_validate_json((result.config or {})["job"]).fingerprint
        if result.error is not None:
            failures[name] = " ".join(str(result.error).split())[-300:]
            storage.write(f"{name_of_trial(name)}/error.log", f"{result.error}\n".encode())
        elif "error" in metrics:
            failures[name] = str(metrics["error"])
    return failures
