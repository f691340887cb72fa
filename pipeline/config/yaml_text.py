"""YAML 1.2, as DVC reads and writes it: `1e-05` and `2e-3` are numbers, `on` and `1:30` are text, `010` is ten."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from pipeline.errors import ParamsError

# What the parser raises for text that it does not take: the last ones for tags on other nodes, and for deep nesting.
_NOT_YAML = (
    YAMLError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    NotImplementedError,
    RecursionError,
)


_MOST_BYTES = 10_000_000


def read_text(path: Path) -> str:
    """A file of YAML as text.

    Raises:
        ParamsError: it is no file, far too large, or not in UTF-8; names it.
        FileNotFoundError: it is missing.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited on
            raise ParamsError(f"{path} cannot be read: not a file")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise ParamsError(f"{path} cannot be read: {size / 1e6:,.0f} MB; at most {_MOST_BYTES / 1e6:.0f} MB")
        return path.read_text()
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error


def parse_yaml(text: str, name: str) -> Any:
    """Plain values of a YAML document.

    Args:
        name: of the file, for messages.

    Raises:
        ParamsError: it is not YAML, or a section holds a key twice; names the line, and the key.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except _NOT_YAML as error:
        raise _not_yaml(error, name) from error


def edit_yaml(text: str, name: str) -> Any:
    """As `parse_yaml`, with comments, order and layout, which `to_yaml` writes back."""
    try:
        return _round_trip().load(text)
    except _NOT_YAML as error:
        raise _not_yaml(error, name) from error


def to_yaml(value: Any, *, flow: bool | None = False) -> str:
    """A YAML document of plain values or of what `edit_yaml` read.

    Args:
        flow: sections in braces and lists in brackets; None: as they were read.
    """
    writer, text = _round_trip(flow), io.StringIO()
    writer.dump(value, text)
    return text.getvalue().removesuffix("...\n")


def _round_trip(flow: bool | None = None) -> Any:
    editor = YAML()
    editor.default_flow_style = flow
    editor.preserve_quotes = True
    editor.brace_single_entry_mapping_in_flow_sequence = True
    editor.width = 10_000
    editor.indent(mapping=2, sequence=4, offset=2)
    # By default a null is written as nothing at all.
    editor.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return editor


def _not_yaml(error: Exception, name: str) -> ParamsError:
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, RecursionError):
        return ParamsError(f"{name} is nested too deeply")
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        where, problem = f"line {error.problem_mark.line + 1}", error.problem or error.context
        if isinstance(error, DuplicateKeyError):
            return ParamsError(f"{name}, {where}: {problem}; take one of them out")
        text = f"{where}, column {error.problem_mark.column + 1}: {problem}"
    return ParamsError(f"{name} is not YAML: {text}")
