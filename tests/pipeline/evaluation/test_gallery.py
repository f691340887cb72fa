"""What evaluate saves for the page: which test points, what is decoded of them, and what a damaged file says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ie_model.inference import classify, posterior_mean, swap, traverse
from ie_model.networks import to_float
from ie_model.spec import Kind
from pipeline.errors import DataError
from pipeline.evaluation.gallery import make_gallery, stratified
from pipeline.evaluation.metrics import encode_split
from pipeline.plots.projections import neighbours
from pipeline.results.gallery_file import STEPS, WORDS, Gallery, read_gallery, save_gallery
from tests.helpers.run_results import made_artifact, made_params, made_test_split
from tests.helpers.tiny import KINDS, seeded, spec_of


def gallery_of(kind: Kind) -> Gallery:
    params, spec = made_params(kind), spec_of(kind)
    artifact, test = made_artifact(spec), made_test_split(spec)
    encoded = encode_split(artifact, test, params.evaluate, "cpu", seeded())
    words = [f"w{i}" for i in range(spec.shape[0])]
    return make_gallery(artifact, test, encoded, words, params.report, "cpu")


@pytest.mark.parametrize("kind", KINDS)
def test_a_gallery_comes_back_as_it_was_saved_and_as_the_same_bytes(tmp_path: Path, kind: Kind) -> None:
    gallery = gallery_of(kind)
    for name in ("a", "b"):
        save_gallery(tmp_path / name, gallery)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    found = read_gallery(tmp_path / "a")
    assert found.text == gallery.text
    assert found.arrays.keys() == gallery.arrays.keys()
    for name, array in gallery.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_swaps_and_traversals_are_those_of_the_model() -> None:
    spec = spec_of("image")
    gallery, artifact, test = gallery_of("image"), made_artifact(spec), made_test_split(spec)
    row = test.keys.index(gallery.text.keys[4])
    x = to_float(test.x[row : row + 1])
    expected = (255 * swap(artifact, x)[0]).round()
    np.testing.assert_allclose(gallery.arrays["swap"][4], expected.numpy(), atol=1)
    own = artifact.class_representations[int(classify(artifact, x).argmax())]
    rebuilt = 255 * artifact.model.reconstruct(own[None], posterior_mean(artifact, x))[0]
    np.testing.assert_allclose(gallery.arrays["reconstruction"][4], rebuilt.detach().numpy(), atol=1)
    unit = gallery.text.units[0]
    values = torch.linspace(-3, 3, STEPS)
    moved = traverse(artifact, artifact.class_representations, torch.zeros(3, 2), unit, values)
    np.testing.assert_allclose(gallery.arrays["traversal"][0], (255 * moved).round().numpy(), atol=1)


def test_series_keep_their_gaps() -> None:
    arrays = gallery_of("series").arrays
    assert np.isnan(arrays["x"]).any()
    np.testing.assert_array_equal(np.isnan(arrays["x"]), np.isnan(arrays["reconstruction"]))
    assert np.isfinite(arrays["samples"]).all()


def test_texts_are_the_words_that_they_have_more_often_than_all_texts_together() -> None:
    gallery = gallery_of("counts")
    words, test = gallery.text.words, made_test_split(spec_of("counts"))
    counts = test.x.numpy().astype(float)
    usual = counts.sum(0) / counts.sum()
    row = test.keys.index(gallery.text.keys[0])
    share = counts[row] / counts[row].sum()
    excess = np.where(share > 0, share * np.log(np.maximum(share, 1e-9) / usual), 0)
    expected = [f"w{i}" for i in np.argsort(-excess, kind="stable") if excess[i] > 1e-3]
    found = [words[i] for i in gallery.arrays["x"][0] if i >= 0]
    assert found == expected
    assert gallery.arrays["x"].shape[-1] == WORDS, "also where there are fewer words than that"


def test_the_sample_is_stratified_and_a_rare_class_leaves_its_room_to_others() -> None:
    y = np.repeat([0, 1, 2], [3, 50, 100])
    rows = stratified(y, 43, np.random.default_rng(0))
    assert np.bincount(y[rows]).tolist() == [3, 20, 20]
    assert len(set(rows.tolist())) == 43
    assert (np.diff(y[rows]) >= 0).all()


def test_a_sample_of_fewer_points_than_classes_has_one_each_of_some() -> None:
    y = np.arange(40) % 20
    rows = stratified(y, 7, np.random.default_rng(0))
    assert len(rows) == len(set(y[rows].tolist())) == 7


def test_of_large_examples_with_many_classes_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_of("image")
    monkeypatch.setattr("pipeline.evaluation.gallery._MOST_VALUES", 12 * 5 * spec.num_values)
    gallery = gallery_of("image")
    assert gallery.text.num_sampled == 12
    assert gallery.arrays["swap"].shape[:2] == (len(gallery.text.keys), 3)


def test_the_errors_are_the_most_confident_ones_in_order() -> None:
    params, spec = made_params("image"), spec_of("image")
    artifact, test = made_artifact(spec), made_test_split(spec)
    encoded = encode_split(artifact, test, params.evaluate, "cpu", seeded())
    gallery = gallery_of("image")
    wrong = np.flatnonzero(encoded.probabilities.argmax(1) != test.y)
    best = wrong[np.argsort(-encoded.probabilities.max(1)[wrong], kind="stable")][: params.report.num_errors]
    assert [gallery.text.keys[i] for i in gallery.text.errors] == [test.keys[row] for row in best]


def test_neighbours_are_the_nearest_of_the_sample_without_the_point_itself() -> None:
    x = np.array([[0.0], [1.0], [3.0], [7.0], [2.9]])
    assert neighbours(x, 4, 2).tolist() == [[1, 2], [0, 2], [1, 0], [2, 1], [2, 1]]
    assert neighbours(x, 2, 6).tolist() == [[1], [0], [1], [1], [1]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swap": None}, "array swap is missing"),
        ({"x": np.zeros((2, 2), np.uint8)}, "array x is uint8"),
        ({"values": np.zeros((2, 2), np.float32)}, "array values"),
    ],
)
def test_a_gallery_whose_arrays_do_not_fit_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None], message: str
) -> None:
    gallery = gallery_of("image")
    arrays = {name: array for name, array in (gallery.arrays | change).items() if array is not None}
    save_gallery(tmp_path / "g", replace(gallery, arrays=arrays))
    with pytest.raises(DataError, match=message):
        read_gallery(tmp_path / "g")
