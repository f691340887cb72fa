"""The project under DVC: stages, experiments, metrics, plots, a remote. On digits, in a repository of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.helpers.pages import copied
from tests.helpers.project import run, succeed

# The project is made by whichever test comes first.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(tutorial_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git repository in which `dvc repro` has run once and everything is committed."""
    return copied(tutorial_project, tmp_path_factory.mktemp("dvc") / "project")


def test_a_second_repro_does_nothing_and_says_so(project: Path) -> None:
    output = succeed(project, "dvc", "repro", timeout=30)
    assert "Data and pipelines are up to date" in output


def test_git_keeps_the_lock_file_and_no_data_model_or_results(project: Path) -> None:
    tracked = succeed(project, "git", "ls-files").splitlines()
    heavy = (".tar", ".parquet", ".npz", ".safetensors", "-ubyte", "digits-images.npy")
    assert not [name for name in tracked if name.endswith(heavy) or name.startswith("results/")]
    assert "dvc.lock" in tracked


def test_nothing_rewrites_dvc_yaml(project: Path) -> None:
    original = Path(__file__).parents[2] / "dvc.yaml"
    assert (project / "dvc.yaml").read_bytes() == original.read_bytes()


def test_the_report_is_of_this_run(project: Path) -> None:
    page = (project / "results/report/index.html").read_text(encoding="utf-8")
    config = json.loads((project / "results/train/model/config.json").read_text())
    assert config["provenance"]["fingerprint"] in page


def test_latents_hold_a_row_per_example_of_every_split(project: Path) -> None:
    table = pq.read_table(project / "results/evaluate/latents")
    splits = table.column("split").to_pylist()
    assert {name: splits.count(name) for name in set(splits)} == {"train": 1317, "val": 120, "test": 360}
    assert sum(table.column("label_used").to_pylist()) == 100
    metadata = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    config = json.loads((project / "results/train/model/config.json").read_text())
    assert metadata["model_fingerprint"] == config["provenance"]["fingerprint"]


def test_latents_open_in_pandas_polars_and_duckdb(project: Path) -> None:
    duckdb, pandas, polars = (pytest.importorskip(name) for name in ("duckdb", "pandas", "polars"))
    path = str(project / "results/evaluate/latents")
    assert len(pandas.read_parquet(path)["r"].iloc[0]) == 16
    assert len(polars.read_parquet(path)["v_mean"][0]) == 8
    query = f"select count(*) from '{path}/*.parquet' where split = 'test' and len(probabilities) = 10"
    assert duckdb.sql(query).fetchall() == [(360,)]


def test_a_mistyped_key_in_an_experiment_is_refused(project: Path) -> None:
    done = run(project, "dvc", "exp", "run", "-S", "train.epoch=3")
    assert done.returncode != 0
    assert "epoch" in done.stderr
    done = run(project, "dvc", "exp", "run", "-S", "+train.epoch=3")
    assert done.returncode != 0
    assert "train.epoch: unknown key; did you mean epochs?" in done.stdout + done.stderr
    # DVC takes a stage's outputs away before it runs the stage.
    succeed(project, "git", "checkout", "--quiet", "--", ".")
    succeed(project, "dvc", "checkout", "--quiet")


def test_a_failed_sweep_leaves_git_and_the_results_of_other_stages_alone(project: Path) -> None:
    kept = [project / f"results/{stage}/metrics.json" for stage in ("train", "evaluate")]
    before = [path.read_bytes() for path in kept]
    done = run(project, "dvc", "exp", "run", "-S", "sweep.label_counts=[1310]")
    assert done.returncode != 0
    assert "sweep.label_counts[0] is 1310" in done.stdout + done.stderr
    assert succeed(project, "git", "status", "--porcelain").splitlines() == [" M params.yaml"]
    assert [path.read_bytes() for path in kept] == before
    output = succeed(project, "ie", "results")
    assert "the main run" in output and "no sweep" in output
    succeed(project, "git", "checkout", "--quiet", "--", ".")
    succeed(project, "dvc", "checkout", "--quiet")
    assert "(sweep, n=1)" in succeed(project, "ie", "results")


