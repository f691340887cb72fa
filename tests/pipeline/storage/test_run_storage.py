"""Run state in a folder and in an object store: the same behaviour, and what a store does that a folder does not."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from pipeline.errors import DataError, ResourceError
from pipeline.storage.locks import alone
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Storage, open_storage, read_record, write_record
from tests.helpers.s3 import BUCKET, Door, client, keys

URL = f"s3://{BUCKET}/runs/mine"


@pytest.fixture(params=["folder", "store"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "store":
        request.getfixturevalue("door")
        return open_storage(URL)
    return open_storage("runs", tmp_path)


def folder_of(tmp_path: Path, **texts: str) -> Path:
    folder = tmp_path / "made"
    for name, text in texts.items():
        path = folder / f"{name.replace('__', '/')}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_files_are_written_changed_read_and_removed(storage: Storage) -> None:
    storage.check()
    assert storage.read("a/b.json") is None
    assert storage.files("a") == []
    assert not storage.sees("a")
    storage.write("a/b.json", b"1")
    storage.write("a/b.json", b"2")
    storage.write("ab/c", b"3")
    assert storage.read("a/b.json") == b"2"
    assert storage.files("a") == ["b.json"], "not of a folder whose name begins so"
    assert storage.sees("a")
    storage.remove("a/b.json")
    storage.remove("a/b.json")
    assert storage.read("a/b.json") is None
    storage.remove("ab")
    assert storage.files("ab") == []


def test_records_are_json_or_are_named(storage: Storage) -> None:
    assert read_record(storage, "x.json", "a record") is None
    write_record(storage, "x.json", {"b": 1, "a": [2]})
    assert read_record(storage, "x.json", "a record") == {"b": 1, "a": [2]}
    storage.write("x.json", b'{"b"')
    with pytest.raises(DataError, match=r"a record is damaged.*: .*/x\.json"):
        read_record(storage, "x.json", "a record")


def test_a_folder_is_put_filled_and_had_at_hand(storage: Storage, tmp_path: Path) -> None:
    storage.put(folder_of(tmp_path, last="1", sub__one="2"), "x/y", "last.json")
    with storage.filling("x/z", "last.json") as part:
        (part / "last.json").write_text("3")
    assert storage.files("x") == ["y/last.json", "y/sub/one.json", "z/last.json"]
    with storage.at_hand("x/y") as folder:
        assert (folder / "last.json").read_text() == "1"
        assert (folder / "sub/one.json").read_text() == "2"


def test_a_folder_that_was_not_filled_to_its_end_is_not_there(storage: Storage) -> None:
    with pytest.raises(ZeroDivisionError), storage.filling("x/z", "last.json") as part:
        (part / "last.json").write_text("3")
        raise ZeroDivisionError
    assert storage.files("x") == []


def test_a_storage_can_be_sent_to_another_process(storage: Storage) -> None:
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_what_makes_a_folder_whole_is_put_last(door: Door, tmp_path: Path) -> None:
    made = folder_of(tmp_path, a="1", last="2", z="3")
    Bucket(URL).put(made, "x", "last.json")
    puts = [line.split()[1] for line in door.requests if line.startswith("PUT")]
    assert len(puts) == 3
    assert puts[-1].endswith("/x/last.json")


def test_an_upload_that_broke_off_left_no_whole_folder_and_can_be_made_again(door: Door, tmp_path: Path) -> None:
    made = folder_of(tmp_path, a="1", last="2")
    door.denied = ("PUT",)
    with pytest.raises(ResourceError, match="denies access"):
        Bucket(URL).put(made, "x", "last.json")
    assert keys(door) == []
    door.denied = ()
    client(door).put_object(Bucket=BUCKET, Key="runs/mine/x/a.json", Body=b"half")
    Bucket(URL).put(made, "x", "last.json")
    with Bucket(URL).at_hand("x") as folder:
        assert (folder / "a.json").read_text() == "1"


def test_records_go_first_when_a_folder_is_removed(door: Door) -> None:
    bucket = Bucket(URL)
    for name in ("a.bin", "b.bin", "trained.json"):
        bucket.write(f"x/{name}", b"1")
    door.failures = ["", "", "403"]  # the list, the records, the rest
    with pytest.raises(ResourceError):
        bucket.remove("x")
    assert keys(door) == ["runs/mine/x/a.bin", "runs/mine/x/b.bin"]


def test_more_files_than_one_answer_lists_are_all_listed_and_removed(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.storage.object_store._PAGE", 3)
    bucket = Bucket(URL)
    for i in range(8):
        bucket.write(f"many/{i}", b"")
    assert len(bucket.files("many")) == 8
    bucket.remove("many")
    assert keys(door) == []


@pytest.mark.parametrize("failure", ["503", "500", "reset"])
def test_what_passes_is_tried_again_and_told_once(failure: str, door: Door) -> None:
    lines: list[str] = []
    bucket = Bucket(URL, 20.0, lines.append)
    door.failures = [failure] * 2
    bucket.write("a", b"1")
    assert keys(door) == ["runs/mine/a"]
    assert lines == [f"storage at {URL} does not answer; trying again"]


def test_a_store_that_stays_away_is_one_line_without_its_address(door: Door) -> None:
    door.closed = True
    with pytest.raises(ResourceError, match=r"^s3://shards/runs/mine/a: the store does not answer .*for 1 s; when"):
        Bucket(URL, 0.6).read("a")
    door.server_close()
    with pytest.raises(ResourceError, match=r"does not answer") as caught:
        Bucket(URL, 0.0).read("a")
    assert "127.0.0.1" not in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "PUT", "POST"])
def test_whatever_is_denied_is_found_before_a_run(method: str, door: Door) -> None:
    door.denied = (method,)
    with pytest.raises(ResourceError, match=r"denies access; this host's role, or the credentials .* list, read"):
        Bucket(URL).check()


def test_a_bucket_that_is_not_there_and_no_credentials_are_one_line(
    door: Door, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(ResourceError, match=r"^s3://none-such/x: there is no such bucket; make it, or set"):
        Bucket("s3://none-such/x").check()
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ResourceError, match="denies access"):
        Bucket(URL).check()


# --- locks ---


@pytest.mark.parametrize("remote", [False, True])
def test_lock_is_held_by_one_sweep_and_not_by_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    storage: Storage = Bucket(URL) if remote else open_storage(str(tmp_path / "runs"))
    with alone(storage, "sweep"):
        with (
            pytest.raises(ResourceError, match=r"another sweep is running on .*\.lock is locked"),
            alone(storage, "sweep"),
        ):
            pass
        with alone(storage, "search"):
            pass
    with alone(storage, "sweep"):
        pass
