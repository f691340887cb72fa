"""Changing a record that carries its own checksum, as another version or a careful hand would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ie_model.checksums import SEAL, seal


def edit_sealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes the content of a JSON file and gives it the checksum of the new content."""
    record = json.loads(path.read_text())
    del record[SEAL]
    change(record)
    path.write_text(json.dumps(seal(record)))
