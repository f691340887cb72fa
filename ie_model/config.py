"""Typed choices of the model and of its objective. Unknown keys and wrong values are refused."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(_Config):
    """Sizes and parts of EquiVAE's networks."""

    r_dim: int = Field(ge=1, le=4096)
    """R, size of the invariant representation r."""

    v_dim: int = Field(ge=1, le=4096)
    """V, size of the equivariant representation v."""

    channels: tuple[int, ...] = Field(min_length=1, max_length=6)
    """Output channels of the stride-2 5x5 convolutions of both image trunks."""

    hidden: int = Field(ge=1)
    """Width of the dense layer on top of each trunk."""

    decoder_hidden: tuple[int, ...] = Field(min_length=1)
    """Widths of the decoder's dense layers."""

    classifier: Literal["distance", "network"]
    """q(y|x): `distance` is a softmax over minus the squared distances of f_inv(x) to the r_y (ours);
    `network` a dense layer on f_inv(x)."""

    @model_validator(mode="after")
    def _positive(self) -> ModelConfig:
        for name in ("channels", "decoder_hidden"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must all be at least 1, got {list(getattr(self, name))}")
        return self


class AugmentConfig(_Config):
    """Ranges of the random affine map of the extended objective; each is drawn uniformly in plus or minus."""

    rotation: float = Field(ge=0, le=180)
    """Degrees."""

    shift: float = Field(ge=0, le=1)
    """Fraction of the image's side."""

    scale: float = Field(ge=0, lt=1)
    """Relative change of size."""

    shear: float = Field(ge=0, le=1)
    """Tangent of the shear's angle."""


class ExtendedConfig(_Config):
    """Additions to the plain objective (ours). Off, the objective is the plain one and nothing else."""

    enabled: bool
    """False: plain objective."""

    augment: AugmentConfig
    """Distortion of labelled points and of the strong view in the consistency term."""

    consistency: float = Field(ge=0)
    """Weight of the consistency term: the undistorted view's confident class is asked of the distorted one."""

    confidence: float = Field(gt=0, le=1)
    """q(y|x) from which on a point takes part in the consistency term."""

    ema_decay: float = Field(ge=0, lt=1)
    """Decay per step of the averaged weights that are validated and published; 0 keeps the last ones."""


class ObjectiveConfig(_Config):
    """The training objective J of docs/method.md."""

    method: Literal["equivae", "supervised"]
    """`equivae`: the bound on labelled and unlabelled points. `supervised`: the same encoder trained with
    cross-entropy on the labelled points alone (the baseline)."""

    alpha: float = Field(ge=0)
    """Weight of the labelled log q(y|x), in units of one data point's bound: J / N carries
    alpha * mean over labelled points of log q(y|x)."""

    prune: float = Field(ge=0, lt=1)
    """Classes with q(y|x) below this are left out of the class sum, never the best one; 0 is the exact sum."""

    support_min: int = Field(ge=2)
    support_max: int = Field(ge=2)
    """m, the labelled points per class of a step, is drawn from support_min..support_max."""

    extended: ExtendedConfig
    """Optional terms beyond the plain objective."""

    @model_validator(mode="after")
    def _range(self) -> ObjectiveConfig:
        if self.support_max < self.support_min:
            raise ValueError(f"support_max ({self.support_max}) must be at least support_min ({self.support_min})")
        return self
