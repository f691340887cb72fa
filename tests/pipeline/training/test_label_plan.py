"""Label counts that data of any shape gives, and what it refuses before any work."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.params import Params, parse_params
from pipeline.errors import DataError, ParamsError
from pipeline.stages.train import train
from pipeline.training.label_plan import describe_labels, plan_labels
from pipeline.training.label_subset import AUTO_LABELS, AUTO_LABELS_OF_CLASS, choose_labelled, labels_per_class
from tests.helpers.project import small_params

MNIST = {str(digit): 5000 + 100 * digit for digit in range(10)}
LONG_TAIL = {"a": 146, "b": 73, "c": 36, "d": 14, "e": 3}


def params(count: Any = "auto", counts: Any = "auto") -> Params:
    raw = small_params(data={"source": "images"}, labels={"count": count}, sweep={"label_counts": counts})
    return parse_params(raw)


def sizes_of(*sizes: int) -> dict[str, int]:
    return {f"kind{c}": size for c, size in enumerate(sizes)}


def test_auto_on_mnist_is_the_published_hundred_and_thousand() -> None:
    plan = plan_labels(params(), MNIST)
    assert set(plan.main.values()) == {10}
    assert plan.sweep == (100, 1000)


@pytest.mark.parametrize(
    ("sizes", "labels", "sweep"),
    [
        (sizes_of(*[130] * 9, 88), 100, (100, "all")),  # the folder of digits with a small class
        (sizes_of(*[400] * 2), 100, (100, "all")),
        (sizes_of(*[600] * 2), 100, (100, 1000)),
        (LONG_TAIL, 100, ("auto", "all")),
        (sizes_of(*[4] * 60), 240, ("all",)),
        (sizes_of(*[20] * 60), 300, (300, "all")),
        (sizes_of(20, 20), 40, ("all",)),
        (sizes_of(60, 50), 100, (100,)),
    ],
)
def test_auto_on_own_data_is_what_the_classes_have(
    sizes: dict[str, int], labels: int, sweep: tuple[int | str, ...]
) -> None:
    plan = plan_labels(params(), sizes)
    assert sum(plan.main.values()) == labels
    assert plan.sweep == sweep


def test_a_small_class_gives_all_and_the_others_share_the_rest() -> None:
    plan = plan_labels(params(), LONG_TAIL)
    assert plan.main["e"] == 3 and plan.main["d"] == 14
    assert sorted(plan.main[name] for name in "abc") == [27, 28, 28]
    first, short = describe_labels(plan, LONG_TAIL)
    assert "takes 100, all" in first and "e (3)" in short


@given(st.lists(st.integers(2, 60), min_size=2, max_size=60), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_auto_gives_its_total_or_all_and_no_class_less_than_two(sizes: list[int], seed: int) -> None:
    by_class = sizes_of(*sizes)
    parts = labels_per_class("auto", by_class, seed)
    wanted = max(AUTO_LABELS, AUTO_LABELS_OF_CLASS * len(sizes))
    assert sum(parts.values()) == min(wanted, sum(sizes))
    assert all(2 <= parts[name] <= size for name, size in by_class.items())
    full = [part for name, part in parts.items() if part < by_class[name]]
    assert not full or max(full) - min(full) <= 1
    assert not full or all(part <= min(full) + 1 for part in parts.values())


def test_auto_chooses_the_same_points_as_the_number_that_it_stands_for() -> None:
    keys, y = [f"k{i}" for i in range(300)], np.arange(300) % 3
    chosen = choose_labelled(keys, y, ("a", "b", "c"), "auto", 2, "sha256")
    assert chosen.tolist() == choose_labelled(keys, y, ("a", "b", "c"), 100, 2, "sha256").tolist()


@pytest.mark.parametrize(
    ("count", "counts", "sizes", "key"),
    [
        (100, "auto", LONG_TAIL, "labels.count is 100"),
        ("auto", [100, 1000], sizes_of(*[88] * 10), r"sweep.label_counts\[1\] is 1000"),
        (0.01, "auto", sizes_of(30, 30), "labels.count is 0.01"),
    ],
)
def test_a_count_asked_for_that_is_not_there_is_refused_and_named(
    count: Any, counts: Any, sizes: Mapping[str, int], key: str
) -> None:
    with pytest.raises(ParamsError, match=key):
        plan_labels(params(count, counts), sizes)


def test_train_refuses_a_count_of_the_sweep_before_it_starts_anything(digits_project: Path) -> None:
    raw = small_params(sweep={"label_counts": [50, 1310]})
    lines: list[str] = []
    with pytest.raises(ParamsError, match=r"sweep.label_counts\[1\] is 1310"):
        train(parse_params(raw), digits_project, lines.append)
    assert lines == []


def test_a_class_of_one_example_is_the_data_s_fault() -> None:
    with pytest.raises(DataError, match="kind1"):
        plan_labels(params(), sizes_of(40, 1))
