"""A host that loses its power in the middle of `shard` or `evaluate`: finished parts stay, the bytes are the same."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline.data.shards.manifest import read_manifest
from pipeline.utils.files import sha256_file
from tests.cluster.lab import SHARED, Lab, wait_for
from tests.cluster.launched import PROJECT, Laptop
from tests.helpers.small import model_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHARD = "python -m pipeline shard"
# Actors from the second part on, where the stage decides by the time that the first one takes; and no figures.
EVALUATE = (
    'python -c "import pipeline.cli, pipeline.stages.evaluate as stage; stage._RAY_PAYS_S = 0.0; '
    'stage._draw = lambda *_: None; pipeline.cli.main()" evaluate'
)

# A worker, whose work the other takes over, or the head, after which the same command is given again.
LOST = pytest.mark.parametrize("lost", ["worker2", "head"])

Finished = dict[str, tuple[int, int]]
"""Inode and time of each finished file, by name."""


@pytest.fixture(scope="module")
def project(laptop: Laptop, lab: Lab) -> Iterator[Path]:
    """The project on the head with enough rows for hosts to share, fetched."""
    laptop.up()
    before = yaml.safe_load((laptop.folder / "params.yaml").read_text())
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 48_000)
    folder = lab.shared / "vectors"
    folder.mkdir()
    np.save(folder / "x.npy", (rng.normal(size=(len(y), 64)) + 2 * rng.normal(size=(10, 64))[y]).astype(np.float32))
    np.save(folder / "y.npy", y)
    laptop.params(
        data={"source": "vectors", "folder": f"{SHARED}/vectors", "num_shards": 16, "val_size": 2000},
        # Thirteen parts.
        evaluate={"batch_size": 4500, "bound_samples": 100},
    )
    laptop.on_head("python -m pipeline fetch")
    yield lab.disk("head", str(PROJECT))
    laptop.params(**before)


@pytest.fixture(scope="module")
def shards(project: Path, laptop: Laptop) -> dict[str, str]:
    """Tars, indices and manifest of an undisturbed run."""
    assert "the cluster's hosts" in laptop.on_head(SHARD)
    return contents(project / "data/shards/vectors")


@pytest.fixture(scope="module")
def results(project: Path, shards: dict[str, str], laptop: Laptop) -> dict[str, str]:
    """Latents and metrics of an undisturbed run in actors."""
    manifest = read_manifest(project / "data/shards/vectors")
    shutil.rmtree(project / "results/train", ignore_errors=True)
    model_of(project / "results/train/model", manifest.spec, manifest.preprocessing)
    assert "actor(s)" in laptop.on_head(EVALUATE)
    return evaluated(project)


@LOST
def test_shard_after_a_power_cut_makes_the_unfinished_tars_alone(
    project: Path, shards: dict[str, str], laptop: Laptop, lab: Lab, lost: str
) -> None:
    out = project / "data/shards"

    def finished() -> Finished:
        return {
            f"{rows.stem}.tar": identity(rows.parents[1] / f"shards/{rows.stem}.tar")
            for rows in out.glob(".vectors.*.work/rows/*.parquet")
        }

    def packs() -> bool:
        return any(out.glob(".vectors.*.work/scratch/.*.worker2.*.part"))

    kept, text = cut_power(laptop, lab, lost, SHARD, finished, packs)
    assert contents(out / "vectors") == shards
    assert len(kept) < sum(name.endswith(".tar") for name in shards)
    assert {name: identity(out / "vectors" / name) for name in kept} == kept
    assert lost == "worker2" or f"{len(kept)} of" in text


@LOST
def test_evaluate_after_a_power_cut_encodes_the_unfinished_parts_alone(
    project: Path, results: dict[str, str], laptop: Laptop, lab: Lab, lost: str
) -> None:
    out = project / "results/evaluate"

    def finished() -> Finished:
        return {
            f"{sums.stem}.parquet": identity(sums.parents[1] / f"latents/{sums.stem}.parquet")
            for sums in out.glob(".latents-*/sums/*.json")
        }

    def encodes() -> bool:
        return lab.run("worker2", "pgrep -f [r]ay::_Actor.run").returncode == 0

    kept, text = cut_power(laptop, lab, lost, EVALUATE, finished, encodes)
    assert evaluated(project) == results
    assert len(kept) < len(list((out / "latents").iterdir()))
    assert {name: identity(out / "latents" / name) for name in kept} == kept
    assert lost == "worker2" or f"resumes, {len(kept)} of" in text


def cut_power(
    laptop: Laptop, lab: Lab, lost: str, command: str, finished: Callable[[], Finished], works: Callable[[], bool]
) -> tuple[Finished, str]:
    """Runs a command and cuts a host's power when three parts are finished and worker2 works at another.

    Returns:
        what was finished by then, and the lines of the command that came to the end.
    """
    wait_for(lambda: "/2.0 CPU" in laptop.on_head("ray status"), 120, lambda: "a host does not join again")
    run = laptop.start(command)
    wait_for(lambda: len(finished()) >= 3 and works(), 120, lambda: run.text)
    lab.power_off(lost)
    kept = finished()
    if lost == "head":
        run.kill()
        lab.boot("head")
        laptop.relaunch()
        run = laptop.start(command)
    assert run.finish() == 0, run.text
    return kept, run.text


def identity(path: Path) -> tuple[int, int]:
    """Of a file that nobody writes anew."""
    about = path.stat()
    return about.st_ino, about.st_mtime_ns


def evaluated(project: Path) -> dict[str, str]:
    out = project / "results/evaluate"
    return contents(out / "latents") | {"metrics.json": sha256_file(out / "metrics.json")}


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by name."""
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
