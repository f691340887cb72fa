"""What lane plans and plans of labelled points promise, for any shards, ranks and loader processes."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ie_model.support import LabelledPlan
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.stream import lanes_of_worker
from pipeline.utils.arrays import IntArray

examples = settings(max_examples=60, deadline=None)


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


@st.composite
def plans(draw: st.DrawFn) -> LanePlan:
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=50))
    total = sum(sizes)
    excluded = np.array(sorted(draw(st.sets(st.integers(0, total - 1), max_size=total - 1))), dtype=np.int64)
    batch_size = draw(st.integers(1, min(64, total - len(excluded))))
    return LanePlan(sizes, batch_size, draw(st.integers(1, 30)), draw(st.integers(0, 99)), excluded)


def steps_of(plan: LanePlan, epoch: int, rank: int = 0, world_size: int = 1, start: int = 0) -> list[list[int]]:
    lanes = plan.lanes(rank, world_size)
    return [plan.positions(epoch, step, lanes).tolist() for step in range(start, plan.steps)]


def flat(steps: list[list[int]]) -> list[int]:
    return [position for step in steps for position in step]


@given(plan=plans(), epoch=st.integers(0, 40), data=st.data())
@examples
def test_all_ranks_together_read_each_sample_at_most_once_and_none_that_is_excluded(
    plan: LanePlan, epoch: int, data: st.DataObject
) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.batch_size)))
    read = [p for rank in range(world_size) for p in flat(steps_of(plan, epoch, rank, world_size))]
    assert len(set(read)) == len(read) == plan.steps * plan.batch_size
    assert 0 <= plan.num_rows - len(read) < plan.batch_size
    assert set(read) <= set(range(int(plan.shard_sizes.sum()))) - set(plan.excluded.tolist())


@given(plan=plans(), epoch=st.integers(0, 40), data=st.data())
@examples
def test_a_step_holds_the_same_whatever_the_number_of_ranks(plan: LanePlan, epoch: int, data: st.DataObject) -> None:
    world_size = data.draw(st.sampled_from(divisors(plan.batch_size)))
    ranks = [steps_of(plan, epoch, rank, world_size) for rank in range(world_size)]
    assert {len(steps) for steps in ranks} == {plan.steps}
    assert [flat(list(parts)) for parts in zip(*ranks, strict=True)] == steps_of(plan, epoch)


@given(plan=plans(), epoch=st.integers(0, 40), data=st.data())
@examples
def test_changing_the_number_of_ranks_in_mid_epoch_loses_and_repeats_nothing(
    plan: LanePlan, epoch: int, data: st.DataObject
) -> None:
    before, after = (data.draw(st.sampled_from(divisors(plan.batch_size))) for _ in range(2))
    change = data.draw(st.integers(0, plan.steps))
    first = [p for r in range(before) for p in flat(steps_of(plan, epoch, r, before)[:change])]
    second = [p for r in range(after) for p in flat(steps_of(plan, epoch, r, after, change))]
    assert sorted(first + second) == sorted(flat(steps_of(plan, epoch)))


@given(plan=plans(), epoch=st.integers(0, 40), data=st.data())
@examples
def test_the_slices_of_a_lane_are_its_positions_from_any_step_on(
    plan: LanePlan, epoch: int, data: st.DataObject
) -> None:
    lane, start = data.draw(st.integers(0, plan.batch_size - 1)), data.draw(st.integers(0, plan.steps - 1))
    slices = list(plan.lane_slices(epoch, lane, start))
    assert np.concatenate(slices).tolist() == [p for (p,) in ([step[lane]] for step in steps_of(plan, epoch)[start:])]
    shard_of = np.repeat(np.arange(len(plan.shard_sizes)), plan.shard_sizes)
    for positions in slices:
        assert len(set(shard_of[positions].tolist())) == 1
        assert (np.diff(positions) > 0).all()
        assert positions[-1] - positions[0] < plan.slice_size
        assert len(positions) + np.isin(np.arange(positions[0], positions[-1]), plan.excluded).sum() == (
            positions[-1] - positions[0] + 1
        )


@given(plan=plans(), epoch=st.integers(0, 40))
@examples
def test_the_same_inputs_give_the_same_order_also_in_another_process(plan: LanePlan, epoch: int) -> None:
    assert steps_of(plan, epoch) == steps_of(pickle.loads(pickle.dumps(plan)), epoch)


@given(plan=plans(), epoch=st.integers(0, 40))
@examples
def test_two_epochs_in_a_row_read_every_sample_where_an_epoch_reads_half_of_them(plan: LanePlan, epoch: int) -> None:
    read = set(flat(steps_of(plan, epoch))) | set(flat(steps_of(plan, epoch + 1)))
    rest = plan.num_rows % plan.batch_size
    assert len(read) == plan.num_rows or 2 * rest > plan.num_rows


def test_over_many_epochs_every_sample_is_left_out_equally_often() -> None:
    plan = LanePlan([4, 1, 5], batch_size=7, slice_size=2, seed=3)
    read = np.zeros(10, dtype=int)
    for epoch in range(10):
        read[flat(steps_of(plan, epoch))] += 1
    assert read.tolist() == [7] * 10


def test_every_epoch_and_every_seed_has_an_order_of_its_own() -> None:
    orders = {
        tuple(flat(steps_of(LanePlan([30, 30, 40], 10, 5, seed), epoch))) for seed in range(3) for epoch in range(5)
    }
    assert len(orders) == 15


def test_samples_that_share_a_batch_or_a_slice_in_one_epoch_do_not_in_the_next() -> None:
    plan = LanePlan([1000] * 10, batch_size=20, slice_size=50, seed=0)

    def pairs(epoch: int) -> set[tuple[int, int]]:
        steps = np.sort(np.array(steps_of(plan, epoch)), axis=1)
        return {(a, b) for step in steps.tolist() for i, a in enumerate(step) for b in step[i + 1 :]}

    # By chance a pair comes again with probability 19 / 9999, so about 180 of 95,000 do.
    assert len(pairs(0) & pairs(1)) < 400


def test_more_ranks_than_shards_all_have_samples() -> None:
    plan = LanePlan([100, 28], batch_size=64, slice_size=10, seed=0)
    assert [len(flat(steps_of(plan, 0, rank, 64))) for rank in range(64)] == [2] * 64


@given(rank=st.integers(0, 63), world_size=st.integers(1, 64), workers=st.integers(1, 4), part=st.integers(1, 9))
@examples
def test_loader_processes_share_the_lanes_of_a_rank(rank: int, world_size: int, workers: int, part: int) -> None:
    plan = LanePlan([part * world_size], part * world_size, 1, 0)
    lanes = plan.lanes(rank % world_size, world_size)
    shares = [lanes_of_worker(lanes, worker, workers) for worker in range(workers)]
    assert sorted(lane for share in shares for lane in share) == list(lanes)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([4, 5], 10, 1, 0), "9 points do not fill one batch of 10"),
        (([4, 5], 0, 1, 0), "batch_size 0 and slice_size 1 must be at least 1"),
        (([4, 5], 1, 0, 0), "slice_size 0 must be at least 1"),
        (([4, 5], 1, 1, 0, np.array([3, 2])), "excluded positions must rise"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanePlan(*arguments)  # type: ignore[arg-type]


def test_a_batch_that_ranks_cannot_share_equally_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 10 is not a multiple of world_size 4"):
        LanePlan([100], 10, 1, 0).lanes(0, 4)


def test_a_million_samples_start_in_mid_epoch_within_a_second() -> None:
    started = time.monotonic()
    plan = LanePlan([10_000] * 100, batch_size=256, slice_size=100, seed=0, excluded=np.arange(0, 1_000_000, 1000))
    first = plan.positions(7, plan.steps // 2, plan.lanes(1, 2))
    slices = [next(plan.lane_slices(7, lane, plan.steps // 2)) for lane in plan.lanes(1, 2)]
    assert time.monotonic() - started < 1
    assert [int(positions[0]) for positions in slices] == first.tolist()


@st.composite
def labelled(draw: st.DrawFn) -> LabelledPlan:
    sizes = draw(st.lists(st.integers(2, 40), min_size=1, max_size=8))
    members = [1000 * c + np.arange(size) for c, size in enumerate(sizes)]
    return LabelledPlan(members, draw(st.integers(2, 80)), draw(st.integers(0, 99)))


def classes(batch: IntArray, plan: LabelledPlan) -> list[int]:
    return np.bincount(batch // 1000, minlength=len(plan.members)).tolist()


@given(plan=labelled(), step=st.integers(0, 300))
@examples
def test_a_labelled_step_has_two_of_each_class_and_no_point_twice(plan: LabelledPlan, step: int) -> None:
    batch = plan.batch(step)
    assert min(classes(batch, plan)) >= 2
    assert len(set(batch.tolist())) == len(batch)


@given(plan=labelled())
@examples
def test_each_labelled_point_comes_once_before_any_of_its_class_again(plan: LabelledPlan) -> None:
    seen: list[list[int]] = [[] for _ in plan.members]
    for step in range(60):
        for position in plan.batch(step).tolist():
            seen[position // 1000].append(position)
    for positions, members in zip(seen, plan.members, strict=True):
        for begin in range(0, len(positions) - len(members) + 1, len(members)):
            assert sorted(positions[begin : begin + len(members)]) == members.tolist()


@given(plan=labelled(), steps=st.lists(st.integers(0, 200), min_size=2, max_size=6))
@examples
def test_a_labelled_step_is_the_same_whatever_was_asked_before(plan: LabelledPlan, steps: list[int]) -> None:
    fresh = [LabelledPlan(plan.members, plan.batch_size, plan.seed).batch(step).tolist() for step in steps]
    assert [plan.batch(step).tolist() for step in steps] == fresh


@given(num_classes=st.integers(2, 10), each=st.integers(2, 12), steps=st.integers(2, 8), seed=st.integers(0, 99))
@examples
def test_balanced_classes_are_read_once_an_epoch(num_classes: int, each: int, steps: int, seed: int) -> None:
    members = [1000 * c + np.arange(each * steps) for c in range(num_classes)]
    plan = LabelledPlan(members, each * num_classes, seed)
    assert plan.steps == steps
    read = np.concatenate([plan.batch(step) for step in range(steps)])
    assert sorted(read.tolist()) == sorted(np.concatenate(members).tolist())


def test_classes_take_part_in_proportion_to_their_sizes() -> None:
    plan = LabelledPlan([np.arange(600), 1000 + np.arange(390), 2000 + np.arange(10)], 100, seed=0)
    sizes = np.array([classes(plan.batch(step), plan) for step in range(10)])
    # The smallest would have one point a step and has two.
    assert sizes.sum(0).tolist() == [600, 390, 20]
    assert np.ptp(sizes, axis=0).max() <= 1


def test_passes_have_different_orders() -> None:
    plan = LabelledPlan([np.arange(20)], 10, seed=0)
    passes = {tuple(np.concatenate([plan.batch(2 * i), plan.batch(2 * i + 1)]).tolist()) for i in range(5)}
    assert len(passes) == 5


def test_a_late_labelled_step_costs_no_more_than_a_pass() -> None:
    plan = LabelledPlan([np.arange(100_000), 10**6 + np.arange(100_000)], 256, seed=0)
    started = time.monotonic()
    plan.batch(10**9)
    assert time.monotonic() - started < 1


def test_a_class_of_one_labelled_point_is_refused() -> None:
    with pytest.raises(ValueError, match="each class needs two labelled points"):
        LabelledPlan([np.arange(5), np.arange(1)], 4, seed=0)
