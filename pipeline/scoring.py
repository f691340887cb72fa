"""Every measure of a trained model with its control: what `evaluate` writes and a sweep's trial may ask for.

A measure is a row of one table, and its name and value a flat metric. docs/metrics.md says what each means and what
fools it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ie_model import measures
from ie_model.artifact import Artifact
from ie_model.inference import (
    Encoded,
    class_bounds,
    encode,
    importance_weighted_bound,
    in_batches,
    nearest_prototype,
    squared_error,
)
from ie_model.model import squared_distances
from ie_model.networks import to_float
from pipeline.measure import Array, Better, Measure
from pipeline.params import EvaluateParams
from pipeline.progress import Meter
from pipeline.reader import SplitData
from pipeline.splits import Split
from pipeline.style import style, swap_measures

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
        """Of the classes of batches and what the model says of them."""
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


def encode_batches(
    artifact: Artifact, split: Split, settings: EvaluateParams, device: str, generator: torch.Generator
) -> Iterator[tuple[npt.NDArray[np.int64], SplitData, Encoded]]:
    """`encode` of a whole split: rows, examples and what the model says of them; one batch is in memory at a time.

    Raises:
        DataError: an example cannot be had.
    """
    prune = float(artifact.provenance["prune"])
    for rows, batch in split.batches(settings.batch_size):
        yield rows, batch, encode(artifact, to_float(batch.x.to(device)), prune, generator)


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
    if condition is None:
        return Encodings.of(
            (batch.y, e) for _, batch, e in encode_batches(artifact, split, settings, device, generator)
        )
    prune, chosen = float(artifact.provenance["prune"]), torch.from_numpy(condition).to(device)
    return Encodings.of(
        (batch.y, encode(artifact, to_float(batch.x.to(device)), prune, generator, chosen[torch.from_numpy(rows)]))
        for rows, batch in split.batches(settings.batch_size)
    )


def measure_model(
    artifact: Artifact,
    train: Split,
    labelled: npt.NDArray[np.int64],
    test: SplitData,
    oracle: Artifact,
    settings: EvaluateParams,
    device: str,
    encoded: Encodings | None = None,
) -> list[Measure]:
    """Every measure that fits the model, in the order of the table.

    Args:
        train: where probes and regressors are fitted, on the points whose class is known.
        labelled: rows of train that the run was told the class of.
        oracle: an independent classifier, trained with all labels, that judges swaps.
        encoded: `encode_split` of test, where it has been done already.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    if encoded is None:
        encoded = encode_split(artifact, test, settings, device, generator)
    rng = np.random.default_rng(settings.seed)
    known = np.flatnonzero(train.y >= 0)
    fit = train.take(known[np.sort(rng.permutation(len(known))[: settings.probe_points])])
    fit_encoded = encode_split(artifact, fit, settings, device, generator)
    has_classes = artifact.model.num_codes > 1
    if artifact.provenance.get("loss") != "bound":
        rows = rules(artifact, test, encoded, settings, device)
        return rows + class_probes(fit_encoded, encoded, None, settings, has_v=False)
    rows = bounds(artifact, test, encoded, settings, device)
    wrong = None
    if has_classes:
        rows = rules(artifact, test, encoded, settings, device) + rows
        rows += support_sizes(artifact, test, train, labelled, encoded, settings, device)
        conditions = [
            (e.probabilities.argmax(1) + rng.integers(1, artifact.model.num_codes, len(e.y))) % artifact.model.num_codes
            for e in (fit_encoded, encoded)
        ]
        fit_wrong, test_wrong = (
            encode_split(artifact, split, settings, device, generator, condition=condition)
            for split, condition in zip((fit, test), conditions, strict=True)
        )
        wrong = fit_wrong, test_wrong
    rows += class_probes(fit_encoded, encoded, wrong, settings, has_r=has_classes)
    rows += style(artifact, fit, test, settings, device)
    if has_classes:
        rows += swap_measures(artifact, test, oracle, settings, device)
    return rows


