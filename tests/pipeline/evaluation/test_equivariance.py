"""Measures that move images in a known way: maps, codes, readings and the linear action."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import pipeline.evaluation.equivariance
from ie_model.artifact import Artifact
from ie_model.augment import affine
from ie_model.metrics import equivariance
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.equivariance import (
    ROTATION,
    SCALE,
    SHEAR,
    SHIFT,
    Codes,
    Maps,
    Pair,
    _linear_action,
    _readings,
    encode_codes,
    random_maps,
    style,
)
from pipeline.results.metrics_table import Measure
from pipeline.utils.key_sample import lowest
from tests.helpers.spots import SETTINGS, Spots, blob, place
from tests.helpers.tiny import points, spec_of, tiny_artifact, tiny_model

Row = dict[str, float]


def values(rows: list[Measure]) -> Row:
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row.value for row in rows}


# --- maps ---


NUM, HEIGHT, WIDTH = 40, 45, 61
START = np.stack([np.linspace(-9, 9, NUM), np.linspace(7, -8, NUM) * np.cos(np.arange(NUM))], axis=1)


def moved_by(kind: str) -> tuple[Maps, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Random maps of a kind on a rectangle, and where a spot was and is, pixels right of the centre and below it."""
    maps = random_maps(kind, NUM, (1, HEIGHT, WIDTH), np.random.default_rng(0))
    images = blob(HEIGHT, WIDTH, START[:, 0], START[:, 1])
    return maps, place(images), place(affine(images, maps.matrices))


def test_a_shift_moves_a_spot_to_the_left_and_up_by_its_share_of_each_side() -> None:
    maps, before, after = moved_by("shift")
    assert maps.outputs == ("shift_x", "shift_y")
    np.testing.assert_allclose(before - after, maps.g * [WIDTH, HEIGHT], atol=0.05)
    assert np.abs(maps.g).max() <= SHIFT
    assert np.abs(maps.g).max(0).min() > 0.8 * SHIFT
    across, down = maps.g.T
    assert abs(float(np.mean(across * down))) < 0.3 * SHIFT**2, "each side has its own"


def test_a_rotation_turns_a_spot_by_its_angle_also_on_a_rectangle() -> None:
    maps, before, after = moved_by("rotation")
    assert maps.outputs == ("rotation_sin", "rotation_cos")
    sin, cos = maps.g.T
    np.testing.assert_allclose(sin**2 + cos**2, 1)
    expected = np.stack([cos * before[:, 0] + sin * before[:, 1], cos * before[:, 1] - sin * before[:, 0]], axis=1)
    np.testing.assert_allclose(after, expected, atol=0.05)
    degrees = np.degrees(np.arctan2(sin, cos))
    assert 0.8 * ROTATION < degrees.max() <= ROTATION
    assert -ROTATION <= degrees.min() < -0.8 * ROTATION


def test_a_scale_moves_a_spot_away_from_the_centre_by_its_factor() -> None:
    maps, before, after = moved_by("scale")
    assert maps.outputs == ("scale",)
    np.testing.assert_allclose(after, before * maps.g, atol=0.05)
    assert 1 + 0.8 * SCALE < maps.g.max() <= 1 + SCALE
    assert 1 - SCALE <= maps.g.min() < 1 - 0.8 * SCALE


def test_a_shear_moves_a_spot_along_the_width_by_its_share_of_the_distance_below_the_centre() -> None:
    maps, before, after = moved_by("shear")
    assert maps.outputs == ("shear",)
    np.testing.assert_allclose(after[:, 1], before[:, 1], atol=0.05)
    np.testing.assert_allclose(after[:, 0], before[:, 0] - maps.g[:, 0] * before[:, 1], atol=0.05)
    assert 0.8 * SHEAR < maps.g.max() <= SHEAR
    assert -SHEAR <= maps.g.min() < -0.8 * SHEAR


def test_maps_differ_from_image_to_image_and_from_call_to_call() -> None:
    rng = np.random.default_rng(0)
    for kind in ("rotation", "shift", "scale", "shear"):
        first, second = (random_maps(kind, 50, (1, 8, 8), rng) for _ in range(2))
        assert len({tuple(matrix.flatten().tolist()) for matrix in first.matrices}) == 50
        assert not torch.equal(first.matrices, second.matrices)
        again = random_maps(kind, 50, (1, 8, 8), np.random.default_rng(3))
        assert torch.equal(again.matrices, random_maps(kind, 50, (1, 8, 8), np.random.default_rng(3)).matrices)


