"""What YAML can hold and no parameter is: circles, endless nesting, numbers beyond any machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.errors import ParamsError

_MOST_VALUES = 10_000
_DEEPEST = 20
_LARGEST = 2**53
_MOST_DIGITS = 40


def check_values(raw: dict[Any, Any], name: str) -> None:
    """What is refused before anything takes memory for it. Aliases can be circles, or stand for more values than there
    is memory.

    Raises:
        ParamsError: too many values, too deep, a number of too many digits, or text that is not Unicode or holds NUL.
    """
    for location, value in _values(raw, name):
        if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
            raise ParamsError(f"{name}: {dotted_path(location)} is a number of more than {_MOST_DIGITS} digits")
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            shown = ascii(value)[:80]
            raise ParamsError(f"{name}: {dotted_path(location)} is {shown}; allowed: Unicode without NUL")


def check_size(raw: dict[Any, Any], name: str) -> None:
    """That every whole number is one that floats and 64-bit integers can hold.

    Raises:
        ParamsError: one is larger.
    """
    for location, value in _values(raw, name):
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise ParamsError(f"{name}: {dotted_path(location)} is {value}; allowed: at most {_LARGEST}")


def dotted_path(location: list[int | str]) -> str:
    """A key's path as messages show it: `sweep.seeds[1]`."""
    text = ""
    for part in location:
        name = f"[{part}]" if isinstance(part, int) else part if part.isprintable() else ascii(part)[1:-1]
        text += f".{name}" if text and isinstance(part, str) else name
    return text


def _values(raw: dict[Any, Any], name: str) -> Iterator[tuple[list[int | str], Any]]:
    left: list[tuple[list[int | str], Any]] = [([], raw)]
    count = 0
    while left:
        location, value = left.pop()
        count += 1
        if count > _MOST_VALUES or len(location) > _DEEPEST:
            what = f"{_MOST_VALUES} values" if count > _MOST_VALUES else f"{_DEEPEST} levels"
            raise ParamsError(f"{name} holds more than {what}, by aliases or nesting")
        yield location, value
        if isinstance(value, dict):
            left += [([*location, key if isinstance(key, str) else repr(key)[:40]], x) for key, x in value.items()]
        elif isinstance(value, list):
            left += [([*location, i], x) for i, x in enumerate(value)]
