"""Typed choices of the model and of its objective. Unknown keys and wrong values are refused.

The defaults are those of params.yaml.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Config(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ModelConfig(_Config):
    """Sizes and parts of the networks. EquiVAE, and by other choices Kingma's M2 and the plain VAE."""

    r_dim: int = Field(default=32, ge=1, le=4096)
    """R, size of the invariant representation r."""

    v_dim: int = Field(default=16, ge=1, le=4096)
    """V, size of the equivariant representation v."""

    class_code: Literal["embedding", "one_hot", "none"] = "embedding"
    """What stands for the class. `embedding`: r_y, the mean of f_inv over other points of the class (EquiVAE).
    `one_hot`: the class's unit vector (Kingma's M2). `none`: nothing (the plain VAE)."""

    posterior: Literal["r_and_x", "x"] = "r_and_x"
    """What q(v | .) sees: r and x, or x alone (an ablation)."""

    stochastic_r: bool = False
    """An ablation: r is drawn from a normal with a KL to N(0, I) instead of being a mean."""

    classifier: Literal["distance", "network", "none"] = "distance"
    """q(y|x): `distance` is a softmax over minus the squared distances of f_inv(x) to the r_y (ours); `network` a
    dense layer on f_inv(x); `none` goes with class_code `none`."""

    encoder: Literal["convolutional", "wide_residual"] = "convolutional"
    """Trunk of images: stride-2 5x5 convolutions, or groups of pre-activation residual blocks (for GPUs). Series
    have stride-2 convolutions over time, counts and vectors have dense layers, whatever stands here."""

    channels: tuple[int, ...] = Field(default=(16, 32), min_length=1, max_length=6)
    """Output channels of the trunk's convolutions, or of its residual groups."""

    residual_blocks: int = Field(default=4, ge=1, le=16)
    """Blocks of each group of a wide_residual trunk."""

    hidden: int = Field(default=256, ge=1)
    """Width of the dense layer on top of each trunk and of the posterior's head."""

    decoder: Literal["dense", "convolutional"] = "dense"
    """`convolutional` (images): one dense layer, then the trunk's convolutions turned round."""

    decoder_hidden: tuple[int, ...] = Field(default=(400, 400), min_length=1)
    """Widths of the decoder's dense layers."""

    conditioning: Literal["first_layer", "every_layer"] = "first_layer"
    """Where r enters the decoder: in the sum of its first dense layer, or as a scale and a shift of the others too
    (FiLM, Perez et al., AAAI 2018)."""

    initialisation: Literal["uniform", "he"] = "uniform"
    """Weights of layers before a ReLU: PyTorch's own uniform ones, with which v begins nearly unused, or He's normal
    ones (ICCV 2015), with which it does not; f_inv then begins at unit scale. Transposed convolutions keep theirs."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        for name in ("channels", "decoder_hidden"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must all be at least 1, got {list(getattr(self, name))}")
        fitting = {"embedding": ("distance", "network"), "one_hot": ("network",), "none": ("none",)}[self.class_code]
        if self.classifier not in fitting:
            raise ValueError(
                f"classifier is {self.classifier!r} with class_code {self.class_code!r}; allowed: {', '.join(fitting)}"
            )
        if self.stochastic_r and self.class_code != "embedding":
            raise ValueError(f"stochastic_r needs class_code 'embedding', got {self.class_code!r}")
        return self


class AugmentConfig(_Config):
    """Ranges of the random distortion of the extended objective; each is drawn uniformly in plus or minus.

    Images: an affine map. Series: shift in time and scale of the values. Counts: words left out. Vectors: noise, and
    features set to their mean.
    """

    rotation: float = Field(default=20.0, ge=0, le=180)
    """Degrees."""

    shift: float = Field(default=0.1, ge=0, le=1)
    """Fraction of the image's side, or of the series' longest length."""

    scale: float = Field(default=0.15, ge=0, lt=1)
    """Relative change of size."""

    shear: float = Field(default=0.2, ge=0, le=1)
    """Tangent of the shear's angle."""

    drop: float = Field(default=0.6, ge=0, lt=1)
    """Share of a text's words that is left out, drawn up to this much."""

    drop_features: float = Field(default=0.5, ge=0, lt=1)
    """Share of a vector's features that is set to their mean, drawn up to this much."""

    noise: float = Field(default=0.5, ge=0, le=10)
    """Deviation of the noise on a vector's features, in units of theirs, drawn up to this much."""


