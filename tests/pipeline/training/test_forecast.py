"""What `shard` says at its end: what it found, and what will be trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config.params import parse_params
from pipeline.data.shards.manifest import SplitName, read_manifest
from pipeline.stages.fetch import fetch
from pipeline.stages.shard import shard
from pipeline.training.build_job import make_job
from pipeline.training.forecast import describe_data, describe_run
from tests.helpers.own import own_params, picture, text
from tests.helpers.project import small_params

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


def test_shard_ends_with_what_it_found_and_what_will_be_trained(tmp_path: Path) -> None:
    for i in range(24):
        picture(tmp_path / "mine" / ("cat" if i % 3 else "dog") / f"{i}.png", i)
    picture(tmp_path / "mine" / "unlabelled" / "x.png")
    text(tmp_path / "mine" / "cat" / "notes.txt", "mine")
    params = own_params("images", tmp_path / "mine")
    fetch(params, tmp_path, lambda line: None)
    lines: list[str] = []
    out = shard(params, tmp_path, lines.append)
    found, *planned = [
        line.removeprefix("shard: ") for line in lines[lines.index(next(s for s in lines if "found" in s)) :]
    ]
    manifest = read_manifest(out)
    sizes = {name: [manifest.splits[split].class_counts[name] for split in SPLITS] for name in ("cat", "dog")}
    assert found.startswith("found image 1 x 8 x 8, 2 classes (train/val/test): ")
    for name, numbers in sizes.items():
        assert f"{name} {'/'.join(map(str, numbers))}" in found
    assert "; 1 of train without a label; " in found
    assert "files passed over: 1 " in found
    job = make_job(params, tmp_path)
    assert job.steps_per_epoch is not None
    steps = job.epochs * job.steps_per_epoch
    assert any(f"{steps} in all, of {job.batch_size} points" in line for line in planned)
    assert all(line.startswith("for training: ") for line in planned)


def test_description_of_many_classes_names_the_smallest(digits_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.forecast._SHOWN", 2)
    manifest = read_manifest(digits_project / "data" / "shards" / "digits")
    totals = {
        name: sum(split.class_counts[name] for split in manifest.splits.values()) for name in manifest.spec.classes
    }
    line = describe_data(manifest, {})
    assert "10 classes (train/val/test), the 2 smallest: " in line
    smallest = min(totals, key=lambda name: totals[name])
    assert f": {smallest} " in line


@pytest.mark.parametrize("in_sweep", [False, True])
def test_length_that_is_told_is_that_of_the_job(digits_project: Path, in_sweep: bool) -> None:
    params = parse_params(small_params(train={"batch_size": "auto", "min_steps": 300}))
    job = make_job(params, digits_project, in_sweep=in_sweep)
    lines = describe_run(read_manifest(digits_project / "data" / "shards" / "digits"), params)
    told = f"{job.epochs} epoch(s) of {job.steps_per_epoch} steps"
    assert any(told in line for line in lines) == (not in_sweep)
