"""Distortions of each kind of data: what each number does, what it must keep, and where the randomness comes from."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ie_model.augment import (
    affine,
    affine_matrices,
    augment,
    random_affine,
    random_counts,
    random_series,
    random_vector,
)
from ie_model.config import AugmentConfig
from ie_model.networks import within_length
from ie_model.spec import Kind
from tests.helpers.tiny import KINDS, MOVING, STILL, points, seeded, spec_of

NAN = torch.nan


def warp(
    x: Tensor, *, rotation: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), scale: float = 1.0, shear: float = 0.0
) -> Tensor:
    """One map for every image of x."""
    num = len(x)
    matrices = affine_matrices(
        torch.full((num,), rotation),
        torch.tensor(shift).expand(num, 2),
        torch.full((num,), scale),
        torch.full((num,), shear),
        height=x.shape[-2],
        width=x.shape[-1],
    )
    return affine(x, matrices)


def only(**ranges: float) -> AugmentConfig:
    """A distortion of nothing but what is named."""
    return AugmentConfig(**(STILL.model_dump() | ranges))


def series(*lengths: int, channels: int = 2, longest: int = 20) -> Tensor:
    """Series of these lengths, NaN past the end of each."""
    x = torch.randn(len(lengths), channels, longest, generator=seeded())
    return x.masked_fill(torch.arange(longest) >= torch.tensor(lengths).reshape(-1, 1, 1), NAN)


def texts(num: int, words_each: int, num_words: int = 5) -> Tensor:
    return torch.full((num, num_words), float(words_each))


def images(height: int = 6, width: int = 8) -> Tensor:
    return torch.rand(2, 3, height, width, generator=seeded())


def test_zero_ranges_leave_images_as_they_are() -> None:
    x = images()
    torch.testing.assert_close(random_affine(x, STILL, seeded()), x)


def test_a_shift_along_the_width_moves_what_is_seen_to_the_left_and_the_border_comes_in() -> None:
    x = images(width=8)
    moved = warp(x, shift=(2 / 8, 0.0))
    torch.testing.assert_close(moved[..., :-2], x[..., 2:])
    torch.testing.assert_close(moved[..., -2:], x[..., -1:].expand(-1, -1, -1, 2))


def test_a_shift_along_the_height_moves_what_is_seen_up_and_the_border_comes_in() -> None:
    x = images(height=6)
    moved = warp(x, shift=(0.0, 1 / 6))
    torch.testing.assert_close(moved[..., :-1, :], x[..., 1:, :])
    torch.testing.assert_close(moved[..., -1, :], x[..., -1, :])


def test_a_rotation_by_90_degrees_is_rot90_counterclockwise() -> None:
    x = images(7, 7)
    torch.testing.assert_close(warp(x, rotation=math.pi / 2), torch.rot90(x, 1, (2, 3)), rtol=1e-4, atol=1e-5)


def test_a_rotation_by_180_degrees_flips_both_sides_of_a_rectangle() -> None:
    x = images(6, 8)
    torch.testing.assert_close(warp(x, rotation=math.pi), x.flip(2, 3), rtol=1e-4, atol=1e-5)


@given(
    half_height=st.integers(0, 8),
    half_width=st.integers(0, 8),
    odd=st.booleans(),
    row=st.floats(0, 1),
    col=st.floats(0, 1),
)
@settings(max_examples=80, deadline=None)
def test_a_rotation_by_90_degrees_moves_each_pixel_of_a_rectangle_to_its_place(
    half_height: int, half_width: int, odd: bool, row: float, col: float
) -> None:
    # Sides of one parity: then the centre of a pixel comes to lie on the centre of a pixel.
    height, width = 2 * half_height + (1 if odd else 2), 2 * half_width + (1 if odd else 2)
    height, width = height + 2, width + 2  # a border of zeros, whose values come from outside
    i, j = 1 + round(row * (height - 3)), 1 + round(col * (width - 3))
    x = torch.zeros(1, 1, height, width)
    x[..., i, j] = 1
    right, down = j - (width - 1) / 2, i - (height - 1) / 2
    new_i, new_j = round((height - 1) / 2 - right), round((width - 1) / 2 + down)
    expected = torch.zeros_like(x)
    if 0 <= new_i < height and 0 <= new_j < width:
        expected[..., new_i, new_j] = 1
    torch.testing.assert_close(warp(x, rotation=math.pi / 2), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(25, 61), (61, 25), (41, 41)])
@pytest.mark.parametrize("degrees", [-70, 20, 45])
def test_a_rotation_keeps_lengths_and_angles_on_a_rectangle(size: tuple[int, int], degrees: int) -> None:
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    angle = math.radians(degrees)
    for right, down in ((6.0, 0.0), (0.0, 6.0)):
        blob = torch.exp(-((x - right) ** 2 + (y - down) ** 2) / 4)
        moved = warp(blob[None, None], rotation=angle)[0, 0]
        centre = [float((moved * axis).sum() / moved.sum()) for axis in (x, y)]
        # Counterclockwise where y points down.
        expected = [right * math.cos(angle) + down * math.sin(angle), down * math.cos(angle) - right * math.sin(angle)]
        assert centre == pytest.approx(expected, abs=0.05)


def test_a_shear_on_a_rectangle_moves_rows_by_their_distance_in_pixels() -> None:
    x = torch.zeros(1, 1, 21, 61)
    x[..., 30] = 1  # a vertical line through the centre
    sheared = warp(x, shear=0.5)[0, 0]
    columns = (sheared * torch.arange(61)).sum(1) / sheared.sum(1) - 30
    distances = torch.arange(21) - 10.0
    torch.testing.assert_close(columns, -0.5 * distances, rtol=0, atol=1e-3)


def test_a_larger_scale_shows_the_image_larger() -> None:
    x = torch.zeros(1, 1, 8, 8)
    x[..., 3:5, 3:5] = 1
    assert warp(x, scale=2.0).sum() == pytest.approx(4 * float(x.sum()), rel=0.1)


def test_a_shear_keeps_the_area() -> None:
    x = torch.zeros(1, 1, 32, 32)
    x[..., 10:22, 10:22] = 1
    sheared = warp(x, shear=0.2)
    assert not torch.allclose(sheared, x)
    assert sheared.sum() == pytest.approx(float(x.sum()), rel=0.02)


def test_affine_light_pictures_get_no_dark_areas() -> None:
    """Black corners tell a classifier that a picture was distorted, and a probe by how much."""
    light = torch.full((200, 1, 28, 28), 0.9)
    torch.testing.assert_close(random_affine(light, MOVING, seeded()), light)


def test_the_same_generator_state_gives_the_same_images() -> None:
    x = images()
    assert torch.equal(random_affine(x, MOVING, seeded(3)), random_affine(x, MOVING, seeded(3)))


def test_another_seed_gives_other_images() -> None:
    x = images()
    assert not torch.allclose(random_affine(x, MOVING, seeded(3)), random_affine(x, MOVING, seeded(4)))


def test_every_image_of_a_batch_has_a_map_of_its_own() -> None:
    x = images()[:1].repeat(2, 1, 1, 1)
    first, second = random_affine(x, MOVING, seeded())
    assert not torch.allclose(first, second)


def test_all_channels_of_an_image_move_together() -> None:
    x = images()[:, :1].repeat(1, 3, 1, 1)
    moved = random_affine(x, MOVING, seeded())
    assert torch.equal(moved[:, 0], moved[:, 2])


@pytest.mark.parametrize("name", ["rotation", "shift", "scale", "shear"])
def test_each_range_alone_changes_images(name: str) -> None:
    values = {"rotation": 30.0, "shift": 0.2, "scale": 0.3, "shear": 0.3}
    assert not torch.allclose(random_affine(images(), only(**{name: values[name]}), seeded()), images(), atol=0.01)


def test_a_random_shift_stays_within_its_range_and_uses_it() -> None:
    size, reach = 20, 5
    x = torch.zeros(400, 1, size, size)
    x[..., size // 2, size // 2] = 1
    moved = random_affine(x, only(shift=reach / size), seeded())
    columns = (moved.sum((1, 2)) * torch.arange(size)).sum(1) / moved.sum((1, 2, 3)) - size // 2
    assert float(columns.abs().max()) <= reach + 1e-3
    assert float(columns.max()) > 0.9 * reach
    assert float(columns.min()) < -0.9 * reach


def test_values_stay_between_zero_and_one() -> None:
    moved = random_affine(images(), MOVING, seeded())
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1


# Series.


def test_zero_ranges_leave_series_as_they_are() -> None:
    x = series(20, 7, 1, 0)
    torch.testing.assert_close(random_series(x, STILL, seeded()), x, equal_nan=True, rtol=0, atol=0)


@given(lengths=st.lists(st.integers(0, 20), min_size=1, max_size=6), shift=st.floats(0, 1), seed=st.integers(0, 999))
@settings(max_examples=80, deadline=None)
def test_a_distorted_series_keeps_its_length_and_its_unknown_tail(lengths: list[int], shift: float, seed: int) -> None:
    x = series(*lengths)
    moved = random_series(x, only(shift=shift, scale=0.5), seeded(seed))
    assert torch.equal(moved.isnan(), x.isnan())


def test_a_shift_moves_all_channels_of_a_series_by_one_number_of_steps_within_its_range() -> None:
    longest, length, reach = 20, 12, 5
    ramp = torch.arange(float(longest)).masked_fill(torch.arange(longest) >= length, NAN)
    x = torch.stack([ramp, 100 + 2 * ramp]).expand(500, -1, -1)
    moved = random_series(x, only(shift=reach / longest), seeded())
    steps = 6 - moved[:, 0, 6]
    for s, one in zip(steps.tolist(), moved, strict=True):
        source = (torch.arange(length) - s).clamp(0, length - 1)  # the first or last value where nothing moves to
        assert one[0, :length].tolist() == source.tolist()
        assert one[1, :length].tolist() == (100 + 2 * source).tolist()
    assert set(steps.tolist()) == set(range(-reach, reach + 1))


def test_a_scale_multiplies_all_values_of_a_series_by_one_factor_within_its_range() -> None:
    x = series(20, 11).repeat(300, 1, 1)
    ratios = (random_series(x, only(scale=0.3), seeded()) / x).flatten(1)
    factors = ratios.nanmean(1)
    assert float((ratios - factors[:, None]).nan_to_num().abs().max()) < 1e-4
    assert 0.7 <= float(factors.min()) < 0.72 and 1.28 < float(factors.max()) <= 1.3


def test_a_gap_inside_a_series_moves_with_it() -> None:
    x = torch.arange(20.0).masked_fill(torch.arange(20) >= 15, NAN).expand(50, 1, -1).clone()
    x[..., 7] = NAN
    moved = random_series(x, only(shift=0.2), seeded())
    gaps = moved[:, 0, :15].isnan()
    assert gaps.sum(1).tolist() == [1] * 50
    assert set(gaps.float().argmax(1).tolist()) == set(range(3, 12))
    assert torch.equal(within_length(~moved.isnan()), within_length(~x.isnan()))


def test_a_gap_that_moves_to_the_end_of_a_series_does_not_shorten_it() -> None:
    x = torch.arange(8.0).expand(100, 2, -1).clone()
    x[..., 4:6], x[..., 7] = NAN, NAN
    x[:, 1] += 10
    moved = random_series(x, only(shift=0.3), seeded())
    assert torch.equal(within_length(~moved.isnan()), within_length(~x.isnan()))


# Counts.


def test_nothing_left_out_leaves_counts_as_they_are() -> None:
    x = points(6, spec_of("counts"))
    assert torch.equal(random_counts(x, STILL, seeded()), x)


@given(
    counts=st.lists(st.lists(st.integers(0, 30), min_size=4, max_size=4), min_size=1, max_size=5),
    drop=st.floats(0, 0.99),
    seed=st.integers(0, 999),
)
@settings(max_examples=80, deadline=None)
def test_distorted_counts_are_whole_and_never_more_than_before(counts: list[list[int]], drop: float, seed: int) -> None:
    x = torch.tensor(counts, dtype=torch.float32)
    kept = random_counts(x, only(drop=drop), seeded(seed))
    assert kept.dtype == x.dtype and kept.shape == x.shape
    assert torch.equal(kept, kept.round()) and bool((kept >= 0).all()) and bool((kept <= x).all())


def test_the_share_of_words_left_out_is_uniform_up_to_drop() -> None:
    shares = 1 - random_counts(texts(2000, 10_000), only(drop=0.4), seeded()).sum(1) / 50_000
    # A share's own scatter is at most sqrt(0.24 / 50,000) = 0.0022; that of the mean of 2,000 is 0.4 / 12^0.5 / 45.
    assert float(shares.mean()) == pytest.approx(0.2, abs=3 * 0.0026)
    assert float(shares.min()) < 0.01 and 0.39 < float(shares.max()) < 0.41
    assert float(shares.std()) == pytest.approx(0.4 / math.sqrt(12), rel=0.05)


def test_all_words_of_a_text_are_left_out_with_one_probability() -> None:
    kept = random_counts(texts(300, 10_000), only(drop=0.9), seeded()) / 10_000
    assert float(kept.std(1).mean()) < 0.01 and float(kept.mean(1).std()) > 0.2


# Vectors.


def test_nothing_dropped_and_no_noise_leave_vectors_as_they_are() -> None:
    x = points(6, spec_of("vector"))
    assert torch.equal(random_vector(x, STILL, seeded()), x)


def test_random_vector_sets_a_share_of_the_features_uniform_up_to_drop_features_to_their_mean() -> None:
    shares = (random_vector(torch.ones(2000, 5000), only(drop_features=0.4), seeded()) == 0).float().mean(1)
    assert float(shares.mean()) == pytest.approx(0.2, abs=3 * 0.0026)
    assert float(shares.min()) < 0.01 and 0.38 < float(shares.max()) < 0.43


def test_random_vector_adds_noise_of_a_deviation_uniform_up_to_noise() -> None:
    deviations = random_vector(torch.zeros(2000, 5000), only(noise=0.5), seeded()).std(1)
    assert float(deviations.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(deviations.min()) < 0.01 and 0.48 < float(deviations.max()) < 0.52


# All kinds.


@pytest.mark.parametrize("kind", KINDS)
def test_the_kind_of_data_names_the_distortion(kind: Kind) -> None:
    x = points(5, spec_of(kind))
    others = {"series": random_series, "counts": random_counts, "vector": random_vector}
    named = others.get(kind, random_affine)
    distorted = augment(x, spec_of(kind), MOVING, seeded(2))
    torch.testing.assert_close(distorted, named(x, MOVING, seeded(2)), equal_nan=True, rtol=0, atol=0)
    assert not torch.allclose(distorted, x, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_no_examples_at_all_are_distorted_to_none(kind: Kind) -> None:
    x = points(1, spec_of(kind))[:0]
    assert augment(x, spec_of(kind), MOVING, seeded()).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_gives_one_distortion_of_any_kind_and_another_seed_another(kind: Kind) -> None:
    x = points(8, spec_of(kind, shape={"image": (1, 9, 9), "series": (2, 30), "counts": (40,), "vector": (20,)}[kind]))
    first, again, other = (augment(x, spec_of(kind), MOVING, seeded(seed)).nan_to_num() for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_distorted_keeps_its_own_values(kind: Kind) -> None:
    x = points(5, spec_of(kind))
    before = x.clone()
    augment(x, spec_of(kind), MOVING, seeded())
    torch.testing.assert_close(x, before, equal_nan=True, rtol=0, atol=0)
