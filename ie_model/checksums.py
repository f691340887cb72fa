"""Sealed records: JSON objects that carry the SHA-256 of their own content.

The checksum is of the JSON's values, not of its bytes: line endings, indentation and the order of keys may change.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

SEAL = "sha256"


def seal(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its checksum under `sha256`.

    Raises:
        ValueError: it holds a number that is not finite.
    """
    return record | {SEAL: _digest(record)}


def unseal(record: Any) -> dict[str, Any]:
    """A record as it was sealed, without the checksum.

    Raises:
        ValueError: no sealed record, or its content is not the one that was sealed.
    """
    if not isinstance(record, dict):
        raise ValueError(f"an object was expected, found {type(record).__name__}")
    content = {key: value for key, value in record.items() if key != SEAL}
    if SEAL not in record:
        raise ValueError(f"it has no checksum ({SEAL})")
    try:
        found = _digest(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if record[SEAL] != found:
        raise ValueError("its content does not match its checksum; it was changed after it was written")
    return content


def _digest(content: dict[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
