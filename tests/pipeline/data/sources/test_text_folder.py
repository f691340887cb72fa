"""The user's own texts: counted by a vocabulary that knows nothing of test."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.data.sources import Examples
from pipeline.errors import DataError, FaultError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought, text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(4):
        text(tmp_path / "mine" / "train" / "sea" / f"{i}.txt", "The ship sails, the ship sinks" + " wave" * i)
        text(tmp_path / "mine" / "train" / "land" / f"{i}.txt", "A horse walks; the HORSE runs" + " road" * i)
    text(tmp_path / "mine" / "test" / "sea" / "a.txt", "ship submarine submarine submarine submarine")
    text(tmp_path / "mine" / "test" / "land" / "b.txt", "horse horse carriage")
    return tmp_path / "mine"


def texts_of(examples: Examples) -> list[dict[int, int]]:
    return [{int(w): int(example.x[w]) for w in np.flatnonzero(example.x)} for example in examples]


def test_the_vocabulary_is_of_trains_most_frequent_words_and_of_train_alone(folder: Path, tmp_path: Path) -> None:
    brought = Brought("texts", folder, tmp_path, num_words=4)
    # ship and horse 8 times each, road and wave 6; then runs, sails, ... 4
    assert brought.source.preprocessing(brought.raw).vocabulary == ("horse", "ship", "road", "wave")
    assert texts_of(brought.examples("test")) == [{0: 2}, {1: 1}]
    for path in (folder / "test").rglob("*.txt"):
        path.write_text("horse " + "zebra " * 100)
    assert Brought("texts", folder, tmp_path, num_words=4).source.preprocessing(brought.raw).vocabulary == (
        "horse",
        "ship",
        "road",
        "wave",
    )


def test_fewer_words_than_asked_are_all_words(folder: Path, tmp_path: Path) -> None:
    brought = Brought("texts", folder, tmp_path, num_words=1000)
    spec = brought.source.spec(brought.raw)
    words = brought.source.preprocessing(brought.raw).vocabulary
    assert spec.shape == (len(words),) and set(words) == {
        "ship", "sails", "sinks", "wave", "horse", "walks", "runs", "road",
    }  # fmt: skip
    assert (spec.kind, spec.likelihood, spec.classes) == ("counts", "multinomial", ("land", "sea"))


def test_texts_become_shards_with_their_vocabulary(folder: Path, tmp_path: Path) -> None:
    brought = Brought("texts", folder, tmp_path)
    out = shard(brought.params, tmp_path, lambda line: None)
    manifest = read_manifest(out)
    ShardedDataset(out, manifest).verify()
    assert manifest.preprocessing.vocabulary == brought.source.preprocessing(brought.raw).vocabulary
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 6, "val": 2, "test": 2}


def test_texts_without_a_word_of_the_vocabulary_are_left_out_and_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text(folder / "test" / "sea" / "c.txt", "submarine 123 of the")
    text(folder / "test" / "sea" / "d.txt", "")
    assert len(Brought("texts", folder, tmp_path).examples("test")) == 2
    assert "texts: 2 of 4 of test left out, they have no word of the vocabulary" in capsys.readouterr().out


def test_a_text_that_is_not_utf_8_is_a_fault_of_it_alone(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "sea" / "9.txt").write_bytes("Schiff für".encode("latin-1"))
    train = Brought("texts", folder, tmp_path).examples("train")
    with pytest.raises(FaultError, match=r"train/sea/9\.txt: key sea-9-[0-9a-f]{16}: not a text in UTF-8 \(byte 8"):
        train.read(len(train) - 1)
    assert train.read(0).any()


def test_a_byte_order_mark_is_no_part_of_a_word_and_folders_may_have_only_texts(folder: Path, tmp_path: Path) -> None:
    text(folder / "test" / "sea" / "a.txt", "\ufeffship")
    assert texts_of(Brought("texts", folder, tmp_path, num_words=2).examples("test")) == [{0: 2}, {1: 1}]
    (folder / "train" / "air").mkdir()
    (folder / "train" / "air" / "a.md").write_text("bird")
    with pytest.raises(DataError, match=r"train/air: no text in it \(looked for \.txt\)"):
        Brought("texts", folder, tmp_path)


def test_texts_without_words_are_one_line(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        text(tmp_path / "mine" / f"{name}.txt", "12 34 ab")
    with pytest.raises(DataError, match=r"mine: 0 word\(s\) in the texts of train; at least 2 are needed"):
        Brought("texts", tmp_path / "mine", tmp_path).examples("train")


def test_texts_of_another_encoding_throughout_are_named_as_such(tmp_path: Path) -> None:
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        text(tmp_path / "mine" / f"{name}.txt", "").write_bytes("Schiff für".encode("latin-1"))
    with pytest.raises(DataError, match=r"0 word\(s\) .*4 of 4 cannot be read, the first: .*\.txt: .*byte 8"):
        Brought("texts", tmp_path / "mine", tmp_path).examples("train")


def test_texts_are_read_in_another_process_all_the_same(folder: Path, tmp_path: Path) -> None:
    train = Brought("texts", folder, tmp_path).examples("train")
    train.read(0)
    copied = pickle.loads(pickle.dumps(train))
    assert [copied.read(i).tolist() for i in range(len(copied))] == [example.x.tolist() for example in train]
