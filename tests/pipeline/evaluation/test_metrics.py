"""Every measure of a model: against computations by hand, and what each method gets."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import pipeline.evaluation.metrics
import pipeline.evaluation.totals
from ie_model.artifact import Artifact, Loss
from ie_model.inference import class_bounds, classify, encode, importance_weighted_bound, representations
from ie_model.metrics import equivariance, measures
from ie_model.networks import to_float
from ie_model.spec import Kind
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.leakage import posteriors
from pipeline.evaluation.metrics import (
    Encodings,
    bounds,
    class_probes,
    count_split,
    encode_split,
    measure_model,
    rules,
    support_sizes,
)
from pipeline.evaluation.totals import Totals
from pipeline.results.metric_catalog import find
from pipeline.results.metrics_table import Measure, checked, flat, measure_each, not_measured, reasons, write_table
from pipeline.utils.key_sample import lowest
from tests.helpers.tiny import KINDS, M2, VAE, known_noise, points, seeded, spec_of, tiny_model

SETTINGS = EvaluateParams(
    batch_size=32,
    bound_samples=2,
    iw_samples=3,
    iw_points=50,
    probe_points=100,
    leak_points=100,
    probe_seeds=(0, 1),
    style_points=120,
    swap_points=110,
    oracle_steps=1,
    calibration_bins=10,
    seed=0,
)
NUM_CLASSES = 3


def split_of(kind: Kind = "image", num: int = 120, seed: int = 0, num_classes: int = NUM_CLASSES) -> SplitData:
    """Random points as they are stored, the classes in turn; an image is brighter the higher its class is."""
    spec = spec_of(kind, num_classes)
    y = np.arange(num) % num_classes
    x = points(num, spec, seed)
    if kind == "image":
        x = (255 * x * torch.from_numpy((y + 1) / num_classes).view(-1, 1, 1, 1)).to(torch.uint8)
    elif kind == "counts":
        x = x.to(torch.int32)
    return SplitData(spec, [f"{i:05d}" for i in range(num)], x, y)


def artifact_of(kind: Kind = "image", *, loss: Loss = "bound", prune: float = 0.0, **changes: Any) -> Artifact:
    """A model of random weights with the representations of 30 labelled points."""
    labelled = split_of(kind, 30, seed=5)
    model = tiny_model(labelled.spec, **changes)
    r, counts = representations(model, labelled.x, torch.from_numpy(labelled.y), batch_size=30)
    return Artifact(model, r, counts, {}, loss=loss, prune=prune)


def scored(artifact: Artifact, settings: EvaluateParams = SETTINGS) -> list[Measure]:
    kind = artifact.model.spec.kind
    train, test = split_of(kind, 130, seed=1), split_of(kind, 120, seed=2)
    oracle = artifact_of(kind, loss="cross_entropy", classifier="network", seed=7)
    return measure_model(artifact, train, np.arange(30), test, oracle, settings, "cpu")


def values(rows: list[Measure]) -> dict[str, float]:
    """By name, to all digits; a name that is there twice is a mistake."""
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row.value for row in rows}


@pytest.fixture
def fast_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """An MLP stands for itself by the linear probe, for tests that do not look at what it reads."""
    accuracy: Callable[..., float] = measures.probe_accuracy
    regression: Callable[..., npt.NDArray[np.float64]] = equivariance.style_regression

    def quick_accuracy(*arguments: Any) -> float:
        return accuracy(*arguments[:4], "linear", arguments[5])

    def quick_regression(*arguments: Any) -> npt.NDArray[np.float64]:
        return regression(*arguments[:6], "linear", arguments[7])

    monkeypatch.setattr(measures, "probe_accuracy", quick_accuracy)
    monkeypatch.setattr(equivariance, "style_regression", quick_regression)


METHODS: dict[str, Callable[[], Artifact]] = {
    "plain": artifact_of,
    "network_classifier": lambda: artifact_of(classifier="network"),
    "v_from_x": lambda: artifact_of(posterior="x"),
    "stochastic_r": lambda: artifact_of(stochastic_r=True),
    "m2": lambda: artifact_of(**M2),
    "vae": lambda: artifact_of(**VAE),
    "supervised": lambda: artifact_of(loss="cross_entropy", classifier="network"),
    "series": lambda: artifact_of("series"),
    "counts": lambda: artifact_of("counts"),
}


# --- names ---


@pytest.mark.usefixtures("fast_probes")
@pytest.mark.parametrize("method", METHODS)
def test_measure_model_any_method_gives_finite_values_of_catalogued_metrics(method: str) -> None:
    rows = scored(METHODS[method]())
    assert [row.name for row in rows if find(row.name) is None] == []
    assert [row.name for row in rows if not row.reason and not math.isfinite(row.value)] == []
    assert len({row.name for row in rows}) == len(rows)
    percent = [row for row in rows if row.name.endswith("_pct")]
    assert [row.name for row in percent if not row.reason and not 0 <= row.value <= 100] == []


# --- what each method gets ---


@pytest.mark.usefixtures("fast_probes")
@pytest.mark.parametrize("method", METHODS)
def test_each_method_gets_the_measures_of_the_parts_it_has(method: str) -> None:
    rows = scored(METHODS[method]())
    names = [row.name for row in rows]
    groups = {row.about.group for row in rows}
    classes, generation = {"class", "calibration"}, {"generation", "leakage"}
    style = {"style", "invariance", "equivariance"}
    expected = {
        "m2": classes | generation | style | {"swap"},
        "vae": generation | style,
        "supervised": classes | {"leakage"},
        "series": classes | generation | {"support", "swap"},
        "counts": classes | generation | {"support", "swap"},
    }
    assert groups == expected.get(method, classes | generation | style | {"support", "swap"})
    has_v, has_r = method != "supervised", method != "vae"
    assert any("from_v" in name for name in names) == has_v
    assert any("probe_class_from_r" in name for name in names) == has_r
    assert any("wrong_r" in name for name in names) == (has_v and has_r)
    assert ("test_error_generative_pct" in names) == (has_v and has_r)
    assert ("test_error_classifier_pct" in names) == has_r
    assert ("test_error_prototype_pct" in names) == (method not in ("m2", "vae"))
    assert any(name.startswith(("r2_rotation_sin_from_f", "invariance_ratio_f")) for name in names) == (
        has_r and "style" in groups
    )
    assert ("bound_bits_per_dim" in names) == (has_v and method not in ("series", "counts"))


@pytest.mark.usefixtures("fast_probes")
def test_an_embedding_of_one_unit_gets_the_measures_of_any_other() -> None:
    """Only the plain VAE is without r, and the width of an embedding does not make a model one."""
    one, three = (values(scored(artifact_of(r_dim=size))) for size in (1, 3))
    assert set(one) == set(three)


# --- by hand ---


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise that depends on nothing but the numbers it is added to: batches and seeds do not matter."""
    for module in ("ie_model.model", "ie_model.bounds", "ie_model.inference"):
        monkeypatch.setattr(f"{module}.noise_like", known_noise)


