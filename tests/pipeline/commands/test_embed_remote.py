"""What `ie embed` reads from an object store: the latents of the same files here, and one line for what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.commands.embed import embed
from pipeline.errors import DataError, ResourceError
from tests.helpers.own import picture
from tests.helpers.s3 import BUCKET, Door, client, upload
from tests.helpers.small import SPEC, model_of, shards_of
from tests.pipeline.commands.test_embed import run


def _images(folder: Path) -> str:
    for i in range(3):
        picture(folder / "a b" / f"{i}.png", 60 * i, (5, 4))
    return ""


def _image(folder: Path) -> str:
    picture(folder / "one.png", 60, (5, 4))
    return "one.png"


def _table(folder: Path) -> str:
    _images(folder / "scans")
    (folder / "list.csv").write_text(f"path,label\nscans/a b/0.png,{SPEC.classes[1]}\nscans/a b/2.png,\n")
    return "list.csv"


def _array(folder: Path) -> str:
    folder.mkdir()
    np.save(folder / "x.npy", np.arange(60, dtype=np.uint8).reshape(3, 1, 4, 5))
    return "x.npy"


def _shards(folder: Path) -> str:
    shards_of(folder)
    return ""


@pytest.mark.parametrize("write", [_images, _image, _table, _array, _shards])
def test_embed_of_a_store_gives_what_the_files_here_give(
    write: Callable[[Path], str], door: Door, tmp_path: Path
) -> None:
    model = model_of(tmp_path / "model", SPEC)
    name = write(tmp_path / "mine")
    expected, _ = run(model, tmp_path / "mine" / name, tmp_path / "here.parquet")
    url = upload(door, tmp_path / "mine", "some/mine", suffix="")
    found, _ = _run(model, f"{url}/{name}" if name else f"{url}/", tmp_path / "there.parquet")
    assert found == expected


def test_embed_of_shards_in_a_store_copies_no_tar(door: Door, tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", SPEC)
    shards_of(tmp_path / "mine")
    url = upload(door, tmp_path / "mine", "mine", suffix="")
    door.requests.clear()
    found, _ = _run(model, url, tmp_path / "out.parquet")
    assert len(found["key"]) == 24
    got = [line for line in door.requests if line.startswith("GET") and ".tar" in line]
    assert got and all("bytes=" in line for line in got)


def test_embed_of_a_damaged_picture_in_a_store_names_the_object(door: Door, tmp_path: Path) -> None:
    _images(tmp_path / "mine")
    (tmp_path / "mine/a b/1.png").write_bytes(b"no picture")
    url = upload(door, tmp_path / "mine", "mine", suffix="")
    found, lines = _run(model_of(tmp_path / "model", SPEC), url, tmp_path / "out.parquet")
    assert len(found["key"]) == 2
    assert any(f"left out: {url}/a b/1.png" in line for line in lines)


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        (f"s3://{BUCKET}/nothing", DataError, "nothing"),
        ("gs://bucket/x", DataError, r"gs://bucket/x: allowed: .* s3://bucket/name"),
        ("s3://no-such-bucket/x", ResourceError, "no-such-bucket"),
        (f"s3://{BUCKET}/out", DataError, r"key '\.\./\.\./evil\.png'"),
        (f"s3://{BUCKET}/text", DataError, r"s3://shards/text: no image in it"),
    ],
    ids=["nothing", "scheme", "bucket", "leads out", "no image"],
)
def test_embed_of_what_a_store_lacks_is_one_line(
    url: str, error: type[Exception], message: str, door: Door, tmp_path: Path
) -> None:
    client(door).put_object(Bucket=BUCKET, Key="out/../../evil.png", Body=b"x")
    client(door).put_object(Bucket=BUCKET, Key="text/a.txt", Body=b"x")
    with pytest.raises(error, match=message):
        _run(model_of(tmp_path / "model", SPEC), url, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_embed_of_more_than_the_temporary_folder_holds_copies_nothing(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _images(tmp_path / "mine")
    url = upload(door, tmp_path / "mine", "mine", suffix="")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ResourceError, match=r"3 object\(s\), .*set TMPDIR to a larger one"):
        _run(model_of(tmp_path / "model", SPEC), url, tmp_path / "out.parquet")


def _run(model: Path, url: str, out: Path) -> tuple[dict[str, Any], list[str]]:
    lines: list[str] = []
    embed(model, url, out, lines.append, resize=False, batch_size=5, device="cpu")
    return pq.read_table(out).to_pydict(), lines
