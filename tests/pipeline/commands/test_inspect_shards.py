"""`ie shards verify` names all that is wrong; `ie shards show` says what is there."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from ie_model.spec import DataSpec
from pipeline.commands.inspect_shards import show, verify
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_split, key64
from pipeline.data.shards.manifest import Manifest, SplitName, read_manifest, write_manifest, write_shard
from pipeline.data.shards.sample_codec import encode_example
from pipeline.data.sources import Example
from pipeline.errors import DataError
from pipeline.utils.files import sha256_file
from tests.helpers.project import run, small_params


@pytest.fixture
def shards(digits_project: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digits_project / "data" / "shards" / "digits", tmp_path / "shards"))


def test_whole_shards_are_said_to_be_whole(shards: Path) -> None:
    lines: list[str] = []
    assert verify(shards, lines.append) == 1797
    assert lines == ["verify: 1797 examples in 4 shards, all whole"]


def test_everything_that_is_wrong_is_named_not_the_first_thing_alone(shards: Path) -> None:
    (shards / "val-000000.tar").unlink()
    with (shards / "train-000001.tar").open("r+b") as file:
        file.truncate(5000)
    with (shards / "test-000000.tar").open("ab") as file:
        file.write(bytes(1024))
    shutil.copy(shards / "train-000000.tar", shards / "stranger.tar")
    lines: list[str] = []
    with pytest.raises(DataError, match=r"4 problem\(s\)"):
        verify(shards, lines.append)
    text = "\n".join(lines)
    for expected in ("val-000000.tar", "train-000001.tar", "test-000000.tar: damaged", "stranger.tar: not in the"):
        assert expected in text


def test_a_label_that_is_another_class_than_the_manifest_counted_is_found(shards: Path) -> None:
    manifest = read_manifest(shards)
    split = manifest.splits["val"]
    counts = split.class_counts | {"0": split.class_counts["0"] + 1, "1": split.class_counts["1"] - 1}
    changed = manifest.model_copy(
        update={"splits": manifest.splits | {"val": split.model_copy(update={"class_counts": counts})}}
    )
    write_manifest(shards, changed)
    lines: list[str] = []
    with pytest.raises(DataError):
        verify(shards, lines.append)
    assert "split val has classes" in lines[0]


def with_index(folder: Path, split: SplitName, **columns: dict[int, int]) -> None:
    """Changes rows of an index, and the manifest with it, as a fault in writing would."""
    manifest = read_manifest(folder)
    described = manifest.splits[split]
    path = folder / described.index.path
    rows = np.load(path)
    for name, changes in columns.items():
        rows[name][list(changes)] = list(changes.values())
    np.save(path, rows)
    index = described.index.model_copy(update={"bytes": path.stat().st_size, "sha256": sha256_file(path)})
    splits = manifest.splits | {split: described.model_copy(update={"index": index})}
    write_manifest(folder, manifest.model_copy(update={"splits": splits}))


@pytest.mark.parametrize("processes", [1, 2])
def test_every_row_of_an_index_that_is_not_what_the_tars_hold_is_named(shards: Path, processes: int) -> None:
    index = ShardedDataset.open(shards).index("train")
    before, keys = index.rows.copy(), index.keys
    with_index(
        shards,
        "train",
        key64={3: key64("other")},
        y={5: 9 - before[5]["y"], 900: -1},
        offset={7: before[7]["offset"] + 512},
        size={9: 1},
        crc32={11: before[11]["crc32"] ^ 1},
    )
    lines: list[str] = []
    with pytest.raises(DataError, match=r"6 problem\(s\)"):
        verify(shards, lines.append, processes=processes)
    for row, what in {
        3: f"key {keys[3]!r}, hash {key64('other'):x}, the tar has {keys[3]!r}, hash {before[3]['key64']:x}",
        5: f"y {9 - before[5]['y']}, the tar has {before[5]['y']}",
        7: f"offset {before[7]['offset'] + 512}, the tar has {before[7]['offset']}",
        9: f"size 1, the tar has {before[9]['size']}",
        11: f"crc32 {before[11]['crc32'] ^ 1}, the tar has {before[11]['crc32']}",
        900: f"y -1, the tar has {before[900]['y']}",
    }.items():
        tar = f"train-{index.shard_of(row):06d}.tar, key {keys[row]}: "
        (line,) = [line for line in lines if f"row {row} of the index of train " in line]
        assert line.endswith(what) and tar in line


def test_of_an_index_that_is_wrong_throughout_a_hundred_rows_a_shard_are_named(shards: Path) -> None:
    with_index(shards, "test", crc32={row: 0 for row in range(360)})
    lines: list[str] = []
    with pytest.raises(DataError):
        verify(shards, lines.append)
    assert len(lines) == 101
    assert "test-000000.tar: 260 more rows of the index are not what the tar has" in "\n".join(lines)


@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_an_index_that_is_not_the_manifests_is_named_and_the_tars_are_still_read(shards: Path, damage: str) -> None:
    path = shards / "index-val.npy"
    path.unlink() if damage == "missing" else path.write_bytes(path.read_bytes() + b"x")
    (shards / "test-000000.tar").unlink()
    lines: list[str] = []
    with pytest.raises(DataError, match=r"2 problem\(s\)"):
        verify(shards, lines.append)
    assert "index-val.npy" in "".join(lines) and "test-000000.tar" in "".join(lines)


def test_show_reads_the_examples_that_it_draws_and_no_others(shards: Path, tmp_path: Path) -> None:
    index = ShardedDataset.open(shards).index("train")

    def spoil(row: int) -> None:
        with (shards / f"train-{index.shard_of(row):06d}.tar").open("r+b") as file:
            file.seek(int(index.rows["offset"][row]))
            file.write(bytes(int(index.rows["size"][row])))

    spoil(len(index) - 1)
    show(shards, tmp_path / "out.png", lambda line: None)
    spoil(0)
    with pytest.raises(DataError, match=rf"train-000000\.tar, key {index.key(0)}: damaged, its CRC-32"):
        show(shards, tmp_path / "out.png", lambda line: None)


def test_show_prints_every_class_and_draws_examples(shards: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    show(shards, tmp_path / "out.png", lines.append)
    text = "\n".join(lines)
    assert "image of [1, 8, 8] uint8, bernoulli" in lines[0]
    assert sum(line.startswith(f"{c} ") for line in lines for c in "0123456789") == 10
    assert "1,237" in text
    assert (tmp_path / "out.png").stat().st_size > 5000


def test_show_of_counts_names_frequent_words(tmp_path: Path) -> None:
    spec = DataSpec(kind="counts", shape=(3,), dtype="int32", classes=("a", "b"), likelihood="multinomial")
    x = np.array([1, 0, 5], dtype=np.int32)
    splits = {}
    names: tuple[SplitName, ...] = ("train", "val", "test")
    for name in names:
        made = [encode_example(Example(f"{name}-{i}", x, i), "npy") for i in range(2)]
        shard = write_shard(tmp_path / f"{name}-000000.tar", made)
        splits[name] = describe_split(tmp_path, name, [shard], spec, "npy")
    manifest = Manifest.model_validate(
        {
            "format": 4,
            "source": "s",
            "source_files": {},
            "spec": spec,
            "encoding": "npy",
            "preprocessing": {"vocabulary": ("oil", "bank", "wheat")},
            "split_seed": 0,
            "splits": splits,
        }
    )
    write_manifest(tmp_path, manifest)
    lines: list[str] = []
    show(tmp_path, tmp_path / "out.png", lines.append)
    assert lines[-1] == "most frequent words: wheat, oil, bank"
    assert verify(tmp_path, lines.append) == 6


def test_the_commands_find_the_shards_of_the_params(digits_project: Path, tmp_path: Path) -> None:
    shutil.copytree(digits_project / "data" / "shards", tmp_path / "data" / "shards")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(small_params()))
    done = run(tmp_path, "ie", "shards", "verify")
    assert done.returncode == 0, done.stderr
    assert "all whole" in done.stdout
    missing = run(tmp_path, "ie", "shards", "verify", "nowhere")
    assert missing.returncode == 4
    assert missing.stderr.startswith("error: ")
