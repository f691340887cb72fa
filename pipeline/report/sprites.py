"""Many small examples as plain JSON: images as a sheet of sprites, series as bytes, texts as numbers of words."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from ie_model.spec import DataSpec
from pipeline.plots.series_and_words import as_series

DRAWN_CHANNELS = 4
"""Of a series, that are drawn."""

_GAP = 255


def sheet(examples: npt.NDArray[Any], spec: DataSpec, scale: tuple[float, float] | None = None) -> dict[str, Any]:
    """Examples `[N, *shape]` as plain JSON; `page.js` draws any of them by its number.

    Args:
        examples: as a gallery has them.
        scale: lowest and highest value of series, so that several sheets are drawn alike.
    """
    if spec.kind == "image":
        return _images(examples)
    if spec.kind in ("series", "vector"):
        assert scale is not None
        return _series(as_series(examples, spec), scale)
    return {"words": examples.tolist()}


def _images(images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """A PNG of all, about square, in the order of reading."""
    num, channels, height, width = images.shape
    columns = max(1, math.ceil(math.sqrt(num * height / width)))
    rows = math.ceil(num / columns)
    canvas = np.zeros((rows * columns, channels, height, width), dtype=np.uint8)
    canvas[:num] = images
    grid = canvas.reshape(rows, columns, channels, height, width).transpose(0, 3, 1, 4, 2)
    pixels = grid.reshape(rows * height, columns * width, channels)
    file = io.BytesIO()
    picture = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    picture.save(file, format="PNG", compress_level=9)
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"png": url, "columns": columns, "width": width, "height": height}


def _series(series: npt.NDArray[np.float32], scale: tuple[float, float]) -> dict[str, Any]:
    """A byte for each value of the first channels, on one scale; 255 where there is none."""
    shown = series[:, :DRAWN_CHANNELS].astype(np.float64)
    low, high = scale
    levels = np.round((shown - low) / max(high - low, 1e-12) * 250).clip(0, 250)
    coded = np.where(np.isnan(levels), _GAP, levels).astype(np.uint8)
    return {
        "bytes": base64.b64encode(coded.tobytes()).decode(),
        "channels": shown.shape[1],
        "length": shown.shape[2],
        "of": series.shape[1],
    }


def series_scale(examples: npt.NDArray[np.float32], spec: DataSpec) -> tuple[float, float]:
    """Lowest and highest value that series are drawn with, but for the odd extreme one."""
    shown = as_series(examples, spec)[..., :DRAWN_CHANNELS, :]
    low, high = (float(np.nanquantile(shown, q)) for q in (0.002, 0.998))
    return low, high
