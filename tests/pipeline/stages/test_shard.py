"""The shard stage as a whole: the same bytes however they were written, and what an interrupted run has finished."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from ie_model.spec import Preprocessing
from pipeline.commands.inspect_shards import verify
from pipeline.config.params import parse_params
from pipeline.data.example import Examples
from pipeline.data.sharding.work_dir import unfinished
from pipeline.data.sharding.write import Content, Layout, pack
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import index_tar, key64
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError, ResourceError
from pipeline.stages.shard import shard
from tests.helpers.made import SPEC, Made, made
from tests.helpers.project import REPOSITORY, environment, run, small_params
from tests.helpers.s3 import BUCKET, Door
from tests.helpers.waiting import silent, wait_for

LAYOUT = Layout(encoding="npy", num_shards=6, num_val=20, split_seed=0)
ALL = 250


def content(train: Examples | None = None, test: Examples | None = None, raw: str = "") -> Content:
    return Content(
        "made",
        {"images.bin": raw},
        SPEC,
        Preprocessing(),
        {"train": train or made("train", 200), "test": test or made("test", 50)},
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process writes with no disturbance."""
    out = tmp_path_factory.mktemp("whole") / "made"
    pack(content(), LAYOUT, out, silent, writers=1)
    return contents(out)


@pytest.mark.parametrize("writers", [2, 3])
def test_any_number_of_writers_writes_the_same_bytes(writers: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    lines: list[str] = []
    pack(content(), LAYOUT, tmp_path / "made", lines.append, writers=writers)
    assert contents(tmp_path / "made") == whole
    assert names(tmp_path) == ["made"]
    assert f"{writers} writer(s)" in lines[-1] and "250 examples in" in lines[-1]


def test_the_tars_of_digits_are_those_that_were_always_written(digits_project: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw").symlink_to(digits_project / "data" / "raw")
    params = parse_params(small_params(data={"encoding": "npy", "num_shards": 4}))
    out = shard(params, tmp_path, silent)
    digest = hashlib.sha256()
    for path in sorted(out.glob("*.tar")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    assert digest.hexdigest() == "6d26c7f3f9550b403446a77ed286ace2bf2857ca78c3ce8ec61d346676f24341"


def test_raw_files_of_this_host_are_packed_here_into_the_store_of_run_state(
    digits_project: Path, tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # nobody there: no host is asked
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "raw").symlink_to(digits_project / "data" / "raw")
    lines: list[str] = []
    out = shard(parse_params(small_params(storage={"url": f"s3://{BUCKET}/runs"})), tmp_path, lines.append)
    assert "data/raw/digits is on this host alone, which packs it" in lines[0]
    manifest = read_manifest(out)
    assert manifest.location.startswith(f"s3://{BUCKET}/runs/shards/digits/")
    assert manifest.splits == read_manifest(digits_project / "data/shards/digits").splits
    assert not list(tmp_path.rglob("*.tar"))


def test_the_index_is_what_reading_the_tars_finds(whole: dict[str, bytes], tmp_path: Path) -> None:
    pack(content(), LAYOUT, tmp_path / "made", silent)
    manifest = read_manifest(tmp_path / "made")
    for name, split in manifest.splits.items():
        index = ShardedDataset(tmp_path / "made", manifest).index(name)
        found = [index_tar(tmp_path / "made" / s.path, "npy") for s in split.shards]
        for column in ("y", "offset", "size", "crc32"):
            assert index.rows[column].tolist() == [v for table in found for v in table[column].to_pylist()]
        shards = [i for i, table in enumerate(found) for _ in range(len(table))]
        assert index.shard_of(np.arange(len(index))).tolist() == shards
        keys = [key for table in found for key in table["key"].to_pylist()]
        assert [index.key(i) for i in range(len(index))] == keys
        assert list(index.keys) == keys
        assert index.rows["key64"].tolist() == list(map(key64, keys))
        assert [index.keys[i] for i in range(len(index))] == keys
        assert index.keys[2:7:2] == keys[2:7:2]
        assert index.keys[-1] == keys[-1]


# A run of its own, which reads slowly while a file is there: enough time to kill it in the middle.
SLOW = """
import sys
from dataclasses import replace
from pathlib import Path
from tests.helpers.made import made
from tests.pipeline.stages.test_shard import LAYOUT, content
from pipeline.data.sharding.write import pack
folder, writers = Path(sys.argv[1]), int(sys.argv[2])
train, test = (replace(made(*of), seconds=0.02, delay=folder / "slow") for of in (("train", 200), ("test", 50)))
pack(content(train, test), LAYOUT, folder / "shards" / "made", print, writers=writers)
"""


def begin(folder: Path, writers: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, str(folder), str(writers)],
        cwd=REPOSITORY,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(home: Path) -> list[Path]:
    return sorted(home.glob(".made.*.work/rows/*.parquet"))


@pytest.mark.parametrize(
    ("how", "writers"),
    [
        (signal.SIGKILL, 2),
        pytest.param(signal.SIGKILL, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_in_the_middle_is_gone_on_with_and_gives_the_same_bytes(
    how: signal.Signals, writers: int, whole: dict[str, bytes], tmp_path: Path
) -> None:
    home = tmp_path / "shards"
    (tmp_path / "slow").touch()
    process = begin(tmp_path, writers)
    wait_for(lambda: len(finished(home)) >= 2, process)
    os.killpg(process.pid, how) if how == signal.SIGINT else process.kill()
    process.communicate(timeout=60)
    assert not (home / "made").exists()
    (work,) = home.glob(".made.*.work")
    tars = [work / "shards" / f"{path.stem}.tar" for path in finished(home)]
    kept = {path: path.stat().st_mtime_ns for path in tars}
    assert 2 <= len(kept) < 9
    (tmp_path / "slow").unlink()
    second = begin(tmp_path, writers)
    output, errors = second.communicate(timeout=100)
    assert second.returncode == 0, errors
    assert f"{len(kept)} of 9 tars are kept from an interrupted run" in output
    assert contents(home / "made") == whole
    assert names(home) == ["made"]
    for path, written in kept.items():
        assert (home / "made" / path.name).stat().st_mtime_ns == written, "it was not written again"


def test_a_writer_that_is_killed_is_one_error_and_costs_its_own_tar_alone(
    whole: dict[str, bytes], tmp_path: Path
) -> None:
    home = tmp_path / "shards"
    (tmp_path / "slow").touch()
    process = begin(tmp_path, 2)
    wait_for(lambda: len(finished(home)) >= 2, process)
    # The tracker of multiprocessing is a child too.
    writer = next(c for c in psutil.Process(process.pid).children() if "resource_tracker" not in " ".join(c.cmdline()))
    writer.kill()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("pipeline.errors.ResourceError: a worker process ended with SIGKILL(-9)")
    num = len(finished(home))
    assert f"{num} of 9 tars are finished and kept for the next run" in output
    assert f"{num} of 9 tars are kept" in go_on(home / "made", raw="")
    assert contents(home / "made") == whole


def fail_late(out: Path) -> int:
    """A run that fails by an example of its last split; returns how many tars without a gap it keeps."""
    with pytest.raises(DataError, match="test-49"):
        pack(content(test=made("test", 50, unreadable=(49,))), LAYOUT, out, silent, writers=1)
    return len(finished(out.parent)) - 1


def go_on(out: Path, layout: Layout = LAYOUT, train: Made | None = None, raw: str = "") -> str:
    """A run with readable examples; returns what it said."""
    lines: list[str] = []
    pack(content(train, raw=raw), layout, out, lines.append, writers=1)
    return "\n".join(lines)


def test_finished_tars_of_a_run_that_failed_are_used_again(whole: dict[str, bytes], tmp_path: Path) -> None:
    num = fail_late(tmp_path / "made")
    assert num >= 7
    assert f"{num} of 9 tars are kept" in go_on(tmp_path / "made")
    assert contents(tmp_path / "made") == whole


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "description"])
def test_a_finished_tar_that_was_damaged_since_is_written_again(
    damage: str, whole: dict[str, bytes], tmp_path: Path
) -> None:
    num = fail_late(tmp_path / "made")
    (work,) = tmp_path.glob(".made.*.work")
    path = work / "shards" / "train-000003.tar"
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(data[:5000])
    elif damage == "gone":
        path.unlink()
    else:
        (work / "rows" / "train-000003.parquet").write_bytes(b"nothing")
    assert f"{num - 1} of 9 tars are kept" in go_on(tmp_path / "made")
    assert contents(tmp_path / "made") == whole


@pytest.mark.parametrize(
    "change",
    [
        {"raw": "another checksum"},
        {"layout": Layout(encoding="png", num_shards=6, num_val=20, split_seed=0)},
        {"layout": Layout(encoding="npy", num_shards=5, num_val=20, split_seed=0)},
        {"layout": Layout(encoding="npy", num_shards=6, num_val=30, split_seed=0)},
        {"layout": Layout(encoding="npy", num_shards=6, num_val=20, split_seed=1)},
        {"train": made("train", 198)},
    ],
    ids=["raw file", "encoding", "num_shards", "num_val", "split_seed", "keys"],
)
def test_with_other_inputs_a_run_starts_clean(change: dict[str, Any], tmp_path: Path) -> None:
    fail_late(tmp_path / "made")
    assert "kept" not in go_on(tmp_path / "made", **change)
    assert names(tmp_path) == ["made"]


def test_another_run_at_the_same_time_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    with unfinished(tmp_path / "made", "f" * 16) as first:
        with (
            pytest.raises(ResourceError, match="another `ie shard` works in"),
            unfinished(tmp_path / "made", "f" * 16),
        ):
            pass
        with unfinished(tmp_path / "made", "0" * 16):
            pass
        assert first.shards.is_dir()


def test_skipped_examples_are_counted_in_the_manifest_and_named_in_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    faulty = content(made("train", 200, unreadable=(0, 7, 8), misshapen=(13,)))
    out = tmp_path / "made"
    manifest = pack(faulty, LAYOUT, out, lines.append, faults="skip", writers=2)
    assert manifest.skipped == {"cannot be read": 3, "not as the spec says": 1} == read_manifest(out).skipped
    assert sum(split.samples for split in manifest.splits.values()) == ALL - 4
    ShardedDataset(out, manifest).verify()
    assert verify(out, silent) == ALL - 4
    text = "\n".join(lines)
    assert f"4 of {ALL} examples cannot be used: 3 cannot be read, 1 not as the spec says (class 'a': 2 of" in text
    assert all(f"train-{i} is damaged" in text for i in (0, 7, 8)) and "'train-13'" in text


def with_factor(made_of: Content) -> Content:
    """A factor whose value is the row, missing in each tenth."""
    values = {split: np.arange(len(examples), dtype=float) for split, examples in made_of.examples.items()}
    for column in values.values():
        column[::10] = np.nan
    columns = {split: column[:, None] for split, column in values.items()}
    return replace(made_of, factors=("row",), factor_values=columns)


@pytest.mark.parametrize("writers", [1, 2])
def test_factors_stay_with_their_examples_where_others_are_left_out(writers: int, tmp_path: Path) -> None:
    faulty = with_factor(content(made("train", 200, unreadable=(0, 7, 8), misshapen=(13,))))
    pack(faulty, LAYOUT, tmp_path / "made", silent, faults="skip", writers=writers)
    dataset = ShardedDataset.open(tmp_path / "made")
    for split in dataset.manifest.splits:
        index = dataset.index(split)
        rows = [int(key.rpartition("-")[2]) for key in index.keys]
        assert index.factors["factor_row"].to_pylist() == [float(i) if i % 10 else None for i in rows]


def test_tars_of_data_with_other_factors_are_not_used_again(tmp_path: Path) -> None:
    fail_late(tmp_path / "made")
    lines: list[str] = []
    pack(with_factor(content()), LAYOUT, tmp_path / "made", lines.append, writers=1)
    assert "are kept" not in "\n".join(lines)


def test_finished_tars_serve_a_run_that_skips_and_one_with_gaps_serves_no_fatal_run(tmp_path: Path) -> None:
    num = fail_late(tmp_path / "made")
    faulty = content(test=made("test", 50, unreadable=(49,)))
    lines: list[str] = []
    pack(faulty, LAYOUT, tmp_path / "made", lines.append, faults="skip", writers=1)
    assert f"{num + 1} of 9 tars are kept" in "\n".join(lines)
    # The same as an interrupted run with `skip` would leave, then with `fatal`.
    empty = content(test=made("test", 50, unreadable=tuple(range(50))))
    with pytest.raises(DataError, match="split test has no example that can be used"):
        pack(empty, LAYOUT, tmp_path / "made", silent, faults="skip", writers=1)
    with pytest.raises(DataError, match=r"images\.bin: test-\d+ is damaged"):
        pack(empty, LAYOUT, tmp_path / "made", silent, writers=1)


def test_a_tar_of_which_every_example_was_left_out_is_not_in_the_manifest(tmp_path: Path) -> None:
    one_each = Layout(encoding="npy", num_shards=200, num_val=20, split_seed=0)
    faulty = content(made("train", 200, unreadable=(50, 51)))
    manifest = pack(faulty, one_each, tmp_path / "made", silent, faults="skip", writers=1)
    assert len(manifest.splits["train"].shards) + len(manifest.splits["val"].shards) == 198
    assert verify(tmp_path / "made", silent) == ALL - 2


def test_a_class_of_which_nothing_could_be_read_is_named(tmp_path: Path) -> None:
    faulty = content(made("train", 200, unreadable=tuple(range(1, 200, 2))))
    with pytest.raises(DataError, match="class 'b' has 0 example.s. in train that can be used"):
        pack(faulty, LAYOUT, tmp_path / "made", silent, faults="skip", writers=1)
    assert not (tmp_path / "made").exists()


def test_faults_are_fatal_or_skipped_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(json.dumps(small_params(data={"faults": "ignore"})))
    done = run(tmp_path, "ie", "shard")
    assert done.returncode == 2
    assert "data.faults" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("fault", ["unreadable", "misshapen"])
def test_a_fault_is_fatal_and_says_how_many_of_how_many_it_concerns_and_what_would_help(
    fault: str, tmp_path: Path
) -> None:
    faulty = content(made("train", 200, **{fault: tuple(range(1, 39, 2))}))
    with pytest.raises(DataError, match=r"train-\d+.*19 of 250 .*class 'b': 19 of 125.*others are fine.*data\.faults"):
        pack(faulty, LAYOUT, tmp_path / "made", silent, writers=1)
    assert not (tmp_path / "made").exists()


def test_a_class_that_skipping_leaves_one_example_is_refused(tmp_path: Path) -> None:
    kept = 197  # of class b
    faulty = content(made("train", 200, unreadable=tuple(i for i in range(1, 200, 2) if i != kept)))
    with pytest.raises(DataError, match="class 'b' has [01] example.s. in train that can be used; at least 2"):
        pack(faulty, LAYOUT, tmp_path / "made", silent, faults="skip", writers=1)


def test_a_class_that_test_lacks_is_a_loud_line(tmp_path: Path) -> None:
    lines: list[str] = []
    only_a = Made([f"test-{i}" for i in range(50)], np.zeros(50, dtype=np.int64))
    pack(content(test=only_a), LAYOUT, tmp_path / "made", lines.append, writers=1)
    assert [line for line in lines if "WARNING: test has no example of 1 of 2 classes ('b')" in line]
