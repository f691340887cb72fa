"""`ie search`: parameters of the objective and the optimizer by Optuna and ASHA through Ray Tune, judged on val.

Early stopping belongs here and not into `sweep`: all trials have the same labels and the same budget, and only the best
is kept. A trial runs the training loop itself (`pipeline.tuning.trials`), not a Ray Train run, so a trial
that is stopped has no resources but its worker's, which Tune takes back.

Suggestions depend on the order in which trials end. With one trial at a time the same seed gives the same search.
"""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import check_resources, keep_keys_here, ray_cluster
from pipeline.cluster.shard_staging import fetch_manifest, shards_for_workers, with_cache
from pipeline.config.methods import METHODS, apply_method
from pipeline.config.overrides import dotted, merged, nested, set_params
from pipeline.config.params import Params, parse_params
from pipeline.config.paths import shards_folder
from pipeline.config.sweep_params import SearchDimension, SearchParams
from pipeline.config.yaml_text import to_yaml
from pipeline.data.loading.check import check_shards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.errors import ParamsError, ResourceError, TrainingError
from pipeline.storage.locks import alone
from pipeline.storage.run_storage import Storage, open_storage
from pipeline.training.build_job import choose_reading, make_job
from pipeline.training.job import Job
from pipeline.training.label_subset import labels_per_class
from pipeline.training.local_session import TrialSession, giving_memory_back
from pipeline.training.trainer import Trainer
from pipeline.training.training_data import TRAINING_SPLITS
from pipeline.tuning.concurrency import end_when_interrupted, pack
from pipeline.utils.files import atomic_file, sha256_file
from pipeline.utils.fingerprint import fingerprint
from pipeline.utils.progress import Log, duration, say

_METRICS = {"val_error": "min", "val_nll": "min", "val_bound": "max"}
_TRAIN = ("train.learning_rate", "train.batch_size", "train.warmup")


@dataclass(frozen=True)
class Tried:
    """One trial of a search."""

    values: dict[str, Any]
    """By dotted path."""

    status: str
    """finished | stopped | failed"""

    epochs: int
    metrics: dict[str, float]
    """Of its last epoch, on val."""

    error: str = ""


def search(params: Params, project: Path, log: Log) -> Path:
    """Searches `search.space` and writes results/search: best.yaml, an overlay of params.yaml, and trials.csv.

    An interrupted search resumes from Tune's last record, seconds before.

    Raises:
        ParamsError: a name or value of the space that params do not allow, or that the method does not use.
        DataError: shards are missing or damaged.
        ResourceError: devices or disk are not there, or another search uses the same storage.
        TrainingError: every trial failed.
    """
    settings = params.search
    check_space(params)
    folder = shards_folder(params, project)
    dataset = ShardedDataset.open(folder)
    manifest = dataset.manifest
    try:
        labels_per_class(settings.label_count, manifest.splits["train"].class_counts, settings.seed)
    except ParamsError as error:
        raise ParamsError(str(error).replace("labels.count", "search.label_count", 1)) from error
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"search: {line}"))
    storage.check()
    with alone(storage, "search"):
        log("search: checking the shards")
        check_shards(dataset, TRAINING_SPLITS, choose_reading(params.reader, project, manifest))
        tried = _run(params, project, storage, log)
        best = best_of(tried, settings)
        out = project / "results" / "search"
        _write_trials(out / "trials.csv", tried, settings)
        changes = nested(_of_method(params) | best.values)
        with atomic_file(out / "best.yaml") as part:
            part.write_text(
                f"# {settings.method}, {settings.label_count} labels: {settings.metric} "
                f"{best.metrics[settings.metric]:.4f} on val after {best.epochs} epochs, the best of {len(tried)} "
                f"trials\n{to_yaml(changes)}"
            )
    stopped, failed = (sum(trial.status == status for trial in tried) for status in ("stopped", "failed"))
    log(f"search: {len(tried)} trials, {stopped} stopped early, {failed} failed; in {out / 'trials.csv'}")
    log(f"search: best {settings.metric} {best.metrics[settings.metric]:.4f} on val; in {out / 'best.yaml'}, or:")
    log(f"dvc exp run {set_params(changes)}")
    return out


