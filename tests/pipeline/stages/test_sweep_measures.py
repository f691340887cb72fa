"""A sweep that measures its trials, and the oracle that judges their swaps. On digits."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml

import pipeline.evaluation.oracle
import pipeline.stages.sweep
from ie_model.artifact import Artifact, load_artifact, save_artifact
from pipeline.config.params import Params, parse_params
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import ParamsError
from pipeline.evaluation.oracle import oracle_folder
from pipeline.storage.run_storage import Folder
from pipeline.training.build_job import make_job
from pipeline.training.trainer import Trainer
from pipeline.tuning.trials import Trial, TrialResult, finished_result, measured_as, plan_trials
from pipeline.utils.checksums import write_sealed
from tests.helpers.project import copy_project, small_params, succeed

ORACLE = {"oracle_steps": 3}


def params_with(storage: Path, **sections: dict[str, Any]) -> Params:
    """Small params whose run state lies in `storage`."""
    raw = small_params(**{"storage": {"url": str(storage)}, **sections})
    return parse_params(raw)


def log_to(lines: list[str]) -> Any:
    return lines.append


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Every file below a folder: its bytes and when they were written."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


# --- the oracle ---


def test_the_oracle_is_trained_once_and_found_again(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, lines = params_with(tmp_path / "runs", evaluate=ORACLE), list[str]()
    folder = oracle_folder(params, digits_project, log_to(lines))
    assert folder.parent == tmp_path / "runs" / "oracle"
    oracle = load_artifact(folder)
    assert oracle.provenance["method"] == "supervised_augmented"
    assert oracle.provenance["steps"] == 3
    assert int(oracle.class_counts.sum()) == 1237, "all labels of train"
    assert len(lines) == 2 and lines[0].startswith("oracle: 3 steps")
    before = contents(folder)

    def refused(self: Trainer) -> dict[str, float]:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "run", refused)
    # What has no part in its training does not matter.
    other = params_with(
        tmp_path / "runs",
        evaluate=ORACLE | {"swap_points": 50, "probe_seeds": [0, 1]},
        labels={"count": 50, "seed": 3},
        sweep={"measures": "all"},
    )
    assert oracle_folder(params, digits_project, log_to(lines)) == folder
    assert oracle_folder(other, digits_project, log_to(lines)) == folder
    assert contents(folder) == before
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("section", "changes"), [("evaluate", {"oracle_steps": 4}), ("evaluate", {"seed": 1}), ("model", {"hidden": 32})]
)
def test_an_oracle_of_other_settings_is_another_one(
    digits_project: Path, tmp_path: Path, section: str, changes: dict[str, Any]
) -> None:
    sections: dict[str, dict[str, Any]] = {"evaluate": dict(ORACLE)}
    first = oracle_folder(params_with(tmp_path, **sections), digits_project, log_to([]))
    sections[section] = sections.get(section, {}) | changes
    second = oracle_folder(params_with(tmp_path, **sections), digits_project, log_to([]))
    assert second != first
    assert load_artifact(second).provenance["steps"] == sections["evaluate"]["oracle_steps"]
    assert load_artifact(first).provenance["steps"] == 3


def test_the_oracle_does_not_start_from_the_weights_of_a_run(digits_project: Path, tmp_path: Path) -> None:
    """Its seed is far from theirs: a judge with a trial's own weights would not be independent."""
    params = params_with(tmp_path, evaluate=ORACLE, sweep={"seeds": [0, 1, 2]})
    manifest = read_manifest(digits_project / "data/shards/digits")
    seeds = {trial.job.seed for trial in plan_trials(params, digits_project, manifest)}
    jobs = []

    def watched(*arguments: Any, **more: Any) -> Any:
        jobs.append(make_job(*arguments, **more))
        return jobs[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.evaluation.oracle, "make_job", watched)
        oracle_folder(params, digits_project, log_to([]))
    assert jobs[0].seed not in seeds | {params.train.seed}
    assert jobs[0].label_count == "all"


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_oracle_interrupted_while_it_is_saved_leaves_no_half_of_it(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    params, lines = params_with(tmp_path / "runs", evaluate=ORACLE), list[str]()

    def cut(folder: Path, artifact: Artifact) -> None:
        save_artifact(folder, artifact)
        (folder / "config.json").unlink()
        raise error("interrupted")

    monkeypatch.setattr(pipeline.evaluation.oracle, "save_artifact", cut)
    with pytest.raises(error):
        oracle_folder(params, digits_project, log_to(lines))
    # A checkpoint to resume from may stay; nothing that could be taken for the oracle or is of no use.
    left = list((tmp_path / "runs" / "oracle").iterdir())
    assert [path.name for path in left if path.suffix != ".checkpoint"] == []
    monkeypatch.setattr(pipeline.evaluation.oracle, "save_artifact", save_artifact)
    folder = oracle_folder(params, digits_project, log_to(lines))
    assert load_artifact(folder).provenance["steps"] == 3
    assert sum("3 steps" in line for line in lines) == 2


def test_a_finished_oracle_leaves_its_model_alone(digits_project: Path, tmp_path: Path) -> None:
    """Its checkpoint, several times its size, is of no further use."""
    folder = oracle_folder(params_with(tmp_path / "runs", evaluate=ORACLE), digits_project, log_to([]))
    assert list((tmp_path / "runs" / "oracle").iterdir()) == [folder]


# --- what is kept of trials, and published ---


def trials_of(project: Path, params: Params) -> list[Trial]:
    return plan_trials(params, project, read_manifest(project / "data/shards/digits"))


def keep(store: Path, trial: Trial, asked: str, **measures: float) -> None:
    """A finished trial's result."""
    result = TrialResult(
        fingerprint=trial.job.fingerprint,
        method=trial.method,
        labels=trial.labels,
        seed=trial.seed,
        test_error_pct=None if trial.method == "vae" else 5.0,
        val_error_pct=None if trial.method == "vae" else 4.0,
        val_bound_nats=None if trial.method == "supervised" else -20.0,
        epochs=1,
        steps=10,
        seconds=1.0,
        measures=measures,
        measured_as=asked,
    )
    write_sealed(store / trial.job.fingerprint / "result.json", result.model_dump())


def measured(out: Path) -> list[tuple[str, str, float]]:
    with (out / "measures.csv").open(newline="") as file:
        return [(row["method"], row["measure"], float(row["value"])) for row in csv.DictReader(file)]


def status_of(out: Path) -> dict[str, str]:
    with (out / "table.csv").open(newline="") as file:
        return {row["method"]: row["status"] for row in csv.DictReader(file)}


GRID = {"label_counts": [50], "methods": ["supervised", "plain"], "seeds": [0]}


def test_what_the_measures_depend_on_names_them() -> None:
    names = [
        measured_as(parse_params(small_params(sweep={"measures": "all"}, evaluate=changes)))
        for changes in ({}, {"seed": 1}, {"style_points": 200}, {"oracle_steps": 99})
    ]
    assert len(set(names)) == 4
    assert "" not in names
    assert measured_as(parse_params(small_params(sweep={"measures": "all", "epochs": 9}))) == names[0]
    assert measured_as(parse_params(small_params(sweep={"measures": "errors"}, evaluate={"seed": 1}))) == ""


def test_a_result_is_finished_where_it_holds_the_measures_that_are_asked_for(
    digits_project: Path, tmp_path: Path
) -> None:
    trial = trials_of(digits_project, params_with(tmp_path, sweep=GRID))[0]

    def is_finished(asked: str) -> bool:
        return finished_result(Folder(tmp_path), trial.job.fingerprint, asked) is not None

    assert not is_finished("")
    keep(tmp_path / "trials", trial, "")
    assert is_finished("")
    assert not is_finished("abc")
    keep(tmp_path / "trials", trial, "abc", ece=0.1)
    assert is_finished("abc")
    assert is_finished("")
    assert not is_finished("abd")


def published(
    project: Path,
    folder: Path,
    params: Params,
    lines: list[str],
    failures: dict[str, str] | None = None,
) -> Path:
    """What `sweep` writes if it finds every trial finished, or of those that it runs these fail."""

    def run_none(waiting: list[Trial], *arguments: Any) -> dict[str, str]:
        assert {trial.job.fingerprint for trial in waiting} == set(failures or {})
        return failures or {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline.stages.sweep, "_run", run_none)
        return pipeline.stages.sweep.sweep(params, project, log_to(lines), out=folder / "out")


def test_measures_of_every_trial_are_published_in_the_order_of_the_grid(digits_project: Path, tmp_path: Path) -> None:
    params = params_with(tmp_path, sweep=GRID | {"measures": "all"})
    supervised, plain = trials_of(digits_project, params)
    asked = measured_as(params)
    keep(tmp_path / "trials", plain, asked, ece=0.1, kl_nats=20.5)
    keep(tmp_path / "trials", supervised, asked, ece=0.3)
    lines = list[str]()
    out = published(digits_project, tmp_path, params, lines)
    assert "sweep: 2 trials, 2 already finished" in lines
    assert measured(out) == [("supervised", "ece", 0.3), ("plain", "ece", 0.1), ("plain", "kl_nats", 20.5)]
    assert status_of(out) == {"supervised": "finished", "plain": "finished"}


def test_a_trial_that_could_not_be_measured_again_is_a_failed_one(digits_project: Path, tmp_path: Path) -> None:
    """Its old result is of other settings: it must not be published as what was asked for."""
    params = params_with(tmp_path, sweep=GRID | {"measures": "all"})
    supervised, plain = trials_of(digits_project, params)
    keep(tmp_path / "trials", supervised, measured_as(params), ece=0.3)
    keep(tmp_path / "trials", plain, "other settings", ece=0.1)
    lines = list[str]()
    out = published(digits_project, tmp_path, params, lines, {plain.job.fingerprint: "RuntimeError: broken"})
    assert [line for line in lines if "FAILED plain" in line and "RuntimeError: broken" in line] != []
    assert status_of(out) == {"supervised": "finished", "plain": "failed"}
    assert measured(out) == [("supervised", "ece", 0.3)]


def test_a_sweep_that_asks_for_errors_publishes_no_measures_of_earlier_settings(
    digits_project: Path, tmp_path: Path
) -> None:
    params = params_with(tmp_path, sweep=GRID)
    for trial in trials_of(digits_project, params):
        keep(tmp_path / "trials", trial, "other settings", ece=0.1)
    out = published(digits_project, tmp_path, params, [])
    assert status_of(out) == {"supervised": "finished", "plain": "finished"}
    assert measured(out) == []


def test_a_sweep_of_the_plain_vae_alone_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="methods holds 'vae' alone"):
        params_with(tmp_path, sweep=GRID | {"methods": ["vae"]})


