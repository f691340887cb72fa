"""Forms in which others lay out, name and encode their data: taken for what they are, or refused in one line."""

from __future__ import annotations

import codecs
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.shards.manifest import read_manifest
from pipeline.data.sources import rows
from pipeline.data.sources.bag_of_words import words
from pipeline.data.sources.labels import means_unlabelled, split_word
from pipeline.errors import DataError, FaultError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought, picture, text, write_digits


def classes(folder: Path, *names: str, num: int = 6) -> Path:
    """Pictures of each class, none like another."""
    for c, name in enumerate(names):
        for i in range(num):
            picture(folder / name / f"{i}.png", 20 * c + i)
    return folder


@pytest.mark.parametrize(
    ("name", "split"),
    [("Train", "train"), ("TRAINING", "train"), ("train_set", "train"), ("val", "val"), ("Valid", "val"),
     ("validation-data", "val"), ("dev", "val"), ("TEST", "test"), ("testing", "test"), (" test ", "test"),
     ("trainer", None), ("latest", None), ("tests", None), ("vale", None)],
)  # fmt: skip
def test_a_split_is_known_in_any_usual_spelling(name: str, split: str | None) -> None:
    assert split_word(name) == split


@pytest.mark.parametrize(
    "name",
    ["unlabelled", "unlabeled", "Unlabeled", "UNLABELLED", "un-labeled", "unlabeled_data", "train_unlabeled", "unsup",
     "no_label", "no label", "NoLabels", "without_label", "not-labelled", "unannotated"],
)  # fmt: skip
def test_a_folder_of_any_such_name_holds_examples_without_a_label(name: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "round", "square", name)
    brought = Brought("images", folder, tmp_path)
    assert brought.source.spec(brought.raw).classes == ("round", "square")
    assert brought.classes("train").count(None) == 6
    assert any(name in line for line in brought.lines) or name == "unlabelled"


@pytest.mark.parametrize("name", ["unknown", "Unknown", "none", "NaN", "unsorted", "uncategorized"])
def test_a_name_that_may_be_a_class_or_none_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"mine/{name}: '{name}' may be a class"):
        Brought("images", classes(tmp_path / "mine", "round", name), tmp_path)
    folder = classes(tmp_path / "table", "a", "b")
    rows = [f"{c}/{i}.png,{c if i else name}" for c in "ab" for i in range(6)]
    (folder / "t.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match=rf"line 2: '{name}' may be a class"):
        Brought("table", folder, tmp_path)


@pytest.mark.parametrize("name", ["unlabelledish", "labelled", "labeled", "nonlabel", "sun"])
def test_other_names_are_classes(name: str) -> None:
    assert not means_unlabelled(name, "")


def test_a_folder_val_is_val_and_val_size_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for split, num in (("Training", 20), ("valid", 4), ("TEST", 3)):
        classes(folder / split, "a", "b", num=num)
    brought = Brought("images", folder, tmp_path)
    assert [line for line in brought.lines if "8 pictures are val by valid/" in line]
    manifest = read_manifest(shard(brought.params, tmp_path, lambda line: None))
    assert {name: split.class_counts for name, split in manifest.splits.items()} == {
        "train": {"a": 20, "b": 20}, "val": {"a": 4, "b": 4}, "test": {"a": 3, "b": 3}
    }  # fmt: skip


def test_a_folder_val_without_test_leaves_test_to_be_carved_from_train_alone(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    classes(folder / "train", "a", "b", num=20)
    classes(folder / "val", "a", "b", num=4)
    manifest = read_manifest(shard(Brought("images", folder, tmp_path).params, tmp_path, lambda line: None))
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 30, "val": 8, "test": 10}


def test_a_table_may_name_val_and_texts_may_have_a_folder_of_it(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b", num=12)
    splits = ["", "training", "Train", "valid", "Val", "TEST"]
    lines = [f"{c}/{i}.png,{c},{splits[i % 6]}" for c in "ab" for i in range(12)]
    (folder / "t.csv").write_text("\n".join(["path,label,split", *lines]))
    manifest = read_manifest(shard(Brought("table", folder, tmp_path).params, tmp_path, lambda line: None))
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 12, "val": 8, "test": 4}
    for split, num in (("train", 6), ("dev", 2), ("test", 2)):
        for i in range(num):
            text(tmp_path / "texts" / split / "sea" / f"{i}.txt", f"ship wave {'sail ' * i}")
            text(tmp_path / "texts" / split / "land" / f"{i}.txt", f"horse road {'hill ' * i}")
    manifest = read_manifest(shard(Brought("texts", tmp_path / "texts", tmp_path).params, tmp_path, lambda line: None))
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 12, "val": 4, "test": 4}


