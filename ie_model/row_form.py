"""Rows of an array as examples of a data set, and back: shapes, channels and units as their user has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ie_model.scaling import mean_and_deviation
from ie_model.spec import Kind, Preprocessing

Array = npt.NDArray[Any]

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class RowForm:
    """What a row of X looks like to its user, and what it becomes."""

    kind: Kind
    row: tuple[int, ...]
    """Shape of a row of X."""

    shape: tuple[int, ...]
    """Shape of an example, see `DataSpec`."""

    is_uint8: bool
    """Of images: values from 0 to 255 instead of 0 to 1."""

    scales: Preprocessing

    def stored(self, x: Array) -> Array:
        """Rows of X as examples, `[N, *shape]` in the dtype of `DataSpec`.

        Raises:
            ValueError: values that the kind cannot have.
        """
        if self.kind == "image":
            if (x.dtype == np.uint8) != self.is_uint8:
                raise ValueError(f"the model was fitted to images of {self._values()}, and X has {x.dtype}")
            pixels = x if self.is_uint8 else (_unit(x) * 255).round().astype(np.uint8)
            first = np.moveaxis(pixels, -1, 1) if self._is_channel_last else pixels
            return np.ascontiguousarray(first).reshape(len(x), *self.shape)
        if self.kind == "counts":
            if (x < 0).any() or (x != np.round(x)).any() or (x > np.iinfo(np.int32).max).any():
                raise ValueError("counts are whole numbers from 0 on; X has others")
            return x.astype(np.int32)
        means, deviations = (self._column(values) for values in (self.scales.means, self.scales.deviations))
        with np.errstate(over="ignore"):
            result = ((x - means) / deviations).astype(np.float32)
        if np.isinf(result).any():
            raise ValueError("X has values too far from those of the fit for float32")
        return result

    def restored(self, x: Tensor) -> Array:
        """Examples `[..., *shape]` of a decoder as rows of X, in its units."""
        values = x.cpu().double().numpy()
        if self.kind == "counts":
            return values
        if self.kind != "image":
            means, deviations = (self._column(part) for part in (self.scales.means, self.scales.deviations))
            result: Array = values * deviations + means
            return result
        if self._is_channel_last:
            values = np.moveaxis(values, -3, -1)
        values = values.reshape(*values.shape[:-3], *self.row)
        return (values * 255).round().astype(np.uint8) if self.is_uint8 else values

    @property
    def _is_channel_last(self) -> bool:
        return len(self.row) == 3 and self.row != self.shape

    def _column(self, values: tuple[float, ...]) -> Array:
        """One for each feature of a vector, or each channel of a series."""
        return np.array(values).reshape(-1, *[1] * (len(self.shape) - 1))

    def _values(self) -> str:
        return "uint8" if self.is_uint8 else "floats from 0 to 1"


def form_of(x: Array, kind: Kind, features: tuple[str, ...]) -> RowForm:
    """Of rows `[N, ...]` of a kind.

    Args:
        features: names of a vector's features, or none.

    Raises:
        ValueError: the kind does not have rows like these.
    """
    row = x.shape[1:]
    axes = {"vector": (1,), "counts": (1,), "series": (2,), "image": (2, 3)}[kind]
    if len(row) not in axes:
        expected = " or ".join(str(1 + num) for num in axes)
        raise ValueError(f"X of kind {kind} has {expected} dimensions, got {x.ndim}")
    if kind == "image":
        is_uint8 = x.dtype == np.uint8
        if not is_uint8:
            _unit(x)
        return RowForm(kind, row, _image_shape(row), is_uint8, Preprocessing())
    if kind == "counts":
        return RowForm(kind, row, row, False, Preprocessing())
    columns = x.astype(np.float64) if kind == "vector" else np.moveaxis(x, 1, 2).reshape(-1, row[0]).astype(np.float64)
    if (empty := np.isnan(columns).all(axis=0)).any():
        raise ValueError(f"channel {int(empty.argmax())} of X has no value at all")
    with np.errstate(over="ignore", invalid="ignore"):
        means, deviations = mean_and_deviation(columns)
    if not (np.isfinite(means) & np.isfinite(deviations) & (deviations > 0)).all():
        raise ValueError("X has values too large or too close to each other to standardise in double precision")
    scales = Preprocessing(means=means.tolist(), deviations=deviations.tolist(), features=features)
    return RowForm(kind, row, row, False, scales)


def _image_shape(row: tuple[int, ...]) -> tuple[int, ...]:
    if len(row) == 2:
        return (1, *row)
    first, last = row[0] in _CHANNELS, row[2] in _CHANNELS
    if first and last:
        raise ValueError(f"images of shape {list(row)}: the first or the last axis may be that of the channels")
    if not first and not last:
        raise ValueError(f"images of shape {list(row)}: 1 or 3 channels are expected on the first or the last axis")
    return row if first else (row[2], *row[:2])


def _unit(x: Array) -> Array:
    """Raises ValueError: not floats from 0 to 1."""
    if x.dtype.kind != "f" or x.min() < 0 or x.max() > 1:
        raise ValueError(
            f"images are uint8, or floats from 0 to 1; these are {x.dtype} from {x.min():g} to {x.max():g}: divide by "
            "the largest possible value"
        )
    return x
