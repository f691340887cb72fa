"""A fresh clone of the repository: nothing was run in it, and whatever a run leaves there is the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.own import write_digits
from tests.helpers.project import copy_repository, run, succeed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The repository as it is shipped, committed."""
    project = copy_repository(tmp_path / "clone")
    succeed(project, "git", "init", "--quiet", "--initial-branch=main")
    succeed(project, "git", "config", "user.email", "someone@example.org")
    succeed(project, "git", "config", "user.name", "Someone")
    succeed(project, "git", "add", "--all")
    succeed(project, "git", "commit", "--quiet", "--message", "as shipped")
    return project


def status(project: Path) -> list[str]:
    """What git says of the working tree, without the folder of data that a test puts there."""
    lines = succeed(project, "git", "status", "--porcelain").splitlines()
    return sorted(line for line in lines if "my_images" not in line)


def test_an_experiment_that_left_stages_out_can_be_applied(clone: Path) -> None:
    assert "nothing of mnist was run here yet" in succeed(clone, "ie", "results")
    succeed(clone, "dvc", "exp", "run", "shard", "--name", "packed", "-S", "data.source=digits")
    assert status(clone) == [" M params.yaml", "?? dvc.lock"]
    assert "nothing of digits was run here yet" in succeed(clone, "ie", "results")

    # Another run, then back to the first.
    succeed(clone, "git", "checkout", "--quiet", ".")
    (clone / "dvc.lock").unlink()
    (clone / "results/sweep").mkdir(parents=True, exist_ok=True)
    (clone / "results/sweep/metrics.json").write_text("{}")
    output = succeed(clone, "ie", "apply", "packed")

    assert "WARNING" not in output and "no results of train, sweep, evaluate, report" in output
    assert "source: digits" in (clone / "params.yaml").read_text()
    assert (clone / "data/shards/digits/manifest.json").is_file()
    assert not (clone / "results/sweep/metrics.json").exists(), "results of another run stay"
    assert status(clone) == [" M params.yaml", "?? dvc.lock"]
    unknown = run(clone, "ie", "apply", "nothing-of-the-sort")
    assert unknown.returncode == 4
    assert unknown.stderr.startswith("error: ") and "packed" in unknown.stderr


@pytest.mark.parametrize("key", ["labels.count=5000", "sweep.label_counts=[20,5000]"])
def test_more_labels_than_own_data_has_are_refused_before_any_tar_is_written(clone: Path, key: str) -> None:
    write_digits(clone / "my_images", 200)
    done = run(clone, "dvc", "exp", "run", "-S", "data.source=images", "-S", "data.folder=my_images", "-S", key)
    assert done.returncode != 0
    assert key.partition("=")[0] in done.stdout + done.stderr
    assert "Running stage 'train'" not in done.stdout
    assert not (clone / "data/shards/images").exists()
    assert status(clone) == [" M params.yaml", "?? dvc.lock"]
