"""Invariant-equivariant representation learning (EquiVAE): tensors in, tensors out.

Each name is imported from its module at first use: `ie_model.spec` alone brings in no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ie_model.artifact import Artifact, load_artifact, save_artifact
    from ie_model.config import AugmentConfig, ExtendedConfig, ModelConfig, ObjectiveConfig
    from ie_model.inference import (
        add_classes,
        classify,
        encode,
        importance_weighted_bound,
        interpolate,
        representations,
        sample,
        swap,
        traverse,
    )
    from ie_model.model import EquiVAE
    from ie_model.objective import Objective
    from ie_model.spec import DataSpec, Preprocessing

__all__ = [
    "Artifact",
    "AugmentConfig",
    "DataSpec",
    "EquiVAE",
    "ExtendedConfig",
    "ModelConfig",
    "Objective",
    "ObjectiveConfig",
    "Preprocessing",
    "add_classes",
    "classify",
    "encode",
    "importance_weighted_bound",
    "interpolate",
    "load_artifact",
    "representations",
    "sample",
    "save_artifact",
    "swap",
    "traverse",
]

_MODULES = ("spec", "config", "model", "objective", "artifact", "inference")


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"ie_model.{module}"), name, None)
            if found is not None:
                return found
    raise AttributeError(f"module 'ie_model' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