def encoded(artifact: Artifact, split: SplitData, settings: EvaluateParams = SETTINGS, **more: Any) -> Encodings:
    return encode_split(artifact, split, settings, "cpu", seeded(), **more)


def totals(artifact: Artifact, split: SplitData) -> Totals:
    return count_split(artifact, split, SETTINGS, "cpu")


@pytest.mark.usefixtures("noise")
def test_an_encoded_split_is_what_the_model_says_of_all_its_points_at_once() -> None:
    artifact, test = artifact_of(prune=0.2), split_of(num=75)
    found, all_at_once = encoded(artifact, test), encode(artifact, to_float(test.x), 0.2, seeded())
    expected: dict[str, Any] = {
        "y": test.y,
        "probabilities": all_at_once.log_q.exp(),
        "f": all_at_once.f,
        "v_mean": all_at_once.v_mean,
        "v_log_var": all_at_once.v_log_var,
        "kl": all_at_once.kl,
        "bound": all_at_once.bound,
        "squared_error": (to_float(test.x) - all_at_once.reconstruction).square().mean((1, 2, 3)),
    }
    assert set(expected) == set(vars(found))
    for name, column in expected.items():
        np.testing.assert_allclose(getattr(found, name), column, rtol=1e-4, atol=1e-5, err_msg=name)


