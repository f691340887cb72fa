"""Parts of the stage `train` that need no Ray."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError

from pipeline.cluster.failures import user_side
from pipeline.cluster.ray_session import RaySession
from pipeline.errors import ResourceError
from pipeline.stages.train import find_start
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Folder, Storage
from tests.helpers.s3 import BUCKET, Door, keys
from tests.helpers.waiting import silent


def checkpoint(run: Path, name: str) -> Path:
    folder = run / name
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text("{}")
    return folder


def record(run: Path, *names: str) -> Path:
    path = run / "checkpoint_manager_snapshot.json"
    path.write_text(json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name} for name in names]}))
    return path


def test_rays_own_record_of_a_run_is_left_to_ray(tmp_path: Path) -> None:
    checkpoint(tmp_path, "checkpoint_1")
    path = record(tmp_path, "checkpoint_1")
    assert find_start(Folder(tmp_path.parent), tmp_path.name, silent) is None
    assert path.exists()


def test_a_new_run_starts_at_the_start(tmp_path: Path) -> None:
    assert find_start(Folder(tmp_path), "none", silent) is None


@pytest.mark.parametrize("damage", ["half", "missing checkpoint"])
def test_a_damaged_record_is_replaced_by_the_newest_whole_checkpoint(tmp_path: Path, damage: str) -> None:
    checkpoint(tmp_path, "checkpoint_1")
    checkpoint(tmp_path, "checkpoint_2")
    (tmp_path / ".checkpoint_3.x.part").mkdir()
    path = record(tmp_path, "checkpoint_2", "checkpoint_3")
    if damage == "half":
        path.write_text(path.read_text()[:30])
    lines: list[str] = []
    assert find_start(Folder(tmp_path.parent), tmp_path.name, lines.append) == "checkpoint_2"
    assert not path.exists()
    assert "going on from checkpoint_2" in lines[0]


class _Session(RaySession):
    """Without Ray around it."""

    def __init__(self, run: Path, wait_s: float, storage: Storage | None = None) -> None:
        self._storage, self._run = storage or Folder(run.parent), run.name
        self._uploads = self._storage
        self._storage_wait_s, self.said, self._files = wait_s, list[Any](), None
        self._train: Any = SimpleNamespace(Checkpoint=lambda path, filesystem: path)

    def _tell(self, item: dict[str, Any]) -> None:
        self.said.append(item)


def given(tmp_path: Path) -> Any:
    return SimpleNamespace(path=str(checkpoint(tmp_path, "local")))


def test_a_checkpoint_appears_as_a_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert _Session(run, 1.0).upload(given(tmp_path), "checkpoint_1") == str(run / "checkpoint_1")
    assert [path.name for path in run.iterdir()] == ["checkpoint_1"]
    assert (run / "checkpoint_1/progress.json").read_text() == "{}"


def test_storage_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, waits = _Session(tmp_path / "run", 60.0), list[float]()

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            (tmp_path / "run").mkdir()

    monkeypatch.setattr("pipeline.cluster.ray_session.time.sleep", come_back)
    session.upload(given(tmp_path), "checkpoint_1")
    assert waits == [0.5, 1.0]
    assert "cannot be written to" in session.said[0]["waiting"]


def test_storage_that_stays_away_is_an_error_after_the_wait(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match=r"could not be written to for 0 s .*run's folder is gone"):
        _Session(tmp_path / "run", 0.1).upload(given(tmp_path), "checkpoint_1")
    assert not (tmp_path / "run").exists(), "nothing is made where the storage was mounted"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        shutil.Error([("a", "b", "[Errno 28] No space left on device: 'b'")]),
    ],
    ids=["of a file", "of a folder"],
)
def test_a_full_disk_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("pipeline.storage.run_storage.shutil.copytree", full)
    (tmp_path / "run").mkdir()
    session = _Session(tmp_path / "run", 60.0)
    with pytest.raises((ResourceError, OSError), match="(?i)no space left"):
        session.upload(given(tmp_path), "checkpoint_1")
    assert session.said == []


def test_a_store_that_comes_back_is_waited_for_with_the_same_words(
    door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, waits = _Session(tmp_path / "run", 60.0, Bucket(f"s3://{BUCKET}/runs", 0.0)), list[float]()

    def come_back(seconds: float) -> None:
        waits.append(seconds)
        door.closed = len(waits) < 2

    monkeypatch.setattr("pipeline.cluster.ray_session.time.sleep", come_back)
    door.closed = True
    assert session.upload(given(tmp_path), "checkpoint_1") == f"{BUCKET}/runs/run/checkpoint_1"
    assert waits == [0.5, 1.0]
    assert session.said[0] == {"waiting": f"storage at s3://{BUCKET}/runs cannot be written to; trying again"}
    assert keys(door) == ["runs/run/checkpoint_1/progress.json"]


def test_in_a_store_a_checkpoint_that_is_not_whole_is_not_gone_on_from(door: Door) -> None:
    bucket, lines = Bucket(f"s3://{BUCKET}/runs"), list[str]()
    for name in ("checkpoint_1/progress.json", "checkpoint_2/progress.json", "checkpoint_3/model.safetensors"):
        bucket.write(f"run/{name}", b"{}")
    known = [{"checkpoint_dir_name": f"checkpoint_{i}"} for i in (2, 3)]
    bucket.write("run/checkpoint_manager_snapshot.json", json.dumps({"checkpoint_results": known[:1]}).encode())
    assert find_start(bucket, "run", silent) is None
    bucket.write("run/checkpoint_manager_snapshot.json", json.dumps({"checkpoint_results": known}).encode())
    assert find_start(bucket, "run", lines.append) == "checkpoint_2"
    assert lines == [f"train: Ray's record in s3://{BUCKET}/runs/run is damaged; going on from checkpoint_2"]
    assert bucket.read("run/checkpoint_manager_snapshot.json") is None


def test_a_store_that_fails_ray_itself_is_one_line_without_its_address() -> None:
    error = RuntimeError("controller failed")
    error.__cause__ = EndpointConnectionError(endpoint_url="http://10.0.0.1:9000")
    told = user_side(error)
    assert isinstance(told, ResourceError)
    assert "did not answer Ray (EndpointConnectionError)" in str(told) and "10.0.0.1" not in str(told)
