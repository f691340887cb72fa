"""Every measure of a trained model with its control: what `evaluate` writes and a sweep's trial may ask for.

A measure is a row of one table, and its name and value a flat metric. docs/metrics.md has what each means and what
fools it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import (
    Encoded,
    encode,
    importance_weighted_bound,
    in_batches,
    squared_error,
)
from ie_model.metrics import measures
from ie_model.metrics.leakage import Posteriors
from ie_model.model import squared_distances
from ie_model.networks import to_float
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.data.loading.splits import Split
from pipeline.evaluation.equivariance import style
from pipeline.evaluation.leakage import leak_measures
from pipeline.evaluation.sample import TEST_POINTS, sampled
from pipeline.evaluation.swaps import swap_measures
from pipeline.evaluation.totals import Totals, count, merged
from pipeline.results.metrics_table import Array, Measure, as_far_as_defined, checked
from pipeline.utils.key_sample import lowest
from pipeline.utils.progress import Log, silent

Probe = Literal["linear", "mlp"]
_PROBES: tuple[Probe, ...] = ("linear", "mlp")


@dataclass
class Encodings:
    """What is kept in memory of a split for the measures; N examples."""

    y: npt.NDArray[np.int64]
    probabilities: Array
    f: Array
    v_mean: Array
    v_log_var: Array
    kl: Array
    bound: Array
    squared_error: Array

    @classmethod
    def of(cls, batches: Iterable[tuple[npt.NDArray[np.int64], Encoded]]) -> Encodings:
        """Of the classes of batches and the model's outputs."""
        parts: list[tuple[npt.NDArray[Any], ...]] = []
        for y, e in batches:
            kept = (e.log_q.exp(), e.f, e.v_mean, e.v_log_var, e.kl, e.bound, e.squared_error)
            parts.append((y, *(t.cpu().numpy() for t in kept)))
        return cls(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def take(self, rows: npt.NDArray[Any]) -> Encodings:
        """Some of the examples."""
        return Encodings(*(column[rows] for column in vars(self).values()))

    def sampled_v(self, rng: np.random.Generator) -> Array:
        """One draw of v ~ q(v | r, x) for each example, `[N, V]`."""
        noise = rng.standard_normal(self.v_mean.shape, dtype=np.float32)
        sampled: Array = self.v_mean + np.exp(0.5 * self.v_log_var) * noise
        return sampled


def encode_split(
    artifact: Artifact,
    split: SplitData,
    settings: EvaluateParams,
    device: str,
    generator: torch.Generator,
    condition: npt.NDArray[np.int64] | None = None,
) -> Encodings:
    """`encode` of a whole split.

    Args:
        condition: classes to condition v on instead of the predicted ones, `[N]`.
    """
    chosen = None if condition is None else torch.from_numpy(condition).to(device)

    def encoded(rows: npt.NDArray[np.int64], batch: SplitData) -> Encoded:
        given = None if chosen is None else chosen[torch.from_numpy(rows)]
        return encode(artifact, to_float(batch.x.to(device)), artifact.prune, generator, given)

    return Encodings.of((batch.y, encoded(rows, batch)) for rows, batch in split.batches(settings.batch_size))


def measure_model(
    artifact: Artifact,
    train: Split,
    labelled: npt.NDArray[np.int64],
    test: SplitData,
    oracle: Artifact,
    settings: EvaluateParams,
    device: str,
    counted: tuple[Totals, Encodings] | None = None,
    tell: Log = silent,
) -> list[Measure]:
    """Every measure that fits the model, in the order of the table.

    Args:
        train: where probes and regressors are fitted, on the points whose class is known.
        labelled: rows of train whose class the run used.
        test: a split, or of a large one the `TEST_POINTS` with the lowest hash.
        oracle: an independent classifier, trained with all labels, that judges swaps.
        counted: sums over the whole split and `encode_split` of `test`, where they are there already.
        tell: takes the name of each part that begins.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    if counted is None:
        totals = count_split(artifact, test, settings, device)
        test = sampled(test, TEST_POINTS)
        encoded = encode_split(artifact, test, settings, device, generator)
    else:
        totals, encoded = counted
    rng = np.random.default_rng(settings.seed)
    fit = train.take(lowest(train.keys, settings.probe_points, train.y >= 0))
    fit_encoded = encode_split(artifact, fit, settings, device, generator)
    has_classes = artifact.model.num_codes > 1
    if artifact.loss != "bound":
        rows = rules(totals, encoded)
        return checked(rows + class_probes(fit_encoded, encoded, None, settings, has_v=False, tell=tell))
    tell("evaluate: bounds")
    rows = bounds(artifact, totals, test, settings, device)
    wrong = None
    if has_classes:
        rows = rules(totals, encoded) + rows
        rows += support_sizes(artifact, test, train, labelled, settings, device)
        conditions = [
            (e.probabilities.argmax(1) + rng.integers(1, artifact.model.num_codes, len(e.y))) % artifact.model.num_codes
            for e in (fit_encoded, encoded)
        ]
        fit_wrong, test_wrong = (
            encode_split(artifact, split, settings, device, generator, condition=condition)
            for split, condition in zip((fit, test), conditions, strict=True)
        )
        wrong = fit_wrong, test_wrong
    rows += class_probes(fit_encoded, encoded, wrong, settings, has_r=has_classes, tell=tell)
    score = Posteriors(encoded.v_mean, encoded.v_log_var, encoded.y)
    rows += leak_measures(artifact, train, score, settings, device, tell)
    rows += style(artifact, fit, test, settings, device, tell)
    if has_classes:
        tell("evaluate: class swaps")
        rows += swap_measures(artifact, test, oracle, settings, device)
    return checked(rows)


def count_split(artifact: Artifact, split: SplitData, settings: EvaluateParams, device: str) -> Totals:
    """The sums over a split in memory."""
    generator = torch.Generator().manual_seed(settings.seed)
    parts = []
    for _, batch in split.batches(settings.batch_size):
        x = to_float(batch.x.to(device))
        encoded = encode(artifact, x, artifact.prune, generator)
        parts.append(count(artifact, x, batch.y, encoded, settings, generator))
    return merged(parts)


def rules(totals: Totals, encoded: Encodings) -> list[Measure]:
    """Test error of the three classification rules, as far as the model has them, and calibration of q(y|x).

    Args:
        totals: of test; encoded: of some of it, for the curve of risk.
    """
    num = totals["examples"]
    errors = {"classifier": "wrong", "generative": "wrong_generative", "prototype": "wrong_prototype"}
    rows = [
        Measure(f"test_error_{rule}_pct", float(100 * totals[name] / num))
        for rule, name in errors.items()
        if name in totals
    ]
    gaps = np.abs(totals["bin_right"] - totals["bin_confidence"])
    calibration = {
        "ece": gaps.sum() / num,
        "brier": totals["brier"] / num,
        "nll_nats": totals["nll"] / num,
        "area_under_risk_coverage": measures.area_under_risk_coverage(encoded.probabilities, encoded.y),
    }
    return rows + [Measure(name, float(value)) for name, value in calibration.items()]


def bounds(artifact: Artifact, totals: Totals, test: SplitData, settings: EvaluateParams, device: str) -> list[Measure]:
    """What the generative model is worth, and how much of v it uses.

    Args:
        totals: of the whole split; test: examples that the importance-weighted bound is averaged over, some of them.
    """
    num_values, num = artifact.model.spec.num_values, totals["examples"]
    nats, kl = float(totals["bound"] / num), totals["kl"] / num
    weighted = _importance_weighted(artifact, sampled(test, settings.iw_points).x, settings, device)
    rows = [
        Measure("bound_nats", nats),
        Measure("iw_bound_nats", weighted),
        Measure("reconstruction_mse", float(totals["squared_error"] / num)),
        Measure("reconstruction_mse_v_zero", float(totals["squared_error_v_zero"] / num)),
        Measure("kl_nats", float(kl.sum())),
        Measure("active_units", int(measures.active_units(kl[None]).sum())),
    ]
    if artifact.model.spec.kind == "image":
        rows += [
            Measure("bound_bits_per_dim", measures.bits_per_dim(nats, num_values)),
            Measure("iw_bound_bits_per_dim", measures.bits_per_dim(weighted, num_values)),
        ]
    return rows


def support_sizes(
    artifact: Artifact,
    test: SplitData,
    train: Split,
    labelled: npt.NDArray[np.int64],
    settings: EvaluateParams,
    device: str,
    sizes: tuple[int, ...] = (1, 3, 9),
) -> list[Measure]:
    """Reconstruction and nearest prototype where each r_y is the mean of m labelled points only; m as far as there are.

    Args:
        labelled: rows of train.
    """
    model = artifact.model
    if model.config.class_code != "embedding":
        return []
    rng = np.random.default_rng(settings.seed + 4)
    test = sampled(test, settings.iw_points)
    x = torch.cat(list(in_batches(test.x, settings.batch_size, device)))
    members = [labelled[train.y[labelled] == c] for c in range(model.spec.num_classes)]
    rows = []
    for m in sizes:
        if m > min(map(len, members)):
            continue
        chosen = train.take(np.concatenate([rng.choice(c, m, replace=False) for c in members]))
        with torch.no_grad():
            support = torch.cat([model.embed(b) for b in in_batches(chosen.x, settings.batch_size, device)])
            r = support.view(len(members), m, -1).mean(1)
            f = torch.cat([model.embed(b) for b in torch.split(x, settings.batch_size)])
            predicted = squared_distances(f, r).argmin(1)
            v, _ = model.posterior(model.features(x), r[predicted])
            mse = float(squared_error(x, model.reconstruct(r[predicted], v, x)).mean())
        error = 100 * measures.error_rate(predicted.cpu().numpy(), test.y)
        rows.append(Measure(f"reconstruction_mse_r_from_{m}", mse))
        rows.append(Measure(f"test_error_prototype_r_from_{m}_pct", error))
    return rows


def class_probes(
    train: Encodings,
    test: Encodings,
    wrong: tuple[Encodings, Encodings] | None,
    settings: EvaluateParams,
    *,
    has_r: bool = True,
    has_v: bool = True,
    tell: Log = silent,
) -> list[Measure]:
    """Accuracy of classifying from f_inv(x) and from v, in percent: fitted on train, scored on test, model frozen.

    Args:
        train, test: encodings of the points to fit and to score on.
        wrong: the same with v conditioned on a random wrong class, to separate what v carries from what r does.
        has_r, has_v: False for a model without.
    """
    rows: list[Measure] = []
    if has_r:
        rows += _probe("r", train.f, test.f, train.y, test.y, settings, tell=tell)
    if not has_v:
        return rows
    rng = np.random.default_rng(settings.seed)
    active = measures.active_units(test.kl)
    sampled = train.sampled_v(rng), test.sampled_v(rng)
    rows += _probe("v_sampled", *sampled, train.y, test.y, settings, tell=tell)
    # The means of units that carry nothing still hold traces of the class; only what v transmits is asked.
    means = train.v_mean[:, active], test.v_mean[:, active]
    rows += _probe("v_active_means", *means, train.y, test.y, settings, tell=tell)
    if wrong is not None:
        fit, score = (e.v_mean[:, active] for e in wrong)
        rows += _probe("v_active_means_wrong_r", fit, score, train.y, test.y, settings, tell=tell)
    shuffled = rng.permutation(len(train.y)), rng.permutation(len(test.y))
    moved = sampled[0][shuffled[0]], sampled[1][shuffled[1]]
    return rows + _probe("v_shuffled", *moved, train.y, test.y, settings, probes=("linear",), tell=tell)


def _probe(
    name: str,
    fit: Array,
    score: Array,
    fit_y: npt.NDArray[np.int64],
    score_y: npt.NDArray[np.int64],
    settings: EvaluateParams,
    probes: tuple[Probe, ...] = _PROBES,
    tell: Log = silent,
) -> list[Measure]:
    """Linear and MLP probe; the MLP's is a mean over the probe seeds."""

    def probe(kind: Probe, names: list[str]) -> list[Measure]:
        if not fit.shape[1]:
            raise measures.Undefined("no unit of v is active: v carries nothing")
        accuracy = []
        for seed in seeds(kind):
            tell(f"evaluate: class from {name.replace('_', ' ')}, {kind} probe, seed {seed}")
            accuracy.append(measures.probe_accuracy(fit, fit_y, score, score_y, kind, seed))
        value, std, _ = measures.mean_and_std(accuracy)
        # Names without a deviation's are one.
        return [Measure(full, 100 * number) for full, number in zip(names, (value, std), strict=False)]

    def seeds(kind: Probe) -> tuple[int, ...]:
        return tuple(
            settings.probe_seeds if kind == "mlp" else settings.probe_seeds[:1]
        )  # one optimum: no seed matters

    rows = []
    for kind in probes:
        stem = f"probe_class_from_{name}_{kind}"
        names = [f"{stem}_pct", *([f"{stem}_std"] if len(seeds(kind)) > 1 else [])]
        rows += as_far_as_defined(names, partial(probe, kind, names))
    return rows


def _importance_weighted(artifact: Artifact, x: Tensor, settings: EvaluateParams, device: str) -> float:
    """Mean over stored examples, in nats."""
    generator = torch.Generator().manual_seed(settings.seed + 2)
    values = [
        importance_weighted_bound(artifact, batch, settings.iw_samples, artifact.prune, generator).cpu()
        for batch in in_batches(x, settings.batch_size, device)
    ]
    return float(torch.cat(values).double().mean())
