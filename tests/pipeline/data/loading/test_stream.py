"""Streams are what the plan says, with any reader; damage is one line with shard and key, or left out and counted."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from ie_model.spec import DataSpec
from pipeline.data.loading.in_memory import load_split, memory_bytes
from pipeline.data.loading.lane_plan import LanePlan
from pipeline.data.loading.points import InShards
from pipeline.data.loading.stream import Batch, ShardStream, slice_size
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest
from pipeline.data.shards.reading import ONCE, Reading
from pipeline.data.shards.sample_codec import Encoding
from pipeline.data.sources import Example
from pipeline.errors import DataError, ResourceError
from tests.helpers.project import REPOSITORY
from tests.helpers.s3 import Door, upload
from tests.helpers.small import SPEC, pictures, written

SIZES = [11, 3, 20, 1, 9]
RGB = SPEC.model_copy(update={"shape": (3, 6, 5)})
SERIES = DataSpec(kind="series", shape=(2, 7), dtype="float32", classes=("a", "b"), likelihood="gaussian")
COUNTS = DataSpec(kind="counts", shape=(9,), dtype="int32", classes=("a", "b"), likelihood="multinomial")


def reading(**changes: Any) -> Reading:
    return ONCE.model_copy(update={"cache": "cache", "retries": 1} | changes)


def plan_of(manifest: Manifest, batch_size: int = 8, slice_size: int = 4, **changes: object) -> LanePlan:
    sizes = [shard.samples for shard in manifest.splits["train"].shards]
    return LanePlan(sizes, batch_size, slice_size, seed=0, **changes)  # type: ignore[arg-type]


def read(
    folder: Path, manifest: Manifest, plan: LanePlan, steps: int, settings: Reading = ONCE, **place: int
) -> list[Batch]:
    where = {"rank": 0, "world_size": 1, "start_step": 0} | place
    with ShardStream(ShardedDataset(folder, manifest), "train", plan, reading=settings, **where) as stream:
        return list(itertools.islice(stream, steps))


def in_stored_order(folder: Path, manifest: Manifest) -> Tensor:
    """All values by position, through the in-memory reader."""
    split = load_split(ShardedDataset(folder, manifest), "train")
    rows = {key: i for i, key in enumerate(split.keys)}
    return split.x[[rows[key] for key in ShardedDataset(folder, manifest).index("train").keys]]


def same(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) if a.is_floating_point() else torch.equal(a, b)


def made(kind: str) -> list[Example] | None:
    rng = np.random.default_rng(0)
    if kind == "series":
        lengths = rng.integers(1, 8, sum(SIZES)).tolist()
        return [Example(f"k{i:03d}", rng.normal(size=(2, n)).astype(np.float32), i % 2) for i, n in enumerate(lengths)]
    if kind == "counts":
        return [Example(f"k{i:03d}", rng.integers(0, 3, 9).astype(np.int32), i % 2) for i in range(sum(SIZES))]
    return None


@pytest.mark.parametrize(
    ("spec", "encoding"), [(SPEC, "npy"), (SPEC, "png"), (RGB, "npy"), (RGB, "png"), (SERIES, "npy"), (COUNTS, "npy")]
)
def test_a_stream_gives_the_samples_of_the_plan_as_the_reader_in_memory_does(
    spec: DataSpec, encoding: Encoding, tmp_path: Path
) -> None:
    manifest = written(tmp_path, SIZES, encoding, spec, made(spec.kind))
    plan, x = plan_of(manifest), in_stored_order(tmp_path, manifest)
    batches = read(tmp_path, manifest, plan, 2 * plan.steps)
    for step, batch in enumerate(batches):
        expected = plan.positions(*divmod(step, plan.steps), range(8))
        assert batch.positions.tolist() == expected.tolist()
        assert batch.x.dtype == x.dtype
        assert same(batch.x, x[batch.positions])
        assert batch.faults == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_loader_processes_change_nothing_in_what_is_read(workers: int, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    plan = plan_of(manifest)
    alone = read(tmp_path, manifest, plan, 3 * plan.steps)
    together = read(tmp_path, manifest, plan, 3 * plan.steps, reading(loader_workers=workers))
    for a, b in zip(alone, together, strict=True):
        assert torch.equal(a.x, b.x) and np.array_equal(a.positions, b.positions)


def test_more_loader_processes_than_lanes_are_no_trouble(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    plan = plan_of(manifest, batch_size=4)
    (batch,) = read(tmp_path, manifest, plan, 1, reading(loader_workers=4), rank=1, world_size=2)
    assert batch.positions.tolist() == plan.positions(0, 0, [2, 3]).tolist()


def test_a_stream_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    before = torch.get_rng_state()
    read(tmp_path, manifest, plan_of(manifest), 1, reading(loader_workers=1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("start", [0, 1, 4, 5, 13])
def test_a_stream_that_starts_at_a_step_goes_on_as_one_that_came_there(start: int, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    plan = plan_of(manifest)
    whole = read(tmp_path, manifest, plan, 20)
    rest = read(tmp_path, manifest, plan, 20 - start, start_step=start)
    for a, b in zip(whole[start:], rest, strict=True):
        assert torch.equal(a.x, b.x) and np.array_equal(a.positions, b.positions)


def test_ranks_read_the_parts_of_one_batch_and_their_number_may_change_on_the_way(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    plan = plan_of(manifest)
    whole = read(tmp_path, manifest, plan, plan.steps)
    two = [read(tmp_path, manifest, plan, 2, rank=rank, world_size=2) for rank in range(2)]
    eight = [read(tmp_path, manifest, plan, plan.steps - 2, rank=rank, world_size=8, start_step=2) for rank in range(8)]
    for step, batch in enumerate(whole):
        parts = [r[step] for r in two] if step < 2 else [r[step - 2] for r in eight]
        assert torch.equal(torch.cat([part.x for part in parts]), batch.x)


def test_excluded_samples_are_never_read(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    excluded = np.arange(0, 44, 3)
    plan, x = plan_of(manifest, excluded=excluded), in_stored_order(tmp_path, manifest)
    for batch in read(tmp_path, manifest, plan, 2 * plan.steps):
        assert not set(batch.positions.tolist()) & set(excluded.tolist())
        assert torch.equal(batch.x, x[batch.positions])


def test_rows_at_any_positions_can_be_read(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    positions = np.array([43, 0, 12, 12, 30, 14])
    points = InShards(ShardedDataset(tmp_path, manifest), "train", reading(), torch.device("cpu"))
    assert torch.equal(points.take(positions), in_stored_order(tmp_path, manifest)[positions])
    assert points.take(np.zeros(0, dtype=np.int64)).shape == (0, *SPEC.shape)


def test_a_plan_of_other_shards_is_refused(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    with pytest.raises(ValueError, match="the plan is not of the shards of split train"):
        ShardStream(ShardedDataset(tmp_path, manifest), "train", LanePlan([44], 8, 4, 0), 0, 1, 0, reading())


def damaged(folder: Path, manifest: Manifest, how: str) -> set[int]:
    """Damages shard 2, positions 14 to 33; returns the positions that are lost."""
    path = folder / manifest.splits["train"].shards[2].path
    index = ShardedDataset(folder, manifest).index("train")
    if how == "missing":
        path.unlink()
        return set(range(14, 34))
    if how == "truncated":
        with path.open("r+b") as file:
            file.truncate(int(index.rows["offset"][30]) + 5)
        return set(range(30, 34))
    with path.open("r+b") as file:
        for position in (14, 20, 21):
            file.seek(int(index.rows["offset"][position] + index.rows["size"][position]) - 3)
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 4]))
    return {14, 20, 21}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"shard is missing: .*train-000002\.tar; run `dvc repro --force shard`"),
        ("truncated", r"train-000002\.tar, key k00\d\d: truncated, the shard ends before its byte \d+"),
        ("flipped", r"train-000002\.tar, key k00\d\d: damaged, its CRC-32 is not the index's"),
    ],
)
def test_a_fault_is_one_line_that_names_shard_and_key_also_from_a_loader_process(
    how: str, message: str, workers: int, tmp_path: Path
) -> None:
    manifest = written(tmp_path, SIZES)
    damaged(tmp_path, manifest, how)
    plan = plan_of(manifest)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, manifest, plan, 2 * plan.steps, reading(loader_workers=workers))
    assert "\n" not in str(caught.value)


def test_values_that_cannot_be_decoded_are_a_fault_though_their_checksum_is_right(tmp_path: Path) -> None:
    other = SPEC.model_copy(update={"shape": (1, 5, 4)})
    manifest = written(tmp_path, SIZES).model_copy(update={"spec": other})
    with pytest.raises(DataError, match=r"key k\d+: uint8 of shape \[1, 4, 5\]"):
        read(tmp_path, manifest, plan_of(manifest), 1)


@pytest.mark.parametrize("how", ["missing", "truncated", "flipped"])
def test_a_skipped_sample_is_counted_and_its_row_is_another_good_one_of_its_lane(how: str, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    x = in_stored_order(tmp_path, manifest)
    lost = damaged(tmp_path, manifest, how)
    plan = plan_of(manifest, batch_size=3)
    steps = 2 * plan.steps
    batches = read(tmp_path, manifest, plan, steps, reading(faults="skip"))
    for step, batch in enumerate(batches):
        epoch = step // plan.steps
        assert batch.faults == len(lost & set(batch.positions.tolist()))
        for lane, position in enumerate(batch.positions.tolist()):
            if position not in lost:
                assert torch.equal(batch.x[lane], x[position])
                continue
            lane_order = [int(plan.positions(epoch, s, [lane])[0]) for s in range(plan.steps)]
            now = step % plan.steps
            nearest = next(p for p in (*lane_order[:now][::-1], *lane_order[now:]) if p not in lost)
            assert torch.equal(batch.x[lane], x[nearest])
    # Loader processes and a start in the middle change nothing in that.
    others = read(tmp_path, manifest, plan, steps, reading(faults="skip", loader_workers=2))
    for start in range(1, plan.steps, 3):
        late = read(tmp_path, manifest, plan, steps - start, reading(faults="skip"), start_step=start)
        others = others[:start] + late if start > 1 else others
        for a, b in zip(batches, others, strict=True):
            assert torch.equal(a.x, b.x) and a.faults == b.faults


def test_a_lane_without_any_good_sample_is_an_error_though_faults_are_skipped(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    for shard in manifest.splits["train"].shards:
        (tmp_path / shard.path).unlink()
    with pytest.raises(DataError, match="shard is missing"):
        read(tmp_path, manifest, plan_of(manifest), 1, reading(faults="skip"))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_object_store_gives_the_same_stream_and_the_same_split(workers: int, door: Door, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    plan, steps = plan_of(manifest), 8
    here, split = read(tmp_path, manifest, plan, steps), load_split(ShardedDataset(tmp_path, manifest), "train")
    away = manifest.model_copy(update={"location": upload(door, tmp_path, "w")})
    door.failures = ["503"]
    settings = reading(loader_workers=workers, cache=str(tmp_path / "cache"), cache_mb=1)
    for a, b in zip(here, read(tmp_path, away, plan, steps, settings), strict=True):
        assert torch.equal(a.x, b.x)
    stored = load_split(ShardedDataset(tmp_path, away), "train", reading=reading())
    assert stored.keys == split.keys and torch.equal(stored.x, split.x) and np.array_equal(stored.y, split.y)


def test_a_copy_that_went_bad_is_fetched_again_and_is_no_fault(door: Door, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    away = manifest.model_copy(update={"location": upload(door, tmp_path, "w")})
    plan, settings = plan_of(manifest), reading(cache=str(tmp_path / "cache"), cache_mb=1)
    whole = read(tmp_path, away, plan, plan.steps, settings)
    for copy in (tmp_path / "cache").glob("*.tar"):
        copy.write_bytes(bytes(copy.stat().st_size))
    for a, b in zip(whole, read(tmp_path, away, plan, plan.steps, settings), strict=True):
        assert torch.equal(a.x, b.x)


def test_a_store_that_cannot_be_reached_ends_a_stream_though_faults_are_skipped(door: Door, tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    away = manifest.model_copy(update={"location": upload(door, tmp_path, "w")})
    door.failures = ["403"] * 99
    with pytest.raises(ResourceError, match="denies access") as caught:
        read(tmp_path, away, plan_of(manifest), 1, reading(loader_workers=1, faults="skip"))
    assert "\n" not in str(caught.value)


def test_a_damaged_sample_of_a_split_read_by_its_index_is_named(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES).model_copy(update={"location": str(tmp_path)})
    damaged(tmp_path, manifest, "flipped")
    with pytest.raises(DataError, match=r"train-000002\.tar, key k0014: damaged"):
        load_split(ShardedDataset(tmp_path, manifest), "train")


def test_sizes_are_those_of_decoded_splits_and_of_slices(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    split = load_split(ShardedDataset(tmp_path, manifest), "train")
    assert memory_bytes(manifest, ["train"]) == split.x.nbytes == 44 * 20
    bytes_ = sum(shard.bytes for shard in manifest.splits["train"].shards)
    assert slice_size(manifest, "train", 10) == round(10_000 * 44 / bytes_)
    assert slice_size(manifest, "train", 1) == 1


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}


def test_leaving_a_stream_ends_its_loader_processes(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    read(tmp_path, manifest, plan_of(manifest), 1, reading(loader_workers=1))  # starts the fork server
    before = children()
    read(tmp_path, manifest, plan_of(manifest), 1, reading(loader_workers=2))
    assert children() <= before


_KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.helpers.small import SPEC
from tests.pipeline.data.loading.test_stream import SIZES, reading, plan_of, written
from pipeline.data.loading.stream import ShardStream
from pipeline.data.shards.dataset import ShardedDataset

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    manifest = written(folder, SIZES)
    dataset = ShardedDataset(folder, manifest)
    stream = ShardStream(dataset, "train", plan_of(manifest), 0, 1, 0, reading(loader_workers=2))
    next(iter(stream))
    print("reading", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_loader_processes_end_when_their_rank_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(_KILLED)
    command = [sys.executable, str(script), str(tmp_path / "shards"), str(REPOSITORY)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=REPOSITORY) as rank:
        assert rank.stdout is not None and rank.stdout.readline() == b"reading\n"
        family = psutil.Process(rank.pid).children(recursive=True)
        rank.send_signal(signal.SIGKILL)
    assert len(family) >= 3
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_a_loader_process_that_is_killed_is_one_line(tmp_path: Path) -> None:
    manifest = written(tmp_path, SIZES)
    with (
        ShardStream(
            ShardedDataset(tmp_path, manifest), "train", plan_of(manifest), 0, 1, 0, reading(loader_workers=1)
        ) as stream,
        pytest.raises(ResourceError, match="a loader process was ended from outside"),
    ):
        batches = iter(stream)
        before = children()
        next(batches)
        (worker,) = (
            p for p in psutil.Process().children(recursive=True) if p.pid in children() - before and is_leaf(p)
        )
        worker.kill()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            next(batches)


def is_leaf(process: psutil.Process) -> bool:
    return "resource_tracker" not in " ".join(process.cmdline()) and not process.children()


def test_pictures_are_all_different() -> None:
    assert len({example.x.tobytes() for example in pictures(44)}) == 44
