"""Curves of a run for TensorBoard and MLflow, written on the head from the history that rank 0 reports each epoch.

An update has the whole history and each logger adds the epochs that it lacks: after a resume, or an outage of the
tracking server, the curves continue without gaps and without an epoch twice.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from pipeline.errors import ResourceError
from pipeline.utils.files import resources
from pipeline.utils.progress import Log

History = list[dict[str, float]]
"""A row an epoch, as in history.csv."""

Update = Callable[[History], None]
Status = Literal["FINISHED", "FAILED", "KILLED"]


class Logger(Protocol):
    """Where curves are shown."""

    def update(self, history: History) -> None:
        """Adds the epochs that are not there yet; a point's step is that of the epoch's end."""
        ...

    def close(self, status: Status) -> None:
        """The run has ended."""
        ...


class TensorBoard:
    """An events file in a folder of the run.

    Each process begins one, with all epochs from the first: readers drop what earlier files hold of those steps.
    """

    def __init__(self, folder: Path, steps_per_epoch: int) -> None:
        with resources():
            folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._steps = folder, steps_per_epoch
        self._writer: Any = None
        self._written = 0

    def update(self, history: History) -> None:
        # Not its SummaryWriter, whose thread hides a full disk. Here, because the package imports torch.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if self._writer is None:
            self._writer = EventsWriter(str(self._folder / "events"), f".{os.getpid()}")
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=self._steps, session_log=start))
        for row in history[self._written :]:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
            step = int(row["epoch"]) * self._steps
            self._writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            self._written += 1
        self._writer.flush()

    def close(self, status: Status) -> None:
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """A run of a tracking server: the unfinished one of the same name, else a new one."""

    def __init__(self, default_uri: str, name: str, params: Mapping[str, Any], steps_per_epoch: int) -> None:
        """
        Args:
            default_uri: taken where MLFLOW_TRACKING_URI is not set.
            name: of the run; two runs of one name have the same numbers.

        Raises:
            ResourceError: the server does not answer, or refuses.
        """
        # A server that is away costs an epoch's report seconds, by MLflow's defaults minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._steps = steps_per_epoch
        try:
            self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", default_uri))
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ie-pipeline")
            found = self._client.get_experiment_by_name(experiment)
            place = self._client.create_experiment(experiment) if found is None else found.experiment_id
            unfinished = f"attributes.run_name = '{name}' and attributes.status != 'FINISHED'"
            runs = self._client.search_runs([place], unfinished, max_results=1)
            if runs:
                self._run_id = runs[0].info.run_id
                self._client.update_run(self._run_id, status="RUNNING")
            else:
                self._run_id = self._client.create_run(place, run_name=name).info.run_id
                self._client.log_batch(self._run_id, params=[Param(key, str(value)) for key, value in params.items()])
        except Exception as error:
            raise ResourceError(f"train.loggers: MLflow: {_line(error)}; see MLFLOW_TRACKING_URI") from error

    def update(self, history: History) -> None:
        from mlflow.entities import Metric

        # The server's word: an update that failed may have arrived.
        done = int(self._client.get_run(self._run_id).data.metrics.get("epoch", 0))
        for row in history[done:]:
            now, step = int(1000 * time.time()), int(row["epoch"]) * self._steps
            self._client.log_batch(self._run_id, [Metric(name, value, now, step) for name, value in row.items()])

    def close(self, status: Status) -> None:
        self._client.set_terminated(self._run_id, status)


def check_loggers(names: tuple[str, ...]) -> None:
    """That the packages of `train.loggers` are there. Raises ResourceError where not."""
    if "mlflow" in names and find_spec("mlflow") is None:
        raise ResourceError("train.loggers has mlflow, which is not installed: pip install 'ie-pipeline[loggers]'")


@contextlib.contextmanager
def open_loggers(
    names: tuple[str, ...], folder: Path, run: str, params: Mapping[str, Any], steps_per_epoch: int, log: Log
) -> Iterator[Update]:
    """The function that takes the history so far, from any thread. Training outlives a logger that fails.

    Args:
        folder: has `tensorboard/<run>`, and `mlflow.db` where no tracking server is named.
        params: what the run's numbers depend on.

    Raises:
        ResourceError: a logger cannot begin.
    """
    loggers: dict[str, Logger] = {}
    if "tensorboard" in names:
        loggers["tensorboard"] = TensorBoard(folder / "tensorboard" / run, steps_per_epoch)
        log(f"train: curves for tensorboard --logdir {folder / 'tensorboard'}")
    if "mlflow" in names:
        folder.mkdir(parents=True, exist_ok=True)
        loggers["mlflow"] = MLflow(f"sqlite:///{folder / 'mlflow.db'}", run, params, steps_per_epoch)
        log(f"train: curves in MLflow, run {run}")
    lock = threading.Lock()

    def each(action: Callable[[Logger], None]) -> None:
        for name, logger in loggers.items():
            try:
                action(logger)
            except Exception as error:
                log(f"train: warning: {name} lacks the newest values: {_line(error)}")

    def update(history: History) -> None:
        with lock:
            each(lambda logger: logger.update(history))

    status: Status = "FAILED"
    try:
        yield update
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        with lock:
            each(lambda logger: logger.close(status))


def _line(error: Exception) -> str:
    """Without a URL's password, which MLflow repeats."""
    return re.sub(r"//[^/@\s]+@", "//", " ".join(str(error).split()))[:300]
