"""Shape of the strokes of grey images: mass, slant, thickness, width and height. Arrays in, numbers out.

The quantities are those of Castro et al., "Morpho-MNIST", JMLR 2019; the code is written from their description. Where
that leaves a choice: half of the image's greatest value is the threshold, interpolation is linear, the ridge is where
the distance transform has no slope, and the parallelogram leaves 1 % of the area outside each side.

Strokes are bright on dark. Of clothes, photographs or dark on bright the numbers are of a shape, but not of a stroke.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from ie_model.metrics.measures import Floats, Ints

FAINT = 0.1
"""An image with no brighter value has no stroke."""

_SIDE = 84
"""Pixels that the longer side is interpolated to, at least: three to one of MNIST's."""

_TRIM = 0.01
"""Share of the area outside each side of the parallelogram: a stray pixel of a decoder is no stroke."""

_FLAT = 0.501
"""Slope of the distance transform on the ridge, at most: 0.5 between two rows that are equally deep, 1 elsewhere."""

_CHUNK_PIXELS = 2**20
"""Interpolated pixels that are held at once, or one image's if that is more."""


@dataclass(frozen=True)
class Morphometry:
    """Of N images, each `[N]`, lengths in pixels of the image. All but `mass` are NaN where there is no stroke."""

    mass: NDArray[np.float64]
    """Area of the strokes, in square pixels."""

    slant: NDArray[np.float64]
    """Angle of the horizontal shear, degrees; leaning right is positive."""

    thickness: NDArray[np.float64]
    """Mean width of the strokes along their ridge."""

    width: NDArray[np.float64]
    """Horizontal side of the bounding parallelogram."""

    height: NDArray[np.float64]
    """Vertical distance of its two horizontal sides."""


def morphometry(x: Floats) -> Morphometry:
    """Measures the strokes of each image: what exceeds half of the image's greatest value, so contrast does not matter.

    Slant is the angle of -mu_xy / mu_yy, second moments of the area. A shape without a stem has one too: compare within
    a class. Thickness is twice the mean distance to the background along the medial ridge; crossings and blobs raise
    it. Width and height are of the parallelogram with horizontal top and bottom and the other sides at the slant.

    Args:
        x: grey images in 0..1, `[N, H, W]`.

    Raises:
        ValueError: no image, another shape, or values that are not in 0..1.
    """
    if x.ndim != 3 or x.size == 0:
        raise ValueError(f"x must have shape [N, H, W] with each at least 1, got {list(x.shape)}")
    # NaN is in no range.
    if not (x.min() >= 0 and x.max() <= 1):
        raise ValueError(f"x {list(x.shape)} must hold grey values in 0..1, got {x.min()}..{x.max()}")
    height, width = x.shape[1:]
    scale = -(-_SIDE // max(height, width))
    rows, columns = _interpolation(height, scale), _interpolation(width, scale)
    step = max(1, _CHUNK_PIXELS // (height * width * scale**2))
    parts = []
    for start in range(0, len(x), step):
        grey = x[start : start + step].astype(np.float32)
        brightest = grey.max((1, 2), keepdims=True)
        parts.append(_measured((rows @ grey @ columns.T > brightest / 2) & (brightest > FAINT)))
    area, shear, *lengths = np.concatenate(parts, axis=1)
    return Morphometry(area / scale**2, np.degrees(np.arctan(shear)), *(length / scale for length in lengths))


def _interpolation(size: int, scale: int) -> NDArray[np.float32]:
    """Weights of `size` pixels in each of `scale` times as many, `[scale * size, size]`."""
    at = np.clip((np.arange(scale * size) + 0.5) / scale - 0.5, 0, size - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size))).astype(np.float32)


def _measured(stroke: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area, shear, thickness, width and height of strokes `[N, H, W]`, in their pixels, `[5, N]`."""
    num = len(stroke)
    # A frame of background: strokes of one image are not near those of the next in the strip that they form.
    framed = np.pad(stroke, ((0, 0), (1, 1), (1, 1)))
    image, y, x = np.nonzero(framed)
    area = np.bincount(image, minlength=num).astype(np.float64)

    def mean(values: NDArray[Any], of: Ints = image) -> NDArray[np.float64]:
        return np.bincount(of, values, num) / np.bincount(of, minlength=num)

    with np.errstate(invalid="ignore"):  # 0 / 0 without a stroke
        down = y - mean(y)[image]
        # A pixel is a square, of variance 1 / 12: what is one row high leans nowhere.
        shear = -mean(down * x) / (mean(down**2) + 1 / 12)
        strip = framed.reshape(-1, framed.shape[2])
        # Background that no stroke borders on is nearest to none of its pixels.
        strip = strip[np.ix_(_near(strip.max(1)), _near(strip.max(0)))]
        distance, at, line = distance_transform_edt(strip).ravel(), np.flatnonzero(strip), strip.shape[1]
        slope = np.hypot(distance[at + 1] - distance[at - 1], distance[at + line] - distance[at - line]) / 2
        deepest = np.zeros(num)
        np.maximum.at(deepest, image, distance[at])
        ridge = (slope < _FLAT) | (distance[at] == deepest[image])
        # From centre to centre: the edge is half a pixel nearer, and the ridge runs between two rows as often as not.
        thickness = 2 * mean(distance[at[ridge]], image[ridge]) - 0.5
    width = _extent(image, x + shear[image] * down, area)
    return np.stack([area, shear, thickness, width, _extent(image, y, area)])


def _near(line: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return line | np.roll(line, 1) | np.roll(line, -1)


def _extent(image: Ints, at: NDArray[Any], area: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels between the two places that leave `_TRIM` of each image's area outside, `[N]`; NaN without area."""
    place = np.rint(at).astype(np.int64)
    place -= place.min(initial=0)
    size = int(place.max(initial=0)) + 1
    count = np.bincount(image * size + place, minlength=len(area) * size).reshape(-1, size)
    end, low, high = count.cumsum(1), _TRIM * area[:, None], (1 - _TRIM) * area[:, None]
    start = end - count
    # A place that the limit falls in counts in part.
    part = np.where(count > 0, (np.minimum(end, high) - np.maximum(start, low)) / np.maximum(count, 1), 1)
    return np.where(area > 0, (part * ((end > low) & (start < high))).sum(1), np.nan)