def rules(
    artifact: Artifact, test: SplitData, encoded: Encodings, settings: EvaluateParams, device: str
) -> list[Measure]:
    """Test error of the three classification rules, as far as the model has them, and calibration of q(y|x)."""
    model, y = artifact.model, test.y
    rows: list[Measure] = []

    def add(rule: str, predicted: npt.NDArray[np.int64]) -> None:
        error = 100 * measures.error_rate(predicted, y)
        rows.append(Measure(f"test_error_{rule}_pct", error, "lower", "class", "supervised, same encoder"))

    add("classifier", encoded.probabilities.argmax(1))
    if artifact.provenance.get("loss") == "bound":
        add("generative", _generative(artifact, test, settings, device))
    if model.config.class_code == "embedding":
        f = torch.from_numpy(encoded.f).to(device)
        add("prototype", nearest_prototype(artifact, f).cpu().numpy())
    q, bins = encoded.probabilities, settings.calibration_bins
    calibration = {
        "ece": measures.expected_calibration_error(q, y, bins),
        "brier": measures.brier_score(q, y),
        "nll_nats": measures.negative_log_likelihood(q, y),
        "area_under_risk_coverage": measures.area_under_risk_coverage(q, y),
    }
    control = "the supervised baseline"
    return rows + [Measure(name, value, "lower", "calibration", control) for name, value in calibration.items()]


def bounds(
    artifact: Artifact, test: SplitData, encoded: Encodings, settings: EvaluateParams, device: str
) -> list[Measure]:
    """What the generative model is worth, and how much of v it uses."""
    control, num_values = "M2 and plain VAE, same networks", artifact.model.spec.num_values
    nats, weighted = _mean(encoded.bound), _importance_weighted(artifact, test, settings, device)
    rows = [
        Measure("bound_nats", nats, "higher", "generation", control),
        Measure("iw_bound_nats", weighted, "higher", "generation", control),
        Measure("reconstruction_mse", _mean(encoded.squared_error), "lower", "generation", control),
        Measure("kl_nats", _mean(encoded.kl.sum(1)), "", "generation"),
        Measure("active_units", int(measures.active_units(encoded.kl).sum()), "higher", "generation"),
    ]
    if artifact.model.spec.kind == "image":
        rows += [
            Measure("bound_bits_per_dim", measures.bits_per_dim(nats, num_values), "lower", "generation", control),
            Measure(
                "iw_bound_bits_per_dim", measures.bits_per_dim(weighted, num_values), "lower", "generation", control
            ),
        ]
    return rows