def test_another_condition_makes_another_v_and_nothing_else() -> None:
    artifact, test = artifact_of(), split_of(num=75)
    model, r = artifact.model, artifact.class_representations
    own = encoded(artifact, test)
    condition = (own.probabilities.argmax(1) + 1 + np.arange(75) % 2) % NUM_CLASSES
    other = encoded(artifact, test, condition=condition)
    with torch.no_grad():
        mean, log_var = model.posterior(model.features(to_float(test.x)), r[torch.from_numpy(condition)])
        error = (to_float(test.x) - model.reconstruct(r[torch.from_numpy(condition)], mean)).square().mean((1, 2, 3))
    np.testing.assert_allclose(other.v_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.v_log_var, log_var, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(other.squared_error, error, rtol=1e-5, atol=1e-6)
    assert np.abs(other.v_mean - own.v_mean).max(1).min() > 1e-3
    for name in ("probabilities", "f", "bound"):
        np.testing.assert_array_equal(getattr(other, name), getattr(own, name))


def test_the_leak_is_of_v_given_the_predicted_class() -> None:
    artifact, split = artifact_of(), split_of()
    rows = np.array([3, 50, 119])
    found, whole = posteriors(artifact, split, rows, 2, "cpu"), encoded(artifact, split)
    np.testing.assert_allclose(found.mean, whole.v_mean[rows], atol=1e-6)
    np.testing.assert_allclose(found.log_var, whole.v_log_var[rows], atol=1e-6)
    assert found.y.tolist() == split.y[rows].tolist()


@pytest.mark.usefixtures("fast_probes")
def test_v_of_a_wrong_class_is_conditioned_on_any_class_but_the_predicted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Encodings, npt.NDArray[np.int64] | None]] = []

    def watched(*arguments: Any, **more: Any) -> Encodings:
        result = encode_split(*arguments, **more)
        seen.append((result, more.get("condition")))
        return result

    monkeypatch.setattr(pipeline.evaluation.metrics, "encode_split", watched)
    scored(artifact_of())
    wrong = [(e.probabilities.argmax(1), condition) for e, condition in seen if condition is not None]
    assert sorted(len(predicted) for predicted, _ in wrong) == [100, 120]
    for predicted, condition in wrong:
        offsets = (condition - predicted) % NUM_CLASSES
        assert set(offsets.tolist()) == {1, 2}


@pytest.mark.usefixtures("noise")
def test_the_errors_of_the_three_rules_are_counted_by_hand() -> None:
    artifact, test = artifact_of(classifier="network"), split_of(num=75)
    x = to_float(test.x)
    log_q, r = classify(artifact, x), artifact.class_representations
    scores = class_bounds(artifact, x, 1, seeded())
    with torch.no_grad():
        f = artifact.model.embed(x)
    wrong = {"classifier": 0, "generative": 0, "prototype": 0}
    for i, y in enumerate(test.y.tolist()):
        distances = [float((f[i] - r[c]).square().sum()) for c in range(NUM_CLASSES)]
        wrong["classifier"] += int(log_q[i].argmax()) != y
        wrong["generative"] += int(scores[i].argmax()) != y
        wrong["prototype"] += distances.index(min(distances)) != y
    assert len(set(wrong.values())) == 3, "the rules must differ for the test to tell them apart"
    found = values(rules(totals(artifact, test), encoded(artifact, test)))
    for rule, count in wrong.items():
        assert found[f"test_error_{rule}_pct"] == pytest.approx(100 * count / 75)