# --- codes ---


def test_each_image_is_moved_by_its_own_matrix_also_over_the_borders_of_batches() -> None:
    spots, num = Spots(), 10
    artifact, x = spots.artifact(), spots.split(num, 0).x
    matrices = random_maps("shift", num, spots.spec.shape, np.random.default_rng(0)).matrices
    alone = [encode_codes(artifact, x[i : i + 1], 1, "cpu", matrices[i : i + 1]).v[0] for i in range(num)]
    for batch_size in (1, 3, 5, 10, 99):
        together = encode_codes(artifact, x, batch_size, "cpu", matrices).v
        np.testing.assert_allclose(together, alone, atol=1e-5)
    still = encode_codes(artifact, x, 3, "cpu").v
    assert np.abs(still - alone).max(1).min() > 1e-3
    np.testing.assert_allclose(still, place(x) / spots.unit, atol=1e-5)


def test_codes_are_those_of_the_predicted_class() -> None:
    artifact = tiny_artifact()
    model, r = artifact.model, artifact.class_representations
    x = points(17)
    codes = encode_codes(artifact, x, 4, "cpu")
    with torch.no_grad():
        f = model.embed(x)
        predicted = model.classify(f, r).argmax(1)
        v, _ = model.posterior(model.features(x), r[predicted])
    assert len(set(predicted.tolist())) > 1
    np.testing.assert_allclose(codes.f, f, atol=1e-5)
    np.testing.assert_allclose(codes.r, r[predicted], atol=1e-6)
    np.testing.assert_allclose(codes.v, v, atol=1e-5)


# --- reading a map from codes ---


def readings(v: npt.NDArray[np.float64], v_moved: npt.NDArray[np.float64], maps: Maps, y: npt.NDArray[np.int64]) -> Row:
    """Of 400 points to fit and as many to score; f and r are noise."""
    rng = np.random.default_rng(1)
    halves = slice(0, 400), slice(400, 800)
    f, f_moved, r, r_moved = (rng.standard_normal((800, 2)) for _ in range(4))

    def halved(*codes: npt.NDArray[np.float64]) -> Pair:
        still, moved = ([code[half].astype(np.float32) for half in halves] for code in codes)
        return still, moved

    pairs = {"v": halved(v, v_moved), "f": halved(f, f_moved), "r": halved(r, r_moved)}
    parts = [Maps(maps.matrices[half], maps.g[half], maps.outputs) for half in halves]
    return values(_readings("rotation", pairs, parts, [y[half] for half in halves], SETTINGS))


@pytest.fixture(scope="module")
def rotations() -> Maps:
    return random_maps("rotation", 800, (1, 8, 8), np.random.default_rng(0))


@pytest.fixture(scope="module")
def base() -> npt.NDArray[np.float64]:
    return np.random.default_rng(5).uniform(-1, 1, (800, 1))


FIVE = np.arange(800) % 5


def angle_of(maps: Maps) -> npt.NDArray[np.float64]:
    return np.arctan2(maps.g[:, 0], maps.g[:, 1])[:, None]


def test_an_angle_that_v_holds_is_read_and_noise_is_not(rotations: Maps, base: npt.NDArray[np.float64]) -> None:
    found = readings(base, base + angle_of(rotations), rotations, FIVE)
    assert found["r2_rotation_sin_from_v_linear"] > 0.98
    assert found["r2_rotation_sin_from_v_mlp"] > 0.95
    assert found["r2_rotation_cos_from_v_mlp"] > 0.8
    assert found["r2_rotation_sin_from_v_unseen_classes_mlp"] > 0.95
    assert found["r2_rotation_cos_from_v_linear"] < 0.3, "the cosine is even in the angle: no line reads it"
    for name in ("f_mlp", "r_mlp"):
        for output in ("rotation_sin", "rotation_cos"):
            assert -0.6 < found[f"r2_{output}_from_{name}"] < 0.15
    for output in ("rotation_sin", "rotation_cos"):
        assert -0.05 < found[f"r2_{output}_constant"] <= 0


