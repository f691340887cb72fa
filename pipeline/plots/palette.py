"""Colours and marks, the same in PNG files, in the report and on the page of `ie compare`."""

from __future__ import annotations

import re
from typing import Literal

THEME: dict[str, tuple[str, str]] = {
    "paper": ("#fcfbf9", "#141413"),
    "panel": ("#ffffff", "#1c1c1a"),
    "ink": ("#1d1c1a", "#eceae4"),
    "quiet": ("#5c5953", "#a8a49b"),
    "line": ("#e2ded6", "#35332f"),
    "faint": ("#f1eee8", "#242320"),
    "r": ("#1d4ed8", "#8fb2ff"),
    "r-wash": ("#e8eefc", "#1c2640"),
    "v": ("#b23c05", "#ff9d66"),
    "good": ("#15653a", "#7fd6a2"),
    "bad": ("#a3360a", "#ff9e64"),
}
"""CSS custom properties by name: on light paper, on dark."""

COLOURS: tuple[tuple[str, str], ...] = (
    ("#2f55d4", "#8ea8ff"), ("#c2410c", "#ff9a5c"), ("#0f766e", "#45cdbb"), ("#b0207f", "#f58ad6"),
    ("#8a6100", "#e2bd49"), ("#0273a8", "#5cc3f5"), ("#7c3aed", "#b79bff"), ("#217a35", "#6fdc8c"),
    ("#c01f46", "#ff8197"), ("#6b655c", "#c7c2bb"),
)  # fmt: skip
"""Of classes, methods and runs: on light paper, on dark; at least 4.5:1 against it. CSS: --c0 to --c9."""

_MARKS: tuple[tuple[str, str], ...] = (
    ("o", "M12 8A4 4 0 1 1 4 8A4 4 0 1 1 12 8Z"),
    ("s", "M4.3 4.3H11.7V11.7H4.3Z"),
    ("D", "M8 2.6L12 8L8 13.4L4 8Z"),
    ("^", "M8 3L13.4 12.4H2.6Z"),
    ("v", "M8 13L2.6 3.6H13.4Z"),
    ("P", "M6.2 3H9.8V6.2H13V9.8H9.8V13H6.2V9.8H3V6.2H6.2Z"),
    ("X", "M5.4 2.9L8 5.5L10.6 2.9L13.1 5.4L10.5 8L13.1 10.6L10.6 13.1L8 10.5L5.4 13.1L2.9 10.6L5.5 8L2.9 5.4Z"),
)
"""matplotlib's name of a marker, and its outline in a box of 16."""


def colour(index: int) -> str:
    """Of a class, method or run, on light paper."""
    return COLOURS[index % len(COLOURS)][0]


def marker(index: int) -> str:
    """matplotlib's name; with `colour` the first 70 differ in one or the other."""
    return _mark(index)[0]


def mark_path(index: int) -> str:
    """The same as an SVG path in a box of 16."""
    return _mark(index)[1]


def _mark(index: int) -> tuple[str, str]:
    return _MARKS[(index + index // len(COLOURS)) % len(_MARKS)]


def custom_properties() -> str:
    """CSS that names every colour, light and dark."""
    named = THEME | {f"c{i}": pair for i, pair in enumerate(COLOURS)}

    def rule(side: Literal[0, 1], scheme: str) -> str:
        colours = " ".join(f"--{name}: {pair[side]};" for name, pair in named.items())
        return f":root {{ {colours} color-scheme: {scheme}; }}"

    return f"{rule(0, 'light')}\n@media (prefers-color-scheme: dark) {{ {rule(1, 'dark')} }}\n"


def themed(svg: str) -> str:
    """An SVG drawn in the light colours, so that it follows the page's scheme."""
    names = {light: name for name, (light, _) in THEME.items()}
    names |= {light: f"c{i}" for i, (light, _) in enumerate(COLOURS)}
    return re.sub(r"#[0-9a-f]{6}\b", lambda found: f"var(--{names[found[0]]})" if found[0] in names else found[0], svg)
