"""A run's identity: what its numbers depend on, as a short hash. Ray resumes by name alone: the name must be this."""

from __future__ import annotations

import hashlib
import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a trained model is a function of, besides params and data. The orchestration around it is not.
_CODE = (
    "ie_model",
    "pipeline.checkpoint",
    "pipeline.labels",
    "pipeline.loop",
    "pipeline.ranks",
    "pipeline.reader",
    "pipeline.shards",
)
_PACKAGES = ("numpy", "ray", "torch")


def fingerprint(inputs: dict[str, Any]) -> str:
    """16 hex digits of inputs (plain JSON values), code and package versions."""
    identity = {"inputs": inputs, "code": code_hash(), "packages": package_versions()}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_hash() -> str:
    """SHA-256 over the source files that decide what a run computes."""
    digest = hashlib.sha256()
    for name in _CODE:
        location = importlib.import_module(name).__file__
        assert location is not None
        path = Path(location)
        files = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else [path]
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    return {name: version(name) for name in _PACKAGES}