def test_with_the_distance_classifier_the_nearest_prototype_is_the_classifier() -> None:
    artifact, test = artifact_of(), split_of(num=75)
    found = values(rules(totals(artifact, test), encoded(artifact, test)))
    assert found["test_error_prototype_pct"] == found["test_error_classifier_pct"]


def test_calibration_is_that_of_the_classifier() -> None:
    artifact, test = artifact_of(), split_of(num=75)
    q = classify(artifact, to_float(test.x)).exp().double().tolist()
    bins: dict[int, list[tuple[float, bool]]] = {}
    brier = nll = 0.0
    answers = []
    for row, y in zip(q, test.y.tolist(), strict=True):
        brier += sum((p - (c == y)) ** 2 for c, p in enumerate(row)) / 75
        nll -= math.log(row[y]) / 75
        answers.append((max(row), row.index(max(row)) == y))
        bins.setdefault(math.ceil(max(row) * 10), []).append(answers[-1])
    ece = sum(abs(sum(c for c, _ in members) - sum(right for _, right in members)) / 75 for members in bins.values())
    answers.sort(key=lambda answer: -answer[0])
    risks = [sum(not right for _, right in answers[:n]) / n for n in range(1, 76)]
    found = values(rules(totals(artifact, test), encoded(artifact, test)))
    assert found["brier"] == pytest.approx(brier, rel=1e-5)
    assert found["nll_nats"] == pytest.approx(nll, rel=1e-5)
    assert found["ece"] == pytest.approx(ece, rel=1e-5)
    assert found["area_under_risk_coverage"] == pytest.approx(sum(risks) / 75, rel=1e-5)


@pytest.mark.usefixtures("noise")
def test_bounds_are_means_over_points_and_what_v_costs_is_its_divergence() -> None:
    artifact, test = artifact_of(prune=0.2), split_of(num=75)
    x = to_float(test.x)
    said = encode(artifact, x, 0.2, seeded())
    weighted = float(importance_weighted_bound(artifact, x[lowest(test.keys, 50)], 1, 0.2, seeded()).mean())
    variance = said.v_log_var.exp()
    kl = 0.5 * (said.v_mean.square() + variance - variance.log() - 1)
    found = values(bounds(artifact, totals(artifact, test), test, SETTINGS, "cpu"))
    assert found["bound_nats"] == pytest.approx(float(said.bound.mean()), rel=1e-5)
    assert found["iw_bound_nats"] == pytest.approx(weighted, rel=1e-5)
    assert found["reconstruction_mse"] == pytest.approx(float((x - said.reconstruction).square().mean()), rel=1e-5)
    assert found["kl_nats"] == pytest.approx(float(kl.sum(1).mean()), rel=1e-4)
    assert found["active_units"] == int((kl.mean(0) > 0.05).sum())
    assert found["bound_bits_per_dim"] == pytest.approx(-found["bound_nats"] / (30 * math.log(2)))
    assert found["iw_bound_bits_per_dim"] == pytest.approx(-weighted / (30 * math.log(2)), rel=1e-5)