def test_plots_show_draws_curves_error_by_labels_and_confusion(project: Path) -> None:
    succeed(project, "dvc", "plots", "show", "--out", "plots")
    page = (project / "plots/index.html").read_text()
    for title in ("Validation error (%) by epoch", "Test error (%) by label count", "Confusion on test"):
        assert title in page
    for picture in (
        "results/train/curves.png",
        "results/sweep/error_against_labels.png",
        "results/evaluate/figures/confusion.png",
    ):
        assert (project / picture).read_bytes().startswith(b"\x89PNG"), picture


def test_a_clone_pulls_from_a_folder_remote_what_was_pushed(project: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    succeed(project, "dvc", "remote", "add", "--force", "--local", "--default", "store", str(remote))
    succeed(project, "dvc", "push", "--quiet")
    succeed(tmp_path, "git", "clone", "--quiet", str(project), "clone")
    clone = tmp_path / "clone"
    succeed(clone, "dvc", "remote", "add", "--local", "--default", "store", str(remote))
    succeed(clone, "dvc", "pull", "--quiet")
    assert "up to date" in succeed(clone, "dvc", "status")
    weights = "results/train/model/weights.safetensors"
    assert (clone / weights).read_bytes() == (project / weights).read_bytes()


def test_results_prints_the_headline_and_where_things_are(project: Path) -> None:
    output = succeed(project, "ie", "results")
    for text in ("Test error, %", "the main run", "supervised, same encoder", "results/evaluate/latents"):
        assert text in output


def test_a_damaged_shard_stops_training_before_it_starts(project: Path) -> None:
    shard = project / "data/shards/digits/train-000001.tar"
    original = shard.read_bytes()
    data = bytearray(original)
    data[5000] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(data)
    try:
        done = run(project, "ie", "train")
    finally:
        shard.write_bytes(original)
    assert done.returncode == 4
    assert "train-000001.tar: damaged" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_embed_applies_the_model_to_a_folder_of_images(project: Path, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    (tmp_path / "new/deep").mkdir(parents=True)
    for i, name in enumerate(("a.png", "deep/b.png")):
        Image.fromarray(np.full((8, 8), 40 * i, dtype=np.uint8)).save(tmp_path / "new" / name)
    out = tmp_path / "latents.parquet"
    succeed(project, "ie", "embed", "results/train/model", str(tmp_path / "new"), "--out", str(out))
    table = pq.read_table(out)
    assert table.column("key").to_pylist() == ["a.png", "deep/b.png"]
    assert table.column("label").to_pylist() == [None, None]


def test_embed_of_the_shards_equals_the_latents_of_evaluate(project: Path, tmp_path: Path) -> None:
    out = tmp_path / "latents.parquet"
    succeed(project, "ie", "embed", "results/train/model", "data/shards/digits", "--out", str(out))
    new, old = pq.read_table(out).to_pandas(), pq.read_table(project / "results/evaluate/latents").to_pandas()
    both = new.merge(old, on="key", suffixes=("_new", "_old"))
    assert len(both) == 1797
    assert (both["prediction_new"] == both["prediction_old"]).all()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.png", None, "no such file or folder"),
        ("broken.png", b"not an image", "not a picture"),
        ("x.npy", b"nothing", "not a .npy array that can be read"),
        ("x.txt", b"text", "not something that can be embedded"),
    ],
)
def test_embed_of_what_is_no_input_is_one_line(
    project: Path, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "latents.parquet"
    done = run(project, "ie", "embed", "results/train/model", str(tmp_path / name), "--out", str(out))
    assert done.returncode == 4, done.stderr
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not out.exists()


def test_a_gpu_that_is_not_there_is_refused_by_embed(project: Path, tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    out = tmp_path / "latents.parquet"
    shards = "data/shards/digits"
    done = run(project, "ie", "embed", "results/train/model", shards, "--out", str(out), "--device", "cuda")
    assert done.returncode == 5
    assert "no GPU" in done.stderr
