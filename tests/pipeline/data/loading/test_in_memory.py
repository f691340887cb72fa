"""The epoch plan's promises, the support's draw, and a split read into memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ie_model.epoch_plan import EpochPlan
from ie_model.support import draw_support
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_split
from pipeline.data.shards.manifest import Manifest, SplitName, read_manifest
from pipeline.errors import DataError

examples = settings(max_examples=40, deadline=None)


@st.composite
def plans(draw: st.DrawFn) -> EpochPlan:
    world_size = draw(st.integers(1, 16))
    batch_size = world_size * draw(st.integers(1, 8))
    num_points = draw(st.integers(batch_size, batch_size + 500))
    return EpochPlan(num_points, batch_size, world_size, seed=draw(st.integers(0, 1000)))


def steps_of(plan: EpochPlan, epoch: int, rank: int, start_step: int = 0) -> list[list[int]]:
    return [batch.tolist() for batch in plan.batches(epoch, rank, start_step)]


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_no_point_is_read_twice_in_an_epoch_by_any_ranks_or_steps(plan: EpochPlan, epoch: int) -> None:
    read = [i for rank in range(plan.world_size) for step in steps_of(plan, epoch, rank) for i in step]
    assert len(read) == len(set(read)) == plan.steps * plan.batch_size
    assert set(read) <= set(range(plan.num_points))


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_every_rank_takes_equally_many_steps_of_equal_size(plan: EpochPlan, epoch: int) -> None:
    sizes = {tuple(len(step) for step in steps_of(plan, epoch, rank)) for rank in range(plan.world_size)}
    assert sizes == {(plan.batch_size // plan.world_size,) * plan.steps}


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_fewer_points_than_a_batch_are_left_out_of_an_epoch(plan: EpochPlan, epoch: int) -> None:
    assert 0 <= plan.num_points - len(plan.order(epoch)) < plan.batch_size


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_the_same_inputs_give_the_same_order(plan: EpochPlan, epoch: int) -> None:
    assert np.array_equal(plan.order(epoch), replace(plan).order(epoch))


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_the_points_of_a_step_do_not_depend_on_the_number_of_ranks(plan: EpochPlan, epoch: int) -> None:
    alone = steps_of(replace(plan, world_size=1), epoch, 0)
    together = zip(*(steps_of(plan, epoch, rank) for rank in range(plan.world_size)), strict=True)
    assert [[i for part in step for i in part] for step in together] == alone


def test_every_epoch_has_an_order_of_its_own() -> None:
    plan = EpochPlan(100, 10, 2, seed=0)
    assert len({tuple(plan.order(epoch)) for epoch in range(5)}) == 5


def test_another_seed_gives_another_order() -> None:
    assert not np.array_equal(EpochPlan(100, 10, 2, seed=0).order(0), EpochPlan(100, 10, 2, seed=1).order(0))


@given(plan=plans(), epoch=st.integers(0, 50), data=st.data())
@examples
def test_starting_at_a_step_reads_the_rest_of_the_epoch(plan: EpochPlan, epoch: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, plan.steps))
    rank = data.draw(st.integers(0, plan.world_size - 1))
    assert steps_of(plan, epoch, rank, start) == steps_of(plan, epoch, rank)[start:]


@given(plan=plans(), epoch=st.integers(0, 50))
@examples
def test_two_epochs_in_a_row_read_every_point(plan: EpochPlan, epoch: int) -> None:
    assert set(plan.order(epoch)) | set(plan.order(epoch + 1)) == set(range(plan.num_points))


def test_over_many_epochs_every_point_is_left_out_equally_often() -> None:
    plan = EpochPlan(num_points=10, batch_size=7, world_size=1, seed=3)
    read = np.zeros(10, dtype=int)
    for epoch in range(10):
        read[plan.order(epoch)] += 1
    assert read.tolist() == [7] * 10


def test_a_batch_that_ranks_cannot_share_equally_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 10 is not a multiple of world_size 4"):
        EpochPlan(100, 10, 4, seed=0)


def test_fewer_points_than_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="9 points do not fill one batch of 10"):
        EpochPlan(9, 10, 2, seed=0)


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), m=st.integers(1, 25), seed=st.integers(0, 99))
@examples
def test_the_support_is_m_different_points_of_each_class_class_after_class(sizes: list[int], m: int, seed: int) -> None:
    members = [100 * c + np.arange(size) for c, size in enumerate(sizes)]
    drawn = draw_support(members, m, np.random.default_rng(seed))
    expected = np.repeat(np.arange(len(sizes)), [min(m, size) for size in sizes])
    assert (drawn // 100).tolist() == expected.tolist()
    assert len(set(drawn.tolist())) == len(drawn)
    assert set(drawn.tolist()) <= {int(i) for c in members for i in c}


def test_every_member_has_the_same_chance_to_be_in_the_support() -> None:
    rng, counts = np.random.default_rng(0), np.zeros(5)
    for _ in range(2000):
        counts[draw_support([np.arange(5)], 2, rng)] += 1
    # Each is drawn 800 times, with a standard deviation of 22.
    assert np.abs(counts - 800).max() < 110


def digits_manifest(project: Path) -> tuple[Path, Manifest]:
    folder = project / "data" / "shards" / "digits"
    return folder, read_manifest(folder)


def test_a_split_is_read_whole_in_the_order_of_its_keys(digits_project: Path) -> None:
    folder, manifest = digits_manifest(digits_project)
    split = load_split(ShardedDataset(folder, manifest), "val")
    assert len(split) == len(split.x) == len(split.y) == 200
    assert split.keys == sorted(split.keys)
    assert split.x.dtype == torch.uint8
    assert split.x.shape[1:] == manifest.spec.shape
    assert np.bincount(split.y).tolist() == list(manifest.splits["val"].class_counts.values())


def described(project: Path, copy: Path, split: SplitName, order: list[int]) -> tuple[Path, Manifest]:
    """The digits with some shards of a split in another order."""
    folder, manifest = digits_manifest(project)
    shutil.copytree(folder, copy)
    shards = [manifest.splits[split].shards[i] for i in order]
    other = describe_split(copy, split, shards, manifest.spec, manifest.encoding)
    return copy, manifest.model_copy(update={"splits": {**manifest.splits, split: other}})


def test_a_split_does_not_depend_on_the_order_of_its_shards(digits_project: Path, tmp_path: Path) -> None:
    folder, manifest = digits_manifest(digits_project)
    assert len(manifest.splits["train"].shards) == 2
    first = load_split(ShardedDataset(folder, manifest), "train")
    second = load_split(ShardedDataset(*described(digits_project, tmp_path / "backwards", "train", [1, 0])), "train")
    assert first.keys == second.keys
    assert torch.equal(first.x, second.x)
    assert np.array_equal(first.y, second.y)


@pytest.mark.parametrize("by", [-1, 1])
def test_another_number_of_examples_than_the_manifest_says_is_an_error_that_names_the_shard(
    digits_project: Path, by: int
) -> None:
    folder, manifest = digits_manifest(digits_project)
    raw = json.loads(manifest.model_dump_json())
    raw["splits"]["val"]["samples"] += by
    raw["splits"]["val"]["shards"][0]["samples"] += by
    with pytest.raises(DataError, match=r"val-000000\.tar: .* examples"):
        load_split(ShardedDataset(folder, Manifest.model_validate(raw)), "val")


def test_a_key_that_occurs_twice_is_an_error_that_names_it(digits_project: Path, tmp_path: Path) -> None:
    folder, manifest = described(digits_project, tmp_path / "twice", "val", [0, 0])
    with pytest.raises(DataError, match=r"the key 'train-\d+' occurs twice in split val"):
        load_split(ShardedDataset(folder, manifest), "val")


def test_reading_tells_how_much_was_read(digits_project: Path) -> None:
    folder, manifest = digits_manifest(digits_project)
    lines: list[str] = []
    load_split(ShardedDataset(folder, manifest), "val", lines.append)
    assert lines == ["read 200 val examples"]
