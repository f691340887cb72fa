"""Where the project keeps what its stages make."""

from __future__ import annotations

from pathlib import Path

from pipeline.config.params import Params


def shards_folder(params: Params, project: Path) -> Path:
    """Where `shard` writes and everything else reads."""
    return (project / "data" / "shards" / params.data.source).resolve()
