"""A run's identity: what its numbers depend on, as a short hash. Ray resumes by name alone: the name must be this."""

from __future__ import annotations

import hashlib
import importlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What a trained model is a function of, besides params and data. The orchestration around it is not.
TRAINING = (
    "ie_model.artifact",
    "ie_model.augment",
    "ie_model.config",
    "ie_model.inference",
    "ie_model.likelihoods",
    "ie_model.model",
    "ie_model.networks",
    "ie_model.objective",
    "ie_model.spec",
    "ie_model.strided",
    "pipeline.cache",
    "pipeline.checkpoint",
    "pipeline.index",
    "pipeline.labels",
    "pipeline.loop",
    "pipeline.pictures",
    "pipeline.plan",
    "pipeline.ranks",
    "pipeline.reader",
    "pipeline.samples",
    "pipeline.shards",
    "pipeline.shared_memory",
    "pipeline.slices",
    "pipeline.store",
    "pipeline.stream",
    "pipeline.tars",
    "pipeline.training_data",
)
# What its measures are a function of as well.
MEASURING = (
    *TRAINING,
    "ie_model.equivariance",
    "ie_model.measures",
    "pipeline.measure",
    "pipeline.oracle",
    "pipeline.scoring",
    "pipeline.splits",
    "pipeline.style",
)
_PACKAGES = ("numpy", "ray", "torch")


def fingerprint(inputs: dict[str, Any], modules: tuple[str, ...] = TRAINING) -> str:
    """16 hex digits of inputs (plain JSON values), the code of `modules` and package versions."""
    identity = {"inputs": inputs, "code": code_hash(modules), "packages": package_versions()}
    text = json.dumps(identity, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def code_hash(modules: tuple[str, ...]) -> str:
    """SHA-256 over the source files of modules."""
    digest = hashlib.sha256()
    for name in modules:
        location = importlib.import_module(name).__file__
        assert location is not None
        digest.update(name.encode() + b"\0" + Path(location).read_bytes() + b"\0")
    return digest.hexdigest()


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    return {name: version(name) for name in _PACKAGES}
