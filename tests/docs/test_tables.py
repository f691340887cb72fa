"""docs/tables.py: what the published tables run, and what a mistyped name gets. Nothing is trained here."""

from __future__ import annotations

import copy
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from docs import tables
from ie_model.schedule import auto_batch_size
from pipeline.config.methods import METHODS
from pipeline.config.overrides import merged
from pipeline.config.params import Params, parse_params
from pipeline.data.sources import SOURCES
from pipeline.errors import ParamsError
from tests.helpers.project import REPOSITORY, shipped_params

ERRORS_ALONE = ("mnist-labels", "mnist-generative-part", "fashion-mnist-labels", "reuters", "japanese-vowels")
SHIPPED = shipped_params()


@pytest.fixture(autouse=True)
def _no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """No sweep, whatever happens."""

    def refused(*arguments: Any, **more: Any) -> Path:
        raise AssertionError("a sweep was started")

    monkeypatch.setattr("pipeline.stages.sweep.sweep", refused)
    monkeypatch.setattr(tables, "sweep", refused)
    monkeypatch.setattr(sys, "path", list(sys.path))


def parsed(name: str) -> Params:
    return parse_params(tables.overlay(tables.TABLES[name]), name)


@pytest.mark.parametrize("name", tables.TABLES)
def test_params_of_every_table_are_allowed_and_hold_its_changes(name: str) -> None:
    params = parsed(name)
    dumped = params.model_dump(mode="json")
    for section, changes in tables.TABLES[name].items():
        for key, value in changes.items():
            assert merged(dumped[section], {key: value}) == dumped[section], f"{section}.{key}"
    assert params.sweep.measures == ("errors" if name in {*ERRORS_ALONE, "mnist-plain-more-labels"} else "all")
    # Of the class in v, not of errors: nine methods of which a subset decides little.
    num = {"mnist-frontier": 1, "mnist-generative-part": 10}.get(name, 3)
    assert params.sweep.seeds == tuple(range(num))


@pytest.mark.parametrize("name", ERRORS_ALONE)
def test_every_method_of_a_table_of_label_counts_takes_as_many_steps(name: str) -> None:
    """Or a difference between them could be one of budget."""
    params = parsed(name)
    num_train = SOURCES[params.data.source].num_train
    assert num_train is not None
    points = num_train - params.data.num_val(num_train)
    batch_size = params.train.batch_size
    if batch_size == "auto":
        batch_size = auto_batch_size(points, params.train.worker_range)
    assert params.sweep.min_steps == 0
    if name == "mnist-generative-part":
        assert params.sweep.methods == ("extended", "consistency_only", "m2_extended")
        assert params.sweep.baseline == "consistency_only" and "consistency_only" in METHODS
        return
    assert params.sweep.supervised_steps == params.sweep.epochs * (points // batch_size)
    assert params.sweep.methods == ("supervised", "m2", "plain", "extended")
    assert params.sweep.baseline == "m2" and "m2" in METHODS


@pytest.mark.parametrize("name", tables.TABLES)
def test_a_table_changes_nothing_else(name: str) -> None:
    raw = tables.overlay(tables.TABLES[name])
    assert set(raw) == set(SHIPPED)
    for section, shipped in SHIPPED.items():
        changed = {key for key in raw[section] if raw[section][key] != shipped[key]}
        assert changed <= set(tables.TABLES[name].get(section, {}))


def test_a_table_leaves_the_others_and_itself_as_they_were() -> None:
    before = copy.deepcopy(tables.TABLES)
    for name in tables.TABLES:
        raw = tables.overlay(tables.TABLES[name])
        raw["sweep"]["seeds"] = []
        raw["train"]["epochs"] = -1
    assert before == tables.TABLES
    assert tables.overlay({}) == SHIPPED


def test_a_change_may_be_deep_and_a_section_that_is_not_there_is_an_error() -> None:
    raw = tables.overlay({"objective": {"extended": {"augment": {"shear": 0.5}}}})
    expected = copy.deepcopy(SHIPPED)
    expected["objective"]["extended"]["augment"]["shear"] = 0.5
    assert raw == expected
    with pytest.raises(ParamsError, match="sweeps: unknown key"):
        tables.overlay({"sweeps": {"epochs": 1}})


def run_as_script(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(sys, "argv", ["docs/tables.py", *names])
    runpy.run_path(str(REPOSITORY / "docs" / "tables.py"), run_name="__main__")


@pytest.mark.parametrize("names", [("mnist-planes",), ("mnist-plain", "mnist-planes")])
def test_an_unknown_table_ends_before_any_work_and_the_known_ones_are_listed(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_as_script(monkeypatch, *names)
    message = str(ended.value.code)
    assert "no table 'mnist-planes'" in message
    for name in tables.TABLES:
        assert name in message
    assert "\n" not in message


@pytest.mark.parametrize("arguments", [(), ("--list",)])
def test_without_a_name_the_tables_are_listed(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_as_script(monkeypatch, *arguments)
    assert capsys.readouterr().out.splitlines() == list(tables.TABLES)


def test_a_table_is_swept_into_its_folder_beside_the_commit_it_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep takes hours: what is checked out when it ends is not what it ran."""
    (tmp_path / "params.yaml").write_text((REPOSITORY / "params.yaml").read_text())
    checked_out = ["at-the-start"]
    ran: list[tuple[Params, Path, Path | None]] = []

    def swept(params: Params, project: Path, log: Any, *, fresh: bool = False, out: Path | None = None) -> Path:
        ran.append((params, project, out))
        assert out is not None
        out.mkdir(parents=True)
        measured = (("mi_v_class_nats", 0.4), ("bound_nats", -99.0), ("active_units", 8))
        rows = (f"plain,100,0,{name},{value}\n" for name, value in measured)
        (out / "measures.csv").write_text("method,labels,seed,measure,value\n" + "".join(rows))
        checked_out.append("at-the-end")
        return out

    monkeypatch.setattr(tables, "REPOSITORY", tmp_path)
    monkeypatch.setattr(tables, "sweep", swept)
    monkeypatch.setattr(tables, "commit", lambda project: checked_out[-1])
    made: list[str] = []
    monkeypatch.setattr(tables, "fetch", lambda params, project, log: made.append("fetch"))
    monkeypatch.setattr(tables, "shard", lambda params, project, log: made.append("shard"))
    tables.make("fashion-mnist")
    assert made == ["fetch", "shard"], "data that is not there is made first"
    out = tmp_path / "docs" / "results" / "fashion-mnist"
    assert ran == [(parsed("fashion-mnist"), tmp_path, out)]
    record = json.loads((out / "run.json").read_text())
    assert record["changes"] == tables.TABLES["fashion-mnist"]
    assert record["command"] == "python docs/tables.py fashion-mnist"
    assert record["hardware"] and record["date"]
    assert record["commit"] == "at-the-start"
    assert (out / "leak_against_bound.png").is_file()
