"""Which points keep their label."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ParamsError
from pipeline.labels import choose_labelled, labels_per_class

CLASSES = ("cat", "dog", "fish")


def example_set(sizes: tuple[int, ...] = (40, 50, 60)) -> tuple[list[str], np.ndarray]:
    y = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(0).shuffle(y)
    return [f"train-{i:04d}" for i in range(len(y))], y


@given(count=st.integers(6, 120), more=st.integers(0, 60), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_smaller_counts_are_inside_larger_ones_of_the_same_seed(count: int, more: int, seed: int) -> None:
    keys, y = example_set((80, 80, 80))
    small = choose_labelled(keys, y, CLASSES, count, seed)
    large = choose_labelled(keys, y, CLASSES, count + more, seed)
    assert len(small) == count
    assert set(small) <= set(large)


@given(count=st.integers(6, 100), seed=st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_count_is_balanced_to_within_one_label(count: int, seed: int) -> None:
    keys, y = example_set()
    per_class = np.bincount(y[choose_labelled(keys, y, CLASSES, count, seed)], minlength=3)
    assert per_class.max() - per_class.min() <= 1


def test_the_choice_depends_on_keys_not_on_their_order() -> None:
    keys, y = example_set()
    chosen = {keys[i] for i in choose_labelled(keys, y, CLASSES, 30, 1)}
    order = np.random.default_rng(1).permutation(len(keys))
    shuffled = [keys[i] for i in order]
    assert {shuffled[i] for i in choose_labelled(shuffled, y[order], CLASSES, 30, 1)} == chosen


def test_another_seed_chooses_others() -> None:
    keys, y = example_set()
    assert set(choose_labelled(keys, y, CLASSES, 30, 0)) != set(choose_labelled(keys, y, CLASSES, 30, 1))


def test_a_fraction_is_taken_of_each_class_and_rounded_up() -> None:
    keys, y = example_set()
    per_class = np.bincount(y[choose_labelled(keys, y, CLASSES, 0.11, 0)])
    assert per_class.tolist() == [5, 6, 7]


def test_all_takes_every_point_that_has_a_label() -> None:
    keys, y = example_set()
    y[:10] = -1
    assert set(choose_labelled(keys, y, CLASSES, "all", 0)) == set(range(10, 150))


def test_more_labels_than_a_class_has_names_class_and_limit() -> None:
    with pytest.raises(ParamsError, match=r"class 'cat' would need 41 .* has 40; allowed: at most 120"):
        labels_per_class(123, {"cat": 40, "dog": 50, "fish": 60}, 0)


def test_a_class_left_with_one_label_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"labels.count is 0.02: class 'cat' would keep 1"):
        labels_per_class(0.02, {"cat": 40, "dog": 150, "fish": 160}, 0)


def test_all_labels_of_a_class_with_one_point_are_refused() -> None:
    with pytest.raises(ParamsError, match="class 'dog' would keep 1"):
        labels_per_class("all", {"cat": 40, "dog": 1}, 0)