def test_samples_and_pruning_are_those_of_the_params_and_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[Any]] = {"generative": set(), "weighted": set()}

    def spied_bounds(artifact: Artifact, x: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
        asked["generative"].add(num_samples)
        return class_bounds(artifact, x, num_samples, generator)

    def spied_weighted(artifact: Artifact, x: Tensor, num: int, prune: float, generator: torch.Generator) -> Tensor:
        asked["weighted"].add((num, prune))
        return importance_weighted_bound(artifact, x, num, prune, generator)

    monkeypatch.setattr(pipeline.evaluation.totals, "class_bounds", spied_bounds)
    monkeypatch.setattr(pipeline.evaluation.metrics, "importance_weighted_bound", spied_weighted)
    artifact, test = artifact_of(prune=0.125), split_of(num=75)
    rules(totals(artifact, test), encoded(artifact, test))
    bounds(artifact, totals(artifact, test), test, SETTINGS, "cpu")
    assert asked == {"generative": {2}, "weighted": {(3, 0.125)}}


# --- r of few labelled points ---


def test_a_support_of_m_is_left_out_where_a_class_has_fewer_labelled_points() -> None:
    artifact, test = artifact_of(), split_of(num=75)
    train = split_of(num=90, seed=3)

    def sizes_with(counts: tuple[int, int, int]) -> set[int]:
        rows = np.concatenate([np.flatnonzero(train.y == c)[:count] for c, count in enumerate(counts)])
        names = values(support_sizes(artifact, test, train, rows, SETTINGS, "cpu"))
        found = {int(name.split("_from_")[1].removesuffix("_pct")) for name in names}
        assert len(names) == 2 * len(found)
        return found

    assert sizes_with((9, 10, 9)) == {1, 3, 9}
    assert sizes_with((9, 8, 20)) == {1, 3}
    assert sizes_with((20, 20, 3)) == {1, 3}
    assert sizes_with((2, 20, 20)) == {1}


def test_r_of_all_labelled_points_is_the_model_own() -> None:
    """With as many points as there are labelled, nothing is left to the draw."""
    labelled, test = split_of(num=30, seed=5), split_of(num=50)
    artifact = artifact_of()
    e = encoded(artifact, test)
    found = values(support_sizes(artifact, test, labelled, np.arange(30), SETTINGS, "cpu", sizes=(10,)))
    error = 100 * float((e.probabilities.argmax(1) != test.y).mean())
    assert found["test_error_prototype_r_from_10_pct"] == pytest.approx(error)
    assert found["reconstruction_mse_r_from_10"] == pytest.approx(float(e.squared_error.mean()), rel=1e-4)


def test_r_of_one_point_each_is_that_point_embedding() -> None:
    """Of two labelled points of a class, identical ones: whichever is drawn, r is known."""
    train, test, artifact = split_of(num=30, seed=3), split_of(num=50), artifact_of()
    labelled = np.array([0, 0, 1, 1, 2, 2])
    found = values(support_sizes(artifact, test, train, labelled, SETTINGS, "cpu"))
    assert set(found) == {"test_error_prototype_r_from_1_pct", "reconstruction_mse_r_from_1"}
    model, x = artifact.model, to_float(test.x)
    with torch.no_grad():
        r, f = model.embed(to_float(train.x[:3])), model.embed(x)
        nearest = (f[:, None] - r[None]).square().sum(-1).argmin(1)
        v, _ = model.posterior(model.features(x), r[nearest])
        mse = float((x - model.reconstruct(r[nearest], v)).square().mean())
    wrong = 100 * float((nearest.numpy() != test.y).mean())
    assert found["test_error_prototype_r_from_1_pct"] == pytest.approx(wrong)
    assert found["reconstruction_mse_r_from_1"] == pytest.approx(mse, rel=1e-5)


# --- probes ---

# Unequal on purpose: chance is 60 %, not a third.
SHARES = np.array([0, 0, 0, 1, 2])


def constructed(num: int, seed: int, *, informed: float = 0.0, uninformed: float = 3.0, **changes: Any) -> Encodings:
    """v of two active units, the first of which is `informed` times the class, and an idle one that tells it always."""
    rng = np.random.default_rng(seed)
    y = SHARES[np.arange(num) % len(SHARES)]
    active = uninformed * rng.standard_normal((num, 2))
    active[:, 0] += informed * (y - 1)
    v_mean = np.concatenate([active, 1e-3 * y[:, None]], 1).astype(np.float32)
    kl = np.tile(np.array([2.0, 2.0, 0.001], dtype=np.float32), (num, 1))
    columns: dict[str, Any] = {
        "y": y,
        "probabilities": np.full((num, 3), 1 / 3, dtype=np.float32),
        "f": rng.standard_normal((num, 4)).astype(np.float32),
        "v_mean": v_mean,
        "v_log_var": np.tile(np.array([-6.0, -6.0, 0.0], dtype=np.float32), (num, 1)),
        "kl": kl,
        "bound": np.zeros(num, dtype=np.float32),
        "squared_error": np.zeros(num, dtype=np.float32),
    }
    return Encodings(**(columns | changes))


def probes(train: Encodings, test: Encodings, wrong: tuple[Encodings, Encodings] | None = None) -> dict[str, float]:
    return values(class_probes(train, test, wrong, SETTINGS))


def test_probes_see_a_class_in_the_active_units_and_not_when_the_points_are_shuffled() -> None:
    found = probes(constructed(400, 0, informed=200.0), constructed(400, 1, informed=200.0))
    for name in ("v_sampled_linear", "v_sampled_mlp", "v_active_means_linear", "v_active_means_mlp"):
        assert found[f"probe_class_from_{name}_pct"] > 97, name
    assert 45 < found["probe_class_from_v_shuffled_linear_pct"] < 65
    assert found["probe_class_from_r_linear_pct"] < 65


def test_probes_do_not_see_a_class_that_only_idle_units_tell() -> None:
    train, test = (constructed(400, seed) for seed in (0, 1))
    found = probes(train, test)
    for name in ("v_sampled_linear", "v_sampled_mlp", "v_active_means_linear", "v_active_means_mlp"):
        assert 45 < found[f"probe_class_from_{name}_pct"] < 67, name
    everything = measures.probe_accuracy(train.v_mean, train.y, test.v_mean, test.y, "linear", 0)
    assert everything == 1, "the idle unit does tell the class: leaving it out is what the probe is asked for"


def test_the_probe_of_samples_sees_the_noise_of_v() -> None:
    loud = np.full((400, 3), 10.0, dtype=np.float32)  # a deviation of e^5
    train, test = (constructed(400, seed, informed=20.0, uninformed=0.1, v_log_var=loud) for seed in (0, 1))
    found = probes(train, test)
    assert found["probe_class_from_v_active_means_linear_pct"] > 97
    assert found["probe_class_from_v_sampled_linear_pct"] < 70


def test_samples_of_v_have_the_posterior_mean_and_deviation() -> None:
    e = constructed(20_000, 0, v_mean=np.full((20_000, 3), 2.0, dtype=np.float32))
    v = e.sampled_v(np.random.default_rng(0))
    np.testing.assert_allclose(v.mean(0), 2, atol=0.05)
    np.testing.assert_allclose(v.std(0), np.exp([-3, -3, 0]), rtol=0.05)


def test_the_probe_of_r_reads_the_embedding_and_nothing_else() -> None:
    def told(seed: int) -> Encodings:
        e = constructed(400, seed)
        return constructed(400, seed, f=(np.eye(4)[e.y] + 0.05 * e.f).astype(np.float32))

    found = probes(told(0), told(1))
    assert found["probe_class_from_r_linear_pct"] > 97
    assert found["probe_class_from_r_mlp_pct"] > 97
    assert found["probe_class_from_v_sampled_linear_pct"] < 67


def test_the_probe_of_wrong_conditions_reads_those_codes() -> None:
    plain = constructed(400, 0), constructed(400, 1)
    telling = constructed(400, 2, informed=200.0), constructed(400, 3, informed=200.0)
    name = "probe_class_from_v_active_means_wrong_r_linear_pct"
    assert probes(*plain, wrong=telling)[name] > 97
    assert probes(*telling, wrong=plain)[name] < 67
    assert name not in probes(*plain)


def test_class_probes_without_an_active_unit_are_not_measured_and_say_so() -> None:
    """Chance would look like success: v holds nothing that could give the class away."""
    idle = np.full((400, 3), 0.01, dtype=np.float32)
    train, test = (constructed(400, seed, informed=200.0, kl=idle) for seed in (0, 1))
    rows = class_probes(train, test, (train, test), SETTINGS)
    empty = [row for row in rows if row.reason]
    names = [f"probe_class_from_{name}_{probe}_pct" for name in ("v_active_means", "v_active_means_wrong_r")
             for probe in ("linear", "mlp")]  # fmt: skip
    assert [row.name for row in empty if row.name.endswith("_pct")] == names
    assert {row.reason for row in empty} == {"no unit of v is active: v carries nothing"}
    assert not any("active_means" in name for name in flat(rows))


def test_the_value_of_an_mlp_is_the_mean_over_the_probe_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(*arguments: Any) -> float:
        kind, seed = arguments[4:]
        return 0.5 if kind == "linear" else {3: 0.2, 5: 0.6}[seed]

    monkeypatch.setattr(measures, "probe_accuracy", made_up)
    settings = SETTINGS.model_copy(update={"probe_seeds": (3, 5)})
    found = values(class_probes(constructed(50, 0), constructed(50, 1), None, settings))
    assert found["probe_class_from_r_mlp_pct"] == pytest.approx(40)
    assert found["probe_class_from_r_mlp_std"] == pytest.approx(100 * math.sqrt(0.08))
    assert found["probe_class_from_r_linear_pct"] == pytest.approx(50)
    assert "probe_class_from_r_linear_std" not in found


# --- the whole ---


def test_a_model_is_measured_the_same_twice() -> None:
    settings = SETTINGS.model_copy(update={"probe_seeds": (0,)})
    artifact = artifact_of()
    torch.manual_seed(1)
    np.random.seed(1)
    first = scored(artifact, settings)
    torch.manual_seed(2)
    np.random.seed(2)
    assert scored(artifact, settings) == first


@pytest.mark.usefixtures("fast_probes")
@pytest.mark.parametrize("kind", KINDS)
def test_measuring_leaves_the_model_as_it_was(kind: Kind) -> None:
    artifact = artifact_of(kind)
    before = {name: value.clone() for name, value in artifact.model.state_dict().items()}
    scored(artifact)
    assert not artifact.model.training
    assert all(torch.equal(value, before[name]) for name, value in artifact.model.state_dict().items())


def test_rows_become_flat_metrics_and_a_table(tmp_path: Path) -> None:
    rows = [Measure("test_error_prototype_pct", 100 / 3), Measure("kl_nats", 2.0)]
    rows += not_measured(["r2_shear_constant"], "too few\npoints")
    assert flat(rows) == {"test_error_prototype_pct": 33.333333, "kl_nats": 2.0}
    write_table(tmp_path / "measures.csv", rows)
    with (tmp_path / "measures.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table == [
        ["group", "name", "value", "better", "control", "reason"],
        ["class", "test_error_prototype_pct", "33.333333", "lower", "supervised, same encoder", ""],
        ["generation", "kl_nats", "2.0", "", "", ""],
        ["style", "r2_shear_constant", "", "", "", "too few points"],
    ]


def test_write_table_name_that_the_catalogue_lacks_is_a_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="unheard_of"):
        write_table(tmp_path / "measures.csv", [Measure("unheard_of", 1.0)])


def test_measures_that_are_not_defined_give_one_line_each_reason_and_no_number() -> None:
    def refused() -> float:
        raise measures.Undefined("too few points")

    rows = measure_each({"a": refused, "b": lambda: math.inf, "c": refused})
    rows = checked([*rows, Measure("d", 1.0)])
    assert flat(rows) == {"d": 1.0}
    assert reasons(rows) == ["not measured: a, c: too few points", "not measured: b: its value came out as inf"]


def test_a_bug_in_a_measure_is_no_reason_to_leave_it_out() -> None:
    def broken() -> float:
        raise ValueError("shapes do not fit")

    with pytest.raises(ValueError, match="shapes"):
        measure_each({"a": broken})