def test_a_reading_that_holds_for_the_seen_classes_alone_fails_on_the_others(
    rotations: Maps, base: npt.NDArray[np.float64]
) -> None:
    """v turns the other way for the last class: a regressor that had seen it would not say the opposite."""
    sign = np.where(FIVE == 4, -1.0, 1.0)[:, None]
    found = readings(base, base + sign * angle_of(rotations), rotations, FIVE)
    assert found["r2_rotation_sin_from_v_unseen_classes_mlp"] < -2


def test_the_unseen_classes_are_the_last_fifth_and_are_left_out_of_the_fit(
    rotations: Maps, base: npt.NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[set[int], set[int]]] = []

    def watched(*arguments: Any) -> npt.NDArray[np.float64]:
        # v holds the class itself here.
        fit, score = arguments[0][:, 0], arguments[3][:, 0]
        calls.append((set(fit.astype(int).tolist()), set(score.astype(int).tolist())))
        return np.zeros(2)

    monkeypatch.setattr(equivariance, "style_regression", watched)
    y = np.arange(800) % 10
    told = np.concatenate([y[:, None], base], axis=1)
    readings(told, told, rotations, y)
    everything = set(range(10))
    assert calls[:2] == [(everything, everything)] * 2
    assert calls[-1] == (set(range(8)), {8, 9})


