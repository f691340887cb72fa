"""A metric: its name with the unit in it, and the words that go with it wherever it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

Better = Literal["lower", "higher", ""]

BASELINES = {"1nn": "1-NN", "logistic": "logistic regression"}
"""Classifiers on raw values: part of a name, and words."""

SUPERVISED = "supervised, same encoder"
WITHOUT = "M2 and plain VAE, same networks"
"""Controls of several metrics, in words."""

PARTS: dict[str, dict[str, str]] = {
    "baseline": BASELINES,
    "probe": {"linear": "linear probe", "mlp": "MLP probe"},
    "output": {
        "rotation_sin": "rotation, sine",
        "rotation_cos": "rotation, cosine",
        "shift_x": "shift along x",
        "shift_y": "shift along y",
        "scale": "scale",
        "shear": "shear",
    },
    "end": {"low": "low end", "high": "high end"},
    "z": {"v": "v", "pixels": "pixels (the control)"},
    "k": {"1": "1", "5": "5"},
    "seen": {"old": "the old class", "neither": "neither class"},
    "feature": {"slant": "slant", "thickness": "thickness", "width": "width", "height": "height"},
    "instead": {"reconstruction": "its reconstruction (the ceiling)", "other": "another example's swap (the floor)"},
}
"""What a part of a name in braces may be, and its words; any other part in braces is a count."""

_UNITS = {"_pct": ("%", 2), "_nats": ("nats", 2), "_bits_per_dim": ("bits/dim", 4)}
"""End of a name -> unit, and digits after the point."""


@dataclass(frozen=True)
class Metric:
    """A metric, or those whose names differ in the parts in braces."""

    name: str
    group: str
    better: Better
    label: str
    meaning: str
    """One sentence, in Markdown."""

    control: str = ""
    """What the value is to be read against, in words."""

    beside: tuple[tuple[str, str], ...] = ()
    """Label and name of metrics of the same model to read it against."""

    caution: str = ""
    """What fools it, in Markdown."""

    short: str = ""
    """Label of a narrow column; the label itself where it is empty."""

    decimals: int | None = None
    """Digits after the point, where its unit alone does not decide them."""

    @property
    def unit(self) -> str:
        """`%`, `nats`, `bits/dim`, or empty."""
        return next((unit for end, (unit, _) in _UNITS.items() if self.name.endswith(end)), "")

    @property
    def digits(self) -> int:
        """Digits after the point."""
        if self.decimals is not None:
            return self.decimals
        return next((digits for end, (_, digits) in _UNITS.items() if self.name.endswith(end)), 3)

    @property
    def heading(self) -> str:
        """Label of a narrow column, with the unit."""
        return f"{self.short or self.label}{f', {self.unit}' if self.unit else ''}"

    @property
    def column(self) -> str:
        """Column of history.csv: the name without its unit."""
        return next((self.name.removesuffix(end) for end in _UNITS if self.name.endswith(end)), self.name)

    def matching(self, name: str) -> Metric | None:
        """The metric of that name: this one, or one of those that the parts in braces stand for."""
        found = re.fullmatch(re.sub(r"{(\w+)}", _expression, self.name), name)
        if found is None or "{" not in self.name:
            return self if found else None
        words = {part: PARTS.get(part, {}).get(text, text) for part, text in found.groupdict().items()}
        beside = tuple((label, control.format(**found.groupdict())) for label, control in self.beside)
        return replace(self, name=name, label=self.label.format(**words), beside=beside)


def _expression(part: re.Match[str]) -> str:
    return f"(?P<{part[1]}>{'|'.join(PARTS.get(part[1], [r'[0-9]+']))})"
