"""README.md, docs/tutorial.md and docs/extending.md: what they tell a user to type does what they say."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import yaml

from ie_model.spec import DataSpec
from tests.helpers.pages import SETUP, Shell, apply_diff, blocks, commands, copied, text
from tests.helpers.project import REPOSITORY

TUTORIAL, EXTENDING, README = "docs/tutorial.md", "docs/extending.md", "README.md"


def test_the_environment_of_the_pages_is_the_one_that_a_new_machine_makes() -> None:
    for page in (TUTORIAL, README):
        assert set(SETUP) & {line for block in blocks(page, "sh") for line in block.splitlines()}, page
    # .ci/run makes it in a fresh clone, with `make test`.
    assert "make test" in (REPOSITORY / ".ci/run").read_text()
    assert re.search(r"^test: env-dev$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)


def test_each_command_of_the_readme_is_run_by_a_test() -> None:
    run = {command for page in (TUTORIAL, "docs/experiments.md", "docs/data.md") for command in commands(page)}
    run |= {"make test", "make docs"} & set(re.findall(r"^make \w+$", text(".ci/run"), re.MULTILINE))
    run |= {"make repro"} & set(re.findall(r"^make \w+$", text("tests/integration/small_repro.sh"), re.MULTILINE))
    assert [command for command in commands(README) if command not in run] == []


def test_every_page_is_in_the_site_and_the_readme_leads_to_those_that_one_starts_with() -> None:
    class Loader(yaml.SafeLoader):
        """Reads the file without the tags that MkDocs knows."""

    config = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), Loader)
    listed = {
        page if isinstance(page, str) else next(iter(page.values()))
        for section in config["nav"]
        for pages in section.values()
        for page in pages
    }
    pages = {path.relative_to(REPOSITORY / "docs").as_posix() for path in (REPOSITORY / "docs").rglob("*.md")}
    assert listed == pages | {"index.md", "changelog.md"}
    for name in ("tutorial.md", "choosing.md", "when-not-to-use.md", "troubleshooting.md", "extending.md"):
        assert f"](docs/{name})" in text(README)


def test_troubleshooting_quotes_what_the_code_says() -> None:
    code = "".join(
        path.read_text() for folder in ("pipeline", "ie_model") for path in Path(REPOSITORY, folder).rglob("*.py")
    )
    # Messages as they are printed: strings that stand in parts on several lines are one.
    said = re.sub(r'"\s*f?"', "", code)
    rows = re.findall(r"^\| (`.*?) \|", text("docs/troubleshooting.md"), re.MULTILINE)
    of_libraries = {"found duplicate key", "allowed: a finite number", "No such option:"}
    quoted = [quote for row in rows for quote in re.findall("`([^`]+)`", row)]
    parts = [part.strip() for quote in quoted for part in re.split(r"\.\.\.|; |\d+|\"|--epochs", quote)]
    assert len(quoted) > 25
    assert [part for part in parts if len(part) > 3 and part not in said and part not in of_libraries] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tutorial_does_what_it_says_command_by_command(tutorial_project: Path, tmp_path: Path) -> None:
    project = copied(tutorial_project, tmp_path / "project")
    shell = Shell(project, tmp_path / "tools")
    output = shell.run_all(commands(TUTORIAL)[4:])

    assert "Test error, %" in output["ie results"]
    assert (project / "digits.png").read_bytes().startswith(b"\x89PNG")
    for picture in re.findall(r"^\| `([\w.`, ]+)` \|", text(TUTORIAL).split("## 3.")[1], re.MULTILINE):
        for name in picture.split("`, `"):
            assert (project / "results/evaluate/figures" / name).is_file(), name
    for path in ("results/train/history.csv", "results/sweep/summary.md", "results/evaluate/latents", ".runs"):
        assert (project / path).exists()
    # The page says what longer training does: the error falls, classes are swapped, v begins to be used.
    assert re.search(r"epochs +8 +40 +32", output["dvc metrics diff"])
    lines = output["ie compare HEAD longer"].splitlines()
    for measure in ("test error, %", "swap has the new class", "active units"):
        (line,) = (line for line in lines if line.startswith(measure))
        assert "better" in line, line
    assert "train.epochs" in "\n".join(lines)
    page = (project / "results/compare.html").read_text()
    assert len(re.findall(r'id="\w+-\d"', page)) == 8 and page.count("data:image/png;base64,") == 2

    said = shell.python(*blocks(TUTORIAL, "python"))
    values = [float(value) for value in re.findall(r"([\d.]+)%", said)]
    error, found, still = values
    assert error < 15
    assert found > 50 and still > 80

    # The README's Python loads a model that `make repro` leaves in the same place.
    shell.python(*blocks(README, "python"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_method_and_the_likelihood_of_the_page_work_as_they_stand_there(
    tutorial_project: Path, tmp_path: Path
) -> None:
    project = copied(tutorial_project, tmp_path / "project")
    shell = Shell(project, tmp_path / "tools")
    for block in blocks(EXTENDING, "diff"):
        apply_diff(project, block)
    # The sweep is on the data as it was: the likelihood comes after it on the page.
    method, likelihood = commands(EXTENDING)[:2], commands(EXTENDING)[2:]
    shell.run("git checkout --quiet pipeline/data/sources/digits.py")
    output = shell.run_all(method)
    with (project / "results/sweep/table.csv").open() as file:
        rows = {(row["method"], row["status"]) for row in csv.DictReader(file)}
    assert rows == {("plain", "finished"), ("two_units", "finished")}
    assert re.search(r"\| 100 \| two_units \|", output["ie summary results/sweep --baseline plain"])

    apply_diff(project, blocks(EXTENDING, "diff")[-1])
    shell.python(*blocks(EXTENDING, "python"))
    shell.run_all(likelihood)
    config = json.loads((project / "results/train/model/config.json").read_text())
    # This process knows the spec without the page's change.
    assert config["spec"]["likelihood"] == "laplace"
    assert "laplace" not in str(DataSpec.model_fields["likelihood"].annotation)
    metrics = json.loads((project / "results/train/metrics.json").read_text())
    assert metrics["val_error_pct"] < 80
