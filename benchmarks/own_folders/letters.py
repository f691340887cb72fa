"""Ten capital letters in some 500 fonts, drawn large and small, slanted, turned and on grey paper."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from benchmarks.own_folders.brought import debian_package

LETTERS = "ABCDEFGHKR"
_PACKAGES = ("fonts-aenigma", "fonts-dejavu-core", "fonts-dejavu-extra", "fonts-liberation")
_UNLABELLED = 0.25


def make_letters(folder: Path) -> None:
    """About 5,000 pictures of four formats, a quarter of them in `unlabelled/`."""
    rng = random.Random(2)
    with tempfile.TemporaryDirectory() as scratch:
        fonts = [path for package in _PACKAGES for path in _fonts_of(debian_package(package, Path(scratch)))]
        rng.shuffle(fonts)
        for i, font in enumerate(fonts):
            for letter, shape in zip(LETTERS, _shapes(font), strict=False):
                picture = _printed(shape, rng)
                place = "unlabelled" if rng.random() < _UNLABELLED else letter
                # An unlabelled file's name does not say its class.
                name = letter if place == letter else hashlib.sha256(letter.encode()).hexdigest()[:4]
                (folder / place).mkdir(parents=True, exist_ok=True)
                suffix = rng.choice(["png", "jpg", "bmp", "webp"])
                picture.save(folder / place / f"{font.stem[:20]}-{i}-{name}.{suffix}")


def _fonts_of(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in (".ttf", ".otf") and path.is_file())


def _shapes(font: Path) -> list[Image.Image]:
    """Each letter in white on black, cut out; none where the font lacks one, or has one sign for all."""
    try:
        type_ = ImageFont.truetype(str(font), 90)
        found = list(_cut_out(type_))
    except (OSError, ValueError):
        return []
    different = {hashlib.sha256(shape.tobytes()).digest() for shape in found}
    return found if len(different) == len(LETTERS) else []


def _cut_out(font: ImageFont.FreeTypeFont) -> Iterator[Image.Image]:
    for letter in LETTERS:
        picture = Image.new("L", (220, 220), 0)
        ImageDraw.Draw(picture).text((60, 50), letter, font=font, fill=255)
        box = picture.getbbox()
        if box is None or box[2] - box[0] < 15 or box[3] - box[1] < 20:
            raise ValueError(f"{letter} is blank")
        yield picture.crop(box)


def _printed(shape: Image.Image, rng: random.Random) -> Image.Image:
    """A letter in dark ink on light paper, of a random size."""
    side = rng.randint(44, 110)
    scale = (side - 12) / max(shape.size)
    size = (max(1, int(shape.width * scale)), max(1, int(shape.height * scale)))
    mask = Image.new("L", (side, side), 0)
    mask.paste(shape.resize(size, Image.Resampling.LANCZOS), ((side - size[0]) // 2, (side - size[1]) // 2))
    slant = rng.uniform(-0.3, 0.3)
    matrix = (1, slant, -slant * side / 2, 0, 1, 0)
    mask = mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    mask = mask.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
    ink, paper = rng.randint(0, 70), rng.randint(180, 255)
    picture = Image.composite(Image.new("L", mask.size, ink), Image.new("L", mask.size, paper), mask)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2))) if rng.random() < 0.3 else picture
