"""`ie doctor` on this machine, and what it makes of hosts' answers."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster.host_findings import Answer, Question, judge
from pipeline.cluster.preflight import _question, doctor, examine, read_pins
from pipeline.cluster.shard_staging import publish_shards
from pipeline.config.params import parse_params
from pipeline.errors import ResourceError
from pipeline.storage.object_store import Bucket
from tests.helpers.project import REPOSITORY, small_params
from tests.helpers.s3 import BUCKET, Door, client, keys

QUESTION = Question("/srv/ie", ".mark", "/srv/ie/shards", {"a.tar": 9}, {"torch": "2.13.0"}, cuda=False)
GOOD = Answer("worker1", "10.0.0.1", "10.0.0.1", "3.11.7", "c0de", free_gb={"storage": 50.0, "temporary": 50.0})
OTHER = replace(GOOD, host="worker2", address="10.0.0.2", resolves_to="10.0.0.2")


def failures(*answers: Answer, question: Question = QUESTION) -> dict[str, str]:
    return {
        finding.what: finding.text for finding in judge(list(answers), question, on_cluster=True) if not finding.fit
    }


def test_this_machine_is_examined_without_a_cluster(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "data").symlink_to(digits_project / "data")
    lines: list[str] = []
    doctor(parse_params(small_params(train={"num_workers": 1})), tmp_path, lines.append)
    assert all(line.startswith("ok  ") for line in lines)
    assert {"storage", "shards", "packages", "disk"} <= {line.split()[1].rstrip(":") for line in lines}
    assert list((tmp_path / ".runs").iterdir()) == [], "the mark is taken away again"


def test_missing_shards_and_too_many_workers_are_named_and_end_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    lines: list[str] = []
    params = parse_params(small_params(train={"num_workers": 4096, "batch_size": 4096}))
    with pytest.raises(ResourceError, match=r"2 of \d+ checks failed \(shards, workers\)"):
        doctor(params, tmp_path, lines.append)
    text = "\n".join(lines)
    assert "dvc repro shard" in text
    assert "num_workers 4096" in text


def test_a_shard_of_another_size_is_named(digits_project: Path, tmp_path: Path) -> None:
    folder = digits_project / "data/shards/digits"
    name = next(path.name for path in folder.iterdir() if path.suffix == ".tar")
    answer = examine(Question(str(tmp_path), ".mark", str(folder), {name: 1}, {}, cuda=False))
    assert name in answer.shards
    assert "the manifest has 1" in answer.shards
    assert "another folder" in answer.sees_storage


def test_storage_in_a_store_is_written_to_and_read_back_and_left_clean(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, door: Door
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "data").symlink_to(digits_project / "data")
    params = parse_params(small_params(train={"num_workers": 1}, storage={"url": f"s3://{BUCKET}/runs"}))
    lines: list[str] = []
    doctor(params, tmp_path, lines.append)
    assert f"ok   storage: s3://{BUCKET}/runs is seen, writable" in lines
    assert keys(door) == []
    door.denied = ("PUT",)
    with pytest.raises(ResourceError, match=r"checks failed \(storage\)"):
        doctor(params, tmp_path, lines.append)
    told = "\n".join(line for line in lines if line.startswith("FAIL"))
    assert "the store denies access; this host's role, or the credentials in its environment, must be allowed" in told


def test_a_host_that_reaches_another_store_is_named_with_what_to_do(digits_project: Path, door: Door) -> None:
    question = replace(QUESTION, storage=f"s3://{BUCKET}/runs", files={}, pins={})
    answer = examine(question)
    assert "is in another store than on the host that asks" in answer.sees_storage
    assert list(answer.free_gb) == ["temporary"]
    found = {finding.what: finding.text for finding in judge([answer], question, on_cluster=False) if not finding.fit}
    assert "each host needs a role, or credentials of its own, for the store" in found["storage"]


def test_shards_that_workers_will_read_are_those_that_were_published(
    digits_project: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    params = parse_params(small_params(storage={"url": f"s3://{BUCKET}/runs"}))
    with contextlib.ExitStack() as stack:
        question, (found,) = _question(params, digits_project, stack)
        assert found.fit and "the first run puts them to s3://" in found.text
        assert question.files == {}
    url = publish_shards(digits_project / "data/shards/digits", Bucket(f"s3://{BUCKET}/runs"), lambda line: None)
    with contextlib.ExitStack() as stack:
        question, findings = _question(params, digits_project, stack)
        assert findings == [] and question.shards == url
        assert examine(question).shards == ""
        tar = next(key for key in keys(door) if key.endswith(".tar"))
        client(door).put_object(Bucket=BUCKET, Key=tar, Body=b"short")
        assert f"s3://{BUCKET}/{tar} has 5 bytes" in examine(question).shards


def test_hosts_that_are_alike_are_fit() -> None:
    assert failures(GOOD, OTHER) == {}


@pytest.mark.parametrize(
    ("changes", "what", "text"),
    [
        ({"unlike_pins": {"torch": "2.12.0"}}, "packages", "worker2 has torch 2.12.0 (pinned: 2.13.0); pip install"),
        ({"python": "3.12.1"}, "python", "worker2 has 3.12.1, worker1 3.11.7"),
        ({"code": "other"}, "code", "worker2 has other, worker1 c0de"),
        ({"resolves_to": "127.0.1.1"}, "name", "put '10.0.0.2 worker2' into its /etc/hosts"),
        ({"sees_storage": "/srv/ie is not there"}, "storage", "worker2: /srv/ie is not there; all hosts must see"),
        ({"shards": "/srv/x.tar cannot be read"}, "shards", "worker2: /srv/x.tar cannot be read"),
        ({"free_gb": {"storage": 0.2}}, "disk", "worker2 has 0.2 GB in the storage folder; make room"),
        ({"skew_s": -40.0}, "clock", "worker2's clock is off by -40 s; start chrony"),
    ],
)
def test_what_is_wrong_with_one_host_is_named_with_what_to_do(changes: dict[str, Any], what: str, text: str) -> None:
    found = failures(GOOD, replace(OTHER, **changes))
    assert list(found) == [what]
    assert text in found[what]


def test_a_host_whose_torch_sees_fewer_gpus_than_ray_offers_is_named() -> None:
    found = failures(GOOD, replace(OTHER, ray_gpus=2, gpus=0), question=replace(QUESTION, cuda=True))
    assert "Ray offers 2 GPUs, torch sees 0" in found["gpu"]


def test_pins_are_read_from_the_requirements() -> None:
    pins = read_pins(REPOSITORY / "requirements.txt")
    assert {"torch", "ray", "webdataset"} <= set(pins)
    assert read_pins(REPOSITORY / "none.txt") == {}
