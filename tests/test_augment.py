"""Affine maps: what each number does to an image, and where the randomness comes from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ie_model.augment import affine_matrices, random_affine
from ie_model.config import AugmentConfig
from tests.tiny import MOVING, STILL, seeded


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
    )
    return F.grid_sample(x, F.affine_grid(matrices, list(x.shape), align_corners=False), align_corners=False)


def images(height: int = 6, width: int = 8) -> Tensor:
    return torch.rand(2, 3, height, width, generator=seeded())


def test_zero_ranges_leave_images_as_they_are() -> None:
    x = images()
    torch.testing.assert_close(random_affine(x, STILL, seeded()), x)


def test_a_shift_along_the_width_moves_what_is_seen_to_the_left_and_zeros_come_in() -> None:
    x = images(width=8)
    moved = warp(x, shift=(2 / 8, 0.0))
    torch.testing.assert_close(moved[..., :-2], x[..., 2:])
    assert moved[..., -2:].abs().max() < 1e-5


def test_a_shift_along_the_height_moves_what_is_seen_up_and_zeros_come_in() -> None:
    x = images(height=6)
    moved = warp(x, shift=(0.0, 1 / 6))
    torch.testing.assert_close(moved[..., :-1, :], x[..., 1:, :])
    assert moved[..., -1, :].abs().max() < 1e-5


def test_a_rotation_by_90_degrees_is_rot90_counterclockwise() -> None:
    x = images(7, 7)
    torch.testing.assert_close(warp(x, rotation=math.pi / 2), torch.rot90(x, 1, (2, 3)), rtol=1e-4, atol=1e-5)


def test_a_rotation_by_180_degrees_flips_both_sides_of_a_rectangle() -> None:
    x = images(6, 8)
    torch.testing.assert_close(warp(x, rotation=math.pi), x.flip(2, 3), rtol=1e-4, atol=1e-5)


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
    config = AugmentConfig(**(STILL.model_dump() | {name: values[name]}))
    assert not torch.allclose(random_affine(images(), config, seeded()), images(), atol=0.01)


def test_a_random_shift_stays_within_its_range_and_uses_it() -> None:
    size, reach = 20, 5
    x = torch.zeros(400, 1, size, size)
    x[..., size // 2, size // 2] = 1
    moved = random_affine(x, AugmentConfig(**(STILL.model_dump() | {"shift": reach / size})), seeded())
    columns = (moved.sum((1, 2)) * torch.arange(size)).sum(1) / moved.sum((1, 2, 3)) - size // 2
    assert float(columns.abs().max()) <= reach + 1e-3
    assert float(columns.max()) > 0.9 * reach
    assert float(columns.min()) < -0.9 * reach


def test_values_stay_between_zero_and_one() -> None:
    moved = random_affine(images(), MOVING, seeded())
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
