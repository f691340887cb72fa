"""Pictures of any size, mode and format become images of one shape; those that cannot are a fault that names them."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import FaultError
from pipeline.utils.images import decode_picture

NOISE = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)


def packed(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(image: Image.Image, height: int, width: int, channels: int) -> np.ndarray:
    return decode_picture(packed(image), "x", height, width, channels)


@given(height=st.integers(1, 20), width=st.integers(1, 20), channels=st.sampled_from([1, 3]), seed=st.integers(0, 9))
def test_a_picture_that_fits_already_keeps_its_pixels(height: int, width: int, channels: int, seed: int) -> None:
    x = np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)
    image = Image.fromarray(x[0] if channels == 1 else x.transpose(1, 2, 0).copy())
    np.testing.assert_array_equal(decoded(image, height, width, channels), x)


@settings(max_examples=50)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
)
def test_any_size_and_mode_becomes_the_asked_shape(
    size: tuple[int, int], mode: str, height: int, width: int, channels: int
) -> None:
    image = Image.new(mode, size)
    x = decode_picture(packed(image, "jpeg" if mode == "CMYK" else "png"), "x", height, width, channels)
    assert x.shape == (channels, height, width) and x.dtype == np.uint8 and x.flags.c_contiguous


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "bmp"])
def test_every_format_is_read_whatever_the_name_of_the_file(kind: str) -> None:
    smooth = Image.fromarray(np.tile(np.arange(0, 160, 10, dtype=np.uint8), (16, 1))).convert("RGB")
    x = decode_picture(packed(smooth, kind), "x", 16, 16, 3)
    assert np.abs(x.astype(int) - np.asarray(smooth).transpose(2, 0, 1)).max() < 12


def test_a_picture_is_covered_and_its_middle_is_taken() -> None:
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 200  # the middle third is just what a square shows
    np.testing.assert_array_equal(decoded(Image.fromarray(wide), 10, 10, 1), np.full((1, 10, 10), 200))
    tall = wide.T.copy()
    np.testing.assert_array_equal(decoded(Image.fromarray(tall), 10, 10, 1), np.full((1, 10, 10), 200))


def test_16_bits_become_8_by_their_value() -> None:
    wide = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert decoded(Image.fromarray(wide), 1, 4, 1).tolist() == [[[0, 1, 128, 255]]]


def test_what_is_transparent_is_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert decoded(image, 1, 2, 3)[:, 0].T.tolist() == [[255, 255, 255], [255, 0, 0]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    data = packed(palette, transparency=b"\x00")
    assert decode_picture(data, "x", 1, 1, 1).tolist() == [[[255]]]


def test_a_photograph_is_turned_as_its_camera_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    image = Image.fromarray(NOISE)
    x = decode_picture(packed(image, exif=exif.tobytes()), "x", 10, 12, 3)
    np.testing.assert_array_equal(x, np.rot90(NOISE, -1).transpose(2, 0, 1))


def png_of(width: int, height: int) -> bytes:
    """A PNG that says how large it is, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty, 0 bytes"),
        (b"no picture", "not a picture; allowed: PNG, JPEG, WEBP, BMP"),
        (packed(Image.fromarray(NOISE))[:200], "cannot be decoded as a picture"),
        (packed(Image.fromarray(NOISE), "jpeg")[:300], "cannot be decoded as a picture"),
        (packed(Image.fromarray(NOISE), "gif"), "not a picture"),
        (packed(Image.fromarray(NOISE), "tiff"), "not a picture"),
        (png_of(9000, 9000), "9000x9000, more than 80000000 pixels"),
        (png_of(10_000, 10_000), "cannot be decoded as a picture"),
        (png_of(100_000, 100_000), "cannot be decoded as a picture"),
    ],
    ids=["empty", "text", "cut png", "cut jpeg", "gif", "tiff", "large", "larger", "bomb"],
)
def test_what_is_no_picture_is_a_fault_that_names_it(data: bytes, message: str) -> None:
    with pytest.raises(FaultError, match=f"^cat.png: key cat: {message}") as caught:
        decode_picture(data, "cat.png: key cat", 8, 8, 1)
    assert "\n" not in str(caught.value) and " at 0x" not in str(caught.value)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["png", "jpeg", "webp", "bmp"]),
    at=st.floats(0, 1, exclude_max=True),
    value=st.integers(0, 255),
    cut=st.booleans(),
)
def test_a_picture_damaged_anywhere_is_a_fault_or_an_image(kind: str, at: float, value: int, cut: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if kind == "bmp" else {"exif": exif.tobytes()}
    data = bytearray(packed(Image.fromarray(NOISE), kind, **options))
    where = int(at * len(data))
    if cut:
        del data[where:]
    else:
        data[where] = value
    with contextlib.suppress(FaultError):  # anything else fails the test
        assert decode_picture(bytes(data), "x", 6, 7, 3).shape == (3, 6, 7)