def test_of_two_classes_none_is_left_unseen(
    rotations: Maps, base: npt.NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four fifths of two classes, rounded up, are both: there is a reason rather than a number without a fit."""
    monkeypatch.setattr(equivariance, "style_regression", lambda *arguments: np.zeros(2))
    of_two, of_five = readings(base, base, rotations, np.arange(800) % 2), readings(base, base, rotations, FIVE)
    assert all(math.isnan(value) for name, value in of_two.items() if "unseen" in name)
    assert not any(math.isnan(value) for name, value in of_five.items() if "unseen" in name)
    assert {name for name in of_two if "unseen" in name} == {name for name in of_five if "unseen" in name} != set()


# --- the linear action ---


def linear_action(monkeypatch: pytest.MonkeyPatch, turned: dict[int, float], num: int = 300) -> Row:
    """Codes of two units that a rotation of the image by some degrees turns by those of `turned`, and an idle one."""
    rng = np.random.default_rng(0)
    v = rng.standard_normal((2 * num, 2))
    x = torch.from_numpy(v).view(2 * num, 1, 1, 2)  # the image is the code

    def constructed(artifact: Artifact, x: Tensor, size: int, device: str, matrices: Tensor | None = None) -> Codes:
        angle = 0.0
        if matrices is not None:
            degrees = torch.rad2deg(torch.atan2(matrices[:, 1, 0], matrices[:, 0, 0]))
            assert float(degrees.max() - degrees.min()) < 1e-3, "one rotation of all"
            angle = math.radians(turned[round(float(degrees[0]))])
        sin, cos = math.sin(angle), math.cos(angle)
        code = x.view(-1, 2).numpy() @ np.array([[cos, sin], [-sin, cos]])
        code = np.concatenate([code, 1e-2 * rng.standard_normal((len(code), 1))], axis=1).astype(np.float32)
        return Codes(code, code, code, code)

    monkeypatch.setattr(pipeline.evaluation.equivariance, "encode_codes", constructed)
    artifact = tiny_artifact(tiny_model(spec_of("image", shape=(1, 8, 8))))
    splits = [(x[:num], np.zeros(num, dtype=np.int64)), (x[num:], np.zeros(num, dtype=np.int64))]
    still = [constructed(artifact, part, 64, "cpu") for part, _ in splits]
    return values(_linear_action(artifact, splits, still, SETTINGS, "cpu"))


def test_a_code_that_a_rotation_turns_has_an_exact_action_that_composes(monkeypatch: pytest.MonkeyPatch) -> None:
    found = linear_action(monkeypatch, {15: 15.0, 30: 30.0})
    assert found["rotation_action_r2"] > 0.9999
    assert found["rotation_action_composition_error"] < 1e-4
    assert found["rotation_action_hit_at_1_of_100_pct"] > 99
    assert found["rotation_action_hit_at_5_of_100_pct"] == 100
    assert found["rotation_action_mrr_of_100"] > 0.99
    # R^2 of saying that nothing moves: 1 - |x - gx|^2 / |x|^2.
    assert found["rotation_action_r2_identity"] == pytest.approx(2 * math.cos(math.radians(15)) - 1, abs=0.02)
    assert found["rotation_action_hit_at_1_of_100_identity_pct"] < 60


def test_turns_that_do_not_add_up_are_an_error_of_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    found = linear_action(monkeypatch, {15: 40.0, 30: 10.0})
    assert found["rotation_action_r2"] > 0.9999
    # |R(80) x - R(10) x|^2 / |x|^2
    assert found["rotation_action_composition_error"] == pytest.approx(2 - 2 * math.cos(math.radians(70)), abs=0.02)


def test_a_code_of_idle_units_has_no_action(monkeypatch: pytest.MonkeyPatch) -> None:
    artifact = tiny_artifact()
    num = 120
    splits = [(points(num, seed=seed), np.zeros(num, dtype=np.int64)) for seed in (0, 1)]
    idle = (0.1 * np.random.default_rng(0).standard_normal((num, 2))).astype(np.float32)
    still = [Codes(idle, idle, idle, idle)] * 2
    rows = _linear_action(artifact, splits, still, SETTINGS, "cpu")
    assert len(rows) == 7
    assert {row.reason for row in rows} == {"no unit of v varies by more than 0.2"}


# --- all of it ---


@pytest.fixture(scope="module")
def spots_style() -> Row:
    """Style of the model that reads where a spot is."""
    spots = Spots()
    return values(style(spots.artifact(), spots.split(500, 0), spots.split(300, 1), SETTINGS, "cpu"))


def test_a_model_that_reads_the_place_of_a_spot_is_equivariant_in_v(spots_style: Row) -> None:
    assert spots_style["r2_shift_x_from_v_linear"] > 0.98
    assert spots_style["r2_shift_y_from_v_linear"] > 0.98
    assert spots_style["r2_rotation_sin_from_v_mlp"] > 0.8
    assert spots_style["r2_rotation_sin_from_v_unseen_classes_mlp"] > 0.8
    assert spots_style["r2_scale_from_v_mlp"] > 0.5
    assert spots_style["rotation_action_r2"] > 0.999
    assert spots_style["rotation_action_r2_identity"] < 0.95
    assert spots_style["rotation_action_composition_error"] < 1e-3
    assert spots_style["rotation_action_hit_at_1_of_100_pct"] > 85
    assert spots_style["rotation_action_hit_at_1_of_100_identity_pct"] < 40


def test_and_invariant_in_f_and_r(spots_style: Row) -> None:
    for output in ("rotation_sin", "rotation_cos", "shift_x", "shift_y", "shear"):
        assert spots_style[f"r2_{output}_from_f_mlp"] < 0.1, output
    assert spots_style["r2_rotation_sin_from_r_mlp"] < 0.1
    assert spots_style["invariance_ratio_f"] < 0.02
    assert spots_style["within_between_f"] < 0.02
    assert spots_style["invariance_ratio_v"] > 0.1
    assert spots_style["invariance_ratio_pixels"] > 0.1
    assert spots_style["within_between_v"] > 10, "where a spot is says nothing of its class"


def test_style_points_of_lowest_hash_fit_and_as_many_of_test_score(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: set[tuple[int, int]] = set()

    def watched(*arguments: Any) -> npt.NDArray[np.float64]:
        sizes.add((len(arguments[0]), len(arguments[3])))
        return np.zeros(arguments[2].shape[1])

    monkeypatch.setattr(equivariance, "style_regression", watched)
    spots = Spots()
    settings = SETTINGS.model_copy(update={"style_points": 100})
    for num_test in (110, 60):
        splits = spots.split(120, 0), spots.split(num_test, 1)
        style(spots.artifact(), *splits, settings, "cpu")
        # Of the last fifth of the classes only test's are scored, and none is fitted on.
        fit, score = (split.y[lowest(split.keys, 100)] for split in splits)
        last = math.ceil(0.8 * (fit.max() + 1))
        assert sizes == {(100, min(100, num_test)), (int((fit < last).sum()), int((score >= last).sum()))}
        sizes.clear()


def test_what_is_no_image_is_not_moved() -> None:
    artifact = tiny_artifact(tiny_model(spec_of("series")))
    x = points(40, artifact.model.spec)
    split = SplitData(artifact.model.spec, [str(i) for i in range(40)], x, np.arange(40) % 3)
    assert style(artifact, split, split, SETTINGS, "cpu") == []