def check_space(params: Params) -> None:
    """That the ends and choices of each dimension are allowed values of a parameter that the method uses."""
    raw = params.model_dump(mode="json")
    for i, dimension in enumerate(params.search.space):
        where, name = f"search.space[{i}]", dimension.name
        if not name.startswith(("model.", "objective.")) and name not in _TRAIN:
            raise ParamsError(f"{where}: {name} is not searched; allowed: model.*, objective.*, {', '.join(_TRAIN)}")
        if name.startswith("objective.extended.") and not METHODS[params.search.method].extended:
            raise ParamsError(f"{where}: method {params.search.method!r} does not use {name}; take it out")
        for value in dimension.choices or (dimension.low, dimension.high):
            try:
                parse_params(merged(raw, nested({name: value})))
            except ParamsError as error:
                raise ParamsError(f"{where} with {json.dumps(value)}: {error}") from error
        values = dimension.choices or (dimension.low, dimension.high)
        if len(values) > 1 and len({_trained(params, name, value) for value in values}) == 1:
            raise ParamsError(f"{where}: method {params.search.method!r} sets {name} itself; take it out")


def _trained(params: Params, name: str, value: Any) -> str:
    """What the search's method makes of params with one other value."""
    changed = parse_params(merged(params.model_dump(mode="json"), nested({name: value})))
    model, objective = apply_method(params.search.method, changed.model, changed.objective)
    parts = [part.model_dump(mode="json") for part in (model, objective, changed.train)]
    return json.dumps(parts, sort_keys=True)


def best_of(tried: list[Tried], settings: SearchParams) -> Tried:
    """The best of the trials that went on to the last epoch: a stopped one's value is that of another epoch.

    Raises:
        TrainingError: there is none.
    """
    whole = [trial for trial in tried if trial.status == "finished"]
    if not whole:
        raise TrainingError(f"all {len(tried)} trials of the search failed; the first: {tried[0].error}")
    sign = 1 if _METRICS[settings.metric] == "min" else -1
    return min(whole, key=lambda trial: sign * trial.metrics[settings.metric])


def trial_job(raw: dict[str, Any], values: dict[str, Any], project: Path, shards: Path | None = None) -> Job:
    """The run of one suggestion: params with its values, and the search's method, labels, seed and epochs.

    Args:
        shards: their folder, where it is not the project's.
    """
    settings = raw["search"]
    of_sweeps = {"min_steps": raw["sweep"]["min_steps"], "threads_per_worker": raw["sweep"]["threads_per_trial"]}
    changes = merged(merged(raw, nested(values)), {"train": {"epochs": settings["epochs"]} | of_sweeps})
    return make_job(
        parse_params(changes),
        project,
        method=settings["method"],
        label_count=settings["label_count"],
        seed=settings["seed"],
        world_size=1,
        shards=shards,
    )


class _SearchSession(TrialSession):
    """Reports each epoch's validation to Tune, which may end the trial there."""

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        from ray import tune

        tune.report({"epoch": int(metrics["epoch"])} | {name: metrics[name] for name in _METRICS if name in metrics})

    def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
        """None: what a search had tried is suggested again."""


@giving_memory_back()
def _trial(values: dict[str, Any], raw: dict[str, Any], project: str, shards: str) -> None:
    """What Tune runs for each suggestion. `shards`: see `pipeline.cluster.shard_staging.shards_for_workers`."""
    with tempfile.TemporaryDirectory() as folder:
        if shards:
            fetch_manifest(shards, Path(folder))
            job = with_cache(trial_job(raw, values, Path(project), Path(folder)))
        else:
            job = trial_job(raw, values, Path(project))
        # Nothing is kept of a trial: it is short, and one that is cut off starts again.
        Trainer(job, _SearchSession(Path("nothing is restored"), job)).run()


def _run(params: Params, project: Path, storage: Storage, log: Log) -> list[Tried]:
    settings, raw = params.search, params.model_dump(mode="json")
    # Tune resumes by name alone: the name must hold all that a trial's numbers depend on.
    identity = {name: raw[name] for name in ("model", "objective", "reader", "search", "train", "evaluate")}
    identity["manifest"] = sha256_file(shards_folder(params, project) / "manifest.json")
    name = fingerprint(identity)
    threads, device = params.sweep.threads_per_trial, params.train.device
    shards = shards_for_workers(shards_folder(params, project), storage, log)
    with ray_cluster(lambda line: log(f"search: {line}")) as resources:
        from ray import tune

        end_when_interrupted()
        keep_keys_here()
        check_resources(resources, workers=1, threads=threads, device=device, in_trials=True)
        packing = pack(resources, threads=threads, device=device, max_concurrent=params.sweep.max_concurrent)
        trainable = tune.with_resources(
            tune.with_parameters(_trial, raw=raw, project=str(project.resolve()), shards=shards), packing.per_trial
        )
        place = storage.for_ray(f"search/{name}")
        path, files = place["storage_path"], place.get("storage_filesystem")
        if tune.Tuner.can_restore(path, files):
            log(f"search: going on with {storage.where(f'search/{name}')}")
            tuner = tune.Tuner.restore(path, trainable=trainable, restart_errored=True, storage_filesystem=files)
        else:
            log(f"search: {settings.num_trials} trials of up to {settings.epochs} epochs")
            tuner = _tuner(trainable, settings, packing.concurrent, storage, name)
        grid = tuner.fit()
        tried = [_tried(grid[i], settings) for i in range(len(grid))]
    if any(trial.status == "finished" for trial in tried):
        with contextlib.suppress(ResourceError):
            storage.remove("search")
    return tried