# --- whole sweeps ---

METHODS = ["supervised", "plain", "vae"]
QUICK: dict[str, Any] = {
    "iw_points": 50,
    "probe_points": 300,
    "leak_points": 300,
    "style_points": 100,
    "swap_points": 100,
    "oracle_steps": 20,
}


def sweep_in(project: Path, **sections: dict[str, Any]) -> str:
    """`ie sweep` with changed params; the changes stay."""
    params = project / "params.yaml"
    raw = yaml.safe_load(params.read_text())
    for section, changes in sections.items():
        raw[section] |= changes
    params.write_text(yaml.safe_dump(raw, sort_keys=False))
    return succeed(project, "ie", "sweep")


def by_method(project: Path) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for method, name, value in measured(project / "results" / "sweep"):
        found.setdefault(method, {})[name] = value
    return found


@pytest.mark.slow
def test_trials_are_measured_and_measured_again_without_being_trained_again(
    digits_project: Path, tmp_path: Path
) -> None:
    grid = {"label_counts": [50], "methods": METHODS, "epochs": 1, "supervised_steps": 20}
    project = copy_project(tmp_path / "project", sweep=grid, evaluate=QUICK)
    (project / "data").mkdir(exist_ok=True)
    (project / "data/shards").symlink_to(digits_project / "data/shards")
    out, trials = project / "results" / "sweep", project / ".runs" / "trials"

    def models() -> dict[str, tuple[bytes, int]]:
        """What training left of each trial."""
        return {name: file for name, file in contents(trials).items() if not name.endswith("result.json")}

    # Errors alone: no measure, no oracle.
    assert "3 trials, 0 already finished" in sweep_in(project)
    assert measured(out) == []
    assert not (project / ".runs" / "oracle").exists()
    trained = models()
    assert sorted(name.split("/", 1)[1] for name in trained) == sorted(
        3 * ["artifact/config.json", "artifact/weights.safetensors", "trained.json"]
    )
    errors = (out / "table.csv").read_bytes()

    # All measures: of the models that are there.
    output = sweep_in(project, sweep={"measures": "all"})
    assert "3 trials, 0 already finished" in output
    assert "oracle: 20 steps" in output
    assert models() == trained
    assert (out / "table.csv").read_bytes() == errors
    first = by_method(project)
    assert list(first) == METHODS
    assert "test_error_classifier_pct" in first["supervised"] and "kl_nats" not in first["supervised"]
    assert "swap_oracle_pct" in first["plain"] and "r2_rotation_sin_from_v_mlp" in first["plain"]
    assert "bound_nats" in first["vae"] and "ece" not in first["vae"]
    with (out / "table.csv").open(newline="") as file:
        table = {row["method"]: row for row in csv.DictReader(file)}
    for method in ("supervised", "plain"):
        assert float(table[method]["test_error_pct"]) == pytest.approx(first[method]["test_error_classifier_pct"])
    assert table["vae"]["test_error_pct"] == ""

    # Other settings: measured again, nothing trained.
    output = sweep_in(project, evaluate={"iw_samples": 2})
    assert "3 trials, 0 already finished" in output
    assert "oracle:" not in output
    assert models() == trained
    second = by_method(project)
    changed = {"iw_bound_nats", "iw_bound_bits_per_dim"}
    for method, found in second.items():
        assert set(found) == set(first[method])
        differing = {name for name in found if found[name] != first[method][name]}
        assert differing == (set() if method == "supervised" else changed)
    assert (out / "table.csv").read_bytes() == errors
