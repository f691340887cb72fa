"""Prints docs/params.md from the typed models: `python docs/params_table.py > docs/params.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from pipeline.params import Params

_HEADER = """# Parameters

Every key of `params.yaml`, with the value it is shipped with. Unknown keys, wrong types and impossible combinations are
refused before any work starts. Change one for one run with `dvc exp run -S section.key=value`. Made by
`docs/params_table.py`.
"""


def rows(model: type[BaseModel], values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """A table row per key, nested sections by their dotted path."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from rows(annotation, values[name], f"{prefix}{name}.")
            continue
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        value = yaml.safe_dump(values[name], default_flow_style=True).splitlines()[0]
        yield f"| `{prefix}{name}` | `{value}` | {text} |"


def table() -> str:
    """The page."""
    values = yaml.safe_load((Path(__file__).parent.parent / "params.yaml").read_text())
    parts = [_HEADER]
    for name, field in Params.model_fields.items():
        section = field.annotation
        assert isinstance(section, type)
        assert issubclass(section, BaseModel)
        summary = " ".join((section.__doc__ or "").split())
        parts.append(f"\n## {name}\n\n{summary}\n\n| key | value | meaning |\n|---|---|---|\n")
        parts.append("\n".join(rows(section, values[name])) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    print(table(), end="")
