"""The user's own pictures by a CSV or Parquet file; what is wrong with a row is one line that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought, own_params, picture, write_digits

GOOD = [(f"p/{i}.png", "ab"[i % 2]) for i in range(8)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, _ in GOOD:
        picture(tmp_path / "mine" / name)
    return tmp_path / "mine"


def csv_of(folder: Path, *extra: str, header: str = "path,label", end: str = "") -> None:
    rows = [f"{path},{label}{end}" for path, label in GOOD]
    (folder / "list.csv").write_text("\n".join([header, *rows, *extra]) + "\n")


def test_a_csv_and_a_parquet_table_give_the_same_shards(tmp_path: Path) -> None:
    write_digits(tmp_path / "mine", 200)
    paths = sorted(path.relative_to(tmp_path / "mine") for path in tmp_path.rglob("*.png"))
    rows = [(path.as_posix(), path.parent.name) for path in paths]
    text = "\r\n".join(["label,note,path", *(f'{label},"a, b",{path}' for path, label in rows)])
    (tmp_path / "mine" / "list.csv").write_text("\ufeff" + text)
    out = shard(Brought("table", tmp_path / "mine", tmp_path).params, tmp_path, lambda line: None)
    manifest = read_manifest(out)
    ShardedDataset(out, manifest).verify()
    assert manifest.spec.classes == tuple("0123456789")
    assert sum(split.samples for split in manifest.splits.values()) == 200
    (tmp_path / "mine" / "list.csv").unlink()
    table = pa.table({"path": [path for path, _ in rows], "label": [int(label) for _, label in rows]})
    pq.write_table(table, tmp_path / "mine" / "list.parquet")
    out = shard(Brought("table", tmp_path / "mine", tmp_path).params, tmp_path, lambda line: None)
    assert read_manifest(out) == manifest


def test_split_and_key_columns_are_used(folder: Path, tmp_path: Path) -> None:
    rows = [f"{path},{label},{'test' if i > 5 else 'train' if i else ''},k{i}" for i, (path, label) in enumerate(GOOD)]
    (folder / "list.csv").write_text("\n".join(["path,label,split,key", *rows]))
    brought = Brought("table", folder, tmp_path)
    assert list(brought.examples("train").keys) == [f"k{i}" for i in range(6)]
    assert list(brought.examples("test").keys) == ["k6", "k7"]
    assert brought.classes("test") == ["a", "b"]


def test_without_an_example_of_test_a_part_of_each_class_becomes_test(folder: Path, tmp_path: Path) -> None:
    csv_of(folder, header="path,label,split", end=",train")
    brought = Brought("table", folder, tmp_path)
    assert sorted(map(str, brought.classes("test"))) == ["a", "b"]


@pytest.mark.parametrize("missing", ["", None, float("nan")])
def test_an_example_without_a_label_is_unlabelled(folder: Path, tmp_path: Path, missing: Any) -> None:
    picture(folder / "x.png")
    labels = [float(ord(label)) if isinstance(missing, float) else label for _, label in GOOD]
    table = pa.table({"path": [*(path for path, _ in GOOD), "x.png"], "label": [*labels, missing]})
    pq.write_table(table, folder / "list.parquet")
    classes = Brought("table", folder, tmp_path).classes("train")
    assert classes.count(None) == 1
    assert {name for name in classes if name} == ({"97", "98"} if isinstance(missing, float) else {"a", "b"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("absent.png,a", r"list\.csv: line 10: no such file: .*/absent\.png"),
        ("p,a", r"line 10: 'p' is no picture; allowed: \.png"),
        (",a", r"line 10: path is ''; it must be relative to the table's folder and stay inside"),
        ("../outside.png,a", r"line 10: path is '\.\./outside\.png'; it must be relative"),
        ("/etc/hostname.png,a", r"line 10: path is '/etc/hostname\.png'; it must be relative"),
        ("link.png,a", r"link\.png: a link that leaves data\.folder"),
        ("linked/1.png,a", r"linked/1\.png: a link that leaves data\.folder"),
        ("p/0.png,b", r"line 10: the path 'p/0\.png' is there already, see line 2"),
        ("p/./0.png,b", r"line 10: the path 'p/0\.png' is there already, see line 2"),
        ("x.png,a,b", r"line 10: not as many values as there are columns"),
        ("x.png", r"line 10: not as many values as there are columns"),
        ("x.png,c", r"mine: class 'c' has 1 example\(s\) in train; at least 2 are needed"),
        ('x.png,"a', r"list\.csv: not a CSV file in UTF-8 \(unexpected end of data\)"),
        ("x.png,a\x00", r"no such|class 'a\\x00'|not a CSV"),
    ],
)
def test_a_wrong_row_is_named_with_file_and_line(folder: Path, tmp_path: Path, row: str, message: str) -> None:
    picture(tmp_path / "outside.png")
    picture(tmp_path / "out" / "1.png")
    picture(folder / "x.png")
    (folder / "link.png").symlink_to(tmp_path / "outside.png")
    (folder / "linked").symlink_to(tmp_path / "out")
    csv_of(folder, row)
    with pytest.raises(DataError, match=message) as caught:
        Brought("table", folder, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x.png,a,fold1,", r"line 10: split is 'fold1'; allowed: train, val, test, or nothing for train"),
        ("x.png,,valid,", r"line 10: an example of val without a label"),
        ("x.png,,test,", r"line 10: an example of test without a label"),
        ("x.png,new,test,", r"line 10: class 'new' is not in train"),
        ("x.png,a,,a.b", r"line 10: key is 'a\.b'; allowed are up to 80 letters"),
        ("x.png,a,,-a", r"line 10: key is '-a'; allowed are"),
        ("x.png,a,,__a", r"line 10: key is '__a'; allowed are"),
        ("x.png,a,,same", r"line 10: the key 'same' is there already, see line 2"),
    ],
)
def test_a_wrong_split_or_key_is_named_with_file_and_line(folder: Path, tmp_path: Path, row: str, message: str) -> None:
    picture(folder / "x.png")
    rows = [f"{path},{label},,{'' if i else 'same'}" for i, (path, label) in enumerate(GOOD)]
    (folder / "list.csv").write_text("\n".join(["path,label,split,key", *rows, row]))
    with pytest.raises(DataError, match=message):
        Brought("table", folder, tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"mine: expected one table, a \.csv or \.parquet file; found: none"),
        ({"a.csv": b"", "b.parquet": b""}, r"found: a\.csv, b\.parquet"),
        ({"a.csv": b""}, r"a\.csv: expected one column 'path'; its columns are: $"),
        ({"a.csv": b"path,class\n"}, r"a\.csv: expected one column 'label'; its columns are: path, class"),
        ({"a.csv": b"path,path,label\n"}, r"a\.csv: expected one column 'path'"),
        ({"a.csv": b"path,label\n"}, r"mine: no classes; at least two are needed"),
        ({"a.csv": b"path,label\n\xff\xfe,1\n"}, r"a\.csv: not a CSV file in UTF-8"),
        ({"a.parquet": b"PAR1"}, r"a\.parquet: not a Parquet file that can be read"),
        ({"a.parquet": b""}, r"a\.parquet: not a Parquet file that can be read"),
    ],
)
def test_a_table_that_is_none_is_named(folder: Path, tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        Brought("table", folder, tmp_path)
    assert "\n" not in str(caught.value)


def factor_csv(folder: Path, angles: list[str], header: str = "Angle") -> None:
    rows = [f"{path},{label},{angle}" for (path, label), angle in zip(GOOD, angles, strict=True)]
    (folder / "list.csv").write_text("\n".join([f"path,label,{header}", *rows]))


def test_factors_are_kept_in_order_with_what_is_missing_and_change_no_tar(folder: Path, tmp_path: Path) -> None:
    factor_csv(folder, ["1.5", "", "NaN", "-3", "4e2", "5", "6", "7"])
    plain = shard(Brought("table", folder, tmp_path).params, tmp_path, lambda line: None)
    before = {path.name: path.read_bytes() for path in plain.iterdir()}
    brought = Brought("table", folder, tmp_path, factors=["ANGLE"])
    values = [*brought.factors("train")[:, 0], *brought.factors("test")[:, 0]]
    keys = [*brought.examples("train").keys, *brought.examples("test").keys]
    out = shard(brought.params, tmp_path, lambda line: None)
    dataset = ShardedDataset.open(out)
    assert dataset.manifest.factors == ("ANGLE",)
    stored: dict[str, float | None] = {}
    for split in dataset.manifest.splits:
        index = dataset.index(split)
        stored |= dict(zip(index.keys, index.factors["factor_ANGLE"].to_pylist(), strict=True))
    assert stored == {k: None if v != v else v for k, v in zip(keys, values, strict=True)}
    assert sorted(v for v in stored.values() if v is not None) == [-3, 1.5, 5, 6, 7, 400]
    changed = {path.name for path in out.iterdir() if path.read_bytes() != before[path.name]}
    assert changed == {"manifest.json", "keys-train.parquet", "keys-val.parquet", "keys-test.parquet"}
    assert b"factor" not in before["manifest.json"]


@pytest.mark.parametrize("angle", ["left", "inf", "1,5"])
def test_a_factor_that_is_no_number_is_named_with_its_line(folder: Path, tmp_path: Path, angle: str) -> None:
    factor_csv(folder, ["1", f'"{angle}"', *"345678"])
    with pytest.raises(DataError, match=rf"line 3: factor 'angle' is '{angle}'"):
        Brought("table", folder, tmp_path, factors=["angle"])


def test_a_factor_without_a_column_and_a_list_of_other_factors_are_refused(folder: Path, tmp_path: Path) -> None:
    factor_csv(folder, [*"12345678"])
    with pytest.raises(DataError, match="one column 'site'; its columns are: path, label, angle"):
        Brought("table", folder, tmp_path, factors=["site"])
    Brought("table", folder, tmp_path)
    params = own_params("table", folder, factors=["angle"])
    with pytest.raises(DataError, match=r"files\.json.*factors are \[\], data\.own\.factors \['angle'\].*ie fetch"):
        shard(params, tmp_path, lambda line: None)
