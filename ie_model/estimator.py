"""The model as a scikit-learn classifier: arrays in, predictions and representations out, without DVC or Ray.

It takes the steps of the pipeline's training (`ie_model.fit`) with the defaults of params.yaml, in this process. Needs
the extra `estimator`.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data
from torch import Tensor
from tqdm import tqdm

from ie_model import inference
from ie_model.artifact import Artifact, save_artifact
from ie_model.config import ModelConfig, ObjectiveConfig
from ie_model.epoch_plan import EpochPlan
from ie_model.fit import Fit, Schedule
from ie_model.model import EquiVAE
from ie_model.networks import to_float
from ie_model.row_form import form_of
from ie_model.schedule import auto_batch_size, steps_per_epoch
from ie_model.spec import DataSpec, Kind, LikelihoodName
from ie_model.support import IntArray, is_unlabelled

Array = npt.NDArray[Any]

_AT_ONCE = 500
"""Rows that predictions take in one pass."""

# Labelled points whose cost sets the scale of the loss, as in the pipeline.
_MEASURED_FOR_SCALE = 1000


class EquiVAEClassifier(TransformerMixin, ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Semi-supervised classifier that represents a row as r, its class, and v, what else there is.

    Args:
        kind: what a row of X is. `auto`: a vector of features where X is `[N, D]`; an image where it is `[N, H, W]`,
            `[N, C, H, W]` or `[N, H, W, C]` with 1 or 3 channels. Or by name: `vector`, `image`, `series` (`[N, C, T]`,
            NaN where a series has ended), `counts` (`[N, W]`, dense or sparse).
        model, objective: sizes and parts of the networks, and the training objective; None takes the defaults.
        epochs, min_steps: passes over X; of small data as many as `min_steps` steps need.
        batch_size: rows without a label in a step, or `auto`.
        learning_rate: the highest.
        warmup: share of the steps over which the learning rate rises.
        unlabelled: the value of y that stands for a row without a label; None: every row has one. None and NaN in y
            always do.
        device: `cpu`, `cuda` or another name that torch knows.
        random_state: seed of weights, order and noise; the same gives the same model on the same kind of processor.
        verbose: 1 draws a progress bar.

    Attributes:
        classes_: names as in y, `[K]`.
        artifact_: the model with its class representations, see `ie_model.artifact`.
        history_: means of what each epoch logged.
        n_steps_: steps that were taken.
    """

    def __init__(
        self,
        *,
        kind: Literal["auto", "vector", "image", "series", "counts"] = "auto",
        model: ModelConfig | None = None,
        objective: ObjectiveConfig | None = None,
        epochs: int = 12,
        min_steps: int = 2000,
        batch_size: int | Literal["auto"] = "auto",
        learning_rate: float = 0.002,
        warmup: float = 0.04,
        unlabelled: Any = -1,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = 0,
        verbose: int = 0,
    ) -> None:
        self.kind = kind
        self.model = model
        self.objective = objective
        self.epochs = epochs
        self.min_steps = min_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.unlabelled = unlabelled
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = self.kind != "vector"
        tags.input_tags.sparse = self.kind == "counts"
        tags.input_tags.allow_nan = self.kind == "series"
        tags.input_tags.positive_only = self.kind == "counts"
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Trains from the beginning. Ctrl-C ends it early, with a warning; the model of that step is kept.

        Args:
            X: rows, see `kind`.
            y: classes `[N]`, with `unlabelled` where there is none; at least two rows of each class.

        Raises:
            ValueError: rows, classes or parameters that cannot be; the loss stops being finite.
        """
        self._check_parameters()
        x = self._rows(X, reset=True)
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        codes = self._set_classes(x, y)
        self._form = form_of(x, self._kind(x), self._names())
        points = torch.from_numpy(self._form.stored(x))
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        self._train(points, codes, int(seed))
        return self

    def predict(self, X: Any) -> Array:
        """The most probable class of each row, `[N]`."""
        probabilities = self.predict_proba(X)
        result: Array = self.classes_[probabilities.argmax(1)]
        return result

    def predict_proba(self, X: Any) -> Array:
        """q(y | x), `[N, K]`, columns in the order of `classes_`."""
        return self._collected(X, lambda artifact, x: inference.classify(artifact, x).exp())

    def transform(self, X: Any) -> Array:
        """r and v side by side, `[N, R + V]`: f_inv(x), and the mean of q(v | r_y, x) of the predicted class y.

        v means nothing where `objective.loss` is not `bound`: its networks are not trained then.
        """

        def both(artifact: Artifact, x: Tensor) -> Tensor:
            return torch.cat([artifact.model.embed(x), inference.posterior_mean(artifact, x)], dim=1)

        return self._collected(X, both)

    def get_feature_names_out(self, input_features: Any = None) -> Array:
        """Names of the columns of `transform`: r0, r1, ... and v0, v1, ..."""
        check_is_fitted(self, "artifact_")
        _check_feature_names_in(self, input_features, generate_names=False)
        config = self.artifact_.model.config
        sizes = {"r": config.r_dim, "v": config.v_dim}
        return np.array([f"{name}{i}" for name, size in sizes.items() for i in range(size)], dtype=object)

    def swap(self, X: Any) -> Array:
        """Each row with its own v and the class of each of `classes_`, `[N, K, *row]` in the units of X.

        Raises:
            ValueError: the objective trains no decoder.
        """
        self._check_decoder()
        swapped = self._collected(X, inference.swap)
        return self._form.restored(torch.from_numpy(swapped))

    def sample(self, n_samples: int = 1) -> tuple[Array, Array]:
        """New rows, `n_samples` of each class: X `[K * n_samples, *row]` in its units, and y.

        Raises:
            ValueError: the objective trains no decoder, or n_samples is below 1.
        """
        self._check_decoder()
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        seed = check_random_state(self.random_state).randint(2**31 - 1)
        generator = torch.Generator().manual_seed(int(seed))
        drawn = inference.sample(self.artifact_, n_samples, generator)
        return self._form.restored(drawn.flatten(0, 1)), np.repeat(self.classes_, n_samples)

    def add_classes(self, X: Any, y: Any) -> Self:
        """A copy that knows new classes too, from a few rows of each and no training.

        Raises:
            ValueError: a class is known already, or the model has no representations of classes to add to.
        """
        check_is_fitted(self, "artifact_")
        x, y = self._rows(X), column_or_1d(y)
        check_consistent_length(x, y)
        names, codes = np.unique(y, return_inverse=True)
        if (known := np.intersect1d(names, self.classes_)).size:
            raise ValueError(f"classes {known.tolist()} are known already")
        points = to_float(torch.from_numpy(self._form.stored(x)).to(self._on()))
        added = inference.add_classes(self.artifact_, list(map(str, names)), points, torch.from_numpy(codes))
        result = copy.copy(self)
        result.artifact_, result.classes_ = added, np.concatenate([self.classes_, names])
        return result

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the model as a new folder that `ie embed`, `ie export` and `ie_model.load_artifact` take.

        Raises:
            FileExistsError: something is there.
        """
        check_is_fitted(self, "artifact_")
        target = Path(folder)
        if target.exists():
            raise FileExistsError(f"{target} exists")
        part = target.with_name(target.name + ".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_artifact(part, self.artifact_)
        part.rename(target)

    def _train(self, points: Tensor, codes: IntArray, seed: int) -> None:
        device, known = self._on(), codes >= 0
        labelled, others = np.flatnonzero(known), np.flatnonzero(~known)
        spec = self._spec()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = EquiVAE(spec, self.model or ModelConfig()).to(device)
        batch = auto_batch_size(len(points), (1, 1)) if self.batch_size == "auto" else self.batch_size
        an_epoch = steps_per_epoch(len(points), batch, self.epochs, self.min_steps)
        schedule = Schedule(self.epochs * an_epoch, batch, self.learning_rate, self.warmup, seed)
        members = [np.flatnonzero(codes == c) for c in range(spec.num_classes)]
        shown = to_float(points[torch.from_numpy(labelled[:_MEASURED_FOR_SCALE])].to(device))
        fit = Fit(model, self.objective or ObjectiveConfig(), schedule, members, len(others), shown)
        self.history_: list[dict[str, float]] = []
        self.n_steps_ = 0
        try:
            self._steps(fit, points, torch.from_numpy(codes), others, an_epoch)
        except KeyboardInterrupt:
            if not self.n_steps_:
                raise
            total = schedule.total_steps
            warnings.warn(
                f"interrupted after {self.n_steps_} of {total} steps; the model of that step is kept",
                ConvergenceWarning,
                stacklevel=3,
            )
        x, y = points[torch.from_numpy(labelled)], torch.from_numpy(codes[labelled])
        r, counts = inference.representations(fit.published, x, y, _AT_ONCE, device)
        published = fit.published.requires_grad_(False).eval()
        provenance = {"steps": self.n_steps_, "seed": seed, "num_unlabelled": len(others)}
        objective = fit.config
        self.artifact_ = Artifact(published, r, counts, provenance, self._form.scales, objective.prune, objective.loss)
        self.artifact_.tensors()

    def _steps(self, fit: Fit, points: Tensor, codes: Tensor, others: IntArray, an_epoch: int) -> None:
        batches: Iterator[IntArray | None] = itertools.repeat(None)
        if size := fit.unlabelled_batch:
            batches = EpochPlan(len(others), size, 1, fit.schedule.seed).stream(0)
        sums: dict[str, Tensor] = {}
        total = fit.schedule.total_steps
        with tqdm(total=total, unit="step", disable=not self.verbose) as bar:
            for step, batch in zip(range(total), batches, strict=False):
                support = torch.from_numpy(fit.support(step))
                unlabelled = None
                if batch is not None:
                    unlabelled = to_float(points[torch.from_numpy(others[batch])].to(fit.device))
                x = to_float(points[support].to(fit.device))
                logged = fit.step(step, x, codes[support].to(fit.device), unlabelled)
                sums = {name: sums[name] + value if sums else value for name, value in logged.items()}
                self.n_steps_ = step + 1
                bar.update()
                if self.n_steps_ % an_epoch == 0:
                    means = {name: float(value) / an_epoch for name, value in sums.items()}
                    self.history_.append(means)
                    sums = {}
                    if not all(map(math.isfinite, means.values())):
                        epoch = len(self.history_)
                        raise ValueError(
                            f"the loss is not finite in epoch {epoch}: lower learning_rate ({self.learning_rate:g})"
                        )

    def _collected(self, X: Any, function: Any) -> Array:
        """`function` of the artifact and each batch of floats, as an array."""
        check_is_fitted(self, "artifact_")
        points = torch.from_numpy(self._form.stored(self._rows(X)))
        device, artifact = self._on(), self.artifact_
        # A row has the same answer whatever stands beside it: in single precision sums round by the batch's size.
        dtype = torch.float64 if device.type == "cpu" else torch.float32
        model = copy.deepcopy(artifact.model).to(dtype)
        exact = replace(artifact, model=model, class_representations=artifact.class_representations.to(dtype))
        with torch.no_grad():
            parts = [
                function(exact, to_float(batch.to(device)).to(dtype)).cpu().double()
                for batch in torch.split(points, _AT_ONCE)
            ]
        return torch.cat(parts).numpy()

    def _rows(self, X: Any, reset: bool = False) -> Array:
        """X as an array of numbers, checked."""
        kind = self.kind if reset else self._form.kind
        finite: bool | str = "allow-nan" if kind == "series" else True
        sparse = "csr" if kind == "counts" else False
        x = validate_data(self, X, reset=reset, allow_nd=True, ensure_all_finite=finite, accept_sparse=sparse)
        x = x.toarray() if issparse(x) else x
        if not reset and x.shape[1:] != self._form.row:
            raise ValueError(f"X has rows of shape {list(x.shape[1:])}, the model's are {list(self._form.row)}")
        if x.dtype.kind not in "fiub":
            raise ValueError(f"X holds {x.dtype}, no real numbers")
        result: Array = x
        return result

    def _kind(self, x: Array) -> Kind:
        if self.kind != "auto":
            return self.kind
        if x.ndim > 4:
            raise ValueError(f"X has {x.ndim} dimensions; allowed: [N, D], [N, H, W], [N, C, H, W] or [N, H, W, C]")
        return "vector" if x.ndim == 2 else "image"

    def _set_classes(self, x: Array, y: Any) -> IntArray:
        """Sets `classes_`; index into it of each row, -1 where there is no label."""
        y = column_or_1d(y, warn=True)
        check_consistent_length(x, y)
        known = ~is_unlabelled(y, self.unlabelled)
        if not known.any():
            raise ValueError(f"y has no label at all: each of its {len(y)} values is NaN, None or {self.unlabelled!r}")
        check_classification_targets(y[known].tolist() if y.dtype == object else y[known])
        self.classes_, found = np.unique(y[known], return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"at least two classes are needed; y has 1 class, {self.classes_[0]}")
        counts = np.bincount(found)
        if counts.min() < 2:
            few = self.classes_[counts.argmin()]
            raise ValueError(
                f"class {few} has a single labelled row; at least 2 are needed: one is represented by the others"
            )
        codes = np.full(len(y), -1, dtype=np.int64)
        codes[known] = found
        return codes

    def _names(self) -> tuple[str, ...]:
        return tuple(map(str, getattr(self, "feature_names_in_", ())))

    def _spec(self) -> DataSpec:
        form = self._form
        likelihoods: dict[Kind, LikelihoodName] = {
            "image": "bernoulli" if form.shape[0] == 1 else "discretized_logistic",
            "series": "gaussian",
            "counts": "multinomial",
            "vector": "gaussian",
        }
        dtype = {"image": "uint8", "counts": "int32"}.get(form.kind, "float32")
        return DataSpec.model_validate(
            {
                "kind": form.kind,
                "shape": form.shape,
                "dtype": dtype,
                "classes": tuple(map(str, self.classes_)),
                "likelihood": likelihoods[form.kind],
            }
        )

    def _check_decoder(self) -> None:
        check_is_fitted(self, "artifact_")
        if self.artifact_.loss != "bound":
            raise ValueError(f"objective.loss is {self.artifact_.loss!r}, which trains no decoder; allowed: bound")

    def _on(self) -> torch.device:
        return torch.device(self.device)

    def _check_parameters(self) -> None:
        kinds = ("auto", "vector", "image", "series", "counts")
        if self.kind not in kinds:
            raise ValueError(f"kind is {self.kind!r}; allowed: {', '.join(kinds)}")
        for name, least in (("epochs", 1), ("min_steps", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if name == "batch_size" and value == "auto":
                continue
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} is {value!r}; allowed: a whole number from {least} on")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate!r}; allowed: above 0")
        if not 0 <= self.warmup <= 0.5:
            raise ValueError(f"warmup is {self.warmup!r}; allowed: 0 to 0.5")
        for name, config in (("model", ModelConfig), ("objective", ObjectiveConfig)):
            if not isinstance(getattr(self, name), config | None):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: a {config.__name__} or None")
        if self.model is not None and self.model.class_code == "none":
            raise ValueError("model.class_code is 'none', a plain VAE without classes; allowed: embedding, one_hot")
