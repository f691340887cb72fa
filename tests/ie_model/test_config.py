"""Choices of the model and the objective: what cannot go together is refused in words, the rest builds and survives."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ie_model.config import AugmentConfig, ModelConfig, ObjectiveConfig
from tests.helpers.tiny import MOVING, objective_config, tiny_model

MODEL = tiny_model().config.model_dump()
OBJECTIVE = objective_config().model_dump()
CODES, CLASSIFIERS = ("embedding", "one_hot", "none"), ("distance", "network", "none")
FITTING = [("embedding", "distance"), ("embedding", "network"), ("one_hot", "network"), ("none", "none")]


def model_message(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ModelConfig(**{**MODEL, **changes})
    return str(caught.value)


def objective_message(**changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        ObjectiveConfig(**{**OBJECTIVE, **changes})
    return str(caught.value)


@pytest.mark.parametrize(("class_code", "classifier"), list(itertools.product(CODES, CLASSIFIERS)))
def test_a_classifier_goes_with_its_class_code_and_a_refusal_names_both_and_what_is_allowed(
    class_code: str, classifier: str
) -> None:
    parts = {"class_code": class_code, "classifier": classifier}
    if (class_code, classifier) in FITTING:
        assert ModelConfig(**{**MODEL, **parts}).classifier == classifier
        return
    allowed = ", ".join(other for code, other in FITTING if code == class_code)
    said = f"classifier is {classifier!r} with class_code {class_code!r}; allowed: {allowed} "
    assert said in model_message(**parts).replace("[", " [")


@pytest.mark.parametrize(("class_code", "classifier"), [("one_hot", "network"), ("none", "none")])
def test_a_stochastic_r_needs_embeddings(class_code: str, classifier: str) -> None:
    text = model_message(class_code=class_code, classifier=classifier, stochastic_r=True)
    assert f"stochastic_r needs class_code 'embedding', got {class_code!r}" in text


def test_a_stochastic_r_goes_with_embeddings_and_either_classifier() -> None:
    for classifier in ("distance", "network"):
        assert ModelConfig(**{**MODEL, "classifier": classifier, "stochastic_r": True}).stochastic_r


@pytest.mark.parametrize("name", ["channels", "decoder_hidden"])
@pytest.mark.parametrize("sizes", [(0,), (4, 0, 4), (4, -1)])
def test_sizes_of_layers_below_one_are_refused_with_key_and_value(name: str, sizes: tuple[int, ...]) -> None:
    assert f"{name} must all be at least 1, got {list(sizes)}" in model_message(**{name: sizes})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("r_dim", 0),
        ("r_dim", 4097),
        ("v_dim", 0),
        ("v_dim", 4097),
        ("hidden", 0),
        ("residual_blocks", 0),
        ("residual_blocks", 17),
        ("channels", ()),
        ("channels", (4,) * 7),
        ("decoder_hidden", ()),
        ("class_code", "label"),
        ("posterior", "r"),
        ("classifier", "softmax"),
        ("encoder", "resnet"),
        ("decoder", "transposed"),
        ("stochastic_r", "sometimes"),
        ("r_dim", math.nan),
    ],
)
def test_a_model_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    assert f"\n{name}\n" in model_message(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "elbo"),
        ("alpha", -0.1),
        ("alpha", math.inf),
        ("label_prior", "empirical"),
        ("prune", 1.0),
        ("prune", -0.1),
        ("support_min", 1),
        ("support_max", 1),
        ("kl_warmup", 1.1),
        ("kl_warmup", -0.1),
        ("free_bits", -1.0),
        ("free_bits", math.nan),
    ],
)
def test_an_objective_value_out_of_range_is_refused_by_its_key(name: str, value: Any) -> None:
    assert f"\n{name}\n" in objective_message(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rotation", 181),
        ("rotation", -1),
        ("shift", 1.5),
        ("scale", 1.0),
        ("shear", 1.1),
        ("drop", 1.0),
        ("drop", -0.1),
    ],
)
def test_a_distortion_out_of_range_is_refused_by_its_key(name: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"\n{name}\n"):
        AugmentConfig(**{**MOVING.model_dump(), name: value})


@given(low=st.integers(2, 50), high=st.integers(2, 50))
def test_a_support_is_a_range_that_does_not_run_backwards(low: int, high: int) -> None:
    if low <= high:
        assert ObjectiveConfig(**{**OBJECTIVE, "support_min": low, "support_max": high}).support_max == high
        return
    said = f"support_max ({high}) must be at least support_min ({low})"
    assert said in objective_message(support_min=low, support_max=high)


def test_unknown_keys_are_refused_by_their_names() -> None:
    assert "\ndropout\n  Extra inputs are not permitted" in model_message(dropout=0.1)
    assert "\nmethod\n  Extra inputs are not permitted" in objective_message(method="equivae")
    extended = {**OBJECTIVE["extended"], "temperature": 2.0}
    assert "\nextended.temperature\n  Extra inputs are not permitted" in objective_message(extended=extended)


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        ModelConfig(**MODEL).r_dim = 5
    with pytest.raises(ValidationError, match="frozen"):
        ObjectiveConfig(**OBJECTIVE).alpha = 5.0


def test_configurations_survive_json() -> None:
    model, objective = ModelConfig(**MODEL), ObjectiveConfig(**OBJECTIVE)
    assert ModelConfig.model_validate(json.loads(json.dumps(model.model_dump(mode="json")))) == model
    assert ObjectiveConfig.model_validate(json.loads(json.dumps(objective.model_dump(mode="json")))) == objective