def _tuner(trainable: Any, settings: SearchParams, concurrent: int, storage: Storage, name: str) -> Any:
    import optuna
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    class Watcher(tune.Callback):
        """A line for each trial that ends."""

        def setup(self, *arguments: Any, **info: Any) -> None:
            # Not in a constructor: a resumed search has this object from the interrupted one.
            self._started, self._before = time.monotonic(), -1

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trials, trial, "")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
            self._end(trials, trial, " FAILED,")

        def _end(self, trials: list[Any], trial: Any, note: str) -> None:
            ended = len({each.trial_id for each in trials if each.is_finished()} | {trial.trial_id})
            if self._before < 0:  # trials of an earlier run have another rate
                self._before = ended - 1
            seconds = (time.monotonic() - self._started) / (ended - self._before) * (settings.num_trials - ended)
            left = f"; {duration(seconds)} left" if seconds else ""
            last = trial.last_result or {}
            value = f"{settings.metric} {last[settings.metric]:.4f}" if settings.metric in last else "no value"
            values = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in trial.config.items())
            epochs = f"after {last.get('epoch', 0)} epochs"
            say(f"search: {ended}/{settings.num_trials}{note} {value} {epochs}, {values}{left}")

    sampler = optuna.samplers.TPESampler(seed=settings.seed)
    mode = _METRICS[settings.metric]
    algorithm = OptunaSearch(metric=settings.metric, mode=mode, sampler=sampler)
    return tune.Tuner(
        trainable,
        param_space={dimension.name: _domain(dimension) for dimension in settings.space},
        tune_config=tune.TuneConfig(
            metric=settings.metric,
            mode=mode,
            num_samples=settings.num_trials,
            search_alg=ConcurrencyLimiter(algorithm, max_concurrent=concurrent),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=settings.epochs,
                grace_period=settings.grace_epochs,
                reduction_factor=settings.reduction,
            ),
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name=name, **storage.for_ray("search"), verbose=0, callbacks=[Watcher()]),
    )


def _domain(dimension: SearchDimension) -> Any:
    from ray import tune

    low, high = dimension.low, dimension.high
    if low is None or high is None:
        return tune.choice(list(dimension.choices or ()))
    if isinstance(low, int) and isinstance(high, int):
        # Tune leaves the upper end out.
        return tune.lograndint(low, high + 1) if dimension.log else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if dimension.log else tune.uniform(low, high)


def _tried(result: Any, settings: SearchParams) -> Tried:
    metrics = result.metrics or {}
    epochs = int(metrics.get("epoch", 0))
    values = {dimension.name: (result.config or {})[dimension.name] for dimension in settings.space}
    error = " ".join(str(result.error).split())[-300:] if result.error is not None else ""
    status = "failed" if error else "finished" if epochs == settings.epochs else "stopped"
    return Tried(values, status, epochs, {name: metrics[name] for name in _METRICS if name in metrics}, error)


def _of_method(params: Params) -> dict[str, Any]:
    """What makes params.model and params.objective the search's method, by dotted path."""
    model, objective = apply_method(params.search.method, params.model, params.objective)
    asked = dict(dotted({"model": model.model_dump(mode="json"), "objective": objective.model_dump(mode="json")}))
    here = dict(dotted(params.model_dump(mode="json")))
    return {path: value for path, value in asked.items() if here[path] != value}


def _write_trials(path: Path, tried: list[Tried], settings: SearchParams) -> None:
    names = [dimension.name for dimension in settings.space]
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("trial", "status", "epochs", *_METRICS, *names, "error"))
        for i, trial in enumerate(tried):
            measured = [trial.metrics.get(name, "") for name in _METRICS]
            writer.writerow(
                (i, trial.status, trial.epochs, *measured, *(trial.values[name] for name in names), trial.error)
            )
