"""A trained model on disk: weights (safetensors), config (JSON), class representations. No pickle.

config.json carries the checksum of the weights and of its own content: a model that was changed is refused.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ie_model.checksums import seal, unseal
from ie_model.config import ModelConfig
from ie_model.model import EquiVAE
from ie_model.spec import DataSpec, Preprocessing

FORMAT = 5
_WEIGHTS = "weights.safetensors"
_CONFIG = "config.json"
Loss = Literal["bound", "consistency", "cross_entropy"]


@dataclass(frozen=True)
class Artifact:
    """A model with what it needs to be used: the r_y of its labelled points, what its inputs stand for, how it was
    trained as far as inference depends on it; and where it came from."""

    model: EquiVAE
    class_representations: Tensor
    """r_y, means over all labelled points, `[K, R]`; of M2 the unit vectors, of the plain VAE one row."""

    class_counts: Tensor
    """Labelled points behind each r_y, `[K]`."""

    provenance: dict[str, Any]
    """Free JSON: method, fingerprint, data checksums, versions. Nothing computes with it."""

    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    """What the values of x stand for."""

    prune: float = 0.0
    """Classes with q(y|x) below this are left out of the class sum, as in training; 0 is the exact sum."""

    loss: Loss = "bound"
    """Other than `bound`: a model whose v and decoder are not trained."""

    val_bounds: tuple[float, ...] = ()
    """U(x) of the validation data at its quantiles 0, 1, ..., 100 %, nats; empty where it is not known. A new example
    whose bound is below all of them is unlike anything that was seen."""

    def tensors(self) -> dict[str, Tensor]:
        """Weights and class representations by their names in the file.

        Raises:
            ValueError: one holds a value that is not finite.
        """
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors["class_representations"] = self.class_representations
        tensors["class_counts"] = self.class_counts
        _check_finite(tensors)
        return tensors


class _Config(BaseModel):
    """config.json, without its checksum."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: int
    spec: DataSpec
    model: ModelConfig
    preprocessing: Preprocessing
    prune: float = Field(ge=0, lt=1)
    loss: Loss
    val_bounds: tuple[float, ...] = ()
    weights_sha256: str
    provenance: dict[str, Any]


def save_artifact(folder: Path, artifact: Artifact) -> None:
    """Writes the two files into an existing empty folder; the caller makes the folder appear atomically.

    Raises:
        ValueError: a weight is not finite, or the preprocessing is not that of the spec.
    """
    artifact.preprocessing.check(artifact.model.spec)
    tensors = {name: value.contiguous().cpu() for name, value in artifact.tensors().items()}
    save_file(tensors, folder / _WEIGHTS)
    config = _Config(
        format=FORMAT,
        spec=artifact.model.spec,
        model=artifact.model.config,
        preprocessing=artifact.preprocessing,
        prune=artifact.prune,
        loss=artifact.loss,
        val_bounds=artifact.val_bounds,
        weights_sha256=_sha256(folder / _WEIGHTS),
        provenance=artifact.provenance,
    )
    text = json.dumps(seal(config.model_dump(mode="json")), indent=2, sort_keys=True, allow_nan=False)
    (folder / _CONFIG).write_text(text + "\n")


def load_artifact(folder: Path, device: torch.device | str = "cpu") -> Artifact:
    """Reads a model that `save_artifact` wrote, in evaluation mode.

    Raises:
        ValueError: a file is missing, damaged, changed since, of another format or does not fit its config, or a weight
            is not a finite number of the model's type; the message names the file.
    """
    config = _read_config(folder)
    try:
        # No memory is taken before the weights themselves have said how large they are.
        with torch.device("meta"):
            model = EquiVAE(config.spec, config.model)
        config.preprocessing.check(config.spec)
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG}: {error}") from error
    path = folder / _WEIGHTS
    try:
        tensors = load_file(path, device=str(device))
        expected = {f"model.{name}": (value.dtype, value.shape) for name, value in model.state_dict().items()}
        expected["class_representations"] = torch.float32, torch.Size((model.num_codes, model.r_dim))
        expected["class_counts"] = torch.float32, torch.Size((config.spec.num_classes,))
        _check_tensors(tensors, expected)
        if _sha256(path) != config.weights_sha256:
            raise ValueError(f"its SHA-256 is not the one in {_CONFIG}")
        _check_finite(tensors)
    except FileNotFoundError as error:
        raise ValueError(f"no model in {folder}: {_WEIGHTS} is missing") from error
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(f"{path} is damaged or does not fit its config: {_one_line(error)}") from error
    state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    model.load_state_dict(state, assign=True)
    model.to(device).eval()
    return Artifact(
        model=model,
        class_representations=tensors["class_representations"],
        class_counts=tensors["class_counts"],
        provenance=config.provenance,
        preprocessing=config.preprocessing,
        prune=config.prune,
        loss=config.loss,
        val_bounds=config.val_bounds,
    )


def _read_config(folder: Path) -> _Config:
    path = folder / _CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict) and raw.get("format") != FORMAT:
            raise _FormatError(f"{path}: {_other_format(raw.get('format'))}")
        return _Config.model_validate(unseal(raw))
    except FileNotFoundError as error:
        raise ValueError(f"no model in {folder}: {_CONFIG} is missing") from error
    except _FormatError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged: {_one_line(error)}") from error


class _FormatError(ValueError):
    """Of another version."""


def _other_format(found: Any) -> str:
    if type(found) is not int:
        return f"damaged, its format is {found!r}"
    if found < FORMAT:
        return f"format {found}, of an older version; this version reads {FORMAT}: train the model again"
    return f"format {found}, of a newer version; this version reads {FORMAT}: install the version that wrote it"


def _check_tensors(tensors: dict[str, Tensor], expected: dict[str, tuple[torch.dtype, torch.Size]]) -> None:
    for name, (dtype, shape) in expected.items():
        if name not in tensors:
            raise ValueError(f"{name} is missing")
        found = tensors[name]
        if (found.dtype, found.shape) != (dtype, shape):
            raise ValueError(f"{name} is {_described(found.dtype, found.shape)}, expected {_described(dtype, shape)}")
    if unknown := tensors.keys() - expected.keys():
        raise ValueError(f"{min(unknown)} is no part of the model")


def _described(dtype: torch.dtype, shape: torch.Size) -> str:
    return f"{str(dtype).removeprefix('torch.')} {list(shape)}"


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
