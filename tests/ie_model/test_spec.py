"""What one example looks like: which kinds, shapes, dtypes and likelihoods go together, and what is said otherwise."""

from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ie_model.spec import DataSpec, Kind, LikelihoodName

SHAPES: dict[str, tuple[int, ...]] = {"image": (1, 28, 28), "series": (2, 30), "counts": (50,), "vector": (40,)}
DTYPES = {"image": "uint8", "series": "float32", "counts": "int32", "vector": "float32"}
LIKELIHOODS = {
    "image": ["bernoulli", "discretized_logistic", "gaussian"],
    "series": ["gaussian"],
    "counts": ["multinomial"],
    "vector": ["gaussian"],
}
ALLOWED = [(kind, DTYPES[kind], likelihood) for kind in SHAPES for likelihood in LIKELIHOODS[kind]]


def values(kind: str = "image", **changes: Any) -> dict[str, Any]:
    usual = {"kind": kind, "shape": SHAPES[kind], "dtype": DTYPES[kind], "likelihood": LIKELIHOODS[kind][0]}
    return {"classes": ("a", "b", "c"), **usual, **changes}


def spec(kind: str = "image", **changes: Any) -> DataSpec:
    return DataSpec(**values(kind, **changes))


def message(kind: str = "image", **changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        spec(kind, **changes)
    return str(caught.value)


def test_exactly_the_fitting_kinds_dtypes_and_likelihoods_are_allowed() -> None:
    allowed = []
    for kind, dtype, likelihood in itertools.product(get_args(Kind), set(DTYPES.values()), get_args(LikelihoodName)):
        try:
            spec(kind, dtype=dtype, likelihood=likelihood)
        except ValidationError:
            continue
        allowed.append((kind, dtype, likelihood))
    assert sorted(allowed) == sorted(ALLOWED)


@pytest.mark.parametrize(
    ("kind", "likelihood", "allowed"),
    [
        ("image", "multinomial", "bernoulli, discretized_logistic, gaussian"),
        ("series", "bernoulli", "gaussian"),
        ("series", "discretized_logistic", "gaussian"),
        ("counts", "gaussian", "multinomial"),
        ("vector", "bernoulli", "gaussian"),
    ],
)
def test_another_kinds_likelihood_is_refused_with_those_that_are_allowed(
    kind: str, likelihood: str, allowed: str
) -> None:
    text = message(kind, likelihood=likelihood)
    assert f"{kind} is {likelihood!r}; allowed: {allowed} " in text.replace("[", " [")


@pytest.mark.parametrize(
    ("kind", "dtype"), [("image", "float32"), ("image", "int32"), ("series", "uint8"), ("counts", "float32")]
)
def test_another_kinds_dtype_is_refused_with_the_one_that_is_allowed(kind: str, dtype: str) -> None:
    assert f"{kind} is {DTYPES[kind]}, got {dtype}" in message(kind, dtype=dtype)


@pytest.mark.parametrize(
    ("kind", "shape", "axes"),
    [
        ("image", (28, 28), "[C, H, W]"),
        ("image", (1, 1, 28, 28), "[C, H, W]"),
        ("image", (1, 0, 28), "[C, H, W]"),
        ("image", (1, 28, -3), "[C, H, W]"),
        ("series", (30,), "[C, T]"),
        ("series", (2, 30, 1), "[C, T]"),
        ("series", (0, 30), "[C, T]"),
        ("series", (2, 0), "[C, T]"),
        ("counts", (50, 2), "[W]"),
        ("counts", (0,), "[W]"),
        ("vector", (40, 1), "[D]"),
    ],
)
def test_a_shape_with_other_axes_is_refused_with_the_axes_and_the_shape(
    kind: str, shape: tuple[int, ...], axes: str
) -> None:
    text = message(kind, shape=shape)
    assert axes in text and f"got {list(shape)}" in text


@pytest.mark.parametrize("channels", [2, 4])
def test_an_image_of_other_than_one_or_three_channels_is_refused(channels: int) -> None:
    assert f"an image has 1 or 3 channels, got [{channels}, 5, 5]" in message(shape=(channels, 5, 5))


def test_counts_of_a_single_word_are_refused_because_nothing_is_random_then() -> None:
    assert "at least two words, got [1]" in message("counts", shape=(1,))


def test_an_empty_shape_is_refused() -> None:
    assert "shape" in message(shape=())


@pytest.mark.parametrize(
    ("classes", "said"), [((), "classes"), (("only",), "classes"), (("a", "b", "a"), "class names must differ")]
)
def test_fewer_than_two_classes_or_a_name_twice_are_refused(classes: tuple[str, ...], said: str) -> None:
    assert said in message(classes=classes)


@pytest.mark.parametrize("name", ["kind", "dtype", "likelihood"])
def test_an_unknown_word_is_refused_with_key_value_and_what_is_allowed(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataSpec(**{**values(), name: "audio"})
    text = str(caught.value)
    assert name in text and "'audio'" in text and f"'{values()[name]}'" in text


def test_an_unknown_key_is_refused_by_its_name() -> None:
    text = message(mean=0.5)
    assert "mean" in text and "Extra inputs are not permitted" in text


@pytest.mark.parametrize("name", ["kind", "shape", "dtype", "classes", "likelihood"])
def test_every_key_is_needed(name: str) -> None:
    given_values = values()
    del given_values[name]
    with pytest.raises(ValidationError, match=rf"{name}\n\s+Field required"):
        DataSpec(**given_values)


def test_a_spec_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        spec().kind = "series"


@pytest.mark.parametrize("kind", SHAPES)
def test_a_spec_survives_json(kind: str) -> None:
    original = spec(kind)
    assert DataSpec.model_validate(json.loads(json.dumps(original.model_dump(mode="json")))) == original


@given(channels=st.sampled_from([1, 3]), height=st.integers(1, 300), width=st.integers(1, 300))
def test_the_number_of_values_is_the_product_of_the_shape(channels: int, height: int, width: int) -> None:
    assert spec(shape=(channels, height, width)).num_values == channels * height * width


def test_numbers_of_classes_and_values_of_series_and_counts() -> None:
    assert spec("series").num_values == 60 and spec("counts").num_values == 50
    assert spec(classes=("a", "b", "c", "d")).num_classes == 4
