"""Latents and sums a slice at a time: the same in any division, resumed, and a damaged part named."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipeline.evaluation.slices
from ie_model.artifact import Artifact, load_artifact
from pipeline.config.params import Params, load_params
from pipeline.data.loading.in_memory import load_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.reading import ONCE
from pipeline.errors import DataError, ResourceError
from pipeline.evaluation.metrics import count_split
from pipeline.evaluation.parts import Parts
from pipeline.evaluation.totals import Totals
from pipeline.stages.evaluate import export
from pipeline.storage.locks import locked
from pipeline.utils.key_sample import lowest
from tests.helpers.project import REPOSITORY
from tests.helpers.small import SPEC, model_of, shards_of
from tests.helpers.tiny import known_noise

NAMES = sorted(f"{split}-00000{i}.parquet" for split in ("train", "val", "test") for i in (0, 1))


@dataclass(frozen=True)
class Exported:
    """What can be exported: eight examples of each split, in two slices."""

    artifact: Artifact
    dataset: ShardedDataset
    params: Params

    def to(self, out: Path, used: int = 3) -> tuple[Parts, dict[Any, Totals]]:
        lines: list[str] = []
        return export(self.artifact, self.dataset, ONCE, np.arange(8) < used, self.params, out, out, lines.append)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Exported:
    monkeypatch.setattr(pipeline.evaluation.slices, "_ROWS", 4)
    shards_of(tmp_path / "shards")
    model_of(tmp_path / "model", SPEC)
    return exported(tmp_path)


def exported(folder: Path) -> Exported:
    params = load_params(REPOSITORY / "params.yaml")
    settings = params.evaluate.model_copy(update={"batch_size": 2, "bound_samples": 2})
    artifact = load_artifact(folder / "model")
    dataset = ShardedDataset.open(folder / "shards")
    return Exported(artifact, dataset, params.model_copy(update={"evaluate": settings}))


def files(parts: Parts) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((parts.folder / "latents").iterdir())}


def test_export_gives_each_example_once_and_sums_of_the_whole_split(
    made: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ie_model.model", "ie_model.bounds", "ie_model.inference"):
        monkeypatch.setattr(f"{module}.noise_like", known_noise)
    parts, totals = made.to(tmp_path)
    assert [*files(parts)] == NAMES
    table = pq.read_table(parts.folder / "latents").to_pandas()
    assert sorted(table["key"]) == [f"k{i:04d}" for i in range(24)]
    assert table[table["label_used"]]["key"].tolist() == ["k0000", "k0001", "k0002"]
    val = table[table["split"] == "val"]
    assert totals["val"]["wrong"] == (val["prediction"] != val["label"]).sum()
    whole = count_split(made.artifact, load_split(made.dataset, "test"), made.params.evaluate, "cpu")
    assert {*whole, "skipped"} == {*totals["test"]}
    for name, value in whole.items():
        np.testing.assert_allclose(totals["test"][name], value, rtol=1e-5, err_msg=name)


def test_export_interrupted_keeps_finished_parts_and_gives_the_bytes_of_an_undisturbed_one(
    made: Exported, tmp_path: Path
) -> None:
    whole, totals = made.to(tmp_path / "whole")
    parts, _ = made.to(tmp_path / "killed")
    expected, kept = files(whole), parts.folder / "latents" / "train-000000.parquet"
    stamp = kept.stat().st_mtime_ns
    # Killed between a part and its sums, and before a part.
    for name in ("val-000001", "test-000000"):
        (parts.folder / "sums" / f"{name}.json").unlink()
    (parts.folder / "latents" / "test-000000.parquet").unlink()
    (parts.folder / "latents" / ".test-000000.parquet.x.part").write_bytes(b"half")
    again, resumed = made.to(tmp_path / "killed")
    assert files(again) == expected
    assert kept.stat().st_mtime_ns == stamp
    assert {s: {n: v.tolist() for n, v in sums.items()} for s, sums in resumed.items()} == {
        s: {n: v.tolist() for n, v in sums.items()} for s, sums in totals.items()
    }


@pytest.mark.parametrize("name", ["latents/val-000001.parquet", "sums/val-000001.json"])
def test_export_resumed_on_a_damaged_part_names_it_and_overwrites_nothing(
    made: Exported, tmp_path: Path, name: str
) -> None:
    parts, _ = made.to(tmp_path)
    path = parts.folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=Path(name).name):
        made.to(tmp_path)
    assert path.read_bytes() == data


def test_export_of_other_labels_params_or_models_takes_no_part_of_the_first(made: Exported, tmp_path: Path) -> None:
    first = made.to(tmp_path)[0].folder
    others = [made.to(tmp_path, used=4)[0].folder]
    assert not first.exists()
    settings = made.params.evaluate.model_copy(update={"bound_samples": 3})
    params = made.params.model_copy(update={"evaluate": settings})
    others.append(dataclasses.replace(made, params=params).to(tmp_path)[0].folder)
    model = load_artifact(tmp_path / "model")
    model.class_representations[0] += 1
    others.append(dataclasses.replace(made, artifact=model).to(tmp_path)[0].folder)
    assert len({first, *others}) == 4


def test_a_second_evaluation_at_once_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock, "busy"), pytest.raises(ResourceError, match="busy"), locked(lock, "busy"):
        pass


def test_published_parts_are_a_folder_and_nothing_is_left_beside_it(made: Exported, tmp_path: Path) -> None:
    parts, _ = made.to(tmp_path / "out")
    (tmp_path / "out" / "latents").mkdir()
    (tmp_path / "out" / "latents" / "train-000009.parquet").write_bytes(b"of another run")
    parts.publish(tmp_path / "out" / "latents")
    assert sorted(path.name for path in (tmp_path / "out" / "latents").iterdir()) == NAMES
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["latents"]


def test_the_sample_of_lowest_hash_is_nested_and_independent_of_order() -> None:
    keys = [f"{i}" for i in range(500)]
    chosen = {keys[i] for i in lowest(keys, 50)}
    assert {keys[::-1][i] for i in lowest(keys[::-1], 50)} == chosen
    assert chosen > {keys[i] for i in lowest(keys, 20)}
    even = np.arange(500) % 2 == 0
    assert (lowest(keys, 50, even) % 2 == 0).all()
    assert lowest(keys, 1000).tolist() == list(range(500))


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.evaluation import slices
from tests.pipeline.evaluation.test_slices import exported
encode, done = slices.SliceEncoder.__call__, []
def mortal(self, part):
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(part)
    return encode(self, part)
slices.SliceEncoder.__call__ = mortal
slices._ROWS = 4
exported(Path(sys.argv[1])).to(Path(sys.argv[1]) / "killed")
"""


@pytest.mark.slow
def test_export_of_a_process_that_is_killed_resumes_after_its_finished_parts(made: Exported, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=REPOSITORY, env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    (folder,) = (tmp_path / "killed").glob(".latents-*")
    stamps = {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()}
    assert len(stamps) == 3
    parts, _ = made.to(tmp_path / "killed")
    assert files(parts) == files(made.to(tmp_path / "whole")[0])
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "latents").iterdir()}
    assert {name: now[name] for name in stamps} == stamps
