"""What docs/data.md tells a user to do works as it stands there."""

from __future__ import annotations

import csv
import io
import shlex
import tarfile
from pathlib import Path

import pytest
import yaml

from pipeline.config.params import parse_params
from pipeline.data.shards.manifest import read_manifest
from tests.helpers.own import write_digits
from tests.helpers.pages import Shell, apply_diff, blocks, commands, write_files
from tests.helpers.project import copy_project, copy_repository, run, shipped_params, succeed
from tests.helpers.s3 import s3, upload

PAGE = "docs/data.md"


@pytest.mark.parametrize("command", commands(PAGE))
def test_each_command_sets_parameters_that_exist(command: str) -> None:
    words = shlex.split(command)
    assert words[:3] == ["dvc", "exp", "run"]
    raw = shipped_params()
    for setting in (word for word in words[3:] if word != "-S"):
        path, _, value = setting.partition("=")
        *parents, last = path.split(".")
        section = raw
        for name in parents:
            section = section[name]
        assert last in section
        section[last] = yaml.safe_load(value)
    if raw["data"]["source"] != "patches":
        parse_params(raw)


def users_data(project: Path) -> None:
    """Folders with the names that the page uses, and data of each kind in them."""
    write_digits(project / "my_images", 200)
    pictures = sorted(write_digits(project / "my_table/scans", 200).rglob("*.png"))
    with (project / "my_table/table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ("path", "label", "site", "angle"),
                *(
                    (path.relative_to(project / "my_table"), path.parent.name, i % 3, i / 4)
                    for i, path in enumerate(pictures)
                ),
            ]
        )
    for topic, words in (("grain", "wheat maize harvest"), ("metal", "copper zinc smelter")):
        (project / "my_texts" / topic).mkdir(parents=True)
        for i in range(20):
            word = 3 * "abcdefghijklmnopqrst"[i]
            (project / "my_texts" / topic / f"{i}.txt").write_text(f"{words} " * (i + 1) + word)
    (project / "my_series").mkdir()
    for split, cases in (("TRAIN", 20), ("TEST", 6)):
        lines = [f"{i},{i + 1},{i % 5}:{1 + i % 3},2,3:{'up' if i % 2 else 'down'}" for i in range(cases)]
        header = ["@dimensions 2", "@classLabel true up down", "@data"]
        (project / "my_series" / f"Walk_{split}.ts").write_text("\n".join([*header, *lines]) + "\n")
    (project / "my_tars").mkdir()
    (project / "my_vectors").mkdir()
    features, sentences = (block for block in blocks(PAGE, "python") if "np.savez" in block)
    succeed(project, "python", "-c", features)
    succeed(project, "python", "-c", sentences)
    pictures = sorted((project / "my_images").rglob("*.png"))
    for split, some in (("train", pictures[::2]), ("val", pictures[1::4]), ("test", pictures[3::4])):
        with tarfile.open(project / f"my_tars/{split}-000.tar", "w") as tar:
            for path in some:
                for suffix, data in (("png", path.read_bytes()), ("cls", path.parent.name.encode())):
                    member = tarfile.TarInfo(f"{path.stem}.{suffix}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


KINDS = ("images", "table", "texts", "series", "vectors", "tars")
# What each command of the page makes of the folders above: kind, shape, classes, examples.
MADE = {
    "images -S data.folder=my_images": ("image", (1, 32, 32), 10, 200),
    "images -S data.folder=my_images -S data.own.height=28 -S data.own.width=28 -S data.own.channels=1": (
        "image",
        (1, 28, 28),
        10,
        200,
    ),
    "table -S data.folder=my_table": ("image", (1, 32, 32), 10, 200),
    "table -S data.folder=my_table -S 'data.own.factors=[site,angle]'": ("image", (1, 32, 32), 10, 200),
    "texts -S data.folder=my_texts": ("counts", (26,), 2, 40),
    "series -S data.folder=my_series": ("series", (2, 3), 2, 26),
    "vectors -S data.folder=my_vectors": ("vector", (20,), 10, 1797),
    "vectors -S data.folder=my_sentences": ("vector", (20,), 2, 40),
    "tars -S data.folder=my_tars": ("image", (3, 32, 32), 10, 200),
    "tars -S data.folder=s3://my-bucket/my-tars -S data.own.height=64 -S data.own.width=64": (
        "image",
        (3, 64, 64),
        10,
        200,
    ),
}
# The page's first command of each kind: it is run to its end.
FIRST = {kind: next(arguments for arguments in MADE if arguments.startswith(f"{kind} ")) for kind in KINDS}


def arguments_of(command: str) -> str:
    return command.removeprefix("dvc exp run -S data.source=")


def check_shards(project: Path, arguments: str) -> None:
    manifest = read_manifest(project / "data/shards" / arguments.split()[0])
    found = manifest.spec.kind, manifest.spec.shape, manifest.spec.num_classes
    assert (*found, sum(split.samples for split in manifest.splits.values())) == MADE[arguments]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_command_of_each_kind_as_it_stands_ends_with_a_report_of_that_data(tmp_path: Path) -> None:
    project = copy_repository(tmp_path / "project")
    users_data(project)
    for words in (("init", "--quiet"), ("config", "user.email", "s@example.org"), ("config", "user.name", "S")):
        succeed(project, "git", *words)
    succeed(project, "ie", "preset", "quick", "--apply")
    succeed(project, "git", "add", "--all")
    succeed(project, "git", "commit", "--quiet", "--message", "own data")
    shell = Shell(project, tmp_path / "tools")
    for kind in KINDS:
        command = next(command for command in commands(PAGE) if arguments_of(command) == FIRST[kind])
        shell.run(command)
        check_shards(project, FIRST[kind])
        output = succeed(project, "ie", "results")
        assert f"{kind} in my_{kind}" in output and "(sweep, n=1)" in output
        assert "left out" not in output and "nothing of" not in output
        page = (project / "results/report/index.html").read_text(encoding="utf-8")
        assert f"{kind} in my_{kind}" in page
        changed = succeed(project, "git", "status", "--porcelain").splitlines()
        assert sorted(changed) == [" M params.yaml", "?? dvc.lock"]
        succeed(project, "git", "checkout", "--quiet", "--", ".")
        output = succeed(project, "ie", "results")
        assert "nothing of digits was run here yet" in output
        assert f"left out: results/train is of {kind} in my_{kind}, params.yaml asks for digits" in output


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_each_other_command_brings_own_data_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"labels": {"count": "auto"}, "sweep": {"label_counts": "auto"}}
    project = copy_project(tmp_path / "project", data={"val_size": 0.2}, **counts)
    users_data(project)
    for words in (("init", "--quiet"), ("config", "user.email", "s@example.org"), ("config", "user.name", "S")):
        succeed(project, "git", *words)
    succeed(project, "git", "add", "--all")
    succeed(project, "git", "commit", "--quiet", "--message", "own data")
    left = set()
    with s3(monkeypatch) as door:
        upload(door, project / "my_tars", "my-tars", bucket="my-bucket")
        shell = Shell(project, tmp_path / "tools")
        for command in commands(PAGE):
            arguments = arguments_of(command)
            # Those of `patches` and the first of each kind are run by the other tests.
            if "patches" in command or arguments in FIRST.values():
                continue
            left.add(arguments)
            # The stages that read own data; training does not know whose it is.
            shell.run(command.replace("dvc exp run", "dvc exp run shard"))
            check_shards(project, arguments)
            succeed(project, "git", "checkout", "--quiet", "--", ".")
            succeed(project, "sh", "-c", "rm -rf data/shards")
    assert left == {arguments for arguments in MADE if arguments not in FIRST.values()}


@pytest.mark.slow
def test_the_source_on_the_page_is_fetched_and_sharded_as_it_stands_there(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", data={"source": "patches", "val_size": 0.1})
    write_files(project, [block for block in blocks(PAGE, "python") if "patches.py" in block])
    (diff,) = blocks(PAGE, "diff")
    apply_diff(project, diff)
    succeed(project, "ie", "fetch")
    succeed(project, "ie", "shard")
    manifest = read_manifest(project / "data/shards/patches")
    assert {name: split.samples for name, split in manifest.splits.items()} == {"train": 374, "val": 42, "test": 104}
    assert manifest.spec.classes == ("china", "flower")
    assert "all whole" in succeed(project, "ie", "shards", "verify")


def test_own_data_is_read_by_the_commands_and_what_is_wrong_is_one_line(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", data={"source": "images"})
    done = run(project, "ie", "fetch")
    assert done.returncode == 4
    assert done.stderr.strip().splitlines() == [
        f"error: {project.resolve()}/data/own: no classes; at least two are needed"
    ]
