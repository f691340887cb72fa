"""Shards for workers that do not see the head's disk, through an S3 server."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ie_model.artifact import save_artifact
from pipeline.cluster.connection import store_env
from pipeline.cluster.shard_staging import at_hand, publish_shards, shards_for_workers
from pipeline.config.params import parse_params
from pipeline.errors import DataError, ResourceError
from pipeline.evaluation.oracle_store import oracle_at_hand
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Folder
from pipeline.training.build_job import make_job
from pipeline.training.job import Job
from pipeline.training.local_session import TrialSession, trial_session
from pipeline.training.trainer import Trainer
from tests.helpers.project import small_params
from tests.helpers.s3 import BUCKET, Door, client, keys
from tests.helpers.sealed import edit_sealed
from tests.helpers.waiting import silent

URL = f"s3://{BUCKET}/runs"


def job_of(project: Path, **reader: Any) -> Job:
    return make_job(parse_params(small_params(reader=reader)), project, steps=3, world_size=1)


def elsewhere(job: Job) -> Job:
    """The job on a host that has neither the project's shards nor a place for its cache."""
    reading = job.reading.model_copy(update={"cache": "/dev/null/cache"})
    return job.model_copy(update={"shards": "/nowhere/shards", "reading": reading})


def trained(job: Job, folder: Path) -> dict[str, bytes]:
    trainer = Trainer(job, TrialSession(folder / "checkpoint", job))
    trainer.run()
    (folder / "model").mkdir()
    save_artifact(folder / "model", trainer.artifact())
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def puts(door: Door) -> list[str]:
    return [line.split()[1] for line in door.requests if line.startswith("PUT")]


def test_shards_are_published_once_with_the_manifest_last(digits_project: Path, door: Door) -> None:
    folder, lines = digits_project / "data/shards/digits", list[str]()
    url = publish_shards(folder, Bucket(URL), lines.append)
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(Bucket(url).files("")) == names
    assert url.startswith(f"{URL}/shards/digits/") and puts(door)[-1].endswith("/manifest.json")
    assert len(puts(door)) == len(names)
    assert len(lines) == 1 and lines[0].startswith(f"shards: {len(names) - 1} of {len(names) - 1} files, ")
    door.requests.clear()
    assert publish_shards(folder, Bucket(URL), lines.append) == url
    assert puts(door) == [] and len(lines) == 1


def test_what_is_missing_or_of_another_size_is_published_again(digits_project: Path, door: Door) -> None:
    folder = digits_project / "data/shards/digits"
    first, second = keys_of_tars(door, publish_shards(folder, Bucket(URL), silent))[:2]
    client(door).delete_object(Bucket=BUCKET, Key=first)
    client(door).put_object(Bucket=BUCKET, Key=second, Body=b"short")
    door.requests.clear()
    publish_shards(folder, Bucket(URL), silent)
    assert sorted(puts(door))[1:] == [f"/{BUCKET}/{first}", f"/{BUCKET}/{second}"]


def keys_of_tars(door: Door, url: str) -> list[str]:
    return [key for key in keys(door, url.removeprefix(f"s3://{BUCKET}/")) if key.endswith(".tar")]


def test_tars_of_others_are_published_from_where_they_lie(digits_project: Path, tmp_path: Path, door: Door) -> None:
    made, tars = tmp_path / "digits", tmp_path / "tars"
    shutil.copytree(digits_project / "data/shards/digits", made)
    tars.mkdir()
    for tar in made.glob("*.tar"):
        tar.rename(tars / tar.name)
    edit_sealed(made / "manifest.json", lambda manifest: manifest.update(location=str(tars)))
    url = publish_shards(made, Bucket(URL), silent)
    assert len(keys_of_tars(door, url)) == len(list(tars.iterdir()))
    (tars / "train-000000.tar").unlink()
    client(door).delete_object(Bucket=BUCKET, Key=keys_of_tars(door, url)[-1])
    with pytest.raises(DataError, match=r"shard is missing or not of its size: .*/tars/train-"):
        publish_shards(made, Bucket(f"{URL}/other"), silent)


@pytest.mark.parametrize(
    "reader", [{"mode": "memory"}, {"mode": "stream", "loader_workers": 0}], ids=["memory", "stream"]
)
def test_a_worker_without_the_shards_trains_the_same_model(
    reader: dict[str, Any], digits_project: Path, tmp_path: Path, door: Door
) -> None:
    job = job_of(digits_project, **reader)
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here = trained(job, tmp_path / "here")
    url = publish_shards(digits_project / "data/shards/digits", Bucket(URL), silent)
    with at_hand(elsewhere(job), url) as moved:
        assert moved.fingerprint == job.fingerprint
        assert trained(moved, tmp_path / "there") == here
    assert not Path(moved.shards).exists(), "what was fetched is taken away again"


