"""A trained model on disk: weights (safetensors), config (JSON), class representations. No pickle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ie_model.config import ModelConfig
from ie_model.model import EquiVAE
from ie_model.spec import DataSpec

FORMAT = 3
_WEIGHTS = "weights.safetensors"
_CONFIG = "config.json"


@dataclass(frozen=True)
class Artifact:
    """A model with what it needs to be used: the r_y of its labelled points, and where it came from."""

    model: EquiVAE
    class_representations: Tensor
    """r_y, means over all labelled points, `[K, R]`; of M2 the unit vectors, of the plain VAE one row."""

    class_counts: Tensor
    """Labelled points behind each r_y, `[K]`."""

    provenance: dict[str, Any]
    """Free JSON: method, fingerprint, data checksums, versions."""


def save_artifact(folder: Path, artifact: Artifact) -> None:
    """Writes the two files into an existing empty folder; the caller makes the folder appear atomically."""
    tensors = {f"model.{name}": value.contiguous() for name, value in artifact.model.state_dict().items()}
    tensors["class_representations"] = artifact.class_representations.contiguous()
    tensors["class_counts"] = artifact.class_counts.contiguous()
    save_file({name: value.cpu() for name, value in tensors.items()}, folder / _WEIGHTS)
    config = {
        "format": FORMAT,
        "spec": artifact.model.spec.model_dump(mode="json"),
        "model": artifact.model.config.model_dump(mode="json"),
        "provenance": artifact.provenance,
    }
    (folder / _CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n")


def load_artifact(folder: Path, device: torch.device | str = "cpu") -> Artifact:
    """Reads a model that `save_artifact` wrote, in evaluation mode.

    Raises:
        ValueError: a file is missing, damaged, of another format or does not fit its config; the message names it.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text())
        if config.get("format") != FORMAT:
            raise ValueError(f"{folder / _CONFIG}: format {config.get('format')!r}, this version reads {FORMAT}")
        spec = DataSpec.model_validate(config["spec"])
        # No memory is taken before the weights themselves have said how large they are.
        with torch.device("meta"):
            model = _model(folder, spec, ModelConfig.model_validate(config["model"]))
        provenance = config["provenance"]
    except FileNotFoundError as error:
        raise ValueError(f"no model in {folder}: {_CONFIG} is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, KeyError, AttributeError) as error:
        raise ValueError(f"{folder / _CONFIG} is damaged: {' '.join(str(error).split())}") from error
    try:
        tensors = load_file(folder / _WEIGHTS, device=str(device))
        state = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
        model.load_state_dict(state, assign=True)
        representations, counts = tensors["class_representations"], tensors["class_counts"]
        _check_shape("class_representations", representations, (model.num_codes, model.r_dim))
        _check_shape("class_counts", counts, (spec.num_classes,))
    except FileNotFoundError as error:
        raise ValueError(f"no model in {folder}: {_WEIGHTS} is missing") from error
    except (SafetensorError, RuntimeError, KeyError, OSError) as error:
        raise ValueError(f"{folder / _WEIGHTS} is damaged or does not fit its config: {_one_line(error)}") from error
    model.to(device).eval()
    return Artifact(model, representations, counts, provenance)


def _model(folder: Path, spec: DataSpec, config: ModelConfig) -> EquiVAE:
    try:
        return EquiVAE(spec, config)
    except ValueError as error:
        raise ValueError(f"{folder / _CONFIG}: {error}") from error


def _check_shape(name: str, tensor: Tensor, expected: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != expected:
        raise RuntimeError(f"{name} has shape {list(tensor.shape)}, expected {list(expected)}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
