"""The sections `sweep` and `search` of params.yaml: grids of trials. `pipeline.config.params` reads them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.config.methods import METHODS, Method

LabelCount = Annotated[int, Field(ge=4)] | Annotated[float, Field(gt=0, lt=1)] | Literal["all"]
"""A whole number is a count over all classes, a number between 0 and 1 a fraction of each class."""
LabelCountOrAuto = LabelCount | Literal["auto"]

Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
"""Allowed by every random generator in use: scikit-learn's and Optuna's take 32 bits, and offsets are added."""


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class SweepParams(Section):
    """The grid of label counts, methods and seeds."""

    label_counts: Literal["auto"] | Annotated[tuple[LabelCount, ...], Field(min_length=1)]
    """Each a count over all classes (100), a fraction of each class (0.01), or `all`. `auto`: that of labels.count, and
    ten times as many, or `all` where the smallest class has too few for that."""

    methods: tuple[Method, ...] = Field(min_length=1)
    """Names of pipeline.config.methods.METHODS: `supervised` (the same encoder on the labelled points alone), `plain`,
    `extended` (with augmentation, consistency and averaged weights), `m2`, `vae` and the ablations."""

    seeds: tuple[Seed, ...] = Field(min_length=1)
    """One label subset and one initialisation each; methods share the subsets."""

    baseline: Method | None
    """The method that the summary compares the others with; null: the first one of `methods`."""

    epochs: int = Field(ge=1)
    """Of trials with a bound (all but the supervised ones)."""

    min_steps: int = Field(ge=0)
    """Floor of their length in steps, as train.min_steps."""

    supervised_steps: int = Field(ge=1)
    """Steps of `supervised` trials."""

    measures: Literal["errors", "all"]
    """`errors`: each trial's test error and bound. `all`: every measure of `evaluate`, a minute or two a trial."""

    max_concurrent: Literal["auto"] | Annotated[int, Field(ge=1)]
    """Trials at a time, at most. Each takes threads_per_trial CPUs, and on `cuda` an equal part of one GPU. `auto`: as
    many as there are CPUs for, and at most four on a GPU. Lower it where memory is short."""

    threads_per_trial: int = Field(ge=1, le=1024)
    """CPU threads of each trial: two trials of one thread end sooner than one of two after the other."""

    retries: int = Field(ge=0, le=100)
    """New attempts of a trial that failed, each from its last checkpoint. What cannot end otherwise the next time (a
    loss that is not finite) is not tried again."""

    @model_validator(mode="after")
    def _check(self) -> SweepParams:
        for name in ("label_counts", "methods", "seeds"):
            values = getattr(self, name)
            if values != "auto" and len(set(values)) != len(values):
                raise ValueError(f"{name} holds a value twice: {list(values)}")
        if self.methods == ("vae",):
            raise ValueError(
                "methods holds 'vae' alone, which has no classes and so no error to plot; add another method"
            )
        if self.baseline is not None and self.baseline not in self.methods:
            raise ValueError(
                f"baseline is {self.baseline!r}, which is none of methods; allowed: {', '.join(self.methods)}, or null "
                "for the first"
            )
        return self


Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]


class SearchDimension(Section):
    """One parameter that a search varies: a range, or a list of choices."""

    name: str = Field(min_length=1)
    """Dotted path of a parameter of model, objective or train."""

    low: Number | None = None
    high: Number | None = None
    """Ends of the range, both included; two whole numbers make it one of whole numbers."""

    log: bool = False
    """Whether orders of magnitude are equally likely."""

    choices: tuple[bool | Number | str, ...] | None = Field(default=None, min_length=1)
    """Instead of a range."""

    @model_validator(mode="after")
    def _check(self) -> SearchDimension:
        ends = (self.low, self.high)
        if (self.choices is None) == (ends == (None, None)):
            raise ValueError(f"{self.name} needs either low and high, or choices")
        if self.choices is not None:
            if self.log:
                raise ValueError(f"{self.name}: log goes with a range, not with choices")
            return self
        if self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"{self.name}: low ({self.low}) must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"{self.name}: a logarithmic range starts above 0, got {self.low}")
        return self


class SearchParams(Section):
    """`ie search`: Optuna's suggestions, judged on val, poor ones stopped early by ASHA. No stage of dvc.yaml."""

    method: Method
    """Whose parameters are searched."""

    label_count: LabelCountOrAuto
    """As labels.count."""

    seed: Seed
    """Of the label subset, the initialisation and Optuna's sampler."""

    num_trials: int = Field(ge=1, le=100_000)
    epochs: int = Field(ge=1)
    """Of a trial that is not stopped."""

    grace_epochs: int = Field(ge=1)
    """No trial is stopped before."""

    reduction: int = Field(ge=2)
    """About one trial in so many continues at each rung of ASHA."""

    metric: Literal["val_error", "val_nll", "val_bound"]
    """What the choice is made by; the test split is not read. `val_nll` is mean -log q(y|x), finer than the error."""

    space: tuple[SearchDimension, ...] = Field(min_length=1)
    """What is varied: `{name, low, high, log}` or `{name, choices}`."""

    @model_validator(mode="after")
    def _check(self) -> SearchParams:
        if self.grace_epochs > self.epochs:
            raise ValueError(f"grace_epochs ({self.grace_epochs}) must be at most epochs ({self.epochs})")
        names = [dimension.name for dimension in self.space]
        if len(set(names)) != len(names):
            raise ValueError(f"space holds a name twice: {names}")
        if self.metric != "val_bound" and self.method == "vae":
            raise ValueError(f"metric is {self.metric!r}, but 'vae' has no classes; allowed: val_bound")
        if self.metric == "val_bound" and METHODS[self.method].objective.get("loss", "bound") != "bound":
            raise ValueError(f"metric is 'val_bound', but {self.method!r} has no bound; allowed: val_error, val_nll")
        return self
