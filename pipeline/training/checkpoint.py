"""Training state on disk: weights, averaged weights, optimizer and counters. Safetensors and JSON, no pickle.

Noise and order are functions of (seed, step, rank), so there is no generator state to save: a run resumed from its
last checkpoint gives the same numbers as an uninterrupted one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ie_model.checksums import seal, unseal
from pipeline.errors import DataError
from pipeline.utils.files import sha256_file

FORMAT = 3
_PROGRESS = "progress.json"


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

    sums: dict[str, list[float]] = field(default_factory=dict)
    """Of the epoch under way: what its steps logged, summed over them, one value a rank."""

    val_bounds: list[float] = field(default_factory=list)
    """After the last epoch: see `ie_model.artifact.Artifact`."""


def save_checkpoint(
    folder: Path, progress: Progress, model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer
) -> None:
    """Writes into an existing folder; the caller makes the folder appear as a whole."""
    save_file(_contiguous(model.state_dict()), folder / "model.safetensors")
    if averaged is not None:
        save_file(_contiguous(averaged.state_dict()), folder / "averaged.safetensors")
    save_file(_optimizer_tensors(optimizer), folder / "optimizer.safetensors")
    files = {path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))}
    state = seal({"format": FORMAT, "files": files, "progress": asdict(progress)})
    (folder / _PROGRESS).write_text(json.dumps(state, sort_keys=True, allow_nan=False))


def read_progress(folder: Path) -> Progress:
    """Where the run of a checkpoint stands.

    Raises:
        DataError: the record is missing, damaged or of another format.
    """
    return _read(folder)[0]


def load_checkpoint(
    folder: Path, fingerprint: str, model: nn.Module, averaged: nn.Module | None, optimizer: torch.optim.Optimizer
) -> Progress:
    """Restores all of it in place.

    Raises:
        DataError: the checkpoint is damaged, of another format, or belongs to a run with another fingerprint.
    """
    progress, files = _read(folder)
    if progress.fingerprint != fingerprint:
        raise DataError(
            f"checkpoint {folder} belongs to run {progress.fingerprint}, not to {fingerprint}: "
            "params, data or code have changed; remove the folder to start again"
        )
    try:
        for name, checksum in files.items():
            if sha256_file(folder / name) != checksum:
                raise ValueError(f"{name} is not the file that was written, by its SHA-256")
        model.load_state_dict(load_file(folder / "model.safetensors"))
        if averaged is not None:
            averaged.load_state_dict(load_file(folder / "averaged.safetensors"))
        _restore_optimizer(optimizer, load_file(folder / "optimizer.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise _damaged(folder, error) from error
    return progress


def _read(folder: Path) -> tuple[Progress, dict[str, str]]:
    """Where the run stands, and the SHA-256 of each file beside the record."""
    try:
        raw = json.loads((folder / _PROGRESS).read_text())
        if isinstance(raw, dict) and raw.get("format", FORMAT) != FORMAT:
            raise DataError(f"checkpoint {folder} was written by another version; remove the folder to start again")
        state = unseal(raw)
        return Progress(**state["progress"]), state["files"]
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> DataError:
    return DataError(f"checkpoint {folder} is damaged: {' '.join(str(error).split())[:300]}")


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