def test_a_class_of_val_leaves_two_in_train(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    classes(folder / "train", "a", "b", num=20)
    picture(folder / "train" / "c" / "1.png")
    classes(folder / "val", "a", "b", "c", num=4)
    with pytest.raises(DataError, match=r"class 'c' has 1 example\(s\) in train"):
        Brought("images", folder, tmp_path)


def test_splits_that_hold_pictures_in_place_of_classes_are_refused(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "train", "Test")
    with pytest.raises(DataError, match=r"mine: Test/, train/ hold no folders of classes"):
        Brought("images", folder, tmp_path)


def test_a_folder_around_the_classes_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one class, 'photos'; .*holds folders \(cat, dog"):
        Brought("images", classes(tmp_path / "mine" / "photos", "cat", "dog").parent, tmp_path)


@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ("Cat", "cat", "'Cat' and 'cat'"),
        ("a  b", "a b", "'a  b' and 'a b'"),
        ("Gro\u0308\u00dfe", "Gr\u00f6\u00dfe", r"'Gro\u0308\xdfe' and 'Gr\xf6\xdfe'"),
        ("ab", "a\u200bb", r"'ab' and 'a\u200bb'"),
    ],
)
def test_classes_that_look_alike_are_refused_in_every_kind(one: str, other: str, named: str, tmp_path: Path) -> None:
    match = f"{re.escape(named)} differ in case, blanks or encoding alone"
    folder = classes(tmp_path / "images", one, other)
    with pytest.raises(DataError, match=match):
        Brought("images", folder, tmp_path)
    lines = [f"{name}/{i}.png,{name}" for name in (one, other) for i in range(6)]
    (folder / "t.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    with pytest.raises(DataError, match=match):
        Brought("table", folder, tmp_path)
    for name in (one, other):
        for i in range(4):
            text(tmp_path / "texts" / name / f"{i}.txt", "ship wave")
    with pytest.raises(DataError, match=match):
        Brought("texts", tmp_path / "texts", tmp_path)


def test_labels_of_a_series_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    for split in ("TRAIN", "TEST"):
        lines = ["@classLabel true Up up", "@data", *["1,2:up", "1,3:Up"] * 3]
        text(tmp_path / "mine" / f"A_{split}.ts", "\n".join(lines))
    with pytest.raises(DataError, match=r"A_TRAIN\.ts: classes 'Up' and 'up' differ in case"):
        Brought("series", tmp_path / "mine", tmp_path)


def test_blanks_around_labels_are_taken_off_and_told(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "cat", "cat ", "dog")
    brought = Brought("images", folder, tmp_path)
    assert brought.source.spec(brought.raw).classes == ("cat", "dog")
    assert any("'cat ' is class 'cat'" in line for line in brought.lines)
    lines = [f"{name}/{i}.png, {name}\u00a0" for name in ("cat", "dog") for i in range(6)]
    (folder / "t.csv").write_text("\n".join(["path,label", *lines]), encoding="utf-8")
    brought = Brought("table", folder, tmp_path)
    assert brought.source.spec(brought.raw).classes == ("cat", "dog")
    assert any("12 label(s) have blanks" in line for line in brought.lines)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be-mark", "utf-32"])
def test_texts_and_tables_and_series_are_read_in_each_encoding_that_a_mark_names(encoding: str, tmp_path: Path) -> None:
    def encoded(content: str) -> bytes:
        if encoding == "utf-16-be-mark":
            return codecs.BOM_UTF16_BE + content.encode("utf-16-be")
        return content.encode(encoding)

    for name, content in (("sea", "Überfahrt wave"), ("land", "Straße horse")):
        for i in range(4):
            (tmp_path / "texts" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "texts" / name / f"{i}.txt").write_bytes(encoded(content))
    brought = Brought("texts", tmp_path / "texts", tmp_path)
    assert set(brought.source.preprocessing(brought.raw).vocabulary) == {"überfahrt", "wave", "straße", "horse"}
    folder = classes(tmp_path / "table", "ä", "b")
    lines = [f"{name}/{i}.png,{name}" for name in "äb" for i in range(6)]
    (folder / "t.csv").write_bytes(encoded("\n".join(["path,label", *lines])))
    brought = Brought("table", folder, tmp_path)
    assert brought.source.spec(brought.raw).classes == ("b", "ä")
    (tmp_path / "series").mkdir()
    for split in ("TRAIN", "TEST"):
        lines = ["@classLabel true ä b", "@data", *["1,2:ä", "1,3:b"] * 3]
        (tmp_path / "series" / f"A_{split}.ts").write_bytes(encoded("\r\n".join(lines)))
    brought = Brought("series", tmp_path / "series", tmp_path)
    assert brought.source.spec(brought.raw).classes == ("ä", "b")


@pytest.mark.parametrize(
    ("data", "place"), [("Schiff für".encode("latin-1"), "byte 8"), ("wave".encode("utf-16-le"), "NUL")]
)
def test_another_encoding_is_named_with_its_place(data: bytes, place: str, tmp_path: Path) -> None:
    for name in ("sea/1", "sea/2", "sea/3", "land/1", "land/2", "land/3"):
        text(tmp_path / "texts" / f"{name}.txt", "ship wave")
    (tmp_path / "texts" / "land" / "1.txt").write_bytes(data)
    brought = Brought("texts", tmp_path / "texts", tmp_path)
    with pytest.raises(FaultError, match=rf"land/1\.txt: .*{place}"):
        for examples in (brought.examples("train"), brought.examples("test")):
            list(examples)
    folder = classes(tmp_path / "table", "a", "b")
    (folder / "t.csv").write_bytes(b"path,label\n" + data)
    with pytest.raises(DataError, match=r"t\.csv: .*(line 2, byte 19|NUL)"):
        Brought("table", folder, tmp_path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("header", ["path,label", "Path, Label ", '"path","label","note"'])
def test_a_table_may_be_parted_by_any_usual_sign_and_its_header_written_in_any_case(
    delimiter: str, header: str, tmp_path: Path
) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    end = ',"x, y"' if "note" in header else ""
    lines = [header, *(f"{c}/{i}.png,{c}{end.replace(', ', '_')}" for c in "ab" for i in range(6))]
    (folder / "t.tsv").write_text("\n".join(line.replace(",", delimiter) for line in lines))
    brought = Brought("table", folder, tmp_path)
    assert brought.source.spec(brought.raw).classes == ("a", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path,label,label\n", r"expected one column 'label'"),
        (b"path,label,split,Split\n", r"expected one column 'split'"),
        (b"path,label\na/0.png,a\x00\n", r"line 2: not a CSV file, it holds a NUL"),
        (b"path,label," + b",".join(b"c%d" % i for i in range(100_000)), r"100,002 columns; a table has at most"),
        (b"path,label," + b"c," * 1_000_000, r"line 1: longer than"),
        (b"path,label\n" + b"x" * (1 << 21), r"line 2: longer than"),
        (b"path,label\na/0.png,\x1b[31ma\n", r"line 2: label is '\\x1b\[31ma', which holds a control character"),
        (b"path,label\n" + b"x" * 5000 + b".png,a\n", r"line 2: 'xxx.* cannot be opened"),
        (b"path,label\na\\0.png,a\n", r"line 2: no such file: .*; write folders with /"),
        (b"path,label\nloop.png,a\n", r"loop\.png: a link that leads to itself"),
        (b"path,label\na.png,a\n", r"line 2: a folder: .*/a\.png"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_meant_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    (folder / "t.csv").write_bytes(content)
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "a.png").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        Brought("table", folder, tmp_path)
    assert len(str(caught.value)) < 1000


def test_a_parquet_with_text_that_is_not_utf_8_is_one_line(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    raw = pa.array([b"a/0.png", b"\xff\xfe"], pa.binary())
    table = pa.table({"path": pa.Array.from_buffers(pa.string(), 2, raw.buffers()), "label": ["a", "b"]})
    pq.write_table(table, folder / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: not a Parquet file that can be read"):
        Brought("table", folder, tmp_path)


@pytest.mark.parametrize("label", [{"a": 1}, b"a"])
def test_a_parquet_column_of_neither_text_nor_numbers_is_refused_by_name(label: object, tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    pq.write_table(pa.table({"path": ["a/0.png", "b/0.png"], "label": [label, label]}), folder / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: column 'label' is of type (struct|binary)"):
        Brought("table", folder, tmp_path)


def test_a_table_of_too_many_rows_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    monkeypatch.setattr(rows, "MOST_ROWS", 8)
    lines = [(f"{c}/{i}.png", c) for c in "ab" for i in range(6)]
    pq.write_table(pa.table({"path": [p for p, _ in lines], "label": [c for _, c in lines]}), folder / "t.parquet")
    with pytest.raises(DataError, match=r"t\.parquet: 12 rows; a table has at most 8"):
        Brought("table", folder, tmp_path)
    (folder / "t.parquet").unlink()
    (folder / "t.csv").write_text("\n".join(["path,label", *(",".join(line) for line in lines)]))
    with pytest.raises(DataError, match=r"t\.csv: line 10: a table has at most 8 rows"):
        Brought("table", folder, tmp_path)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_sparse_table_of_terabytes_is_refused_at_once(name: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    (folder / name).write_text("path,label\n")
    os.truncate(folder / name, 4 << 40)
    with pytest.raises(DataError, match=rf"{name}: .* MB; a table has at most"):
        Brought("table", folder, tmp_path)


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path is of 107 letters at most
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda f: os.mkfifo(f / "pipe.txt"), r"pipe\.txt: neither a file nor a folder"),
        (lambda f: _socket(f / "socket.png"), r"socket\.png: neither a file nor a folder"),
        (lambda f: [(f / a).symlink_to(b) for a, b in (("a.png", "b.png"), ("b.png", "a.png"))], r"leads to itself"),
        (lambda f: (f / os.fsdecode(b"\xff.png")).write_bytes(b""), r"its name is not UTF-8"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["images", "table", "texts", "series"])
def test_pipes_loops_and_names_that_are_no_text_are_named_or_passed_over(
    kind: str, make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "mine"
    if kind == "texts":
        for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
            text(folder / f"{name}.txt", "ship wave")
    elif kind == "series":
        for split in ("TRAIN", "TEST"):
            text(folder / f"A_{split}.ts", "\n".join(["@classLabel true a b", "@data", *["1,2:a", "1,3:b"] * 3]))
    else:
        classes(folder, "a", "b")
        if kind == "table":
            lines = [f"{c}/{i}.png,{c}" for c in "ab" for i in range(6)]
            (folder / "t.csv").write_text("\n".join(["path,label", *lines]))
    make(folder if kind == "series" else folder / "a")
    if kind in ("images", "texts"):
        with pytest.raises(DataError, match=message):
            Brought(kind, folder, tmp_path)
    else:
        assert any("link, pipe or name" in line for line in Brought(kind, folder, tmp_path).lines)


def test_a_very_deep_folder_is_read(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    here = os.getcwd()
    os.chdir(folder / "a")
    try:
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("x.txt").write_text("")
        os.chdir(here)
        assert any("1 .txt" in line for line in Brought("images", folder, tmp_path).lines)
    finally:
        os.chdir(here)
        # pytest's own cleaning goes down by recursion.
        subprocess.run(["rm", "-r", folder / "a"], check=True)


@pytest.mark.parametrize("kind", ["images", "texts", "series"])
def test_a_sparse_file_of_terabytes_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    for name in ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3"):
        text(folder / f"{name}.txt", "ship wave")
    lines = ["@classLabel true a b", "@data", *["1,2:a", "1,3:b"] * 3]
    for split in ("TRAIN", "TEST"):
        text(folder / f"A_{split}.ts", "\n".join(lines))
    name = {"images": "a/1.png", "texts": "a/1.txt", "series": "A_TRAIN.ts"}[kind]
    os.truncate(folder / name, 4 << 40)
    started = time.monotonic()
    with pytest.raises(DataError, match=rf"{name}: .* MB; a file of {kind} has at most"):
        Brought(kind, folder, tmp_path)
    assert time.monotonic() - started < 5


def test_every_file_is_an_example_or_counted(tmp_path: Path) -> None:
    folder = classes(tmp_path / "mine", "a", "b")
    for name in ("a/x.gif", "a/Makefile", ".git/config", ".git/HEAD", "a/__MACOSX/._0.png", "Thumbs.db", "top.txt"):
        text(folder / name, "")
    (line,) = Brought("images", folder, tmp_path).lines
    for part in ("1 .gif", "1 without a suffix", "2 hidden", "1 of the system (__MACOSX)", "(Thumbs.db)", "1 .txt"):
        assert part in line
    lines = [f"{c}/{i}.png,{c}" for c in "ab" for i in range(4)]
    (folder / "t.csv").write_text("\n".join(["path,label", *lines]))
    assert "4 picture(s) that the table does not name" in Brought("table", folder, tmp_path).lines[-1]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("Die Überfahrt, U\u0308BERFAHRT", ["die", "überfahrt", "überfahrt"]),
        ("Корабль плывёт", ["корабль", "плывёт"]),
        ("हिन्दी पाठ", ["हिन्दी", "पाठ"]),
        ("السلام عليكم", ["السلام", "عليكم"]),
        ("日本語 a", ["日本", "本語"]),
        ("한국어", ["한국", "국어"]),
        ("it's naive2go", ["naive"]),
    ],
)
def test_words_of_any_script_are_counted(content: str, found: list[str]) -> None:
    assert words(content) == found


def test_texts_of_another_script_become_counts(tmp_path: Path) -> None:
    for name, content in (("море", "корабль и волна"), ("土地", "马在路上走")):
        for i in range(4):
            text(tmp_path / "mine" / name / f"{i}.txt", content)
    brought = Brought("texts", tmp_path / "mine", tmp_path)
    assert set(brought.source.preprocessing(brought.raw).vocabulary) == {
        "корабль",
        "волна",
        "马在",
        "在路",
        "路上",
        "上走",
    }
    assert all(np.asarray(example.x).sum() > 0 for example in brought.examples("train"))


def test_an_empty_file_is_a_fault_that_says_so(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "mine", 60)
    (folder / "0" / "0000.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"0/0000\.png: .*empty, 0 bytes"):
        shard(Brought("images", folder, tmp_path).params, tmp_path, lambda line: None)