class ExtendedConfig(_Config):
    """Additions to the plain objective (ours). Off, the objective is the plain one and nothing else."""

    enabled: bool = True
    """False: plain objective."""

    augment: AugmentConfig = AugmentConfig()
    """Distortion of labelled points and of the strong view in the consistency term."""

    consistency: float = Field(default=0.092, ge=0, le=10)
    """Weight of the consistency term, a share like alpha: the undistorted view's confident class is asked of the
    distorted one."""

    confidence: float = Field(default=0.95, gt=0, le=1)
    """q(y|x) from which on a point takes part in the consistency term."""

    align: bool | Literal["auto"] = "auto"
    """Whether the consistency term's guesses are weighted by p(y) over their mean in the step, so that no class takes
    another's points (distribution alignment, Berthelot et al. 2020). `auto`: where no class of the labelled data has
    more than twice the points of another, so that a uniform p(y) holds."""

    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    """Decay per step of the averaged weights that are validated and published; 0 keeps the last ones."""


class ObjectiveConfig(_Config):
    """The training objective J of docs/method.md."""

    loss: Literal["bound", "consistency", "cross_entropy"] = "bound"
    """`bound`: J, on labelled and unlabelled points. `consistency`: the extended objective without the bounds, so
    without v and decoder. `cross_entropy`: the same encoder trained on the labelled points alone (the supervised
    baseline)."""

    alpha: float = Field(default=0.092, ge=0, le=10)
    """Weight of the labelled log q(y|x), as a share of the nats that x costs a decoder which knows nothing of it, at
    least those of MNIST: J / N carries alpha * that many nats * mean over labelled points of log q(y|x). On MNIST
    0.092 are 50 nats."""

    label_prior: Literal["uniform", "labelled"] = "uniform"
    """p(y): the same for all classes, or the classes' shares of the labelled points. These differ where `labels.count`
    is `all` or a fraction of each class; a number takes equal parts of the classes."""

    prune: float = Field(default=0.01, ge=0, lt=1)
    """Classes with q(y|x) below this are left out of the class sum, never the best one; 0 is the exact sum."""

    support_min: int = Field(default=5, ge=2)
    support_max: int = Field(default=10, ge=2)
    """m, the labelled points per class of a step, is drawn from support_min..support_max; equal ones fix it."""

    self_included: bool = False
    """An ablation: a labelled point is part of its own r."""

    kl_warmup: float = Field(default=0.0, ge=0, le=1)
    """Share of the run's steps in which the KL's weight goes from kl_start to 1; 0: it is 1 from the first step on."""

    kl_start: float = Field(default=0.0, ge=0, le=100)
    """The KL's weight in the first step of a kl_warmup. Above 1, v costs more at first, and r takes the class before v
    is used."""

    class_moments: float = Field(default=0.0, ge=0, le=1000)
    """Weight of the mean over classes of KL(q(v|y) || p(v)), in nats, by means and variances of q(v|y) in a step."""

    free_bits: float = Field(default=0.0, ge=0)
    """Nats of KL per unit of v, averaged over a step's points, that cost nothing; 0 is the bound itself."""

    extended: ExtendedConfig = ExtendedConfig()
    """Optional terms beyond the plain objective."""

    @model_validator(mode="after")
    def _range(self) -> ObjectiveConfig:
        if self.support_max < self.support_min:
            raise ValueError(f"support_max ({self.support_max}) must be at least support_min ({self.support_min})")
        if self.loss == "consistency" and not (self.extended.enabled and self.extended.consistency > 0):
            raise ValueError("loss is 'consistency', which needs extended.enabled and extended.consistency above 0")
        return self