def test_damage_in_the_store_is_named(digits_project: Path, door: Door) -> None:
    job = elsewhere(job_of(digits_project, mode="memory", cache_mb=0))
    url = publish_shards(digits_project / "data/shards/digits", Bucket(URL), silent)
    tar = next(key for key in keys_of_tars(door, url) if "/train-" in key)
    data = bytearray(client(door).get_object(Bucket=BUCKET, Key=tar)["Body"].read())
    for place in range(0, len(data), 64):
        data[place] ^= 1
    client(door).put_object(Bucket=BUCKET, Key=tar, Body=bytes(data))
    with at_hand(job, url) as moved, pytest.raises(DataError, match=rf"s3://{BUCKET}/{tar}"):
        Trainer(moved, TrialSession(Path("none"), moved))
    manifest = f"{url.removeprefix(f's3://{BUCKET}/')}/manifest.json"
    client(door).put_object(Bucket=BUCKET, Key=manifest, Body=b"{}")
    with pytest.raises(DataError, match=r"manifest\.json: damaged, its SHA-256"), at_hand(job, url):
        pass


def test_shards_travel_to_the_workers_of_a_cluster_alone(
    digits_project: Path, tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = digits_project / "data/shards/digits"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert shards_for_workers(folder, Bucket(URL), silent) == ""
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert shards_for_workers(folder, Folder(tmp_path), silent) == ""
    assert shards_for_workers(folder, Bucket(URL), silent).startswith(URL)
    job = job_of(digits_project)
    with at_hand(job, "") as same:
        assert same is job


def test_a_trial_in_a_store_goes_on_from_its_last_whole_checkpoint(
    digits_project: Path, tmp_path: Path, door: Door
) -> None:
    job = make_job(parse_params(small_params(train={"epochs": 2})), digits_project, world_size=1)
    (tmp_path / "whole").mkdir()
    whole = trained(job, tmp_path / "whole")
    bucket = Bucket(URL)
    with pytest.raises(KeyboardInterrupt):
        trainer = Trainer(job, trial_session(bucket, "t/checkpoint", job))
        trainer._validate = _second_time(trainer._validate)  # type: ignore[method-assign]
        trainer.run()
    assert sorted({name.partition("/")[0] for name in bucket.files("t/checkpoint")}) == [
        f"step-{job.steps_per_epoch:09d}"
    ]
    client(door).put_object(
        Bucket=BUCKET, Key=f"runs/t/checkpoint/step-{2 * job.steps_per_epoch:09d}/model.safetensors", Body=b"half"
    )
    again = Trainer(job, trial_session(bucket, "t/checkpoint", job))
    again.run()
    assert len(again.state.history) == 2
    save_artifact(tmp_path, again.artifact())
    assert {name: (tmp_path / name).read_bytes() for name in whole} == whole
    assert sorted({name.partition("/")[0] for name in bucket.files("t/checkpoint")}) == [
        f"step-{2 * job.steps_per_epoch:09d}"
    ]


def test_the_oracle_is_trained_once_and_fetched_again(
    digits_project: Path, tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = parse_params(small_params(evaluate={"oracle_steps": 3}, storage={"url": URL}))
    bucket, lines = Bucket(URL), list[str]()
    bucket.write("oracle/0123456789abcdef/weights.safetensors", b"half")  # nobody's: not whole
    with oracle_at_hand(params, digits_project, bucket, lines.append) as (name, folder):
        made = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert name == f"oracle/{folder.name}"
    assert {key.rpartition("/")[2] for key in keys(door, f"runs/{name}/")} == set(made)
    assert len(lines) == 2
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("trained again"))
    with oracle_at_hand(params, digits_project, bucket, lines.append) as (again, folder):
        assert again == name
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == made


def _second_time(method: Any) -> Any:
    """Interrupted when it is called again."""
    calls: list[int] = []

    def interrupted() -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return method()

    return interrupted


def test_of_the_environment_no_secret_is_forwarded_to_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.setenv(name, "x")
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    assert store_env() == {"AWS_ENDPOINT_URL": "x", "AWS_REGION": "x"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://me:word@store.example")
    with pytest.raises(ResourceError, match="AWS_ENDPOINT_URL holds a user or a password") as caught:
        store_env()
    assert "word" not in str(caught.value).replace("password", "")
