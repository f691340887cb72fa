"""The user's own series: channels, classes and length are what the pair of files says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError, FaultError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought

HEADER = "@problemName Tiny\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true up down\n@data\n"
TRAIN = ["1,2,3:0,0,1:up", "2,4:1,1:up", "3,2,1:1,0,?:down", "9,5:0,1:down", "1,1,1:2,3,4:up", "8,4,1:0,0,0:down"]
TEST = ["1,2,3,4,5:0,0,0,0,0:up", "5,4:1,1:down"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "mine")
    return tmp_path / "mine"


def write(folder: Path, train: list[str] = TRAIN, test: list[str] = TEST, header: str = HEADER) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "Tiny_TRAIN.ts").write_text(header + "\n".join(train) + "\n")
    (folder / "Tiny_TEST.ts").write_text(header + "\n".join(test) + "\n")


def test_a_pair_of_files_becomes_shards(folder: Path, tmp_path: Path) -> None:
    brought = Brought("series", folder, tmp_path)
    out = shard(brought.params, tmp_path, lambda line: None)
    manifest = read_manifest(out)
    ShardedDataset(out, manifest).verify()
    assert (manifest.spec.kind, manifest.spec.shape, manifest.spec.classes) == ("series", (2, 5), ("up", "down"))
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 4, "val": 2, "test": 2}


def test_channels_are_scaled_by_train_alone(folder: Path, tmp_path: Path) -> None:
    train = Brought("series", folder, tmp_path).examples("train")
    values = np.concatenate([example.x for example in train], axis=1)
    np.testing.assert_allclose(np.nanmean(values, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(values, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("lines", "channels"),
    [("@univariate true\n", 1), ("", 1), ("@DIMENSIONS 1\n", 1)],
    ids=["univariate", "nothing said", "any case"],
)
def test_channels_that_the_header_does_not_tell_are_those_of_the_first_case(
    tmp_path: Path, lines: str, channels: int
) -> None:
    cases = ["1,2:a", "2,1:b", "1,3:a", "3,1:b"]
    write(tmp_path / "mine", cases, cases[:2], f"# made by hand\n{lines}@classLabel true a b\n@data\n\n")
    brought = Brought("series", tmp_path / "mine", tmp_path)
    assert brought.source.spec(brought.raw).shape == (channels, 2)


def test_a_series_of_which_nothing_is_known_is_a_fault_of_it_alone(tmp_path: Path) -> None:
    write(tmp_path / "mine", [*TRAIN, "?,NaN:?,?:up"])
    train = Brought("series", tmp_path / "mine", tmp_path).examples("train")
    assert train.read(2).shape == (2, 3), "one missing value is no fault"
    with pytest.raises(FaultError, match=r"Tiny_TRAIN\.ts: line 13: key train-000006: no value that is known"):
        train.read(6)


@pytest.mark.parametrize(
    ("train", "header", "message"),
    [
        (TRAIN, HEADER.replace(" up down", ""), r"TRAIN\.ts: line 5: @classLabel is 'true', expected: true, then two"),
        (TRAIN, HEADER.replace("true up down", "false"), r"line 5: @classLabel is 'false', expected"),
        (TRAIN, HEADER.replace("@classLabel true up down\n", ""), r"line 5: @classLabel has not come before @data"),
        (TRAIN, HEADER.replace("@dimensions 2", "@dimensions x"), r"line 4: @dimensions is 'x', expected a number"),
        (TRAIN, HEADER.replace("@data\n", ""), r"the file ends without @data"),
        ([], HEADER, r"the file ends without a case"),
        (TRAIN, HEADER.replace("up down", "up down level"), r"class 'level' has 0 case\(s\); at least 2"),
        ([*TRAIN, "1:1:level"], HEADER, r"line 13: label 'level', expected one of: up, down"),
        ([*TRAIN, "1:1:1:up"], HEADER, r"line 13: 3 dimensions, expected 2"),
        ([*TRAIN, "1:inf:up"], HEADER, r"line 13: 'inf' is infinite"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_named_by_fetch(
    tmp_path: Path, train: list[str], header: str, message: str
) -> None:
    write(tmp_path / "mine", train, header=header)
    with pytest.raises(DataError, match=message) as caught:
        Brought("series", tmp_path / "mine", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_label_of_test_that_train_does_not_have_is_named(tmp_path: Path) -> None:
    write(tmp_path / "mine", test=["1:1:level"])
    with pytest.raises(DataError, match=r"Tiny_TEST\.ts: line 7: label 'level', expected one of: up, down"):
        Brought("series", tmp_path / "mine", tmp_path)


def test_what_is_no_pair_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "Tiny_TEST.ts").rename(folder / "Other_TEST.ts")
    with pytest.raises(DataError, match=r"mine: Tiny_TRAIN\.ts and Other_TEST\.ts are no pair"):
        Brought("series", folder, tmp_path)
    (folder / "Other_TEST.ts").unlink()
    with pytest.raises(DataError, match=r"mine: expected one file NAME_TEST\.ts; found: none"):
        Brought("series", folder, tmp_path)
    (folder / "More_TRAIN.ts").write_text("")
    with pytest.raises(DataError, match=r"expected one file NAME_TRAIN\.ts; found: More_TRAIN\.ts, Tiny_TRAIN\.ts"):
        Brought("series", folder, tmp_path)


def test_a_file_that_changed_since_fetch_is_named(folder: Path, tmp_path: Path) -> None:
    brought = Brought("series", folder, tmp_path)
    with (folder / "Tiny_TEST.ts").open("a") as file:
        file.write("1:1:up\n")
    with pytest.raises(DataError, match=r"Tiny_TEST\.ts: changed since fetch"):
        brought.examples("test")
