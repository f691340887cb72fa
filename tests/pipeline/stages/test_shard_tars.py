"""`data.source: tars`: tars that others made go through fetch, shard and training as they are, from a folder or S3."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.commands.inspect_shards import show, verify
from pipeline.config.params import Params, parse_params
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError
from pipeline.stages.fetch import fetch
from pipeline.stages.shard import shard
from pipeline.stages.train import prepare
from tests.helpers.project import small_params
from tests.helpers.s3 import Door, upload
from tests.helpers.waiting import silent
from tests.pipeline.training.test_trainer import differing, small_job, trained

OWN = {"height": 8, "width": 8, "channels": 1}


def sections(folder: Path | str, **reader: Any) -> dict[str, dict[str, Any]]:
    own = small_params()["data"]["own"] | OWN
    return {"data": {"source": "tars", "folder": str(folder), "own": own}, "reader": reader}


def prepared(project: Path, folder: Path | str, **reader: Any) -> Params:
    """A project whose tars have been through fetch and shard."""
    project.mkdir(exist_ok=True)
    params = parse_params(small_params(**sections(folder, **reader)))
    fetch(params, project, silent)
    shard(params, project, silent)
    return params


@pytest.fixture
def tars(digits_project: Path, tmp_path: Path) -> Path:
    """Digits' tars alone, as if somebody else had made them."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    for path in (digits_project / "data/shards/digits").glob("*.tar"):
        shutil.copyfile(path, folder / path.name)
    return folder


def test_a_model_of_tars_is_the_one_of_the_same_data_sharded_here(
    digits_project: Path, tars: Path, tmp_path: Path
) -> None:
    prepared(tmp_path / "project", tars)
    manifest = read_manifest(tmp_path / "project/data/shards/tars")
    assert manifest.location == str(tars)
    assert manifest.spec == read_manifest(digits_project / "data/shards/digits").spec
    assert not list((tmp_path / "project/data/shards/tars").glob("*.tar"))
    theirs = small_job(tmp_path / "project", "plain", 1, **sections(tars), train={"epochs": 1})
    ours = small_job(digits_project, "plain", 1, train={"epochs": 1})
    assert differing(trained(theirs, tmp_path / "a").fit.model, trained(ours, tmp_path / "b").fit.model) == []


@pytest.mark.parametrize("mode", [pytest.param("memory", marks=pytest.mark.slow), "stream"])
def test_tars_in_an_object_store_are_trained_on_where_they_lie(
    door: Door, tars: Path, tmp_path: Path, mode: str
) -> None:
    location = upload(door, tars, "their/data")
    prepared(tmp_path / "project", location)
    reader = {"mode": mode, "loader_workers": 0}
    there = small_job(tmp_path / "project", "plain", 1, **sections(location, **reader), train={"epochs": 1})
    prepared(tmp_path / "local", tars)
    here = small_job(tmp_path / "local", "plain", 1, **sections(tars, **reader), train={"epochs": 1})
    assert differing(trained(there, tmp_path / "a").fit.model, trained(here, tmp_path / "b").fit.model) == []
    kept = list((tmp_path / "project/.cache/shards").glob("*"))
    assert len(kept) >= 3


def test_tars_of_another_folder_than_was_listed_are_refused(tars: Path, tmp_path: Path) -> None:
    params = prepared(tmp_path / "project", tars)
    other = params.model_copy(update={"data": params.data.model_copy(update={"folder": str(tmp_path)})})
    with pytest.raises(DataError, match=r"lists the tars of .*theirs"):
        shard(other, tmp_path / "project", silent)


@pytest.mark.parametrize("look", [verify, lambda folder, log: show(folder, folder / "x.png", log)])
def test_tars_that_lie_elsewhere_are_not_taken_for_missing_shards(look: Any, tars: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "project", tars)
    with pytest.raises(DataError, match=r"describes tars in .*theirs"):
        look(tmp_path / "project/data/shards/tars", silent)


def test_a_folder_without_tars_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar in .*empty"):
        (tmp_path / "empty").mkdir()
        prepared(tmp_path / "project", tmp_path / "empty")


def test_the_number_of_classes_can_be_given(tars: Path, tmp_path: Path) -> None:
    own = small_params()["data"]["own"] | OWN | {"num_classes": 12}
    params = parse_params(small_params(data={"source": "tars", "folder": str(tars), "own": own}))
    (tmp_path / "project").mkdir()
    fetch(params, tmp_path / "project", silent)
    said: list[str] = []
    shard(params, tmp_path / "project", said.append)
    assert any("class '10'" in line for line in said)  # no count of labels can be given to an empty class
    with pytest.raises(DataError, match="class '10'"):
        prepare(params, tmp_path / "project", silent)
    counts = read_manifest(tmp_path / "project/data/shards/tars").splits["train"].class_counts
    assert counts["11"] == 0 and len(counts) == 12


def test_labels_that_leave_a_gap_are_named(tars: Path, tmp_path: Path) -> None:
    path = next(tars.glob("train-*.tar"))
    with tarfile.open(path, "a") as tar:
        for name, content in (("z.png", next_picture(path)), ("z.cls", b"13")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(DataError, match=r"class 10 has 0 samples in train's tars; each of 0 to 13 needs two"):
        prepared(tmp_path / "project", tars)


def next_picture(path: Path) -> bytes:
    with tarfile.open(path) as tar:
        member = next(member for member in tar if member.name.endswith(".png"))
        file = tar.extractfile(member)
        assert file is not None
        return file.read()
