"""What a sweep decides before and while its trials run: the grid, packing, the lock, the time left."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import pipeline.stages.sweep
from pipeline.config.params import parse_params
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import ParamsError, ResourceError
from pipeline.stages.sweep import sweep
from pipeline.storage.locks import alone
from pipeline.storage.run_storage import Folder
from pipeline.tuning.concurrency import pack
from pipeline.tuning.progress import Eta
from pipeline.tuning.trials import plan_trials
from pipeline.tuning.write_results import COLUMNS
from tests.helpers.project import small_params


def planned(project: Path, **changes: Any) -> list[tuple[str, int, int]]:
    params = parse_params(small_params(sweep=changes))
    trials = plan_trials(params, project, read_manifest(project / "data/shards/digits"))
    return [(trial.method, trial.labels, trial.seed) for trial in trials]


def test_counts_fractions_and_all_make_one_grid(digits_project: Path) -> None:
    found = planned(digits_project, label_counts=[50, 0.1, "all"], methods=["plain", "m2"], seeds=[3, 1])
    # A fraction is of each class and rounded up: a tenth of 1237 in ten classes.
    assert found == [(m, n, s) for n in (50, 128, 1237) for m in ("plain", "m2") for s in (3, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_counts": [50, 5000]}, r"sweep\.label_counts\[1\] is 5000, more labels than points"),
        ({"label_counts": [50, 0.001]}, r"sweep\.label_counts\[1\] is 0\.001: class '.' would keep 1 labelled point"),
        ({"label_counts": [1230]}, r"sweep\.label_counts\[0\] is 1230: class '.' would need 123 labelled points"),
        ({"label_counts": ["all", 1237]}, r"sweep\.label_counts\[1\] is 1237: class '.' would need"),
        ({"label_counts": [0.1001, 0.1002]}, r"\[0\] \(0\.1001\) and \[1\] \(0\.1002\) both come to \d+ labels"),
        ({"methods": ["plain", "best"]}, r'sweep\.methods\[1\] is "best"; allowed: \'supervised\''),
        ({"seeds": [1, 0, 1]}, r"seeds holds a value twice: \[1, 0, 1\]"),
        ({"baseline": "vae"}, r"baseline is 'vae', which is none of methods; allowed: supervised, plain, extended"),
        ({"max_concurrent": 0}, r"sweep\.max_concurrent is 0; allowed: 'auto' or greater than or equal to 1"),
        ({"max_concurrent": "many"}, r"sweep\.max_concurrent is \"many\"; allowed: 'auto' or"),
        ({"retries": -1}, r"sweep\.retries is -1; allowed: greater than or equal to 0"),
    ],
)
def test_a_grid_that_cannot_be_is_one_line(digits_project: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        planned(digits_project, **changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("cpus", "threads", "most", "concurrent"),
    [(2, 1, "auto", 2), (2, 2, "auto", 1), (2, 1, 8, 2), (16, 2, 4, 4), (16, 3, "auto", 5)],
)
def test_threads_of_all_trials_are_no_more_than_the_cpus(cpus: int, threads: int, most: Any, concurrent: int) -> None:
    packing = pack({"CPU": cpus}, threads=threads, device="cpu", max_concurrent=most)
    assert packing.concurrent == concurrent
    assert packing.per_trial == {"CPU": float(threads)}
    assert packing.concurrent * threads <= cpus


@pytest.mark.parametrize(
    ("gpus", "most", "concurrent", "part"),
    [(1, 1, 1, 1.0), (1, 4, 4, 0.25), (1, 3, 3, 0.3333), (3, 4, 4, 0.5), (2, "auto", 8, 0.25), (8, 4, 4, 1.0)],
)
def test_parts_of_gpus_hold_all_trials_at_once(gpus: int, most: Any, concurrent: int, part: float) -> None:
    packing = pack({"CPU": 64, "GPU": gpus}, threads=2, device="cuda", max_concurrent=most)
    assert packing.concurrent == concurrent
    assert packing.per_trial == {"CPU": 2.0, "GPU": part}
    # A part lies on one GPU: two parts of 0.75 would not fit on three GPUs in four trials.
    assert gpus * int(1 / part) >= concurrent


def test_a_second_sweep_on_the_same_storage_is_refused_and_nothing_is_overwritten(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.stages.sweep, "_run", lambda *arguments: pytest.fail("a trial was run"))
    params = parse_params(small_params(storage={"url": str(tmp_path / "runs")}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "table.csv").write_text("kept")
    (tmp_path / "runs").mkdir()
    with (
        FileLock(tmp_path / "runs" / "sweep.lock"),
        pytest.raises(ResourceError, match=r"another sweep is running .*sweep\.lock is locked.*storage\.url") as caught,
    ):
        sweep(params, digits_project, print, fresh=True, out=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "table.csv").read_text() == "kept"
    # Once the other one has ended, the lock file that it leaves is no obstacle.
    with alone(Folder(tmp_path / "runs"), "sweep"):
        pass


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left_is_told_by_method_and_by_how_many_run_at_a_time() -> None:
    clock = Clock()
    eta = Eta({"a": "quick", "b": "slow", "c": "quick", "d": "slow"}, 2, clock)
    assert eta.seconds() is None
    for name in ("a", "b"):
        eta.update(name, 0.0)
    clock.seconds = 10
    eta.update("a", 1.0)
    eta.update("b", 0.1)
    # 10 s for the quick one that waits; 90 s and 100 s for the slow ones: 200 s over two at a time.
    assert eta.seconds() == pytest.approx(100)
    assert eta.running == 1
    assert eta.taken("b") == pytest.approx(10)
    clock.seconds = 100
    for name in ("b", "c"):
        eta.update(name, 1.0)
    assert eta.seconds() == pytest.approx(100), "the last one alone: a second worker does not help"


def test_what_an_earlier_run_did_of_a_trial_says_nothing_of_its_rate_now() -> None:
    clock = Clock()
    eta = Eta({"a": "slow"}, 1, clock)
    eta.update("a", 0.5)
    clock.seconds = 10
    eta.update("a", 0.75)
    assert eta.seconds() == pytest.approx(10)


def test_the_columns_of_the_old_table_are_what_they_were() -> None:
    """docs/pages.py and the published tables read them."""
    with (Path(__file__).parents[3] / "docs/results/mnist-plain/table.csv").open(newline="") as file:
        published = next(csv.reader(file))
    assert tuple(published) == COLUMNS
