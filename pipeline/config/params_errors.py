"""What is wrong with values for a typed model, in words: path, value and what is allowed."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from pipeline.config.plain_values import dotted_path


def missing_keys(raw: dict[str, Any], model: type[BaseModel], path: str) -> Iterator[str]:
    """Keys that a library's user may leave to their defaults: params.yaml says all that a run is of."""
    for name, field in model.model_fields.items():
        if name not in raw:
            yield path + name
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from missing_keys(raw[name], field.annotation, f"{path}{name}.")


def described(error: ValidationError, params: type[BaseModel]) -> list[str]:
    """One phrase per mistake in values for `params`: path, value, what is allowed."""
    by_path: dict[str, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        # The members of a union (int | float | 'all') report one error each, under a made-up last element.
        location = [part for part in item["loc"] if not _is_union_member(part)]
        by_path.setdefault(dotted_path(location), []).append({**item, "loc": location})
    phrases = []
    for path, items in by_path.items():
        first = items[0]
        if first["type"] == "extra_forbidden":
            phrases.append(f"{path}: unknown key{_nearest(first['loc'], params)}")
        elif first["type"] == "missing":
            phrases.append(f"{path}: missing")
        elif first["type"] == "value_error":
            where = f"{path}: " if path else ""
            phrases.append(where + str(first["ctx"]["error"]))
        else:
            allowed = " or ".join(dict.fromkeys(_allowed(item) for item in items))
            phrases.append(f"{path} is {json.dumps(first['input'])}; allowed: {allowed}")
    return phrases


_UNION_MEMBERS = ("constrained-int", "constrained-float", "literal[", "tuple[", "bool", "int", "float", "str", "none")


def _is_union_member(part: int | str) -> bool:
    return isinstance(part, str) and part.startswith(_UNION_MEMBERS)


def _allowed(item: dict[str, Any]) -> str:
    message: str = item["msg"].removeprefix("Input should be ")
    return message.removeprefix("a valid ").removeprefix("an ")


def _nearest(location: list[int | str], params: type[BaseModel]) -> str:
    """Names the keys that are known where an unknown one stands, the nearest first."""
    model: Any = params
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation if isinstance(part, str) else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return ""
        model = annotation
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{hint} (allowed: {', '.join(known)})"
