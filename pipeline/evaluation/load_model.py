"""Reading a trained model's folder."""

from __future__ import annotations

from pathlib import Path

import torch

from ie_model.artifact import Artifact, load_artifact
from pipeline.errors import DataError, ResourceError


def read_model(folder: Path, device: str) -> Artifact:
    """The artifact in a folder.

    Raises:
        DataError: it is missing or damaged.
        ResourceError: `device` is cuda and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device is cuda, and this machine has no GPU that PyTorch can use; set it to cpu")
    try:
        return load_artifact(folder, device)
    except ValueError as error:
        raise DataError(str(error)) from error
