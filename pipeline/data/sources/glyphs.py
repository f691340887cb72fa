"""Capital letters of Roboto Flex (SIL Open Font Licence 1.1), a font with axes: the class is the letter, and all that
differs within a class is known in numbers, the factors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from ie_model.spec import DataSpec
from pipeline.data.example import Examples, RawSplit
from pipeline.data.sources.base import PlainSource, RawFile, numbered
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray
from pipeline.utils.files import sha256_file

Floats = npt.NDArray[np.float64]

RANGES = {
    "weight": (100.0, 900.0),
    "width": (25.0, 115.0),
    "slant": (-20.0, 20.0),
    "rotation": (-30.0, 30.0),
    "scale": (0.7, 1.0),
    "shift_x": (-2.0, 2.0),
    "shift_y": (-2.0, 2.0),
}
"""Of the factors, which are uniform and independent. weight and width: the font's axes; slant and rotation: degrees,
to the right and anticlockwise; scale: 1 for letters of `_CAP_HEIGHT`; shifts: pixels, to the right and down."""

SEEN = 0.8
"""Lower part of each range that train has. Half of test has one factor in the upper part, each factor equally often."""

_SIDE, _CAP_HEIGHT = 28, 18
_FINE = 4  # drawn at four times the size, then averaged
_CAPITAL = 1456 / 2048  # of Roboto Flex's em
_OPTICAL_SIZE = 48  # where the axis of width acts most evenly

_FONT = RawFile(
    "roboto-flex-latin-standard-normal.woff2",
    "5107a806ba9bb123c5ff2d9465905d04b767c694d125fd58103b88048a38a613",
    249_700,
    {"npm": ("@fontsource-variable/roboto-flex@5.3.0:package/files/roboto-flex-latin-standard-normal.woff2",)},
)


@dataclass(frozen=True)
class Glyphs(PlainSource):
    """See `pipeline.data.sources.base.Source`.

    Every example is drawn when it is read. The pixels are those of the pinned Pillow, whose FreeType draws them.
    """

    name: str = "glyphs"
    classes: tuple[str, ...] = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    num_train: int = 26_000
    num_test: int = 7_280
    files: tuple[RawFile, ...] = (_FONT,)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(RANGES)

    def spec(self, raw: Path) -> DataSpec:
        return DataSpec(
            kind="image", shape=(1, _SIDE, _SIDE), dtype="uint8", classes=self.classes, likelihood="bernoulli"
        )

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        path = raw / _FONT.name
        if not path.is_file():
            raise DataError(f"raw file is missing: {path}; run `ie fetch`")
        if sha256_file(path) != _FONT.sha256:
            raise DataError(f"{path}: not the font that is drawn here; run `ie fetch`")
        num = self._num(split)
        y = np.arange(num) % self.num_classes
        return Drawn(numbered(split, num), y, path, self.classes, drawn_factors(split, num))

    def factors(self, raw: Path, split: RawSplit) -> Floats:
        return drawn_factors(split, self._num(split))

    def _num(self, split: RawSplit) -> int:
        return self.num_train if split == "train" else self.num_test


def drawn_factors(split: RawSplit, num: int) -> Floats:
    """Values of `RANGES` of the examples of a split, `[num, F]`."""
    low, high = np.array([*RANGES.values()]).T
    share = SEEN * np.random.default_rng([1897, split == "test"]).random((num, len(RANGES)))
    if split == "test":
        # 26 examples, one of each class, are seen, the 26 after them not.
        rounds = np.arange(num) // 26
        unseen = np.flatnonzero(rounds % 2)
        factor = (rounds[unseen] // 2) % len(RANGES)
        share[unseen, factor] = SEEN + share[unseen, factor] * (1 - SEEN) / SEEN
    return low + share * (high - low)


@dataclass(frozen=True, eq=False)
class Drawn(Examples):
    """Letters that are drawn as they are read."""

    keys: list[str]
    y: IntArray
    font: Path
    letters: tuple[str, ...]
    factors: Floats
    """`[N, F]`, see `RANGES`."""

    def read(self, i: int) -> npt.NDArray[np.uint8]:
        return draw(self.font, self.letters[self.y[i]], dict(zip(RANGES, self.factors[i].tolist(), strict=True)))


def draw(path: Path, letter: str, factors: dict[str, float]) -> npt.NDArray[np.uint8]:
    """A letter in white on black, `[1, 28, 28]`; `factors` as `RANGES`."""
    font = _font(path)
    font.set_variation_by_axes([_OPTICAL_SIZE, factors["weight"], factors["width"], 0])
    side = 2 * _FINE * _SIDE  # so large that no letter is cut off before it is scaled down
    straight = Image.new("L", (side, side))
    left, top, right, bottom = font.getbbox(letter)
    ImageDraw.Draw(straight).text(((side - left - right) / 2, (side - top - bottom) / 2), letter, fill=255, font=font)
    # What Pillow asks for: where each pixel of the result comes from, so the inverse of what is done to the letter.
    turn, lean = np.radians(factors["rotation"]), np.tan(np.radians(factors["slant"]))
    rotated = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    back = np.linalg.inv(factors["scale"] * rotated @ np.array([[1.0, -lean], [0.0, 1.0]]))
    size = _FINE * _SIDE
    centre = size / 2 + _FINE * np.array([factors["shift_x"], factors["shift_y"]])
    offset = side / 2 - back @ centre
    rows = (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
    drawn = straight.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return np.asarray(drawn.reduce(_FINE), dtype=np.uint8)[None]


@lru_cache(1)
def _font(path: Path) -> ImageFont.FreeTypeFont:
    try:
        return ImageFont.truetype(str(path), round(_FINE * _CAP_HEIGHT / _CAPITAL))
    except OSError as error:
        raise DataError(f"{path}: not a font ({error}); run `ie fetch`") from error


GLYPHS = Glyphs()
