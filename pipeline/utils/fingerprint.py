"""A run's identity: what its numbers depend on, as a short hash. Ray resumes by name alone: the name must be this.

Code is hashed by package, from its syntax trees without comments, docstrings and module names: rewording or renaming
retrains nothing, changing what a line does does. The packages here are the folders that dvc.yaml names.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# What the bytes of a tar are a function of, besides params and raw files.
SHARDING = (
    "ie_model.checksums",
    "ie_model.scaling",
    "ie_model.spec",
    "pipeline.data.example",
    "pipeline.data.shards",
    "pipeline.data.sharding",
    "pipeline.data.sources",
    "pipeline.utils.images",
)
# What a trained model is a function of, besides params and shards. The orchestration around it is not.
TRAINING = (
    "ie_model",
    "pipeline.data.example",
    "pipeline.data.loading",
    "pipeline.data.shards",
    "pipeline.training",
    "pipeline.utils.images",
)
# What its measures are a function of as well.
MEASURING = (*TRAINING, "pipeline.evaluation", "pipeline.utils.key_sample")

_PROJECT = ("ie_model", "pipeline")
_PACKAGES = ("numpy", "ray", "torch")


def fingerprint(inputs: dict[str, Any], units: tuple[str, ...] = TRAINING) -> str:
    """16 hex digits of inputs (plain JSON values), the code of `units` and package versions."""
    identity = {"inputs": inputs, "code": code_hash(units), "packages": package_versions()}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_hash(units: tuple[str, ...]) -> str:
    """SHA-256 over the code of packages (with what is below them) and modules, as this process loads it.

    Differs between versions of Python that print a syntax tree differently.
    """
    return hash_files(tuple(path for unit in units for path in unit_files(unit)))


def unit_files(unit: str) -> list[Path]:
    """Source files of a package, or of a module, by its dotted name."""
    found = find_spec(unit)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"no module {unit}")
    if found.submodule_search_locations is None:
        return [Path(found.origin)]
    return sorted(path for folder in found.submodule_search_locations for path in Path(folder).rglob("*.py"))


def hash_files(files: tuple[Path, ...]) -> str:
    """SHA-256 over what source files do; their order and names do not count."""
    digest = hashlib.sha256()
    for part in sorted(_module_hash(path.read_text(encoding="utf-8")) for path in files):
        digest.update(part.encode())
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    return {name: version(name) for name in _PACKAGES}


def _module_hash(source: str) -> str:
    tree = _Bare().visit(ast.parse(source))
    return hashlib.sha256("\n".join(sorted(_imports(tree)) + _statements(tree)).encode()).hexdigest()


def _statements(tree: ast.Module) -> list[str]:
    return [ast.unparse(node) for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]


def _imports(tree: ast.Module) -> Iterator[str]:
    """Imports, one a name: their order means nothing."""
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (f"import {_alias(name)}" for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"from {node.module} import {_alias(name)}" for name in node.names)


def _alias(name: ast.alias) -> str:
    return f"{name.name} as {name.asname or name.name}"


class _Bare(ast.NodeTransformer):
    """Takes out docstrings, and the names of this project's modules from imports."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.body:
            node.body = [ast.Pass()]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level or (node.module or "").partition(".")[0] in _PROJECT:
            return ast.ImportFrom(module="project", names=node.names, level=0)
        return node
