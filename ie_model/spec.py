"""What one example looks like: the contract between the data and the model."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["image", "series", "counts", "vector"]
LikelihoodName = Literal["bernoulli", "discretized_logistic", "gaussian", "multinomial"]

# What fits what: axes of a shape, dtype of stored values, likelihoods. The first likelihood is the usual one.
_AXES: dict[str, str] = {"image": "C, H, W", "series": "C, T", "counts": "W", "vector": "D"}
_DTYPE: dict[str, str] = {"image": "uint8", "series": "float32", "counts": "int32", "vector": "float32"}
_LIKELIHOODS: dict[str, tuple[str, ...]] = {
    "image": ("bernoulli", "discretized_logistic", "gaussian"),
    "series": ("gaussian",),
    "counts": ("multinomial",),
    "vector": ("gaussian",),
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
    occurs, `[W]`. `vector`: D features in no order, none missing, `[D]`."""

    shape: tuple[int, ...] = Field(min_length=1)
    """Shape of one example, without the batch dimension; for series T is the longest length."""

    dtype: Literal["uint8", "float32", "int32"]
    """How values are stored: `uint8` 0..255 of images, which become floats in [0, 1] for the model; `float32` of
    series and vectors; `int32` of counts."""

    classes: tuple[str, ...] = Field(min_length=2)
    """Class names; a label is an index into this tuple."""

    likelihood: LikelihoodName
    """p(x | r, v), see `ie_model.likelihoods`."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        axes = _AXES[self.kind]
        name = {"image": "an image", "vector": "a vector"}.get(self.kind, self.kind)
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


class Preprocessing(BaseModel):
    """What the values of x stand for. Data sets of one DataSpec may differ in it, and a model of one then misreads the
    other; it is written into the shard manifest and into every model artifact.

    Empty fields: does not apply to the kind, or is not known. Images need none of it: shape and dtype say all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    vocabulary: tuple[str, ...] = ()
    """Of counts: the W words, in the order of the values."""

    means: tuple[float, ...] = ()
    """Of series and vectors: the mean of each of C channels, or D features, over raw train, in the unit of the raw
    values."""

    deviations: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """Their deviation; x is (raw - mean) / deviation."""

    features: tuple[str, ...] = ()
    """Of vectors: the names of the D features, in the order of the values."""

    def check(self, spec: DataSpec) -> None:
        """Whether it can belong to data of this spec.

        Raises:
            ValueError: other words, channels or features than the spec has.
        """
        scaled = ("series", "vector")
        fitting = {"vocabulary": ("counts",), "means": scaled, "deviations": scaled, "features": ("vector",)}
        for name, kinds in fitting.items():
            found = len(getattr(self, name))
            expected = spec.shape[0] if spec.kind in kinds else 0
            if found not in (0, expected):
                raise ValueError(
                    f"preprocessing.{name} has {found} entries; {spec.kind} {list(spec.shape)}: {expected}"
                )
        if len(self.means) != len(self.deviations):
            raise ValueError(f"preprocessing has {len(self.means)} means and {len(self.deviations)} deviations")

    def difference(self, model: Preprocessing) -> str:
        """The first way in which these data are not those of a model, in words; empty where they are the same."""
        entries = {
            "vocabulary": "word",
            "features": "feature",
            "means": "mean of channel",
            "deviations": "deviation of channel",
        }
        for name, entry in entries.items():
            mine, theirs = getattr(self, name), getattr(model, name)
            if mine == theirs:
                continue
            if len(mine) != len(theirs):
                return f"{name} of {len(mine)} entries, the model's has {len(theirs)}"
            num = sum(a != b for a, b in zip(mine, theirs, strict=True))
            i = next(i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b)
            return f"{entry} {i + 1} is {mine[i]!r}, the model's is {theirs[i]!r} ({num} of {len(mine)} differ)"
        return ""
