"""What one example looks like: the contract between the data and the model."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class DataSpec(BaseModel):
    """Kind, shape and classes of a data set; the model is built from it and from nothing else.

    It is written into the shard manifest and into every model artifact, so that a model meets only
    data that it was made for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    kind: Literal["image"]
    """What an example is. `image`: an array of shape `[C, H, W]`."""

    shape: tuple[int, ...] = Field(min_length=1)
    """Shape of one example, without the batch dimension; for images `[C, H, W]`."""

    dtype: Literal["uint8"]
    """How values are stored. `uint8` values 0..255 become floats in [0, 1] for the model."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is an index into this tuple."""

    likelihood: Literal["bernoulli"]
    """p(x | r, v), see `ie_model.likelihoods`."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        if len(self.shape) != 3:
            raise ValueError(f"an image has shape [C, H, W], got {list(self.shape)}")
        if min(self.shape) < 1 or self.shape[0] not in (1, 3):
            raise ValueError(f"an image has 1 or 3 channels and a size of at least 1x1, got {list(self.shape)}")
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("class names must differ from each other")
        return self

    @property
    def num_classes(self) -> int:
        """K, the number of classes."""
        return len(self.classes)

    @property
    def num_values(self) -> int:
        """Number of scalars in one example; divides nats into bits per dimension."""
        return math.prod(self.shape)
