"""Own data in an object store: the shards of the same files in a folder, and one line for what is wrong there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.shards.manifest import Split, read_manifest
from pipeline.errors import DataError, ParamsError, ResourceError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought, own_params, picture, text, write_digits
from tests.helpers.s3 import BUCKET, Door, client, upload

URL = f"s3://{BUCKET}/raw/mine"
HEADER = "@classLabel true up down\n@data\n"


def _images(folder: Path) -> None:
    write_digits(folder, 50)
    picture(folder / "unlabelled/one.png")
    (folder / "3/notes.md").write_text("not an example")
    (folder / ".cache").mkdir()
    (folder / ".cache/one").write_text("hidden")
    (folder / "__MACOSX/0").mkdir(parents=True)
    (folder / "__MACOSX/0/x.png").write_text("of a system")


def _table(folder: Path) -> None:
    write_digits(folder / "scans", 40)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
    rows = [f"{path.as_posix()},{path.parent.name}" for path in paths[:-1]]
    (folder / "list.csv").write_text("\n".join(["path,label", *rows]))


def _texts(folder: Path) -> None:
    for i in range(8):
        text(folder / "sea" / f"{i}.txt", "The ship sails, the ship sinks" + " wave" * i)
        text(folder / "land" / f"{i}.txt", "A horse walks; the HORSE runs" + " road" * i)


def _series(folder: Path) -> None:
    folder.mkdir()
    cases = [f"1,2,{i}:{'up' if i % 2 else 'down'}" for i in range(8)]
    for split in ("TRAIN", "TEST"):
        (folder / f"Tiny_{split}.ts").write_text(HEADER + "\n".join(cases) + "\n")


def _vectors(folder: Path) -> None:
    folder.mkdir()
    for split in ("train", "test"):
        rows = [f"{i},{i % 7},{'up' if i % 2 else 'down'}" for i in range(12)]
        (folder / f"{split}.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")


def _made(brought: Brought) -> dict[Any, Split]:
    return dict(read_manifest(shard(brought.params, brought.project, brought.lines.append)).splits)


@pytest.mark.parametrize(
    ("source", "write"),
    [
        pytest.param("images", _images, marks=pytest.mark.slow),
        pytest.param("table", _table, marks=pytest.mark.slow),
        pytest.param("texts", _texts, marks=pytest.mark.slow),
        ("series", _series),
        ("vectors", _vectors),
    ],
)
def test_own_data_in_a_store_gives_the_shards_of_a_folder(
    source: str, write: Callable[[Path], None], tmp_path: Path, door: Door
) -> None:
    write(tmp_path / "mine")
    upload(door, tmp_path / "mine", "raw/mine", suffix="")
    here, there = Brought(source, tmp_path / "mine", tmp_path / "0"), Brought(source, URL, tmp_path / "1")
    assert _made(there) == _made(here)
    assert there.lines[-1].split(";")[1:] == here.lines[-1].split(";")[1:], "the same is passed over"
    # Nothing of it was copied to this machine.
    assert not [path for path in (tmp_path / "1").rglob("*") if path.suffix in (".png", ".txt", ".ts", ".csv")]


def test_objects_of_own_data_that_change_or_go_after_fetch_are_named(tmp_path: Path, door: Door) -> None:
    _images(tmp_path / "mine")
    upload(door, tmp_path / "mine", "raw/mine", suffix="")
    brought = Brought("images", URL, tmp_path)
    examples = brought.examples("train")
    name = examples.files[0].path  # type: ignore[attr-defined]  # of Pictures
    shutil.copy(tmp_path / "mine/unlabelled/one.png", tmp_path / "other.png")
    client(door).put_object(Bucket=BUCKET, Key=f"raw/mine/{name}", Body=(tmp_path / "other.png").read_bytes())
    with pytest.raises(DataError, match=f"{URL}/{name}: changed since fetch; run `ie fetch` again"):
        examples.read(0)
    client(door).delete_object(Bucket=BUCKET, Key=f"raw/mine/{name}")
    with pytest.raises(DataError, match=f"{URL}/{name}: gone since fetch"):
        examples.read(0)


@pytest.mark.parametrize("key", ["cat//1.png", "cat/../dog/1.png", "cat/./1.png", "cat"])
def test_keys_of_objects_that_are_no_path_are_refused(tmp_path: Path, door: Door, key: str) -> None:
    for name in ("cat", "dog"):
        for i in range(4):
            picture(tmp_path / "mine" / name / f"{i}.png")
    upload(door, tmp_path / "mine", "raw/mine", suffix="")
    client(door).put_object(Bucket=BUCKET, Key=f"raw/mine/{key}", Body=b"x")
    with pytest.raises(DataError, match=f"{URL}/{key}: its name is no path of a file"):
        Brought("images", URL, tmp_path)


def test_places_of_own_data_that_cannot_be_read_are_one_line(tmp_path: Path, door: Door) -> None:
    with pytest.raises(DataError, match=f"data.folder: no object below s3://{BUCKET}/nothing/"):
        Brought("images", f"s3://{BUCKET}/nothing", tmp_path)
    with pytest.raises(
        ResourceError, match=r"s3://no-such-bucket: there is no such bucket; .* set data.folder \(embed: INPUT\) to"
    ):
        Brought("images", "s3://no-such-bucket/mine", tmp_path)
    door.denied = ("GET",)
    with pytest.raises(ResourceError, match=r"the store denies access; .* must be allowed to list and read below"):
        Brought("images", URL, tmp_path)


def test_rows_of_a_table_that_name_no_object_are_named_with_their_line(tmp_path: Path, door: Door) -> None:
    _table(tmp_path / "mine")
    with (tmp_path / "mine/list.csv").open("a") as file:
        file.write("\nscans/none.png,1")
    upload(door, tmp_path / "mine", "raw/mine", suffix="")
    with pytest.raises(DataError, match=f"list.csv: line 41: no such file: {URL}/scans/none.png"):
        Brought("table", URL, tmp_path)


@pytest.mark.parametrize(
    ("source", "folder", "message"),
    [
        ("mnist", "s3://bucket/x", "folder is 's3://bucket/x'; allowed with mnist: a folder on this machine"),
        ("images", "gs://bucket/x", "folder is 'gs://bucket/x'; allowed with images: a folder .*, or s3://bucket/pre"),
        ("texts", "s3://me:secret@bucket/x", "folder holds more than a bucket and a prefix"),
        ("table", "s3://bucket/../x", "folder is 's3://bucket/../x'"),
    ],
)
def test_urls_of_own_data_that_cannot_be_are_refused(source: str, folder: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        own_params(source, folder)
    assert "secret" not in str(caught.value)
