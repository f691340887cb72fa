"""Which example goes to which tar: val in proportion, splits mixed, the same whatever order the examples come in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.example import ArrayExamples
from pipeline.data.sharding.assignment import Deal, choose_val, deal
from pipeline.data.shards.manifest import SplitName
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray


def examples(keys: Sequence[str], y: Sequence[int] | IntArray) -> ArrayExamples:
    return ArrayExamples(keys, np.asarray(y, dtype=np.int64), np.zeros((len(keys), 1), np.uint8))


def of_classes(num: int, num_classes: int = 2, prefix: str = "k") -> ArrayExamples:
    return examples([f"{prefix}{i}" for i in range(num)], np.arange(num) % num_classes)


def dealt(train: ArrayExamples, test: ArrayExamples, *, num_shards: int = 3, num_val: int = 4, seed: int = 0) -> Deal:
    return deal({"train": train, "test": test}, ("a", "b"), num_shards=num_shards, num_val=num_val, seed=seed)


@given(
    sizes=st.lists(st.integers(8, 60), min_size=2, max_size=6), part=st.floats(0.01, 0.5), seed=st.integers(0, 2**31)
)
def test_val_is_in_proportion_sums_exactly_and_leaves_two_of_each_class(
    sizes: list[int], part: float, seed: int
) -> None:
    keys = [f"k{c}-{i}" for c, size in enumerate(sizes) for i in range(size)]
    y = np.repeat(np.arange(len(sizes)), sizes)
    classes = [f"class-{c}" for c in range(len(sizes))]
    val_size = max(2, int(part * sum(sizes)))
    chosen = choose_val(keys, y, classes, val_size, seed)
    assert len(set(chosen.tolist())) == val_size
    counts = Counter(y[chosen].tolist())
    for c, size in enumerate(sizes):
        assert abs(counts[c] - val_size * size / sum(sizes)) < 1
        assert size - counts[c] >= 2
    backwards = choose_val(keys[::-1], y[::-1], classes, val_size, seed)
    assert {keys[i] for i in chosen} == {keys[::-1][i] for i in backwards}


def test_another_split_seed_chooses_another_val() -> None:
    keys, y = [f"k{i}" for i in range(100)], np.arange(100) % 2
    first, second = (set(choose_val(keys, y, "ab", 10, seed).tolist()) for seed in (0, 1))
    assert first != second


def test_examples_without_a_label_stay_in_train() -> None:
    keys, y = [f"k{i}" for i in range(100)], np.where(np.arange(100) < 40, np.arange(100) % 2, -1)
    assert max(choose_val(keys, y, "ab", 10, 0)) < 40


def test_every_example_goes_to_one_tar_and_tars_are_equal_to_within_one() -> None:
    result = dealt(of_classes(100), of_classes(31, prefix="t"), num_shards=7, num_val=12)
    expected: dict[SplitName, int] = {"train": 88, "val": 12, "test": 31}
    for name, num in expected.items():
        tars = result.tars[name]
        sizes = [len(tar.rows) for tar in tars]
        assert sum(sizes) == num and max(sizes) - min(sizes) <= 1
        assert {tar.raw_split for tar in tars} == {"test" if name == "test" else "train"}
    rows = [i for tar in [*result.tars["train"], *result.tars["val"]] for i in tar.rows.tolist()]
    assert sorted(rows) == list(range(100))
    assert sorted(np.concatenate([tar.rows for tar in result.tars["test"]]).tolist()) == list(range(31))


def test_more_tars_than_examples_gives_a_tar_an_example() -> None:
    result = dealt(of_classes(10), of_classes(3, prefix="t"), num_shards=500)
    assert [len(tars) for tars in result.tars.values()] == [6, 4, 3]


def test_the_digest_changes_with_keys_classes_layout_and_seed_and_with_nothing_else() -> None:
    train, test = of_classes(40), of_classes(9, prefix="t")
    y = train.y.copy()
    y[[0, 1]] = y[[1, 0]]
    others = [
        dealt(of_classes(40, prefix="other"), test),
        dealt(examples(train.keys, y), test),
        dealt(train, test, num_shards=4),
        dealt(train, test, num_val=6),
        dealt(train, test, seed=1),
    ]
    digests = {dealt(train, test).digest, *(other.digest for other in others)}
    assert len(digests) == 6
    assert dealt(of_classes(40), of_classes(9, prefix="t")).digest in digests


@pytest.mark.parametrize(
    ("train", "test", "where"),
    [
        (["a", "b", "c", "a"], ["d", "e"], "twice in train"),
        (["a", "b", "c", "d"], ["e", "a"], "in both train and test"),
        (["b", "c", "d", "e"], ["a", "a"], "twice in test"),
    ],
)
def test_a_key_that_occurs_twice_is_named_with_its_splits(train: list[str], test: list[str], where: str) -> None:
    with pytest.raises(DataError, match=f"the key 'a' is {where}"):
        dealt(examples(train, [0, 1, 0, 1]), examples(test, [0, 1]))


@pytest.mark.parametrize("y", [2, -2])
def test_a_class_that_the_spec_does_not_have_is_named_with_its_example(y: int) -> None:
    with pytest.raises(DataError, match=f"example 'k3' of train: class {y}; allowed: 0 to 1"):
        dealt(examples([f"k{i}" for i in range(4)], [0, 1, 0, y]), of_classes(2, prefix="t"))


def test_a_class_without_a_labelled_example_is_named() -> None:
    with pytest.raises(DataError, match="class 'b' has no labelled example in train"):
        dealt(examples([f"k{i}" for i in range(9)], [0] * 8 + [-1]), of_classes(2, prefix="t"))


def test_a_class_that_val_would_use_up_is_named() -> None:
    with pytest.raises(DataError, match="class 'b' has 2 examples in train .*; lower data.val_size"):
        dealt(examples([f"k{i}" for i in range(6)], [0, 0, 0, 0, 1, 1]), of_classes(2, prefix="t"), num_val=3)


def test_a_class_of_two_gives_val_none_and_others_give_more() -> None:
    y = np.repeat([0, 1, 2], [20, 20, 2])
    chosen = choose_val([f"k{i}" for i in range(42)], y, "abc", 21, 0)
    assert np.bincount(y[chosen], minlength=3).tolist() == [11, 10, 0]
    with pytest.raises(DataError, match="no other class has more: nothing is left for val"):
        choose_val([f"k{i}" for i in range(4)], np.repeat([0, 1], 2), "ab", 2, 0)


def test_an_empty_split_is_named() -> None:
    with pytest.raises(DataError, match="split test has no example"):
        dealt(of_classes(20), of_classes(0, prefix="t"))
