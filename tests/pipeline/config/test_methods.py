"""The compared methods: each builds from params, whatever those describe, and is what it says it is."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from ie_model.config import ModelConfig, ObjectiveConfig
from ie_model.model import EquiVAE
from ie_model.objective import Objective, Shares
from pipeline.config.methods import METHODS, Method, apply_method, name_of
from pipeline.config.params import Params, parse_params
from tests.helpers.project import shipped_params
from tests.helpers.tiny import each_class, points, seeded, tiny_spec

REPOSITORY = Path(__file__).parents[3]
ALL: tuple[Method, ...] = get_args(Method)

# These change a number or a part that a configuration has anyway, so nothing tells them from the plain objective with
# that number or part.
LIKE_PLAIN = ("fixed_m", "network_classifier", "exact_sum", "kl_warmup", "free_bits")
LIKE_EXTENDED = ("he", "he_r_first", "he_film", "he_moments", "he_moments_strong")
NAMED = dict.fromkeys(LIKE_PLAIN, "plain") | dict.fromkeys(LIKE_EXTENDED, "extended") | {"he_m2": "m2_extended"}

# Values that no method sets, so that each of those shows; which ones are shipped is a matter of tuning.
PINNED = {"prune": 0.01, "support_min": 3, "support_max": 7, "kl_warmup": 0.3, "free_bits": 0.0}
TRAINED_ON_LABELS_ALONE = ("supervised", "supervised_augmented")


@functools.cache
def shipped() -> Params:
    return parse_params(shipped_params())


def described_by(method: Method | None) -> tuple[ModelConfig, ObjectiveConfig]:
    """The shipped params with the pinned values, changed to describe a method."""
    params = shipped()
    objective = params.objective.model_copy(update=PINNED)
    return (params.model, objective) if method is None else apply_method(method, params.model, objective)


def changed(method: Method, start: Method | None = None) -> dict[str, Any]:
    """What a method changes of params, by the key's path."""
    before, after = described_by(start), apply_method(method, *described_by(start))
    pairs = [(f"model.{k}", v, getattr(after[0], k)) for k, v in before[0]]
    pairs += [(f"objective.{k}", v, getattr(after[1], k)) for k, v in before[1] if k != "extended"]
    pairs += [(f"extended.{k}", v, getattr(after[1].extended, k)) for k, v in before[1].extended]
    return {path: new for path, old, new in pairs if new != old}


def test_the_methods_are_those_that_params_may_name() -> None:
    assert tuple(METHODS) == ALL
    assert all(changes.about for changes in METHODS.values())
    assert len({changes.about for changes in METHODS.values()}) == len(METHODS)


def test_the_shipped_params_describe_the_extended_method() -> None:
    params = shipped()
    assert name_of(params.model, params.objective) == "extended"


# The shipped params have the extended objective on, so most methods turn it off.
OFF = {"extended.enabled": False}
HE = {"model.initialisation": "he"}
R_FIRST = {"objective.kl_start": 5.0, "objective.kl_warmup": 0.5}
FILM, MOMENTS = {"model.conditioning": "every_layer"}, {"objective.class_moments": 10.0}


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("supervised", {"model.classifier": "network", "objective.loss": "cross_entropy", **OFF}),
        ("supervised_augmented", {"model.classifier": "network", "objective.loss": "cross_entropy"}),
        ("plain", OFF),
        ("extended", {}),
        ("m2", {"model.class_code": "one_hot", "model.classifier": "network", **OFF}),
        ("m2_extended", {"model.class_code": "one_hot", "model.classifier": "network"}),
        ("consistency_only", {"objective.loss": "consistency"}),
        ("vae", {"model.class_code": "none", "model.classifier": "none", **OFF}),
        ("self_included", {"objective.self_included": True, **OFF}),
        ("stochastic_r", {"model.stochastic_r": True, **OFF}),
        ("v_from_x", {"model.posterior": "x", **OFF}),
        ("fixed_m", {"objective.support_min": 2, "objective.support_max": 2, **OFF}),
        ("network_classifier", {"model.classifier": "network", **OFF}),
        ("exact_sum", {"objective.prune": 0.0, **OFF}),
        ("kl_warmup", {"objective.kl_warmup": 0.2, **OFF}),
        ("free_bits", {"objective.free_bits": 0.1, **OFF}),
        ("he", HE),
        ("he_m2", HE | {"model.class_code": "one_hot", "model.classifier": "network"}),
        ("he_v_from_x", HE | {"model.posterior": "x"}),
        ("he_r_first", HE | R_FIRST),
        ("he_film", HE | FILM),
        ("he_moments", HE | MOMENTS),
        ("he_moments_strong", HE | {"objective.class_moments": 30.0}),
    ],
)
def test_a_method_changes_of_params_what_makes_it_and_nothing_else(method: Method, expected: dict[str, Any]) -> None:
    assert changed(method) == expected


