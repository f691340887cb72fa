"""What a trained model is asked for: classes, bounds against numerical integration, encodings, swaps, samples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import (
    class_bounds,
    classify,
    collect,
    encode,
    importance_weighted_bound,
    in_batches,
    nearest_prototype,
    representations,
    sample,
    swap,
)
from ie_model.model import EquiVAE, class_means
from tests.tiny import (
    binary_points,
    points,
    seeded,
    tiny_artifact,
    tiny_model,
    tiny_spec,
)


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    return tiny_artifact()


@pytest.fixture(scope="module")
def one_unit() -> Artifact:
    """A model whose v is a single number, so that log p(x) can be integrated."""
    return tiny_artifact(tiny_model(v_dim=1, spread=2.0))


@torch.no_grad()
def integrated(artifact: Artifact, x: Tensor) -> Tensor:
    """log p(x, y) `[B, K]` of binary images by the trapezoidal rule over v."""
    v = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    log_prior = -0.5 * (v.square() + math.log(2 * math.pi))
    model, r = artifact.model, artifact.class_representations
    columns = []
    for c in range(len(r)):
        probabilities = torch.sigmoid(model.decode(r[c].expand(len(v), -1), v.float()[:, None]).double()).flatten(1)
        flat = x.flatten(1).double()
        log_prob = flat @ probabilities.log().T + (1 - flat) @ (1 - probabilities).log().T
        columns.append((log_prob + log_prior).logsumexp(1) + math.log(float(v[1] - v[0])))
    return torch.stack(columns, dim=1) - math.log(len(r))


@torch.no_grad()
def plain_bound(artifact: Artifact, x: Tensor, seed: int) -> Tensor:
    return encode(artifact, x, 0.0, seeded(seed)).bound


def test_many_samples_bring_the_class_bounds_to_log_p_of_x_and_y(one_unit: Artifact) -> None:
    x = binary_points(4)
    # At 2,000 samples the estimate scatters by less than a tenth of a nat; a forgotten log K would be 1.1.
    actual = class_bounds(one_unit, x, 2000, seeded())
    torch.testing.assert_close(actual.double(), integrated(one_unit, x), atol=0.2, rtol=0)


def test_many_samples_bring_the_importance_weighted_bound_to_log_p_of_x(one_unit: Artifact) -> None:
    x = binary_points(4)
    actual = importance_weighted_bound(one_unit, x, 2000, 0.0, seeded())
    torch.testing.assert_close(actual.double(), integrated(one_unit, x).logsumexp(1), atol=0.2, rtol=0)


def test_the_bound_lies_below_log_p_of_x_on_average(one_unit: Artifact) -> None:
    x = binary_points(300)
    gap = integrated(one_unit, x).logsumexp(1) - plain_bound(one_unit, x, 0)
    # A single sample of v scatters, the mean of 300 by a standard error; three of them leave 1 in 1000 to chance.
    assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(300)


def test_the_importance_weighted_bound_of_one_sample_lies_above_the_plain_bound_on_average(artifact: Artifact) -> None:
    x = binary_points(400)
    # Both are independent draws: a wrong sign of the gap would be as many standard errors below as this is above.
    gain = importance_weighted_bound(artifact, x, 1, 0.0, seeded(1)) - plain_bound(artifact, x, 0)
    assert float(gain.mean()) > 3 * float(gain.std()) / 20


@pytest.mark.parametrize(("fewer", "more"), [(1, 5), (5, 50)])
def test_the_importance_weighted_bound_rises_with_the_number_of_samples(
    artifact: Artifact, fewer: int, more: int
) -> None:
    x = binary_points(400)
    low = importance_weighted_bound(artifact, x, fewer, 0.0, seeded(1))
    gain = importance_weighted_bound(artifact, x, more, 0.0, seeded(2)) - low
    assert float(gain.mean()) > 3 * float(gain.std()) / 20


def test_the_importance_weighted_bound_sums_the_class_bounds(one_unit: Artifact) -> None:
    x = binary_points(200)
    by_class = class_bounds(one_unit, x, 50, seeded(1))
    whole = importance_weighted_bound(one_unit, x, 50, 0.0, seeded(2))
    difference = by_class.logsumexp(1) - whole
    assert by_class.shape == (200, 3)
    # Equal in distribution: the mean difference of two independent draws is zero within three standard errors,
    # themselves below 0.1 nats, while a forgotten log K would be 1.1.
    error = 3 * float(difference.std()) / math.sqrt(200)
    assert error < 0.3
    assert abs(float(difference.mean())) < error


def test_leaving_classes_out_lowers_the_importance_weighted_bound(one_unit: Artifact) -> None:
    x = binary_points(20)
    truth = integrated(one_unit, x)
    pruned = importance_weighted_bound(one_unit, x, 1000, 0.999999, seeded())
    best = classify(one_unit, x).argmax(1, keepdim=True)
    torch.testing.assert_close(pruned.double(), truth.gather(1, best).squeeze(1), atol=0.3, rtol=0)


def test_representations_of_batches_are_the_class_means_of_the_whole() -> None:
    model = tiny_model()
    x, y = (255 * points(13)).to(torch.uint8), torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 0, 1, 0, 2, 1])
    means, counts = representations(model, x, y, batch_size=4)
    torch.testing.assert_close(means, class_means(model.embed(x / 255), y, 3).detach())
    assert counts.tolist() == [5, 4, 4]


def test_representations_without_a_class_are_an_error_that_names_it() -> None:
    x = torch.zeros(4, 1, 6, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"class \[1\]"):
        representations(tiny_model(), x, torch.tensor([0, 0, 2, 2]), batch_size=3)


def test_batches_hold_every_example_in_order_as_floats() -> None:
    x = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1)
    batches = list(in_batches(x, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    torch.testing.assert_close(torch.cat(batches).flatten(), torch.arange(10) / 255)


def test_collected_results_are_those_of_the_whole(artifact: Artifact) -> None:
    x = (255 * points(10)).to(torch.uint8)
    collected = collect(in_batches(x, 3), lambda batch: classify(artifact, batch))
    torch.testing.assert_close(collected, classify(artifact, x / 255))


def test_classifying_uses_the_artifacts_representations(artifact: Artifact) -> None:
    order = torch.tensor([2, 0, 1])
    other = Artifact(artifact.model, artifact.class_representations[order], artifact.class_counts, {})
    torch.testing.assert_close(classify(other, points(5)), classify(artifact, points(5))[:, order])


def test_the_nearest_prototype_is_that_of_cdist(artifact: Artifact) -> None:
    f = artifact.model.embed(points(40)).detach()
    expected = torch.cdist(f, artifact.class_representations).argmin(1)
    assert torch.equal(nearest_prototype(artifact, f), expected)
    assert len(set(expected.tolist())) > 1


def test_encoding_conditions_v_on_the_predicted_class(artifact: Artifact) -> None:
    model, x = artifact.model, points(20)
    encoded = encode(artifact, x, 0.0, seeded())
    predicted = classify(artifact, x).argmax(1)
    assert len(set(predicted.tolist())) > 1
    for i, c in enumerate(predicted.tolist()):
        mean, log_var = model.posterior(model.features(x[i : i + 1]), artifact.class_representations[c : c + 1])
        torch.testing.assert_close(encoded.v_mean[i], mean[0].detach())
        torch.testing.assert_close(encoded.v_log_var[i], log_var[0].detach())


def test_encoding_reconstructs_from_the_predicted_class_and_the_mean_of_v(artifact: Artifact) -> None:
    x = points(6)
    encoded = encode(artifact, x, 0.0, seeded())
    r = artifact.class_representations[encoded.log_q.argmax(1)]
    expected = torch.sigmoid(artifact.model.decode(r, encoded.v_mean)).detach()
    torch.testing.assert_close(encoded.reconstruction, expected)


def test_encoding_has_the_stated_shapes(artifact: Artifact) -> None:
    encoded = encode(artifact, points(4), 0.01, seeded())
    shapes = {name: tuple(value.shape) for name, value in vars(encoded).items()}
    assert shapes == {
        "f": (4, 3),
        "log_q": (4, 3),
        "v_mean": (4, 2),
        "v_log_var": (4, 2),
        "kl": (4, 2),
        "bound": (4,),
        "reconstruction": (4, 1, 6, 5),
    }


def test_column_y_of_a_swap_is_v_decoded_with_the_representation_of_y(artifact: Artifact) -> None:
    x = points(5)
    swapped, v = swap(artifact, x), encode(artifact, x, 0.0, seeded()).v_mean
    assert swapped.shape == (5, 3, 1, 6, 5)
    for c in range(3):
        r = artifact.class_representations[c].expand(5, -1)
        torch.testing.assert_close(swapped[:, c], torch.sigmoid(artifact.model.decode(r, v)).detach())


def test_the_swap_to_the_predicted_class_is_the_reconstruction(artifact: Artifact) -> None:
    x = points(5)
    encoded = encode(artifact, x, 0.0, seeded())
    own = swap(artifact, x)[torch.arange(5), encoded.log_q.argmax(1)]
    torch.testing.assert_close(own, encoded.reconstruction)


def test_samples_of_one_column_share_their_v_across_classes(artifact: Artifact) -> None:
    same = artifact.class_representations[:1].expand(3, -1).contiguous()
    images = sample(Artifact(artifact.model, same, artifact.class_counts, {}), 4, seeded())
    assert images.shape == (3, 4, 1, 6, 5)
    torch.testing.assert_close(images[1], images[0])
    torch.testing.assert_close(images[2], images[0])
    assert not torch.allclose(images[0, 0], images[0, 1])


def test_row_y_of_samples_is_decoded_with_the_representation_of_y(artifact: Artifact) -> None:
    images, v = sample(artifact, 4, seeded(3)), torch.randn(4, 2, generator=seeded(3))
    for c in range(3):
        r = artifact.class_representations[c].expand(4, -1)
        torch.testing.assert_close(images[c], torch.sigmoid(artifact.model.decode(r, v)).detach())


def test_the_same_seed_gives_the_same_samples_and_bounds(artifact: Artifact) -> None:
    assert torch.equal(sample(artifact, 3, seeded(1)), sample(artifact, 3, seeded(1)))
    x = points(3)
    assert torch.equal(class_bounds(artifact, x, 2, seeded(1)), class_bounds(artifact, x, 2, seeded(1)))


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_colour_images_of_many_classes_go_through_every_function(classifier: str) -> None:
    spec = tiny_spec((3, 9, 7), num_classes=5)
    model: EquiVAE = tiny_model(spec, classifier=classifier)
    artifact, x = tiny_artifact(model), points(4, spec)
    assert class_bounds(artifact, x, 2, seeded()).shape == (4, 5)
    assert importance_weighted_bound(artifact, x, 2, 0.01, seeded()).shape == (4,)
    assert swap(artifact, x).shape == (4, 5, 3, 9, 7)
    assert sample(artifact, 2, seeded()).shape == (5, 2, 3, 9, 7)
    assert classify(artifact, x).shape == (4, 5)


def test_nothing_that_comes_back_holds_a_gradient(artifact: Artifact) -> None:
    x = points(2)
    results = [
        classify(artifact, x),
        swap(artifact, x),
        sample(artifact, 2, seeded()),
        class_bounds(artifact, x, 1, seeded()),
    ]
    results += list(vars(encode(artifact, x, 0.0, seeded())).values())
    assert not any(result.requires_grad for result in results)
