"""Whether r or v tells of the user's factors, beside what the class tells of them: one table, made of the latents."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ie_model.metrics.equivariance import constant_floor
from ie_model.metrics.factors import factor_score, is_categorical, within_class_r2
from ie_model.metrics.measures import Undefined, active_units
from pipeline.config.params import EvaluateParams
from pipeline.data.shards.index import factor_column
from pipeline.evaluation.sample import TEST_POINTS
from pipeline.results.tables import FACTOR_COLUMNS, latent_vectors, sampled_latents
from pipeline.utils.files import atomic_file
from pipeline.utils.progress import Log, silent

Floats = npt.NDArray[np.float64]
Kind = Literal["linear", "mlp"]
_KINDS: tuple[Kind, ...] = ("linear", "mlp")


def write_factors(
    path: Path, latents: Path, factors: Sequence[str], settings: EvaluateParams, tell: Log = silent
) -> None:
    """A row for each factor and what it is read from; no row where there are no factors. docs/metrics.md explains it.

    Probes are fitted on the labelled examples of train, `probe_points` at most, and scored on those of test.

    Args:
        latents: see `pipeline.evaluation.latents.schema`.
    """
    rows: list[dict[str, object]] = []
    if factors:
        columns = ["label", "r", "v_mean", "v_log_var", *(factor_column(name).name for name in factors)]
        points = {"train": settings.probe_points, "test": TEST_POINTS}
        train, test = (sampled_latents(latents, split, columns, most) for split, most in points.items())
        codes = _codes(train, test, settings.seed)
        for name in factors:
            fit, score = (table[factor_column(name).name].to_numpy() for table in (train, test))
            rows += _factor(name, fit, score, codes, settings, tell)
    with atomic_file(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer: Any = csv.DictWriter(file, FACTOR_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


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


def _factor(
    name: str,
    train: Floats,
    test: Floats,
    codes: Mapping[str, tuple[Floats, Floats]],
    settings: EvaluateParams,
    tell: Log,
) -> list[dict[str, object]]:
    """The rows of one factor, `[N]` and `[M]`; examples without a value of it are left out."""
    known, known_test = ~np.isnan(train), ~np.isnan(test)
    fit, score = train[known], test[known_test]
    sources = {source: (a[known], b[known_test]) for source, (a, b) in codes.items()}
    y, test_y = (one_hot.argmax(1) for one_hot in sources["label"])
    categorical = is_categorical(np.concatenate([fit, score]))

    def score_of(source: str, kind: Kind, within: bool) -> float:
        x, test_x = sources[source]
        if not x.shape[1]:
            raise Undefined("no unit of v is active: v carries nothing")
        found = []
        for seed in settings.probe_seeds if kind == "mlp" else settings.probe_seeds[:1]:
            tell(f"evaluate: {name} from {source.replace('_', ' ')}, {kind} probe, seed {seed}")
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
    about |= {"train_points": len(fit), "test_points": len(score)}
    rows = []
    for source in sources:
        # Of a class's indicators a linear probe is the best, and none knows more within a class than the class's mean.
        wanted: list[tuple[Kind, bool]] = [(kind, w) for w in (False, True) for kind in _KINDS]
        wanted = wanted[:1] if source == "label" else wanted
        cells = {("within_class_" if w else "") + kind: partial(score_of, source, kind, w) for kind, w in wanted}
        rows.append(about | {"from": source} | _defined(cells))
    return [*rows, about | {"from": "constant"} | _defined({"linear": floor})]


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
