"""What one example looks like: the contract between the data and the model."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["image", "series", "counts"]
LikelihoodName = Literal["bernoulli", "discretized_logistic", "gaussian", "multinomial"]

# What fits what: axes of a shape, dtype of stored values, likelihoods. The first likelihood is the usual one.
_AXES: dict[str, str] = {"image": "C, H, W", "series": "C, T", "counts": "W"}
_DTYPE: dict[str, str] = {"image": "uint8", "series": "float32", "counts": "int32"}
_LIKELIHOODS: dict[str, tuple[str, ...]] = {
    "image": ("bernoulli", "discretized_logistic", "gaussian"),
    "series": ("gaussian",),
    "counts": ("multinomial",),
}


class DataSpec(BaseModel):
    """Kind, shape and classes of a data set; the model is built from it and from nothing else.

    It is written into the shard manifest and into every model artifact, so that a model meets only
    data that it was made for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Kind
    """What an example is. `image`: an array `[C, H, W]`. `series`: C values at each of up to T times, `[C, T]`;
    times beyond an example's length, and values that are missing, are NaN. `counts`: how often each of W words
    occurs, `[W]`."""

    shape: tuple[int, ...] = Field(min_length=1)
    """Shape of one example, without the batch dimension; for series T is the longest length."""

    dtype: Literal["uint8", "float32", "int32"]
    """How values are stored: `uint8` 0..255 of images, which become floats in [0, 1] for the model; `float32` of
    series; `int32` of counts."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is an index into this tuple."""

    likelihood: LikelihoodName
    """p(x | r, v), see `ie_model.likelihoods`."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        axes = _AXES[self.kind]
        name = f"an {self.kind}" if self.kind == "image" else self.kind
        if len(self.shape) != axes.count(",") + 1 or min(self.shape) < 1:
            raise ValueError(f"{name} has shape [{axes}] of at least 1 each, got {list(self.shape)}")
        if self.kind == "image" and self.shape[0] not in (1, 3):
            raise ValueError(f"an image has 1 or 3 channels, got {list(self.shape)}")
        if self.kind == "counts" and self.shape[0] < 2:
            raise ValueError(f"counts need at least two words, got {list(self.shape)}")
        if self.dtype != _DTYPE[self.kind]:
            raise ValueError(f"dtype of {name} is {_DTYPE[self.kind]}, got {self.dtype}")
        if self.likelihood not in _LIKELIHOODS[self.kind]:
            allowed = ", ".join(_LIKELIHOODS[self.kind])
            raise ValueError(f"likelihood of {name} is {self.likelihood!r}; allowed: {allowed}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError(f"class names must differ from each other, got {list(self.classes)}")
        return self

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def num_values(self) -> int:
        """Number of scalars in one example; divides nats into bits per dimension."""
        return math.prod(self.shape)
