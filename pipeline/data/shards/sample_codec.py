"""A sample of a shard: an example as the fields of a webdataset sample, and back.

A sample is `<key>.png` or `<key>.npy` and, where the label is known, `<key>.cls` with the class index in ASCII. Images
are PNGs or arrays; a series is an array `[C, length]`, not padded; a vector is an array `[D]`; counts are an array
`[2, n]` of the words that occur and how often. Fields are decoded by name: nothing else in a tar is ever looked into,
least of all a pickle.
"""

from __future__ import annotations

import io
import math
import re
import struct
import tokenize
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ie_model.spec import DataSpec
from pipeline.data.example import Example
from pipeline.errors import DataError
from pipeline.utils.images import decode_picture

Encoding = Literal["png", "npy", "picture"]
"""`picture`: in tars of others, a picture of any size."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
# 64 megapixels: more than cameras make, and 200 MB in memory.
_MOST_PIXELS = 1 << 26
# What Pillow's readers of the parts of a PNG raise for damage.
_PNG_ERRORS = (
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    OSError,
    SyntaxError,
    struct.error,
    Image.DecompressionBombError,
)


def encode_example(example: Example, encoding: Encoding) -> dict[str, Any]:
    """A sample for a webdataset writer.

    Raises:
        DataError: the key holds what webdataset would read back as another key (a dot, a path), pass over (`__`), or
            what a tar's name field cannot take.
    """
    if not _KEY.fullmatch(example.key):
        raise DataError(
            f"key {example.key!r}: allowed are up to 80 letters, digits, '_' and '-', the first no '_' or '-'"
        )
    buffer = io.BytesIO()
    if encoding == "npy" and example.x.dtype == np.int32:
        words = np.flatnonzero(example.x)
        np.save(buffer, np.stack([words.astype(np.int32), example.x[words]]), allow_pickle=False)
    elif encoding == "png":
        # Images of one channel are stored grey. A fixed, low compression level: the same bytes every time, quickly.
        pixels = example.x[0] if example.x.shape[0] == 1 else example.x.transpose(1, 2, 0)
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "png", compress_level=3)
    else:
        np.save(buffer, np.ascontiguousarray(example.x), allow_pickle=False)
    sample: dict[str, Any] = {"__key__": example.key, encoding: buffer.getvalue()}
    if example.y is not None:
        sample["cls"] = str(example.y).encode()
    return sample


def check_example(x: npt.NDArray[Any], spec: DataSpec) -> None:
    """Checks values against the spec.

    Raises:
        ValueError: gives what was found and what is expected.
    """
    found = f"{x.dtype} of shape {list(x.shape)}"
    if spec.kind == "series":
        channels, longest = spec.shape
        if x.dtype != np.float32 or x.ndim != 2 or x.shape[0] != channels or not 1 <= x.shape[1] <= longest:
            raise ValueError(f"{found}, expected float32 of [{channels}, 1 to {longest}]")
        if np.isinf(x).any():
            raise ValueError("an infinite value")
        if np.isnan(x).all():
            raise ValueError("no value that is known")
        return
    if x.dtype != np.dtype(spec.dtype) or x.shape != spec.shape:
        raise ValueError(f"{found}, expected {spec.dtype} of {list(spec.shape)}")
    if spec.kind == "vector" and not np.isfinite(x).all():
        raise ValueError("a value that is not finite")
    if spec.kind == "counts" and x.min() < 0:
        raise ValueError(f"a negative count, {x.min()}")


def decode_sample(sample: dict[str, Any], path: Path, spec: DataSpec, encoding: Encoding) -> Example:
    """An example of the fields of a sample, as webdataset groups them.

    Raises:
        DataError: a field is missing, not expected or not of the spec; names shard and key.
    """
    key = sample["__key__"]
    where = f"{path}, key {key}"
    unknown = sorted(name for name in sample if not name.startswith("__") and name not in (encoding, "cls"))
    if unknown:
        raise DataError(f"{where}: unexpected member .{unknown[0]}; allowed: .{encoding} and .cls")
    if encoding not in sample:
        raise DataError(f"{where}: no member .{encoding}")
    x = decode_values(sample[encoding], where, spec, encoding)
    if "cls" not in sample:
        return Example(key, x, None)
    text = sample["cls"].decode("ascii", errors="replace")
    # int() refuses very long numbers by a ValueError of its own.
    if not text.isdigit() or len(text) > 9 or int(text) >= spec.num_classes:
        raise DataError(f"{where}: class {text[:20]!r}; allowed: 0 to {spec.num_classes - 1}")
    return Example(key, x, int(text))


def decode_values(data: bytes, where: str, spec: DataSpec, encoding: Encoding) -> npt.NDArray[Any]:
    """Values of an example, see `Example.x`.

    Args:
        where: names the sample in an error.

    Raises:
        DataError: they are damaged or not of the spec.
    """
    if encoding == "picture":
        channels, height, width = spec.shape
        return decode_picture(data, where, height, width, channels)
    return (_decode_png if encoding == "png" else _decode_npy)(data, where, spec)


def padded(x: npt.NDArray[Any], spec: DataSpec) -> npt.NDArray[Any]:
    """An example in the spec's shape: a series is filled up with NaN, others have it already."""
    if spec.kind != "series" or x.shape == spec.shape:
        return x
    full = np.full(spec.shape, np.nan, dtype=x.dtype)
    full[:, : x.shape[1]] = x
    return full


