"""Curves as the readers of TensorBoard and MLflow find them, after interruptions too."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.errors import ResourceError
from pipeline.results.loggers import History, check_loggers, open_loggers
from tests.helpers.waiting import silent

# As SQLAlchemy 2.1 finds them in MLflow.
ignore_deprecations = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def history(epochs: int, first: float = 0.0) -> History:
    """Of a loss that falls from 1 / 2 on; `first` is added to it."""
    return [{"epoch": epoch, "loss": first + 1 / (1 + epoch)} for epoch in range(1, epochs + 1)]


def log(names: tuple[str, ...], folder: Path, *histories: History, params: dict[str, Any] | None = None) -> list[str]:
    """One process of a run of ten steps an epoch; returns its lines."""
    lines: list[str] = []
    with open_loggers(names, folder, "train-a", params or {}, 10, lines.append) as update:
        for each in histories:
            update(each)
    return lines


def tensorboard_loss(folder: Path) -> list[tuple[int, float]]:
    reader = EventAccumulator(str(folder / "tensorboard" / "train-a"))
    reader.Reload()
    return [(event.step, round(event.value, 6)) for event in reader.Scalars("loss")]


def test_tensorboard_of_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    # The first process stands for one whose last epochs the second repeats, with other values.
    log(("tensorboard",), tmp_path, history(1, first=5), history(2, first=5))
    (before,) = (tmp_path / "tensorboard/train-a").iterdir()
    before.rename(before.with_name("events.out.tfevents.1000000000.host"))
    log(("tensorboard",), tmp_path, history(3), history(4))
    assert len(list((tmp_path / "tensorboard/train-a").iterdir())) == 2
    assert tensorboard_loss(tmp_path) == [(10, 0.5), (20, 0.333333), (30, 0.25), (40, 0.2)]


def test_a_logger_that_fails_is_a_warning_and_catches_up(tmp_path: Path) -> None:
    lines: list[str] = []
    with open_loggers(("tensorboard",), tmp_path, "train-a", {}, 10, lines.append) as update:
        (tmp_path / "tensorboard/train-a").rmdir()
        update(history(1))
        assert "warning: tensorboard" in lines[-1]
        (tmp_path / "tensorboard/train-a").mkdir()
        update(history(2))
    assert tensorboard_loss(tmp_path) == [(10, 0.5), (20, 0.333333)]


def test_a_folder_that_cannot_be_is_refused_before_the_run(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").touch()
    with pytest.raises(ResourceError, match="tensorboard"):
        log(("tensorboard",), tmp_path)


def test_mlflow_that_is_not_installed_is_one_line_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(("mlflow", "tensorboard"))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    check_loggers(("tensorboard",))
    with pytest.raises(ResourceError, match=r"train\.loggers .*mlflow.* 'ie-pipeline\[loggers\]'"):
        check_loggers(("mlflow",))


@pytest.mark.slow
@ignore_deprecations
def test_mlflow_of_a_resumed_run_is_one_run_with_each_epoch_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "logs"
    with (
        pytest.raises(KeyboardInterrupt),
        open_loggers(("mlflow",), folder, "train-a", {"a.b": 1}, 10, silent) as update,
    ):
        update(history(1))
        update(history(2))
        raise KeyboardInterrupt
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ie-pipeline")
    assert experiment is not None

    def runs() -> list[Any]:
        return list(client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"]))

    (killed,) = runs()
    assert (killed.info.status, killed.data.params) == ("KILLED", {"a.b": "1"})
    log(("mlflow",), folder, history(3), history(4), params={"a.b": 1})
    (ended,) = runs()
    assert (ended.info.run_id, ended.info.status) == (killed.info.run_id, "FINISHED")
    points = client.get_metric_history(ended.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(10 * n, 1 / (1 + n)) for n in range(1, 5)]
    log(("mlflow",), folder, history(1))
    assert len(runs()) == 2, "a run that has finished stays as it is"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_tracking_server_that_is_away_is_refused_before_the_run_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ResourceError, match="MLFLOW_TRACKING_URI") as caught:
        log(("mlflow",), tmp_path)
    assert "secret" not in str(caught.value) and "127.0.0.1" in str(caught.value)
