"""Training state on disk: weights, averaged weights, optimizer and counters. Safetensors and JSON, no pickle.

Noise and order are functions of (seed, step, rank), so there is no generator state to save: a run resumed from its
last checkpoint goes on with the same numbers as one that was never interrupted.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import DataError

FORMAT = 1


@dataclass
class Progress:
    """Where a run stands."""

    fingerprint: str
    epoch: int = 0
    """Epochs completed."""

    step: int = 0
    """Steps completed."""

    seconds: float = 0.0
    """Time spent in training and validation, over all attempts."""

    history: list[dict[str, float]] = field(default_factory=list)
    """One row per completed epoch."""


def save_checkpoint(
    folder: Path, progress: Progress, model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer
) -> None:
    """Writes into an existing folder; whoever publishes the folder makes it appear as a whole."""
    save_file(_contiguous(model.state_dict()), folder / "model.safetensors")
    if averaged is not None:
        save_file(_contiguous(averaged.state_dict()), folder / "averaged.safetensors")
    save_file(_optimizer_tensors(optimizer), folder / "optimizer.safetensors")
    state = {"format": FORMAT, **asdict(progress)}
    (folder / "progress.json").write_text(json.dumps(state, sort_keys=True, allow_nan=False))


def load_checkpoint(
    folder: Path, fingerprint: str, model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer
) -> Progress:
    """Restores all of it in place.

    Raises:
        DataError: the checkpoint is damaged, of another format, or belongs to a run with another fingerprint.
    """
    try:
        state: dict[str, Any] = json.loads((folder / "progress.json").read_text())
        if state.pop("format") != FORMAT:
            raise DataError(f"checkpoint {folder} was written by another version; remove the folder to start again")
        progress = Progress(**state)
        if progress.fingerprint != fingerprint:
            raise DataError(
                f"checkpoint {folder} belongs to run {progress.fingerprint}, not to {fingerprint}: "
                "params, data or code have changed; remove the folder to start again"
            )
        model.load_state_dict(load_file(folder / "model.safetensors"))
        if averaged is not None:
            averaged.load_state_dict(load_file(folder / "averaged.safetensors"))
        _restore_optimizer(optimizer, load_file(folder / "optimizer.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"checkpoint {folder} is damaged: {' '.join(str(error).split())[:300]}") from error
    return progress


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state = optimizer.state_dict()["state"]
    return _contiguous({f"{i}.{name}": value for i, entry in state.items() for name, value in entry.items()})


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = value
    if state and len(state) != sum(len(group["params"]) for group in optimizer.param_groups):
        raise ValueError(f"optimizer state of {len(state)} parameters")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
