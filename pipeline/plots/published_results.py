"""Test errors that others have published, in percent, to draw beside a sweep's own. None of them was measured here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One method's published errors by number of labels."""

    name: str
    source: str
    errors: dict[int, float]


_KINGMA = "Kingma et al. 2014"

PUBLISHED: dict[str, tuple[Published, ...]] = {
    "mnist": (
        Published("CNN, labelled points alone", _KINGMA, {100: 22.98, 600: 7.68, 1000: 6.45, 3000: 3.35}),
        Published("M2", _KINGMA, {100: 11.97, 600: 4.94, 1000: 3.60, 3000: 3.92}),
        Published("M1+M2", _KINGMA, {100: 3.33, 600: 2.59, 1000: 2.40, 3000: 2.18}),
        Published("Siddharth et al.", "2017", {100: 9.71}),
        Published("Ladder network", "Rasmus et al. 2015", {100: 1.06}),
        Published("ADGM", "Maaløe et al. 2016", {100: 0.96}),
    ),
}
"""By data source. Other networks and other protocols than here: orientation, not comparison."""
