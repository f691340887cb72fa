"""Headline tiles: what failure gives as well is not shown as a success."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.report.inputs import Inputs, Measured, read_inputs
from pipeline.report.tiles import Tile, style, tiles
from tests.helpers.run_results import make_results

GOOD = {
    "active_units": 6.0, "kl_nats": 10.6, "bound_nats": -110.0, "probe_class_from_r_linear_pct": 98.0,
    "probe_class_from_v_redrawn_mlp_pct": 34.0, "probe_class_from_v_shuffled_linear_pct": 33.0,
    "swap_oracle_pct": 98.0, "swap_oracle_v_zero_pct": 100.0, "swap_v_hit_at_1_of_100_pct": 93.0,
    "swap_v_hit_at_1_of_100_v_zero_pct": 1.0, "r2_rotation_sin_from_v_mlp": 0.9, "r2_rotation_sin_from_r_mlp": 0.0,
    "r2_rotation_sin_constant": 0.0,
}  # fmt: skip
DEAD = GOOD | {
    "active_units": 0.0, "kl_nats": 0.01, "swap_oracle_pct": 100.0, "swap_v_hit_at_1_of_100_pct": 1.0,
    "r2_rotation_sin_from_v_mlp": 0.0,
}  # fmt: skip
LITTLE = GOOD | {"kl_nats": 2.9, "active_units": 8.0}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("tiles")
    make_results(folder)
    return read_inputs(folder, folder / "data/shards/digits", with_sweep=False)


def shown(inputs: Inputs, values: dict[str, float]) -> dict[str, Tile]:
    rows = [Measured("", name, value, "", "") for name, value in values.items()]
    return {tile.title: tile for tile in tiles(replace(inputs, measures=rows))}


def test_tiles_of_a_run_that_did_its_work_are_good(inputs: Inputs) -> None:
    found = shown(inputs, GOOD)
    assert {tile.level for tile in found.values()} == {"good"}
    assert set(found) == {"Class from r", "Class from v", "v kept in a swap", "Rotation from v", "What v carries"}


def test_tiles_of_a_dead_v_show_no_success(inputs: Inputs) -> None:
    found = shown(inputs, DEAD)
    assert [title for title, tile in found.items() if tile.level == "good"] == ["Class from r"]
    assert found["Class from v"].level == "void"
    assert "because v carries nothing" in found["Class from v"].about
    assert "proves nothing" in found["v kept in a swap"].about


def test_active_units_that_carry_little_are_no_success(inputs: Inputs) -> None:
    found = shown(inputs, LITTLE)
    assert found["What v carries"].level == "weak"
    assert "18 examples" in found["What v carries"].about, "e to the 2.9"
    assert ("active units", "8 of 2") in found["What v carries"].beside
    assert found["Class from v"].level == "void"
    assert found["Rotation from v"].level == "weak", "it is read from means, whose noise is left out"
    assert "0.4 nats" in shown(inputs, GOOD | {"kl_nats": 0.4})["What v carries"].about


@pytest.mark.parametrize(
    ("title", "values"),
    [
        ("Class from r", {"probe_class_from_r_linear_pct": 35.0}),
        ("Class from r", {"probe_class_from_r_linear_pct": 90.0, "baseline_1nn_error_pct": 5.0}),
        ("Class from v", {"probe_class_from_v_redrawn_mlp_pct": 50.0}),
        ("Class from v", {"probe_class_from_v_redrawn_mlp_pct": 95.0}),
        ("v kept in a swap", {"swap_oracle_pct": 40.0}),
        ("v kept in a swap", {"swap_v_hit_at_1_of_100_pct": 3.0}),
        ("Rotation from v", {"r2_rotation_sin_from_r_mlp": 0.88}),
        ("Rotation from v", {"r2_rotation_sin_from_v_mlp": 0.3}),
    ],
)
def test_a_tile_that_falls_short_of_its_control_is_weak(inputs: Inputs, title: str, values: dict[str, float]) -> None:
    assert shown(inputs, GOOD | values)[title].level == "weak"


def test_chance_is_the_share_of_the_most_frequent_class(inputs: Inputs) -> None:
    values = GOOD | {"baseline_constant_error_pct": 10.0, "probe_class_from_v_redrawn_mlp_pct": 90.5}
    assert shown(inputs, values)["Class from v"].level == "good", "90 % of test is of one class"


def test_what_was_not_measured_has_no_tile(inputs: Inputs) -> None:
    assert shown(inputs, {"active_units": 2.0}) == {}
    assert style({"active_units": 2.0}).level == "unknown"