def support_sizes(
    artifact: Artifact,
    test: SplitData,
    train: Split,
    labelled: npt.NDArray[np.int64],
    encoded: Encodings,
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
    x = torch.cat(list(in_batches(test.x[: settings.iw_points], settings.batch_size, device)))
    y, f = test.y[: len(x)], torch.from_numpy(encoded.f[: len(x)]).to(device)
    members = [labelled[train.y[labelled] == c] for c in range(model.spec.num_classes)]
    rows = []
    for m in sizes:
        if m > min(map(len, members)):
            continue
        chosen = train.take(np.concatenate([rng.choice(c, m, replace=False) for c in members]))
        with torch.no_grad():
            support = torch.cat([model.embed(b) for b in in_batches(chosen.x, settings.batch_size, device)])
            r = support.view(len(members), m, -1).mean(1)
            predicted = squared_distances(f, r).argmin(1)
            v, _ = model.posterior(model.features(x), r[predicted])
            mse = float(squared_error(x, model.reconstruct(r[predicted], v, x)).mean())
        error = 100 * measures.error_rate(predicted.cpu().numpy(), y)
        rows.append(Measure(f"reconstruction_mse_r_from_{m}", mse, "lower", "support", "r from all labelled points"))
        rows.append(Measure(f"test_error_prototype_r_from_{m}_pct", error, "lower", "support", "the same"))
    return rows


def class_probes(
    train: Encodings,
    test: Encodings,
    wrong: tuple[Encodings, Encodings] | None,
    settings: EvaluateParams,
    *,
    has_r: bool = True,
    has_v: bool = True,
) -> list[Measure]:
    """Accuracy of classifying from f_inv(x) and from v, in percent: fitted on train, scored on test, model frozen.

    Args:
        train, test: encodings of the points to fit and to score on.
        wrong: the same with v conditioned on a random wrong class, to tell what v says of x from what r says.
        has_r, has_v: False for a model without.
    """
    rows: list[Measure] = []
    if has_r:
        rows += _probe("r", train.f, test.f, train.y, test.y, settings, "higher", "supervised, same encoder")
    if not has_v:
        return rows
    rng = np.random.default_rng(settings.seed)
    active = measures.active_units(test.kl)
    sampled = train.sampled_v(rng), test.sampled_v(rng)
    control = "v shuffled; M2 and plain VAE, same networks"
    rows += _probe("v_sampled", *sampled, train.y, test.y, settings, "lower", control)
    # The means of units that carry nothing still hold traces of the class; only what v transmits is asked.
    means = train.v_mean[:, active], test.v_mean[:, active]
    rows += _probe("v_active_means", *means, train.y, test.y, settings, "lower", control)
    if wrong is not None:
        fit, score = (e.v_mean[:, active] for e in wrong)
        rows += _probe(
            "v_active_means_wrong_r", fit, score, train.y, test.y, settings, "", "v given the predicted class"
        )
    shuffled = rng.permutation(len(train.y)), rng.permutation(len(test.y))
    moved = sampled[0][shuffled[0]], sampled[1][shuffled[1]]
    return rows + _probe("v_shuffled", *moved, train.y, test.y, settings, "", "chance", probes=("linear",))


def _probe(
    name: str,
    fit: Array,
    score: Array,
    fit_y: npt.NDArray[np.int64],
    score_y: npt.NDArray[np.int64],
    settings: EvaluateParams,
    better: Better,
    control: str,
    probes: tuple[Probe, ...] = _PROBES,
) -> list[Measure]:
    """Linear and MLP probe; the MLP's is a mean over the probe seeds."""
    rows = []
    for kind in probes:
        seeds = settings.probe_seeds if kind == "mlp" else settings.probe_seeds[:1]  # one optimum: no seed matters
        accuracy = [
            measures.probe_accuracy(fit, fit_y, score, score_y, kind, seed)
            if fit.shape[1]
            else float(np.bincount(score_y).max() / len(score_y))  # no active unit: nothing but a guess
            for seed in seeds
        ]
        value, std, _ = measures.mean_and_std(accuracy)
        rows.append(Measure(f"probe_class_from_{name}_{kind}_pct", 100 * value, better, "leakage", control))
        if len(seeds) > 1:
            rows.append(Measure(f"probe_class_from_{name}_{kind}_std", 100 * std, "", "leakage", "over probe seeds"))
    return rows


def _generative(artifact: Artifact, test: SplitData, settings: EvaluateParams, device: str) -> npt.NDArray[np.int64]:
    generator = torch.Generator().manual_seed(settings.seed + 1)
    meter = Meter("evaluate: generative rule", len(test), "examples")
    predicted: list[npt.NDArray[np.int64]] = []
    for batch in in_batches(test.x, settings.batch_size, device):
        scores = class_bounds(artifact, batch, settings.bound_samples, generator)
        predicted.append(scores.argmax(1).cpu().numpy())
        meter.update(sum(map(len, predicted)))
    meter.close()
    return np.concatenate(predicted)


def _importance_weighted(artifact: Artifact, test: SplitData, settings: EvaluateParams, device: str) -> float:
    """Mean over the first iw_points test points, in nats."""
    generator = torch.Generator().manual_seed(settings.seed + 2)
    prune = float(artifact.provenance["prune"])
    values = [
        importance_weighted_bound(artifact, batch, settings.iw_samples, prune, generator).cpu()
        for batch in in_batches(test.x[: settings.iw_points], settings.batch_size, device)
    ]
    return float(torch.cat(values).double().mean())


def _mean(values: Array) -> float:
    return float(values.mean(dtype=np.float64))
