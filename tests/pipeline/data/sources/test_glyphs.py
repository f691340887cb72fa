"""Source `glyphs`: letters whose factors are what the pixels show."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.data.sources.glyphs import GLYPHS, RANGES, SEEN, draw
from pipeline.errors import DataError, FetchError
from pipeline.stages.fetch import fetch_source
from tests.helpers.waiting import silent

FONT = GLYPHS.files[0].name
MIDDLE = {name: low + 0.5 * (high - low) for name, (low, high) in RANGES.items()}


def test_train_keeps_to_the_lower_part_of_each_range_and_test_leaves_it_in_one_factor(tmp_path: Path) -> None:
    low, high = np.array([*RANGES.values()]).T
    train, test = ((GLYPHS.factors(tmp_path, split) - low) / (high - low) for split in ("train", "test"))
    assert (len(train), len(test)) == (GLYPHS.num_train, GLYPHS.num_test)
    assert train.min() >= 0 and train.max() < SEEN and train.max(axis=0).min() > 0.99 * SEEN
    beyond = test > SEEN
    assert set(beyond.sum(axis=1)) == {0, 1} and test.min() >= 0 and 0.99 < test.max() < 1
    assert np.bincount(beyond.sum(axis=1)).tolist() == [GLYPHS.num_test // 2] * 2
    assert beyond.sum(axis=0).tolist() == [GLYPHS.num_test // 2 // len(RANGES)] * len(RANGES)
    correlation = np.corrcoef(train.T)
    assert np.abs(correlation - np.eye(len(RANGES))).max() < 0.03


def test_without_the_font_or_with_another_one_it_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw file is missing: .*roboto-flex\S+\.woff2; run `ie fetch`"):
        GLYPHS.examples(tmp_path, "train")
    (tmp_path / FONT).write_bytes(b"wOF2")
    with pytest.raises(DataError, match=r"roboto-flex\S+\.woff2: not the font that is drawn here; run `ie fetch`"):
        GLYPHS.examples(tmp_path, "train")
    with pytest.raises(DataError, match=r"roboto-flex\S+\.woff2: not a font"):
        draw(tmp_path / FONT, "A", MIDDLE)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return fetch_source(GLYPHS, ("npm",), "own", tmp_path_factory.mktemp("project"), silent)
    except FetchError as error:
        pytest.skip(f"npm cannot bring the font here: {error}")


def drawn(raw: Path, letter: str, **changes: float) -> npt.NDArray[np.float64]:
    return draw(raw / FONT, letter, MIDDLE | changes)[0] / 255.0


def centre(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of mass: right and down."""
    down, right = np.indices(image.shape)
    return np.array([(right * image).sum(), (down * image).sum()]) / image.sum()


@pytest.mark.slow
def test_each_factor_does_to_the_letter_what_it_is_named_for(raw: Path) -> None:
    thin, thick = (drawn(raw, "H", weight=w).sum() for w in RANGES["weight"])
    assert thick > 2 * thin
    narrow, wide = ((drawn(raw, "H", width=w).max(axis=0) > 0.5).sum() for w in RANGES["width"])
    assert wide > 1.4 * narrow
    small, large = ((drawn(raw, "H", scale=s).max(axis=1) > 0.5).sum() for s in RANGES["scale"])
    assert large == pytest.approx(small / 0.7, abs=1.5)
    for name, axis in (("shift_x", 0), ("shift_y", 1)):
        moved = centre(drawn(raw, "O", **{name: 2.0})) - centre(drawn(raw, "O", **{name: -2.0}))
        assert moved[axis] == pytest.approx(4, abs=0.1) and abs(moved[1 - axis]) < 0.1
    for name, degrees in (("slant", 20.0), ("rotation", -30.0)):  # both lean a bar to the right
        bar = drawn(raw, "I", **{name: degrees})
        rows = [centre(bar * (np.arange(28) == row)[:, None])[0] for row in (10, 18)]
        assert np.degrees(np.arctan((rows[0] - rows[1]) / 8)) == pytest.approx(abs(degrees), abs=2)


@pytest.mark.slow
def test_letters_are_whole_reproducible_and_read_in_other_processes(raw: Path) -> None:
    examples = GLYPHS.examples(raw, "test")
    sent = pickle.loads(pickle.dumps(examples))
    assert examples.keys[0] == "test-000000" and examples.y[:27].tolist() == [*range(26), 0]
    for i in range(0, len(examples), 97):
        image = examples.read(i)
        assert image.shape == (1, 28, 28) and image.dtype == np.uint8
        assert (image == sent.read(i)).all()
        assert max(image[0, 0].max(), image[0, -1].max(), image[0, :, 0].max(), image[0, :, -1].max()) == 0
        assert image.max() > 70  # a thin, small one too
