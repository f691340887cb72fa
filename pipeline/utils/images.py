"""Pictures of any size and mode as images of one shape."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pipeline.errors import FaultError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_MOST_PIXELS = 80_000_000
MOST_BYTES = 1_000_000_000
"""Of a picture's file: so many pixels of four times 16 bits are fewer."""

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

    It is rotated by its EXIF orientation, scaled to cover height and width, and cropped to the centre; what is
    transparent becomes white, 16 bits become 8. A picture that has size and mode already stays as it is.

    Args:
        where: names the picture in an error.

    Raises:
        FaultError: it is damaged, no such picture, or has more than 80 million pixels.
    """
    with _opened(data, where) as opened:
        # A JPEG is unpacked at the smallest scale that still covers the size, whichever way up it is.
        opened.draft("RGB", (max(height, width),) * 2)
        image = _in_mode(ImageOps.exif_transpose(opened), "L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def picture_size(data: bytes, where: str) -> tuple[int, int]:
    """Height and width of a picture, after its EXIF rotation. Raises as `decode_picture`."""
    with _opened(data, where) as opened:
        turned = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (opened.width, opened.height) if turned else (opened.height, opened.width)


@contextlib.contextmanager
def _opened(data: bytes, where: str) -> Iterator[Image.Image]:
    if not data:
        raise FaultError(f"{where}: empty, 0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
                # The header alone has been read: a larger picture is never unpacked.
                if opened.width * opened.height > _MOST_PIXELS:
                    raise FaultError(f"{where}: {opened.width}x{opened.height}, more than {_MOST_PIXELS} pixels")
                yield opened
    except UnidentifiedImageError as error:
        raise FaultError(f"{where}: not a picture; allowed: {', '.join(_FORMATS)}") from error
    except _DAMAGE as error:
        said = " ".join(str(error).split())
        raise FaultError(f"{where}: cannot be decoded as a picture ({said or type(error).__name__})") from error


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, in whatever way they are kept
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        above = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, above)
    return image if image.mode == mode else image.convert(mode)
