"""Class swaps: what the oracle sees, what v keeps, and the shape of strokes beside the original's."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.swaps import FEATURES, SLANT_TOLERANCE, _others, swap_measures
from pipeline.results.metric_catalog import about
from pipeline.results.metrics_table import Measure
from tests.helpers.spots import SETTINGS, Spots
from tests.helpers.tiny import points, spec_of, tiny_artifact, tiny_model

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
    assert (found["swap_oracle_pct"], found["swap_oracle_old_pct"], found["swap_oracle_neither_pct"]) == (0, 100, 0)
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
    assert found["swap_oracle_old_pct"] == pytest.approx(20), "a fifth was of class 0"
    shares = ("swap_oracle_pct", "swap_oracle_old_pct", "swap_oracle_neither_pct")
    assert sum(found[name] for name in shares) == pytest.approx(100)
    for name in shares:
        low, high = (found[name.replace("_pct", f"_{end}_pct")] for end in ("low", "high"))
        assert low < found[name] < high, name
    assert found["oracle_error_pct"] == pytest.approx(80)


def test_swaps_do_not_depend_on_batches_and_use_as_many_points_as_were_asked_for() -> None:
    artifact, oracle = tiny_artifact(tiny_model(seed=1)), tiny_artifact(tiny_model(seed=2))
    x = (255 * points(120)).to(torch.uint8)
    test = SplitData(artifact.model.spec, [str(i) for i in range(120)], x, np.arange(120) % 3)
    whole, parts = (
        values(swap_measures(artifact, test, oracle, SETTINGS.model_copy(update={"batch_size": size}), "cpu"))
        for size in (1000, 7)
    )
    # Rounding of another batch may move an edge by a subpixel.
    assert whole == pytest.approx(parts, abs=1e-3)
    assert "swap_v_hit_at_1_of_100_pct" in whole
    few = values(swap_measures(artifact, test, oracle, SETTINGS.model_copy(update={"swap_points": 50}), "cpu"))
    assert "swap_v_hit_at_1_of_50_pct" in few


@pytest.mark.parametrize("shape", [("series", None), ("counts", None), ("image", (3, 6, 5))])
def test_what_has_no_strokes_is_swapped_without_their_measures(shape: tuple[Any, Any]) -> None:
    artifact = tiny_artifact(tiny_model(spec_of(shape[0], shape=shape[1])))
    x = points(40, artifact.model.spec)
    split = SplitData(artifact.model.spec, [str(i) for i in range(40)], x, np.arange(40) % 3)
    found = values(swap_measures(artifact, split, artifact, SETTINGS, "cpu"))
    shares = [f"swap_oracle{seen}{end}_pct" for seen in ("", "_old", "_neither") for end in ("", "_low", "_high")]
    hits = ["swap_oracle_v_zero_pct", "swap_v_hit_at_1_of_40_pct", "swap_v_hit_at_1_of_40_v_zero_pct"]
    assert set(found) == {*shares, *hits, "oracle_error_pct"}
    assert all(0 <= value <= 100 for value in found.values())


# --- strokes ---


class Bars(Spots):
    """Its images are upright bars in place of spots: v is their shear and thickness, the class their brightness."""

    lean = 0.0
    """Shear that the decoder adds for each class."""

    def draw(self, y: npt.NDArray[np.int64], v: npt.NDArray[np.float64]) -> Tensor:
        place = torch.arange(self.spec.shape[1], dtype=torch.float64) - (self.spec.shape[1] - 1) / 2
        shear = torch.from_numpy(0.3 * v[:, 0] + self.lean * y).view(-1, 1, 1)
        half = torch.from_numpy(1.5 + 0.5 * v[:, 1]).view(-1, 1, 1)
        across = (place + shear * place[:, None]).abs()
        bar = (half + 0.5 - across).clamp(0, 1) * (place.abs() <= 8)[:, None]
        return (bar * torch.from_numpy((y + 1) / self.num_codes).view(-1, 1, 1)).float().unsqueeze(1)

    def embed(self, x: Tensor) -> Tensor:
        return self.codes[(x.amax((1, 2, 3)) * self.num_codes).round().long() - 1]

    def posterior(self, features: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        bar = features[:, 0].double() / features.amax((1, 2, 3)).view(-1, 1, 1)
        place = torch.arange(bar.shape[1], dtype=torch.float64) - (bar.shape[1] - 1) / 2
        rows = bar.sum(2)
        shear = -((bar @ place) * place).sum(1) / (rows * place**2).sum(1) - self.lean * r.argmax(1)
        v = torch.stack([shear / 0.3, (rows.sum(1) / 17 / 2 - 1.5) / 0.5], dim=1).float()
        return v, torch.full_like(v, -5.0)


class Leaning(Bars):
    """Its classes differ in slant as digits do."""

    lean = 0.1


class NoV(Bars):
    """Its decoder does not look at v."""

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        return super().reconstruct(r, torch.zeros_like(v))


class NoR(Bars):
    """Its decoder does not look at r."""

    def reconstruct(self, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
        return super().reconstruct(self.codes[:1].expand(len(r), -1), v)


def barred(model: Bars, num: int = 300) -> list[Measure]:
    return swap_measures(model.artifact(), model.split(num, 0), type(model)().artifact(), SETTINGS, "cpu")


def test_a_swap_that_keeps_the_shape_is_at_the_ceiling_and_another_example_at_the_floor() -> None:
    found = values(barred(Bars()))
    for feature in ("slant", "thickness", "width"):
        name = f"swap_{feature}_correlation"
        assert found[name] > 0.98, feature
        assert found[f"{name}_reconstruction"] > 0.98, feature
        assert abs(found[f"{name}_other"]) < 0.2, feature
    assert (found["swap_oracle_and_slant_pct"], found["swap_oracle_and_slant_reconstruction_pct"]) == (100, 100)
    assert 20 < found["swap_oracle_and_slant_other_pct"] < 70


def test_classes_that_differ_in_slant_lower_no_correlation_but_the_share_whose_slant_agrees() -> None:
    found = values(barred(Leaning()))
    assert found["swap_slant_correlation"] > 0.98
    assert found["swap_oracle_and_slant_pct"] < 70
    assert f" {SLANT_TOLERANCE:.0f} degrees" in about("swap_oracle_and_slant_pct").meaning
    assert found["swap_oracle_and_slant_reconstruction_pct"] == 100


def test_a_decoder_that_ignores_r_keeps_the_shape_of_another_class() -> None:
    found = values(barred(NoR()))
    assert found["swap_slant_correlation"] > 0.98
    assert found["swap_oracle_and_slant_pct"] == pytest.approx(found["swap_oracle_pct"])
    assert found["swap_oracle_pct"] < 28


def test_a_decoder_that_ignores_v_has_no_correlation_and_a_reason() -> None:
    rows = barred(NoV())
    reasons = {row.name for row in rows if row.reason}
    assert reasons >= {f"swap_{feature}_correlation" for feature in FEATURES}
    found = values(rows)
    assert found["swap_oracle_pct"] == 100
    assert found["swap_oracle_and_slant_pct"] == pytest.approx(found["swap_oracle_and_slant_other_pct"], abs=1e-9)


def test_classes_of_one_example_have_no_other() -> None:
    rows = {row.name: row for row in barred(Bars(), num=5)}
    assert "two examples" in rows["swap_oracle_and_slant_other_pct"].reason
    assert rows["swap_slant_correlation"].reason and rows["swap_slant_correlation_other"].reason
    assert rows["swap_oracle_and_slant_pct"].value == 100


def test_others_are_each_taken_once_and_of_the_same_class() -> None:
    y = np.array([0, 1, 0, 2, 1, 0, 1, 0])
    other = _others(y, np.random.default_rng(0))
    assert sorted(other) == list(range(8))
    assert (y[other] == y).all()
    assert np.flatnonzero(other == np.arange(8)).tolist() == [3], "class 2 has one example"
