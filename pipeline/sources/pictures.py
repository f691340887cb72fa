"""Pictures of any size and mode as images of one shape."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from ie_model.spec import DataSpec, LikelihoodName
from pipeline.errors import FaultError
from pipeline.sources.base import Examples, IntArray, RawSplit, Values
from pipeline.sources.own import Listed, OwnParams, OwnSource, read_checked

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_PIXELS = 80_000_000
# What Pillow's readers of these formats raise for damage.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def decode_picture(data: bytes, where: str, height: int, width: int, channels: int) -> npt.NDArray[np.uint8]:
    """A PNG, JPEG, WebP or BMP file as an image, `[channels, height, width]`.

    It is turned as its EXIF data says, scaled until it covers height and width, and its middle is taken; what is
    transparent becomes white, 16 bits become 8. A picture that has size and mode already stays as it is.

    Args:
        where: names the picture in an error.

    Raises:
        FaultError: it is damaged, no such picture, or has more than 80 million pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                # The header alone has been read: a larger picture is never unpacked.
                if opened.width * opened.height > _MOST_PIXELS:
                    raise FaultError(f"{where}: {opened.width}x{opened.height}, more than {_MOST_PIXELS} pixels")
                image = _in_mode(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
            pixels = np.asarray(image)
    except UnidentifiedImageError as error:
        raise FaultError(f"{where}: not a picture; allowed: {', '.join(_FORMATS)}") from error
    except _DAMAGE as error:
        said = " ".join(str(error).split())
        raise FaultError(f"{where}: cannot be decoded as a picture ({said or type(error).__name__})") from error
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, in whatever way they are kept
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, above)
    return image if image.mode == mode else image.convert(mode)


@dataclass(frozen=True, eq=False)
class Pictures(Examples):
    """Examples that are a picture file each, decoded when they are read."""

    keys: Sequence[str]
    y: IntArray
    folder: Path
    files: Sequence[Listed]
    shape: tuple[int, int, int]
    """C, H, W."""

    def read(self, i: int) -> Values:
        file = self.files[i]
        channels, height, width = self.shape
        where = f"{self.folder / file.path}: key {file.key}"
        return decode_picture(read_checked(self.folder, file), where, height, width, channels)


def class_indices(files: Sequence[Listed], classes: Sequence[str]) -> IntArray:
    """Class index of each file, -1 where it has no label, `[N]`."""
    places = {name: i for i, name in enumerate(classes)}
    return np.array([-1 if file.label is None else places[file.label] for file in files], dtype=np.int64)


@dataclass(frozen=True)
class PictureSource(OwnSource):
    """What the sources of the user's own pictures share; see `pipeline.sources.base.Source`."""

    def spec(self, raw: Path) -> DataSpec:
        classes, _ = self.read_listing(raw)
        return DataSpec(
            kind="image",
            shape=_shape(self.options),
            dtype="uint8",
            classes=classes,
            likelihood=_likelihood(self.options),
        )

    def examples(self, raw: Path, split: RawSplit) -> Examples:
        classes, _ = self.read_listing(raw)
        files = self.split(raw, split)
        return Pictures(
            [file.key for file in files], class_indices(files, classes), self.folder, files, _shape(self.options)
        )


def _shape(options: OwnParams) -> tuple[int, int, int]:
    return options.channels, options.height, options.width


def _likelihood(options: OwnParams) -> LikelihoodName:
    if options.likelihood != "auto":
        return options.likelihood
    return "bernoulli" if options.channels == 1 else "discretized_logistic"
