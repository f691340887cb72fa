"""Class swaps: what the oracle sees, and what v keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.swaps import swap_measures
from pipeline.results.metrics_table import Measure
from tests.helpers.spots import Spots
from tests.helpers.tiny import points, spec_of, tiny_artifact, tiny_model

SETTINGS = EvaluateParams(
    batch_size=64,
    bound_samples=1,
    iw_samples=1,
    iw_points=1,
    probe_points=100,
    leak_points=100,
    probe_seeds=(0,),
    style_points=100,
    swap_points=300,
    oracle_steps=1,
    calibration_bins=10,
    seed=0,
)
Row = dict[str, float]


def values(rows: list[Measure]) -> Row:
    """What was measured."""
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row.value for row in rows if not row.reason}


class OneClass(Spots):
    """Its decoder does not look at r."""

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        return self.draw(np.zeros(len(r), dtype=np.int64), v.double().numpy())


class OnePlace(Spots):
    """Its decoder does not look at v."""

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        return super().reconstruct(r, torch.full_like(v, 0.5))


class Unchanged(Spots):
    """Its decoder gives x back."""

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        assert x is not None
        return x


def swapped(model: Spots, **changes: Any) -> Row:
    settings = SETTINGS.model_copy(update=changes)
    return values(swap_measures(model.artifact(), model.split(300, 0), Spots().artifact(), settings, "cpu"))


def test_a_perfect_swap_scores_100_percent_and_without_v_only_its_class() -> None:
    found = swapped(Spots())
    assert found["swap_oracle_pct"] == 100
    assert found["swap_v_hit_at_1_of_100_pct"] > 98
    assert found["swap_oracle_v_zero_pct"] == 100
    assert found["swap_v_hit_at_1_of_100_v_zero_pct"] < 5


def test_a_decoder_that_ignores_r_keeps_v_and_gets_the_class_by_chance() -> None:
    found = swapped(OneClass())
    assert 12 < found["swap_oracle_pct"] < 28
    assert found["swap_v_hit_at_1_of_100_pct"] > 98


def test_a_decoder_that_ignores_v_gets_the_class_and_loses_v() -> None:
    found = swapped(OnePlace())
    assert found["swap_oracle_pct"] == 100
    assert found["swap_v_hit_at_1_of_100_pct"] < 5


def test_the_new_class_is_never_that_of_the_point() -> None:
    found = swapped(Unchanged())
    assert found["swap_oracle_pct"] == 0
    assert found["swap_v_hit_at_1_of_100_pct"] > 98


def test_of_two_classes_the_new_one_is_the_other() -> None:
    two = Spots(num_classes=2)
    found = values(swap_measures(two.artifact(), two.split(300, 0), two.artifact(), SETTINGS, "cpu"))
    assert found["swap_oracle_pct"] == 100
    unchanged = Unchanged(num_classes=2)
    found = values(swap_measures(unchanged.artifact(), two.split(300, 0), two.artifact(), SETTINGS, "cpu"))
    assert found["swap_oracle_pct"] == 0


def test_the_oracle_judges_and_not_the_model() -> None:
    class Blind(Spots):
        """Sees class 0 in everything."""

        def embed(self, x: Tensor) -> Tensor:
            return self.codes[torch.zeros(len(x), dtype=torch.long)]

    spots = Spots()
    found = values(swap_measures(spots.artifact(), spots.split(300, 0), Blind().artifact(), SETTINGS, "cpu"))
    assert 12 < found["swap_oracle_pct"] < 28


def test_swaps_do_not_depend_on_batches_and_use_as_many_points_as_were_asked_for() -> None:
    artifact, oracle = tiny_artifact(tiny_model(seed=1)), tiny_artifact(tiny_model(seed=2))
    x = (255 * points(120)).to(torch.uint8)
    test = SplitData(artifact.model.spec, [str(i) for i in range(120)], x, np.arange(120) % 3)
    whole, parts = (
        values(swap_measures(artifact, test, oracle, SETTINGS.model_copy(update={"batch_size": size}), "cpu"))
        for size in (1000, 7)
    )
    assert whole == parts
    assert "swap_v_hit_at_1_of_100_pct" in whole
    few = values(swap_measures(artifact, test, oracle, SETTINGS.model_copy(update={"swap_points": 50}), "cpu"))
    assert "swap_v_hit_at_1_of_50_pct" in few


@pytest.mark.parametrize("kind", ["series", "counts"])
def test_what_is_no_image_is_swapped(kind: Any) -> None:
    artifact = tiny_artifact(tiny_model(spec_of(kind)))
    x = points(40, artifact.model.spec)
    split = SplitData(artifact.model.spec, [str(i) for i in range(40)], x, np.arange(40) % 3)
    found = values(swap_measures(artifact, split, artifact, SETTINGS, "cpu"))
    assert set(found) == {
        "swap_oracle_pct",
        "swap_oracle_v_zero_pct",
        "swap_v_hit_at_1_of_40_pct",
        "swap_v_hit_at_1_of_40_v_zero_pct",
    }
    assert all(0 <= value <= 100 for value in found.values())
