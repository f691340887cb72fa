"""What to say to who gives a parameter as an option of a command: `ie train --epochs 3`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from pipeline.config.params import Params


def option_hint(option: str, command: str, arguments: Sequence[str]) -> str:
    """Where the parameter is set that an option names; a parameter of the command's own section first.

    Args:
        option: as given, `--epochs`.
        command: of `ie`.
        arguments: of the command line, which the option's value is taken from.
    """
    name = option.lstrip("-").replace("-", "_")
    paths = [path for path in _paths(Params) if f".{path}".endswith(f".{name}")]
    paths.sort(key=lambda path: not path.startswith(f"{command}."))
    if not paths:
        return "parameters are set in params.yaml, or for one run by `dvc exp run -S SECTION.NAME=VALUE`"
    among = f" (there are also {', '.join(paths[1:])})" if paths[1:] else ""
    given = f"{paths[0]}={_value(option, arguments)}"
    return f"{paths[0]} is set in params.yaml, or for one run by `dvc exp run -S {given}`{among}"


def _value(option: str, arguments: Sequence[str]) -> str:
    for argument, following in zip(arguments, [*arguments[1:], "-"], strict=True):
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
        if argument == option and not following.startswith("-"):
            return following
    return "VALUE"


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _paths(annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