def _decode_png(data: bytes, where: str, spec: DataSpec) -> npt.NDArray[np.uint8]:
    channels, height, width = spec.shape
    mode = "L" if channels == 1 else "RGB"
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            # The header alone has been read: a picture of another size is never unpacked.
            if (image.mode, image.height, image.width) != (mode, height, width):
                raise DataError(
                    f"{where}: {image.mode} picture of {image.height}x{image.width}, "
                    f"the manifest has {mode} of {height}x{width}"
                )
            pixels = np.asarray(image)
    except _PNG_ERRORS as error:
        raise DataError(f"{where}: .png cannot be decoded ({error})") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _decode_npy(data: bytes, where: str, spec: DataSpec) -> npt.NDArray[Any]:
    # Not np.load: it would open zip archives too, and reserve whatever size the header states.
    file = io.BytesIO(data)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("version other than 1.0")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    except (ValueError, TypeError, EOFError, OSError, RecursionError, tokenize.TokenError) as error:
        # The header is a Python literal: each of these is what numpy raises for some damage to it.
        raise DataError(f"{where}: .npy cannot be decoded ({error})") from error
    if dtype != np.dtype(spec.dtype) or fortran_order or not _shape_fits(shape, spec):
        raise DataError(f"{where}: {dtype} of shape {list(shape)}, the manifest has {_stored_shape(spec)}")
    values = file.read()
    size = math.prod(shape)
    if len(values) != size * dtype.itemsize:
        raise DataError(f"{where}: .npy holds {len(values)} of {size * dtype.itemsize} bytes")
    x: npt.NDArray[Any] = np.frombuffer(values, dtype=dtype).reshape(shape)
    try:
        if spec.kind == "counts":
            x = _dense_counts(x, spec.shape[0])
        check_example(x, spec)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error
    return x


def _shape_fits(shape: tuple[int, ...], spec: DataSpec) -> bool:
    """Whether a stored array can be an example, before its values are looked at."""
    if spec.kind == "series":
        return len(shape) == 2 and shape[0] == spec.shape[0] and 1 <= shape[1] <= spec.shape[1]
    if spec.kind == "counts":
        return len(shape) == 2 and shape[0] == 2 and shape[1] <= spec.shape[0]
    return shape == spec.shape


def _stored_shape(spec: DataSpec) -> str:
    if spec.kind == "series":
        return f"{spec.dtype} of [{spec.shape[0]}, 1 to {spec.shape[1]}]"
    if spec.kind == "counts":
        return f"{spec.dtype} of [2, at most {spec.shape[0]}]"
    return f"{spec.dtype} of {list(spec.shape)}"


def _dense_counts(pairs: npt.NDArray[np.int32], num_words: int) -> npt.NDArray[np.int32]:
    words, counts = pairs
    if words.size and (words.min() < 0 or words.max() >= num_words or (np.diff(words) <= 0).any()):
        raise ValueError(f"words are not rising indices below {num_words}")
    if (counts < 1).any():
        raise ValueError("a word that does not occur")
    dense = np.zeros(num_words, dtype=np.int32)
    dense[words] = counts
    return dense
