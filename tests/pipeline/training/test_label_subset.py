"""Which points keep their label."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import LabelHash, label_hash
from pipeline.errors import DataError, ParamsError
from pipeline.training.label_subset import choose_in_index, choose_labelled, labels_per_class
from tests.helpers.small import SPEC, written

CLASSES = ("cat", "dog", "fish")
RANKINGS = st.sampled_from(get_args(LabelHash))


def example_set(sizes: tuple[int, ...] = (40, 50, 60)) -> tuple[list[str], np.ndarray]:
    y = np.repeat(np.arange(len(sizes)), sizes)
    np.random.default_rng(0).shuffle(y)
    return [f"train-{i:04d}" for i in range(len(y))], y


@given(count=st.integers(6, 120), more=st.integers(0, 60), seed=st.integers(0, 5), ranking=RANKINGS)
@settings(max_examples=50, deadline=None)
def test_smaller_counts_are_inside_larger_ones_of_the_same_seed(
    count: int, more: int, seed: int, ranking: LabelHash
) -> None:
    keys, y = example_set((80, 80, 80))
    small = choose_labelled(keys, y, CLASSES, count, seed, ranking)
    large = choose_labelled(keys, y, CLASSES, count + more, seed, ranking)
    assert len(small) == count
    assert set(small) <= set(large)


@given(count=st.integers(6, 100), seed=st.integers(0, 5), ranking=RANKINGS)
@settings(max_examples=50, deadline=None)
def test_a_count_is_balanced_to_within_one_label(count: int, seed: int, ranking: LabelHash) -> None:
    keys, y = example_set()
    per_class = np.bincount(y[choose_labelled(keys, y, CLASSES, count, seed, ranking)], minlength=3)
    assert per_class.max() - per_class.min() <= 1


@pytest.mark.parametrize("ranking", get_args(LabelHash))
def test_the_choice_depends_on_keys_not_on_their_order(ranking: LabelHash) -> None:
    keys, y = example_set()
    chosen = {keys[i] for i in choose_labelled(keys, y, CLASSES, 30, 1, ranking)}
    order = np.random.default_rng(1).permutation(len(keys))
    shuffled = [keys[i] for i in order]
    assert {shuffled[i] for i in choose_labelled(shuffled, y[order], CLASSES, 30, 1, ranking)} == chosen


@pytest.mark.parametrize("ranking", get_args(LabelHash))
def test_another_seed_chooses_others(ranking: LabelHash) -> None:
    keys, y = example_set()
    one, other = (choose_labelled(keys, y, CLASSES, 30, seed, ranking) for seed in (0, 1))
    assert set(one) != set(other)


@pytest.mark.parametrize("ranking", get_args(LabelHash))
def test_a_fraction_is_taken_of_each_class_and_rounded_up(ranking: LabelHash) -> None:
    keys, y = example_set()
    per_class = np.bincount(y[choose_labelled(keys, y, CLASSES, 0.11, 0, ranking)])
    assert per_class.tolist() == [5, 6, 7]


@pytest.mark.parametrize("ranking", get_args(LabelHash))
def test_all_takes_every_point_that_has_a_label(ranking: LabelHash) -> None:
    keys, y = example_set()
    y[:10] = -1
    assert set(choose_labelled(keys, y, CLASSES, "all", 0, ranking)) == set(range(10, 150))


def test_more_labels_than_a_class_has_names_class_and_limit() -> None:
    with pytest.raises(ParamsError, match=r"class 'cat' would need 41 .* has 40; allowed: at most 120"):
        labels_per_class(123, {"cat": 40, "dog": 50, "fish": 60}, 0)


def test_a_class_left_with_one_label_is_refused() -> None:
    with pytest.raises(ParamsError, match=r"labels.count is 0.02: class 'cat' would keep 1"):
        labels_per_class(0.02, {"cat": 40, "dog": 150, "fish": 160}, 0)


def test_all_labels_of_a_class_with_one_point_are_refused() -> None:
    with pytest.raises(ParamsError, match="class 'dog' would keep 1"):
        labels_per_class("all", {"cat": 40, "dog": 1}, 0)


def test_by_sha256_the_labels_of_published_runs_stay_what_they_were() -> None:
    keys = [f"train-{i:05d}" for i in range(20000)]
    y = np.random.default_rng(3).integers(-1, 7, 20000)
    for count, digest in ((100, "4d1b24f5a6e218b4"), (0.1, "c6ccd50c8867e568"), ("all", "324612d934884bce")):
        chosen = choose_labelled(keys, y, tuple("abcdefg"), count, 5, "sha256")
        assert hashlib.sha256(chosen.astype("<i8").tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("ranking", get_args(LabelHash))
@pytest.mark.parametrize("processors", [1, 3])
@pytest.mark.parametrize("count", [6, 17, "all"])
def test_points_of_an_index_are_chosen_as_those_of_a_list_for_any_number_of_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranking: LabelHash, processors: int, count: int | str
) -> None:
    monkeypatch.setattr("pipeline.training.label_subset.num_cpus", lambda: processors)
    monkeypatch.setattr("pipeline.training.label_subset._AT_ONCE", 5)
    manifest = written(tmp_path, [3, 1, 7, 20, 9])
    index = ShardedDataset(tmp_path, manifest).index("train")
    sizes = manifest.splits["train"].class_counts
    expected = choose_labelled(index.keys, index.y, SPEC.classes, count, 1, ranking)
    assert choose_in_index(index, sizes, count, 1, ranking).tolist() == expected.tolist()


def test_an_index_with_other_labels_than_the_manifest_counts_is_named(tmp_path: Path) -> None:
    index = ShardedDataset(tmp_path, written(tmp_path, [3, 9])).index("train")
    with pytest.raises(DataError, match=r"index-train\.npy"):
        choose_in_index(index, {"a": 5, "b": 4, "c": 3}, 6, 0, "key64")


def test_the_ranking_is_of_sha256_until_hashing_all_keys_takes_long() -> None:
    assert [label_hash(num) for num in (1, 10**7, 10**7 + 1)] == ["sha256", "sha256", "key64"]
