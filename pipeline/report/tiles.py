"""Headline numbers, each beside its control, in words that say whether it counts.

A v that carries nothing puts its leakage at chance and lets every class swap be recognised: a number that failure gives
too is not shown as a success.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pipeline.report.inputs import Inputs
from pipeline.report.metric_text import number, sweep_controls
from pipeline.results.metric import BASELINES

Pairs = list[tuple[str, str]]
Level = Literal["good", "weak", "void"]
"""`void`: a number as it should be for a reason that is a failure; `weak`: not as it should be."""

_CANDIDATES = 100
"""Among which the v of a swapped example is searched."""


@dataclass(frozen=True)
class Style:
    """What v carries."""

    level: Literal["used", "weak", "dead", "unknown"]
    text: str


@dataclass(frozen=True)
class Tile:
    """A headline number beside what it is to be read against."""

    title: str
    number: str
    about: str
    level: Level
    beside: Pairs
    code: Literal["r", "v", ""]
    """Whichever it speaks of."""


def style(values: dict[str, float]) -> Style:
    """Whether v carries anything, by its KL, a bound on its information: it distinguishes at most e^KL examples."""
    if "active_units" not in values or "kl_nats" not in values:
        return Style("unknown", "not measured")
    kl, active = values["kl_nats"], values["active_units"]
    if active == 0 or kl <= 0:
        return Style("dead", "v carries nothing: no unit is active, all examples of a class are decoded alike")
    if kl < math.log(_CANDIDATES):
        apart = math.exp(kl)
        few = f"distinguish at most {apart:.0f} examples" if apart >= 2 else "do not distinguish two examples"
        return Style("weak", f"v carries little: {kl:.1f} nats {few}")
    return Style("used", "v distinguishes examples")


def tiles(inputs: Inputs) -> list[Tile]:
    """Headline numbers of the method, as far as they were measured."""
    values = {row.name: row.value for row in inputs.measures}
    chance = max(100 / inputs.manifest.spec.num_classes, 100 - values.get("baseline_constant_error_pct", 100.0))
    others = sweep_controls(inputs.sweep, int(inputs.metrics["labels"]))
    units = len(inputs.gallery.arrays["unit_kl"])
    return [
        *_class_from_r(values, chance, others),
        *_class_from_v(values, chance, others),
        *_kept(values),
        *_rotation(values),
        *_carried(values, units, others),
    ]


def _beside(values: dict[str, float], *pairs: tuple[str, str]) -> Pairs:
    return [(label, number(name, values[name])) for label, name in pairs if name in values]


def _chance(chance: float) -> tuple[str, str]:
    return "chance", f"{chance:.3g} %"


def _near(value: float, chance: float, share: float = 0.1) -> bool:
    return value <= chance + share * (100 - chance)


def _class_from_r(values: dict[str, float], chance: float, others: dict[str, Pairs]) -> Iterator[Tile]:
    name = "probe_class_from_r_linear_pct"
    if (value := values.get(name)) is None:
        return
    level: Level
    raw = {BASELINES[b]: 100 - values[n] for b in BASELINES if (n := f"baseline_{b}_error_pct") in values}
    best = max(raw, key=lambda label: raw[label], default="")
    if _near(value, chance):
        level, about = "weak", "near chance: r does not reveal the class"
    elif best and raw[best] > value:
        level, about = "weak", f"less often right than {best} on raw values"
    else:
        level, about = "good", "how often a linear probe reads the class from r of one example"
    beside = [*((label, number("_pct", right)) for label, right in raw.items()), *others.get(name, []), _chance(chance)]
    yield Tile("Class from r", number(name, value), about, level, beside, "r")


def _class_from_v(values: dict[str, float], chance: float, others: dict[str, Pairs]) -> Iterator[Tile]:
    name, control = "probe_class_from_v_redrawn_mlp_pct", "probe_class_from_v_shuffled_linear_pct"
    if (value := values.get(name)) is None:
        return
    level: Level
    carries, near = style(values), _near(value, max(chance, values.get(control, 0.0)))
    if near and carries.level == "dead":
        level, about = "void", "at chance because v carries nothing, not because the class was kept out of it"
    elif near and carries.level == "weak":
        level, about = "void", "near chance, but v carries little of anything: this does not show that the class is out"
    elif near and carries.level == "used":
        level, about = "good", "near chance, while v distinguishes examples: the class is kept out of v"
    elif near:
        level, about = "weak", "near chance; what else v carries was not measured"
    elif _near(value, chance, 0.5):
        level, about = "weak", "above chance: v still carries part of the class"
    else:
        level, about = "weak", "far above chance: v gives the class away"
    beside = [_chance(chance), *_beside(values, ("v shuffled", control)), *others.get(name, [])]
    yield Tile("Class from v", number(name, value), about, level, beside, "v")


def _kept(values: dict[str, float]) -> Iterator[Tile]:
    seen, seen_without = "swap_oracle_pct", "swap_oracle_v_zero_pct"
    kept, kept_without = f"swap_v_hit_at_1_of_{_CANDIDATES}_pct", f"swap_v_hit_at_1_of_{_CANDIDATES}_v_zero_pct"
    if (value := values.get(kept)) is None or seen not in values:
        return
    level: Level
    control = values.get(kept_without, 100 / _CANDIDATES)
    if _near(value, control, 0.05):
        level, about = "weak", "no more often than with v = 0: a swap keeps nothing of the example"
        if values[seen] > 50:
            about += ", and a class seen in it proves nothing"
    elif values[seen] < 80:
        level, about = "weak", "v is found again after a swap, but the new class is often not seen in it"
    elif value < 50:
        level, about = "weak", "v is lost in most swaps; the new class alone is seen with v = 0 too"
    else:
        level, about = "good", f"v is found again among {_CANDIDATES} after a swap, and the new class is seen in it"
    beside = _beside(
        values, ("with v = 0", kept_without), ("new class seen", seen), ("the same, v = 0", seen_without)
    )  # fmt: skip
    yield Tile("v kept in a swap", number(kept, value), about, level, beside, "v")


def _rotation(values: dict[str, float]) -> Iterator[Tile]:
    name, of_r, constant = "r2_rotation_sin_from_v_mlp", "r2_rotation_sin_from_r_mlp", "r2_rotation_sin_constant"
    pixels = "r2_rotation_sin_from_pixels_mlp"
    if (value := values.get(name)) is None:
        return
    level: Level
    carries = style(values)
    if carries.level == "dead":
        level, about = "weak", "nothing to be read: v carries nothing"
    elif carries.level == "weak":
        level, about = (
            "weak",
            "R² of its sine, from the means of v: a sample of v, which is what is decoded, carries little",
        )
    elif value <= max(values.get(of_r, 0.0), values.get(constant, 0.0)) + 0.05:
        level, about = "weak", "no better than from r of the class: v does not know how an image is turned"
    elif value < 0.5:
        level, about = "weak", "R² of its sine: v knows in part how an image is turned"
    else:
        level, about = "good", "R² of its sine, 1 is perfect: v knows how an image is turned"
    beside = _beside(
        values, ("from r of the class", of_r), ("best constant", constant), ("40 components of pixels", pixels)
    )
    yield Tile("Rotation from v", number(name, value), about, level, beside, "v")


def _carried(values: dict[str, float], units: int, others: dict[str, Pairs]) -> Iterator[Tile]:
    if "kl_nats" not in values:
        return
    carries = style(values)
    levels: dict[str, Level] = {"used": "good", "weak": "weak", "dead": "weak", "unknown": "weak"}
    about = "no unit is active: examples of a class are all decoded alike" if carries.level == "dead" else carries.text
    beside = [(label, f"{text} of {units}") for label, text in _beside(values, ("active units", "active_units"))]
    beside += _beside(values, ("bound on log p(x)", "bound_nats"))
    beside += [(f"bound, {label}", text) for label, text in others.get("bound_nats", [])]
    yield Tile("What v carries", number("kl_nats", values["kl_nats"]), about, levels[carries.level], beside, "v")
