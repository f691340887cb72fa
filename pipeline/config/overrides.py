"""Overlays: a few parameters with other values, over params.yaml. Presets are overlays; a search ends in one."""

from __future__ import annotations

import json
import shlex
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.params import parse_params
from pipeline.config.yaml_text import edit_yaml, parse_yaml, read_text, to_yaml
from pipeline.errors import DataError, ParamsError
from pipeline.utils.files import atomic_file

_PRESETS = "presets"


def merged(raw: dict[str, Any], changes: dict[str, Any], where: str = "") -> dict[str, Any]:
    """A copy of params with an overlay's values in it; neither is changed.

    Raises:
        ParamsError: the overlay names a section or key that params lack.
    """
    result = dict(raw)
    for key, value in changes.items():
        path = f"{where}.{key}" if where else str(key)
        if key not in raw:
            raise ParamsError(f"{path}: unknown key (allowed: {', '.join(map(str, raw))})")
        if isinstance(raw[key], dict):
            if not isinstance(value, dict):
                raise ParamsError(f"{path} is a section; found {json.dumps(value, default=str)}")
            value = merged(raw[key], value, path)
        result[key] = value
    return result


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted path as sections in sections."""
    result: dict[str, Any] = {}
    for path, value in values.items():
        *parents, last = path.split(".")
        section = result
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    return result


def dotted(changes: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The reverse: path and value of each parameter of an overlay."""
    for key, value in changes.items():
        if isinstance(value, dict):
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def set_params(changes: dict[str, Any]) -> str:
    """An overlay as arguments of `dvc exp run`: `-S train.epochs=3 -S ...`, without a space inside a value."""
    texts = [f"{path}={_as_hydra(value)}" for path, value in dotted(changes)]
    # Quoted only where a shell would need it: the words of `$(ie preset NAME)` would keep their quotes.
    return " ".join(f"-S {text if set(text) <= _PLAIN else shlex.quote(text)}" for text in texts)


_PLAIN = set(string.ascii_letters + string.digits + "._-=+,:[]/")


def _as_hydra(value: Any) -> str:
    """How Hydra, which reads these arguments for DVC, writes a value."""
    if isinstance(value, list):
        return f"[{','.join(map(_as_hydra, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


def preset_names(project: Path) -> dict[str, str]:
    """Presets by name, with the first line of each file, its purpose."""
    found = {}
    for path in sorted((project / _PRESETS).glob("*.yaml")):
        found[path.stem] = path.read_text().splitlines()[0].removeprefix("#").strip()
    return found


def read_overlay(name: str, project: Path) -> dict[str, Any]:
    """The overlay of a preset, or of a YAML file (`results/search/best.yaml`).

    Raises:
        DataError: there is no such preset or file.
        ParamsError: it is not an overlay.
    """
    path = project / _PRESETS / f"{name}.yaml"
    if not path.is_file():
        path = Path(name)
        if path.suffix not in (".yaml", ".yml") or not path.is_file():
            raise DataError(f"no preset {name!r} and no YAML file of that name; presets: {_listed(project)}")
    raw = parse_yaml(_text(path), str(path))
    if not isinstance(raw, dict) or not raw:
        raise ParamsError(f"{path} must hold sections of params.yaml, found {type(raw).__name__}")
    return raw


def check_overlay(changes: dict[str, Any], params_file: Path, name: str) -> None:
    """That params.yaml with the overlay is allowed as a whole. Raises ParamsError, whose message names the overlay."""
    raw = parse_yaml(_text(params_file), str(params_file))
    if not isinstance(raw, dict):
        raise ParamsError(f"{params_file} must hold sections, found {type(raw).__name__}")
    try:
        changed = merged(raw, changes)
    except ParamsError as error:
        raise ParamsError(f"{name}: {error}") from error
    parse_params(changed, f"{params_file.name} with {name}")


def apply_overlay(changes: dict[str, Any], params_file: Path) -> None:
    """Writes an overlay's values into params.yaml; its comments and order stay."""
    document = edit_yaml(_text(params_file), str(params_file))
    _overwrite(document, changes)
    with atomic_file(params_file) as part:
        part.write_text(to_yaml(document, flow=None))


def _text(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise ParamsError(f"{path} cannot be read: {error}") from error


def _overwrite(target: Any, changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            _overwrite(target[key], value)
        elif isinstance(value, list) and isinstance(target[key], list):
            target[key][:] = value  # in place: it keeps its layout, on one line or on many
        else:
            target[key] = value


def _listed(project: Path) -> str:
    return ", ".join(preset_names(project)) or "none"
