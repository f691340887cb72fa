"""All that one training run is, as plain values."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from ie_model.config import ModelConfig, ObjectiveConfig
from pipeline.data.shards.reading import Reading


class Job(BaseModel):
    """All that one training run depends on; travels to the workers as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    method: str
    """Name of the method in tables, see `pipeline.config.methods`."""

    shards: str
    """Absolute folder of the shards and their manifest."""

    reading: Reading
    model: ModelConfig
    objective: ObjectiveConfig
    label_count: int | float | str
    label_seed: int
    epochs: int
    steps_per_epoch: int
    """One pass over the data or several; see `pipeline.training.schedule`."""

    batch_size: int
    learning_rate: float
    warmup: float
    seed: int
    device: str
    precision: Literal["float32", "bfloat16"]
    compile: bool
    threads: int
    evaluation_batch_size: int
    checkpoint_every_s: float
    """Has no effect on the numbers, and is no part of the fingerprint."""
