"""`ie search`: what may be searched, how the best is chosen, and on digits that stopped trials leave nothing behind."""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline.tuning.search
from pipeline.cluster.connection import ray_cluster
from pipeline.config.params import parse_params
from pipeline.errors import ParamsError, TrainingError
from pipeline.training.training_data import load_training_data
from pipeline.tuning.search import Tried, best_of, check_space, search, trial_job
from pipeline.utils.progress import Log
from tests.helpers.project import REPOSITORY, run, small_params

RATE = {"name": "train.learning_rate", "low": 0.0005, "high": 0.02, "log": True}
EXTENDED = "objective.extended"


def with_space(*space: dict[str, Any], **changes: Any) -> Any:
    return parse_params(small_params(search={"space": list(space)} | changes))


def test_the_shipped_space_is_allowed() -> None:
    check_space(parse_params(small_params()))


@pytest.mark.parametrize(
    ("dimension", "changes", "message"),
    [
        ({"name": "train.epochs", "low": 1, "high": 2}, {}, r"space\[0\]: train\.epochs is not searched; allowed: mod"),
        ({"name": "labels.count", "choices": [50]}, {}, r"space\[0\]: labels\.count is not searched"),
        ({"name": "objective.alhpa", "low": 1.0, "high": 2.0}, {}, r"with 1\.0: objective\.alhpa: unknown key"),
        ({"name": "objective.prune", "low": 0.0, "high": 1.5}, {}, r"space\[0\] with 1\.5: .*prune is 1\.5; allowed"),
        ({"name": "objective.alpha", "low": 5.0, "high": 1.0}, {}, r"low \(5\.0\) must be below high \(1\.0\)"),
        ({"name": "objective.alpha", "low": 0.0, "high": 1.0, "log": True}, {}, r"starts above 0, got 0\.0"),
        ({"name": "objective.alpha"}, {}, r"needs either low and high, or choices"),
        ({"name": "objective.alpha", "low": 1.0, "high": 2.0, "choices": [1.0]}, {}, r"low and high, or choices"),
        ({"name": f"{EXTENDED}.consistency", "low": 1.0, "high": 2.0}, {"method": "plain"}, r"'plain' does not use"),
        ({"name": "model.posterior", "choices": ["x", "r_and_x"]}, {}, r"'extended' sets model\.posterior itself"),
        (RATE, {"grace_epochs": 9}, r"grace_epochs \(9\) must be at most epochs \(5\)"),
        (RATE, {"metric": "val_bound", "method": "supervised"}, r"'supervised' has no bound"),
        (RATE, {"method": "vae"}, r"'vae' has no classes; allowed: val_bound"),
        (RATE, {"label_count": 5000}, r"search\.label_count is 5000, more labels than points"),
    ],
)
def test_a_search_that_cannot_be_is_one_line(dimension: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        check_space(with_space(dimension, **changes))
    assert "\n" not in str(caught.value)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ParamsError, match="space holds a name twice"):
        with_space(RATE, RATE)


@pytest.mark.parametrize(("metric", "best"), [("val_error", 1), ("val_bound", 2)])
def test_the_best_is_chosen_among_trials_that_went_to_the_end(metric: str, best: int) -> None:
    tried = [
        Tried({}, "stopped", 1, {"val_error": 1.0, "val_bound": -10.0}),
        Tried({}, "finished", 3, {"val_error": 5.0, "val_bound": -90.0}),
        Tried({}, "finished", 3, {"val_error": 6.0, "val_bound": -80.0}),
        Tried({}, "failed", 0, {}, "RuntimeError: broken"),
    ]
    settings = with_space(RATE, metric=metric).search
    assert best_of(tried, settings) is tried[best]
    with pytest.raises(TrainingError, match="all 1 trials of the search failed; the first: RuntimeError: broken"):
        best_of(tried[3:], settings)


def test_a_trial_is_the_search_s_run_with_the_suggested_values(digits_project: Path) -> None:
    raw = small_params(search={"label_count": 50, "seed": 4, "epochs": 3, "method": "plain"})
    job = trial_job(raw, {"train.learning_rate": 0.0123, "objective.alpha": 7.0}, digits_project)
    assert (job.method, job.label_count, job.label_seed, job.seed, job.epochs) == ("plain", 50, 4, 4, 3)
    assert (job.learning_rate, job.objective.alpha, job.objective.extended.enabled) == (0.0123, 7.0, False)


@pytest.mark.slow
def test_stopped_trials_leave_no_resources_behind_and_the_best_is_an_overlay(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    (project / "data").mkdir(parents=True)
    (project / "data/shards").symlink_to(digits_project / "data/shards")
    settings = {"num_trials": 6, "epochs": 4, "label_count": 50, "method": "plain", "space": [RATE]}
    raw = small_params(search=settings)
    left: list[tuple[float, list[str]]] = []
    cluster = ray_cluster

    @contextlib.contextmanager
    def watched(log: Log) -> Iterator[dict[str, float]]:
        import ray
        from ray.util import placement_group_table

        with cluster(log) as resources:
            yield resources
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                states = [group["state"] for group in placement_group_table().values()]
                cpus = ray.available_resources().get("CPU", 0)  # type: ignore[no-untyped-call]
                if cpus == resources["CPU"] and set(states) <= {"REMOVED"}:
                    break
                time.sleep(0.5)
            left.append((cpus - resources["CPU"], [state for state in states if state != "REMOVED"]))

    monkeypatch.setattr(pipeline.tuning.search, "ray_cluster", watched)
    lines: list[str] = []
    out = search(parse_params(raw), project, lines.append)
    assert left == [(0, [])]
    with (out / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert {row["status"] for row in rows} == {"finished", "stopped"}
    assert {int(row["epochs"]) for row in rows if row["status"] == "finished"} == {4}
    best = min((row for row in rows if row["status"] == "finished"), key=lambda row: float(row["val_error"]))
    found = yaml.safe_load((out / "best.yaml").read_text())
    # The method is part of it: the shipped params train the extended objective.
    expected = {"train": {"learning_rate": float(best["train.learning_rate"])}}
    assert found == expected | {"objective": {"extended": {"enabled": False}}}
    assert lines[-1].startswith("dvc exp run -S ") and f"train.learning_rate={best['train.learning_rate']}" in lines[-1]
    assert not (project / ".runs" / "search").exists()
    assert not (project / "results" / "sweep").exists()


def test_a_search_reads_train_and_val_alone(digits_project: Path, tmp_path: Path) -> None:
    """A folder of shards that lacks the test split is all that a trial needs."""
    import shutil

    shutil.copytree(digits_project / "data" / "shards", tmp_path / "data" / "shards")
    for shard in (tmp_path / "data/shards/digits").glob("test-*.tar"):
        shard.unlink()
    import torch

    job = trial_job(small_params(), {}, tmp_path)
    data = load_training_data(Path(job.shards), job.reading, job.label_count, job.label_seed, torch.device("cpu"))
    assert len(data.val_y) == 200


def test_the_command_s_mistakes_are_one_line(tmp_path: Path) -> None:
    raw = small_params(search={"space": [{"name": "objective.alpha", "low": 2.0, "high": 1.0}]})
    (tmp_path / "params.yaml").write_text(json.dumps(raw))

    done = run(REPOSITORY, "ie", "search", "--params", str(tmp_path / "params.yaml"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "must be below high" in done.stderr
