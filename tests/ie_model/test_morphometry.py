"""Shape of strokes: of bars and ellipses drawn with known parameters."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ie_model.metrics.morphometry import FAINT, morphometry

Images = npt.NDArray[np.float64]
SIDE, FINE = 28, 8
NUM = 120
RNG = np.random.default_rng(0)
SLANT = RNG.uniform(-30, 30, NUM)
THICKNESS = RNG.uniform(1.5, 4.5, NUM)
HEIGHT = RNG.uniform(10, 20, NUM)
CENTRE = RNG.uniform(-2, 2, (NUM, 2))


def grid(side: int = SIDE) -> tuple[Images, Images]:
    """x and y of subpixels from the centre, y downwards."""
    at = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    y, x = np.meshgrid(at, at, indexing="ij")
    return x, y


def pixels(inside: npt.NDArray[np.bool_]) -> Images:
    """Share of each pixel that is inside."""
    side = len(inside) // FINE
    return inside.reshape(side, FINE, side, FINE).mean((1, 3))


def bar(slant: float, thickness: float, height: float, centre: npt.NDArray[np.float64], side: int = SIDE) -> Images:
    x, y = grid(side)
    x, y, tangent = x - centre[0], y - centre[1], np.tan(np.radians(slant))
    across = np.abs(x + tangent * y) * np.cos(np.radians(slant))
    return pixels((across <= thickness / 2) & (np.abs(y) <= height / 2))


def ellipse(width: float, height: float, thickness: float, slant: float = 0.0) -> Images:
    x, y = grid()
    x = x + np.tan(np.radians(slant)) * y
    outer = (2 * x / (width + thickness)) ** 2 + (2 * y / (height + thickness)) ** 2
    inner = (2 * x / (width - thickness)) ** 2 + (2 * y / (height - thickness)) ** 2
    return pixels((outer <= 1) & (inner >= 1))


@pytest.fixture(scope="module")
def bars() -> Images:
    return np.stack([bar(*known) for known in zip(SLANT, THICKNESS, HEIGHT, CENTRE, strict=True)])


def test_bars_have_the_parameters_that_they_are_drawn_with(bars: Images) -> None:
    """Corners of a bar narrow its ridge; the parallelogram is of the inner 98 %."""
    found = morphometry(bars)
    across = THICKNESS / np.cos(np.radians(SLANT))
    np.testing.assert_allclose(found.slant, SLANT, atol=1.5)
    np.testing.assert_allclose(found.thickness, THICKNESS, atol=0.6)
    np.testing.assert_allclose(found.width, across, atol=0.6)
    np.testing.assert_allclose(found.height, 0.98 * HEIGHT, atol=0.8)
    np.testing.assert_allclose(found.mass, across * HEIGHT, rtol=0.15)
    known = {"slant": SLANT, "thickness": THICKNESS, "width": across, "height": HEIGHT}
    for name, values in known.items():
        assert np.corrcoef(getattr(found, name), values)[0, 1] > 0.985, name


def test_ellipses_have_the_width_height_and_thickness_that_they_are_drawn_with() -> None:
    """A slant shears them: width is that before it."""
    known = np.array([(w, h, t) for w in (8, 12) for h in (12, 17) for t in (1.5, 2.5)])
    for slant in (0.0, 15.0, -15.0):
        found = morphometry(np.stack([ellipse(w, h, t, slant) for w, h, t in known]))
        np.testing.assert_allclose(found.slant, slant, atol=0.8)
        np.testing.assert_allclose(found.width, known[:, 0] + known[:, 2], rtol=0.08)
        np.testing.assert_allclose(found.height, known[:, 1] + known[:, 2], rtol=0.08)
        if not slant:
            np.testing.assert_allclose(found.thickness, known[:, 2], atol=0.5)


def test_an_image_is_measured_alone_and_whatever_its_contrast(bars: Images) -> None:
    together = morphometry(bars)
    turned = morphometry(np.concatenate([0.5 * bars[::-1], np.zeros((3, SIDE, SIDE))]))
    for name, values in vars(together).items():
        np.testing.assert_allclose(getattr(turned, name)[:NUM], values[::-1], err_msg=name)


def test_mirrored_images_slant_the_other_way(bars: Images) -> None:
    there, back = morphometry(bars), morphometry(bars[:, :, ::-1])
    np.testing.assert_allclose(back.slant, -there.slant, atol=0.2)
    np.testing.assert_allclose(back.height, there.height, atol=0.2)


@pytest.mark.parametrize("side", [40, 90])
def test_lengths_are_in_pixels_of_the_image_also_where_it_is_not_interpolated(side: int) -> None:
    found = morphometry(bar(20, 3.0, 18, np.zeros(2), side)[None])
    assert found.slant[0] == pytest.approx(20, abs=1)
    assert found.thickness[0] == pytest.approx(3, abs=0.7)
    assert found.height[0] == pytest.approx(0.98 * 18, abs=1)


def test_an_image_without_a_stroke_has_no_mass_and_no_shape() -> None:
    x = np.zeros((3, 9, 7), dtype=np.float32)
    x[1, 4, 3], x[2, 4, 3] = FAINT, 1
    found = morphometry(x)
    assert found.mass[:2].tolist() == [0, 0]
    assert found.mass[2] > 0
    for name in ("slant", "thickness", "width", "height"):
        assert np.isnan(getattr(found, name)).tolist() == [True, True, False], name


def test_full_images_and_strokes_at_the_border_are_measured() -> None:
    found = morphometry(np.ones((1, 20, 10)))
    assert (found.mass[0], found.slant[0]) == (200, 0)
    assert (found.width[0], found.height[0]) == pytest.approx((9.8, 19.6))
    row = np.zeros((1, 9, 9))
    row[0, 0] = 1
    found = morphometry(row)
    assert found.slant[0] == pytest.approx(0)
    assert found.width[0] == pytest.approx(0.98 * 9)


@pytest.mark.parametrize(
    ("x", "named"),
    [
        (np.zeros((9, 9)), r"\[9, 9\]"),
        (np.zeros((0, 9, 9)), r"\[0, 9, 9\]"),
        (np.zeros((2, 0, 9)), r"\[2, 0, 9\]"),
        (np.full((1, 9, 9), np.nan), "nan"),
        (np.full((1, 9, 9), 255.0), "255"),
        (np.full((1, 9, 9), -0.1), "-0.1"),
    ],
)
def test_what_is_no_grey_image_is_refused(x: Images, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        morphometry(x)
