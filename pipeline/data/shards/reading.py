"""How shards are read: the section `reader` of params.yaml, and the settings of every reader."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Reading(BaseModel):
    """How training reads shards. A faultless run's numbers depend on `mode` and, streaming, on `slice_kb` alone."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    mode: Literal["auto", "memory", "stream"]
    """`memory`: decoded once and kept. `stream`: read from the tars again each epoch. `auto`: memory where train and
    val, decoded, take at most memory_mb."""

    memory_mb: int = Field(ge=1)
    """Of each rank, MB."""

    loader_workers: int = Field(ge=0, le=64)
    """Processes of each rank that read and decode a stream."""

    slice_kb: int = Field(ge=1, le=1_000_000)
    """About as much of a shard is read at once, and stays in order; a batch is of as many slices as it has points."""

    cache: str = Field(min_length=1)
    """Folder on each host, absolute or relative to the project, for shards of an object store (`s3://`)."""

    cache_mb: int = Field(ge=0)
    """Size limit of the cache, MB; the shards read longest ago go first."""

    retries: int = Field(ge=0, le=100)
    """Attempts after the first, with waits that double, before a read from a store is an error."""

    faults: Literal["fatal", "skip"]
    """What damage in the shards does: `fatal` ends the run with its shard and key, `skip` leaves the sample out and
    counts it in the metrics."""


ONCE = Reading(
    mode="stream",
    memory_mb=1,
    loader_workers=0,
    slice_kb=1024,
    cache=".",
    cache_mb=0,
    retries=5,
    faults="fatal",
)
"""For what is read once, in its order: no copies, no processes."""