def test_no_method_is_left_out_of_the_list_above() -> None:
    marks = getattr(test_a_method_changes_of_params_what_makes_it_and_nothing_else, "pytestmark")  # noqa: B009
    assert tuple(case[0] for case in marks[0].args[1]) == ALL


@pytest.mark.parametrize("method", ALL)
def test_a_method_applied_to_the_shipped_params_has_its_name_again(method: Method) -> None:
    params = shipped()
    named = name_of(*apply_method(method, params.model, params.objective))
    assert named == NAMED.get(method, method)


@pytest.mark.parametrize("start", [None, *ALL])
@pytest.mark.parametrize("method", ALL)
def test_a_method_has_its_name_again_whatever_params_described_before(method: Method, start: Method | None) -> None:
    expected = NAMED.get(method, method)
    assert name_of(*apply_method(method, *described_by(start))) == expected


@pytest.mark.parametrize("method", ALL)
def test_applying_a_method_twice_is_applying_it_once(method: Method) -> None:
    once = described_by(method)
    assert apply_method(method, *once) == once


# These change parts alone, and all of them are put back.
@pytest.mark.parametrize(
    "start",
    [
        "supervised",
        "supervised_augmented",
        "m2",
        "m2_extended",
        "vae",
        "self_included",
        "stochastic_r",
        "v_from_x",
        "plain",
    ],
)
@pytest.mark.parametrize("method", ALL)
def test_a_method_is_the_same_from_params_that_described_another(method: Method, start: Method) -> None:
    assert apply_method(method, *described_by(start)) == described_by(method)


def test_methods_that_are_told_apart_are_different_configurations() -> None:
    for first, second in itertools.combinations(ALL, 2):
        assert described_by(first) != described_by(second), (first, second)


def test_another_configuration_is_called_custom() -> None:
    model, objective = described_by("vae")
    extended = objective.extended.model_copy(update={"enabled": True})
    assert name_of(model, objective.model_copy(update={"extended": extended})) == "custom"
    both = described_by("stochastic_r")[0].model_copy(update={"posterior": "x"})
    assert name_of(both, objective) == "custom"


def test_sizes_weights_and_seeds_of_params_are_every_methods() -> None:
    params = shipped()
    model = params.model.model_copy(update={"r_dim": 7, "hidden": 33, "channels": (3,)})
    objective = params.objective.model_copy(update={"alpha": 3.5, "label_prior": "labelled"})
    for method in ALL:
        own_model, own_objective = apply_method(method, model, objective)
        assert (own_model.r_dim, own_model.hidden, own_model.channels) == (7, 33, (3,)), method
        assert (own_objective.alpha, own_objective.label_prior) == (3.5, "labelled"), method
        assert own_objective.extended.augment == objective.extended.augment


@pytest.mark.parametrize("method", ALL)
def test_every_method_builds_and_has_a_finite_loss_with_gradients(method: Method) -> None:
    small = {"channels": (4,), "hidden": 8, "decoder_hidden": (8,), "r_dim": 4, "v_dim": 2}
    params = shipped()
    config, objective = apply_method(method, params.model.model_copy(update=small), params.objective)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EquiVAE(tiny_spec(), config)
    unlabelled = None if method in TRAINED_ON_LABELS_ALONE else points(7, seed=1)
    step = Objective(model, objective, Shares(6, 7))
    loss, logged = step(points(6), each_class(3, 2), unlabelled, seeded())
    loss.backward()
    assert bool(loss.isfinite()) and all(bool(value.isfinite()) for value in logged.values())
    assert any(p.grad is not None and bool((p.grad != 0).any()) for p in model.parameters())
