"""Each package is declared where it is imported, and pinned in the file of those who need it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.helpers.project import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
OURS = ("ie_model", "pipeline", "tests", "docs", "benchmarks")
# Found by name: DVC and fsspec open s3:// with them.
NOT_IMPORTED = {"dvc-s3", "s3fs"}


def plain(name: str) -> str:
    """A distribution's normalized name, from a requirement, without extras and versions."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!;~ (]", name)[0]).lower()


def declared(*extras: str) -> set[str]:
    """Distributions of the core and of extras, with the extras that these name."""
    found, waiting = {plain(name) for name in PROJECT["dependencies"]}, list(extras)
    while waiting:
        for requirement in PROJECT["optional-dependencies"][waiting.pop()]:
            if plain(requirement) == PROJECT["name"]:
                waiting += requirement.partition("[")[2].rstrip("]").split(",")
            else:
                found.add(plain(requirement))
    return found


def imported(paths: Iterable[Path]) -> set[str]:
    """Top-level names that source files import, without the standard library's and the project's own."""
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").partition(".")[0])
    return found - {*sys.stdlib_module_names, *OURS}


def undeclared(paths: Iterable[Path], allowed: set[str]) -> list[str]:
    owners = packages_distributions()
    return [name for name in sorted(imported(paths)) if not {plain(o) for o in owners.get(name, [])} & allowed]


def closure(requirements: Iterable[str]) -> set[str]:
    """Requirements and all that these need, as installed here."""
    found: set[str] = set()
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), extra) for text in requirements for extra in (Requirement(text).extras or {""})]
    while waiting:
        requirement, extra = waiting.pop()
        name = plain(requirement.name)
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        found.add(name)
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or any(needed.marker.evaluate({"extra": one}) for one in {"", extra}):
                waiting += [(needed, one) for one in {"", *needed.extras}]
    return found


def requirements_of(*extras: str) -> list[str]:
    """The requirements of the core and of extras, without the project's own name."""
    optional = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in optional[extra])]
    return [text for text in texts if plain(text) != PROJECT["name"]]


def pins(name: str) -> set[str]:
    lines = (REPOSITORY / name).read_text().splitlines()
    return {plain(line) for line in lines if line and not line.startswith("#")}


def test_ie_model_without_metrics_imports_its_core_dependencies_alone() -> None:
    modules = Path(REPOSITORY, "ie_model").rglob("*.py")
    paths = [path for path in modules if "metrics" not in path.parts and path.name != "estimator.py"]
    assert undeclared(paths, declared()) == []


def test_ie_model_metrics_import_the_core_and_their_extra() -> None:
    paths = [path for path in Path(REPOSITORY, "ie_model").rglob("*.py") if path.name != "estimator.py"]
    assert undeclared(paths, declared("metrics")) == []


def test_the_estimator_imports_the_core_and_its_extra() -> None:
    assert undeclared([Path(REPOSITORY, "ie_model", "estimator.py")], declared("estimator")) == []


def test_pipeline_imports_its_extra() -> None:
    apart = {
        REPOSITORY / "pipeline/commands/export.py": "export",
        REPOSITORY / "pipeline/results/loggers.py": "loggers",
    }
    paths = set(Path(REPOSITORY, "pipeline").rglob("*.py")) - apart.keys()
    assert undeclared(sorted(paths), declared("pipeline")) == []
    for path, extra in apart.items():
        assert undeclared([path], declared("pipeline", extra)) == []


def test_extras_of_a_run_are_all_imported() -> None:
    paths = [path for folder in ("ie_model", "pipeline") for path in Path(REPOSITORY, folder).rglob("*.py")]
    owners = packages_distributions()
    used = {plain(owner) for name in imported(paths) for owner in owners.get(name, [])}
    assert declared("pipeline") - used == NOT_IMPORTED


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_pinned_without_addresses(name: str) -> None:
    lines = (REPOSITORY / name).read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_requirements_are_what_a_run_needs_and_requirements_dev_the_rest() -> None:
    run = closure(requirements_of("metrics", "pipeline"))
    assert pins("requirements.txt") == run
    assert (
        pins("requirements-dev.txt")
        == closure(requirements_of("metrics", "pipeline", "dev", "docs", "export", "loggers")) - run
    )
