"""Percentages as text."""

from __future__ import annotations


def percent(value: float, digits: int = 2, unit: str = " %") -> str:
    """A percentage; it is written as 0 or 100 only where it is that, else as `< 0.01 %`, `> 99.99 %`."""
    text, least = f"{value:.{digits}f}", 10.0**-digits
    if value > 0 and float(text) == 0:
        text = f"< {least:.{digits}f}"
    elif value < 100 and float(text) >= 100:
        text = f"> {100 - least:.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") + unit
