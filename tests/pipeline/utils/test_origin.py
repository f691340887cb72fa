"""What results are of: which belong to the run of params, and what is left out and named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.show_results import show_published, show_results
from pipeline.config.params import Params, parse_params
from pipeline.errors import DataError
from pipeline.results.origin import ORIGIN, Origin, belonging, make_origin, read_origin, write_origin
from pipeline.stages.report import report
from pipeline.utils.checksums import write_checksums
from pipeline.utils.files import write_json
from tests.helpers.project import REPOSITORY
from tests.helpers.run_results import make_results


@pytest.fixture
def run(tmp_path: Path) -> tuple[Params, Path]:
    """A project with results of one run of digits."""
    params = make_results(tmp_path)
    (tmp_path / "results/sweep/table.csv").write_text(
        "method,labels,seed,test_error_pct,epochs,status\nplain,12,0,20.5,3,finished\n"
    )
    write_checksums(tmp_path / "results/sweep")
    write_json(tmp_path / "results/train/metrics.json", {"labels": 12, "epochs": 3, "steps": 30, "parameters": 9})
    write_checksums(tmp_path / "results/train")
    return params, tmp_path


def changed(params: Params, **sections: dict[str, Any]) -> Params:
    raw = params.model_dump(mode="json")
    for section, values in sections.items():
        raw[section] |= values
    return parse_params(raw)


def rewrite(project: Path, stage: str, **fields: Any) -> None:
    """Another origin of a stage's results."""
    folder = project / "results" / stage
    origin = read_origin(folder)
    assert origin is not None
    write_origin(folder, origin.model_copy(update=fields))
    write_checksums(folder)


def shown(params: Params, project: Path) -> str:
    lines: list[str] = []
    show_results(params, project, lines.append)
    return "\n".join(lines)


def test_belonging_of_one_run_leaves_nothing_out(run: tuple[Params, Path]) -> None:
    found = belonging(*run)
    assert set(found.origins) == {"train", "sweep", "evaluate"}
    assert not found.left_out and not found.notes


def test_results_of_another_data_set_are_left_out_and_named(run: tuple[Params, Path]) -> None:
    params, project = run
    own = changed(params, data={"source": "images", "folder": "/somewhere/my_images"})
    found = belonging(own, project)
    assert not found.origins
    assert all("is of digits, params.yaml asks for images in my_images" in line for line in found.left_out)
    assert len(found.left_out) == 3
    output = shown(own, project)
    assert "nothing of images in my_images was run here yet" in output and "Test error" not in output


def test_a_folder_of_another_name_is_other_data(run: tuple[Params, Path]) -> None:
    params, project = run
    own = changed(params, data={"source": "images", "folder": "mine"})
    for stage in ("train", "sweep", "evaluate"):
        rewrite(project, stage, source="images", folder="mine")
    assert len(belonging(own, project).origins) == 3
    other = changed(params, data={"source": "images", "folder": "others"})
    assert not belonging(other, project).origins


def test_a_manifest_that_changed_after_training_leaves_all_out(run: tuple[Params, Path]) -> None:
    params, project = run
    write_json(project / "data/shards/digits/manifest.json", {"other": 1})
    found = belonging(params, project)
    assert not found.origins
    assert all("before data/shards was made again" in line for line in found.left_out)


def test_an_evaluation_of_another_model_is_left_out(run: tuple[Params, Path]) -> None:
    params, project = run
    rewrite(project, "train", model="0" * 16)
    found = belonging(params, project)
    assert set(found.origins) == {"train", "sweep"}
    assert found.left_out == (f"results/evaluate is of model {'f' * 16}, results/train has {'0' * 16}",)
    assert "not evaluated yet" in shown(params, project)
    with pytest.raises(DataError, match=r"results/evaluate is of model f{16}.*ie report"):
        report(params, project, lambda line: None)


def test_a_sweep_of_other_data_is_on_no_page_and_in_no_line(run: tuple[Params, Path]) -> None:
    params, project = run
    rewrite(project, "sweep", source="mnist", manifest_sha256="0" * 64)
    output = shown(params, project)
    assert "left out: results/sweep is of mnist, params.yaml asks for digits" in output
    assert "(sweep, n=" not in output
    lines: list[str] = []
    report(params, project, lines.append)
    assert "report: results/sweep is of mnist, params.yaml asks for digits" in lines
    for name in ("index.html", "model_card.md"):
        text = (project / "results/report" / name).read_text()
        assert "results/sweep is of mnist" in text and "ie sweep" in text, name


def test_a_sweep_of_other_networks_is_left_out_and_the_key_named(run: tuple[Params, Path]) -> None:
    params, project = run
    origin = read_origin(project / "results/sweep")
    assert origin is not None
    rewrite(project, "sweep", params=origin.params | {"model.r_dim": 99, "labels.count": 7})
    found = belonging(params, project)
    assert "sweep" not in found.origins
    (line,) = found.left_out
    assert "model.r_dim 99 -> " in line and "labels.count" not in line


def test_params_that_changed_since_are_noted(run: tuple[Params, Path]) -> None:
    params, project = run
    found = belonging(changed(params, labels={"count": 60}), project)
    assert len(found.origins) == 3
    assert any("since train ran: labels.count auto -> 60" in line for line in found.notes)


def test_report_without_a_sweep_says_the_command(run: tuple[Params, Path]) -> None:
    params, project = run
    shutil.rmtree(project / "results/sweep")
    lines: list[str] = []
    report(params, project, lines.append)
    assert any("`ie sweep`" in line for line in lines)
    assert "no sweep (`ie sweep`" in shown(params, project)


def test_results_of_another_version_are_left_out_and_named(run: tuple[Params, Path]) -> None:
    params, project = run
    (project / "results/evaluate" / ORIGIN).unlink()
    found = belonging(params, project)
    assert "evaluate" not in found.origins
    assert any("results/evaluate has no record" in line for line in found.left_out)


@pytest.mark.parametrize("content", ["{", '{"format": 1}', "[]", ""])
def test_a_damaged_origin_is_named(run: tuple[Params, Path], content: str) -> None:
    params, project = run
    (project / "results/train" / ORIGIN).write_text(content)
    with pytest.raises(DataError, match="results/train/origin.json"):
        belonging(params, project)


def test_metrics_edited_by_hand_are_named(run: tuple[Params, Path]) -> None:
    params, project = run
    path = project / "results/evaluate/metrics.json"
    path.write_text(path.read_text().replace("25.0", "5.0"))
    with pytest.raises(DataError, match="results/evaluate/metrics.json"):
        shown(params, project)


def test_a_fresh_clone_says_that_nothing_was_run_and_shows_the_published_run_as_that(tmp_path: Path) -> None:
    params = parse_params(make_results(tmp_path / "other").model_dump(mode="json"))
    (tmp_path / "clone").mkdir()
    (tmp_path / "clone/docs").symlink_to(REPOSITORY / "docs")
    output = shown(params, tmp_path / "clone")
    assert "nothing of digits was run here yet" in output and "ie results --published" in output
    assert "Test error" not in output
    lines: list[str] = []
    show_published(tmp_path / "clone", lines.append)
    assert lines[0].startswith("Published, not run here: mnist by `make repro` at ")


def test_an_origin_names_a_data_set_without_a_folder(run: tuple[Params, Path]) -> None:
    params, project = run
    origin = make_origin("train", params, project / "data/shards/digits", "f" * 16)
    assert isinstance(origin, Origin) and origin.data == "digits"
    assert origin.params["labels.count"] == "auto" and "train.timeout_s" not in origin.params
