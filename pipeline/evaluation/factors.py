"""Whether r or v tells of the user's factors, beside what the class tells of them: one table, made of the latents."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ie_model.metrics.equivariance import constant_floor
from ie_model.metrics.factors import disentanglement, factor_score, is_categorical, within_class_r2
from ie_model.metrics.measures import Undefined, active_units
from pipeline.config.params import EvaluateParams
from pipeline.data.shards.index import factor_column
from pipeline.evaluation.sample import TEST_POINTS
from pipeline.results.metrics_table import Measure, as_far_as_defined
from pipeline.results.tables import FACTOR_COLUMNS, latent_vectors, sampled_latents
from pipeline.utils.files import atomic_file
from pipeline.utils.progress import Log, silent

Floats = npt.NDArray[np.float64]
Kind = Literal["linear", "mlp"]
_KINDS: tuple[Kind, ...] = ("linear", "mlp")
_FEWEST_UNSEEN = 100
"""Examples that rows of their own need: a few beyond train's values are chance."""


def write_factors(
    path: Path, latents: Path, factors: Sequence[str], settings: EvaluateParams, tell: Log = silent
) -> list[Measure]:
    """A row for each factor and what it is read from; no row where there are no factors. docs/metrics.md explains it.

    Probes are fitted on the labelled examples of train, `probe_points` at most, and scored on those of test.

    Args:
        latents: see `pipeline.evaluation.latents.schema`.

    Returns:
        Disentanglement and completeness of v, where there are factors.
    """
    rows: list[dict[str, object]] = []
    measured: list[Measure] = []
    if factors:
        columns = ["label", "r", "v_mean", "v_log_var", *(factor_column(name).name for name in factors)]
        points = {"train": settings.probe_points, "test": TEST_POINTS}
        train, test = (sampled_latents(latents, split, columns, most) for split, most in points.items())
        codes = _codes(train, test, settings.seed)
        values = [[table[factor_column(name).name].to_numpy() for name in factors] for table in (train, test)]
        for name, fit, score in zip(factors, *values, strict=True):
            for part in _parts(fit, score, codes["label"]):
                rows += _factor(name, part, codes, settings, tell)
        tell("evaluate: disentanglement of v")
        measured = _disentanglement(codes["v_active_means"][0], values[0], settings.seed)
    with atomic_file(path) as file_part, file_part.open("w", newline="", encoding="utf-8") as file:
        writer: Any = csv.DictWriter(file, FACTOR_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return measured


def _codes(train: pa.Table, test: pa.Table, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """What factors are read from, `[N, D]` of train and `[M, D]` of test."""
    rng = np.random.default_rng(seed)
    (mean, log_var), (test_mean, test_log_var) = (
        (latent_vectors(rows, "v_mean"), latent_vectors(rows, "v_log_var")) for rows in (train, test)
    )
    # The means of units that carry nothing still hold traces of the data; only what v transmits is asked.
    active = active_units(0.5 * (test_mean**2 + np.exp(test_log_var) - test_log_var - 1))
    classes, y = np.unique(train["label"].to_pylist() + test["label"].to_pylist(), return_inverse=True)
    one_hot = np.eye(len(classes))[y]
    return {
        "r": (latent_vectors(train, "r"), latent_vectors(test, "r")),
        "v_sampled": (
            mean + np.exp(0.5 * log_var) * rng.standard_normal(mean.shape),
            test_mean + np.exp(0.5 * test_log_var) * rng.standard_normal(test_mean.shape),
        ),
        "v_active_means": (mean[:, active], test_mean[:, active]),
        "label": (one_hot[: len(train)], one_hot[len(train) :]),
    }


@dataclass(frozen=True, eq=False)
class _Part:
    """Examples of train that a probe of one factor is fitted on, and those of test that it is scored on."""

    scored_on: Literal["test", "unseen range", "unseen classes"]
    fit: Floats
    """Values of the factor, `[N]`; NaN where an example does not belong."""

    score: Floats
    """`[M]`, likewise."""


def _parts(fit: Floats, score: Floats, label: tuple[Floats, Floats]) -> list[_Part]:
    """All of test; or, where enough of it lies beyond the values that train has, the two apart. And the classes of the
    last fifth by a probe of the others."""
    if np.isnan(fit).all() or is_categorical(np.concatenate([fit, score])[~np.isnan([*fit, *score])]):
        return [_Part("test", fit, score)]
    parts = []
    beyond = (score < np.nanmin(fit)) | (score > np.nanmax(fit))
    if beyond.sum() >= _FEWEST_UNSEEN:
        parts.append(_Part("unseen range", fit, np.where(beyond, score, np.nan)))
        score = np.where(beyond, np.nan, score)
    num_classes = label[0].shape[1]
    last = [one_hot.argmax(1) >= math.ceil(0.8 * num_classes) for one_hot in label]
    if last[0].any() and (last[1] & ~np.isnan(score)).sum() >= _FEWEST_UNSEEN:
        parts.append(_Part("unseen classes", np.where(last[0], np.nan, fit), np.where(last[1], score, np.nan)))
    return [_Part("test", fit, score), *parts]


def _factor(
    name: str, part: _Part, codes: Mapping[str, tuple[Floats, Floats]], settings: EvaluateParams, tell: Log
) -> list[dict[str, object]]:
    """The rows of one factor; examples without a value of it are left out."""
    known, known_test = ~np.isnan(part.fit), ~np.isnan(part.score)
    fit, score = part.fit[known], part.score[known_test]
    sources = {source: (a[known], b[known_test]) for source, (a, b) in codes.items()}
    y, test_y = (one_hot.argmax(1) for one_hot in sources["label"])
    if part.scored_on == "unseen classes":
        del sources["label"]  # of a class without an example it tells nothing
    categorical = is_categorical(np.concatenate([fit, score]))

    def score_of(source: str, kind: Kind, within: bool) -> float:
        x, test_x = sources[source]
        if not x.shape[1]:
            raise Undefined("no unit of v is active: v carries nothing")
        found = []
        for seed in settings.probe_seeds if kind == "mlp" and part.scored_on == "test" else settings.probe_seeds[:1]:
            tell(f"evaluate: {name} from {source.replace('_', ' ')} on {part.scored_on}, {kind} probe, seed {seed}")
            if within:
                found.append(within_class_r2(x, fit, y, test_x, score, test_y, kind, seed, categorical=categorical))
            else:
                found.append(factor_score(x, fit, test_x, score, kind, seed, categorical=categorical))
        return float(np.mean(found))

    def floor() -> float:
        if min(len(fit), len(score)) == 0:
            raise Undefined("no example has a value")
        if categorical:
            values, counts = np.unique(fit, return_counts=True)
            return float((score == values[counts.argmax()]).mean())
        return float(constant_floor(fit[:, None], score[:, None])[0])

    about: dict[str, object] = {"factor": name, "measure": "accuracy" if categorical else "r2"}
    about |= {"scored_on": part.scored_on, "train_points": len(fit), "test_points": len(score)}
    rows = []
    for source in sources:
        # Of a class's indicators a linear probe is the best, and none knows more within a class than the class's mean.
        wanted: list[tuple[Kind, bool]] = [(kind, w) for w in (False, True) for kind in _KINDS]
        if source == "label":
            wanted = wanted[:1]
        elif part.scored_on != "test":
            wanted = wanted[:2]  # a seed each, and not within a class: probes are most of the time
        cells = {("within_class_" if w else "") + kind: partial(score_of, source, kind, w) for kind, w in wanted}
        rows.append(about | {"from": source} | _defined(cells))
    return [*rows, about | {"from": "constant"} | _defined({"linear": floor})]


def _disentanglement(v: Floats, factors: Sequence[Floats], seed: int) -> list[Measure]:
    """Of v's active units `[N, D]` and the factors that are quantities, each `[N]`."""
    names = ["factor_disentanglement_v", "factor_completeness_v"]
    quantities = [values for values in factors if not is_categorical(values[~np.isnan(values)])]

    def measure() -> list[Measure]:
        if len(quantities) < 2:
            raise Undefined(f"{len(quantities)} of the factors are quantities, at least 2 are needed")
        values = np.stack(quantities, axis=1)
        known = ~np.isnan(values).any(axis=1)
        found = disentanglement(v[known], values[known], seed)
        return [Measure(name, value) for name, value in zip(names, found, strict=True)]

    return as_far_as_defined(names, measure)


def _defined(cells: Mapping[str, Callable[[], float]]) -> dict[str, object]:
    """The values of cells, and the reasons for those that the data do not allow."""
    found: dict[str, object] = {}
    reasons: dict[str, None] = {}
    for column, measure in cells.items():
        try:
            found[column] = round(measure(), 6)
        except Undefined as error:
            reasons[" ".join(str(error).split())] = None
    return found | {"reason": "; ".join(reasons)}
