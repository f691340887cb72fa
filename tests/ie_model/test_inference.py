"""What a trained model is asked for: classes, bounds against integration, encodings, swaps, lines, samples."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

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
    interpolate,
    nearest_prototype,
    posterior_mean,
    representations,
    sample,
    squared_error,
    swap,
    traverse,
)
from ie_model.model import EquiVAE, class_means, class_sums
from ie_model.spec import Kind
from tests.helpers.tiny import (
    KINDS,
    M2,
    VAE,
    binary_points,
    each_class,
    points,
    seeded,
    spec_of,
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


def artifact_of(kind: Kind = "image", **changes: Any) -> Artifact:
    """A random model of any kind of data with the codes of random points."""
    model = tiny_model(spec_of(kind), **changes)
    r, counts = representations(model, points(12, model.spec), each_class(3, 4), batch_size=5)
    return Artifact(model, r, counts, {})


def with_prior(artifact: Artifact, *probabilities: float) -> Artifact:
    model = copy.deepcopy(artifact.model)
    model.log_prior = torch.tensor(probabilities).log()
    return Artifact(model, artifact.class_representations, artifact.class_counts, {})


@torch.no_grad()
def decoded(artifact: Artifact, r: Tensor, v: Tensor, x: Tensor | None = None) -> Tensor:
    """What a reconstruction is, by the kind of data: probabilities, values where x has any, or expected counts."""
    out = artifact.model.decode(r, v)
    if artifact.model.spec.kind == "image":
        return out.sigmoid()
    if artifact.model.spec.kind in ("series", "vector"):
        return out if x is None else torch.where(x.isnan(), x, out)
    return out.softmax(-1) * (1 if x is None else x.sum(-1, keepdim=True))


@torch.no_grad()
def integrated(artifact: Artifact, x: Tensor) -> Tensor:
    """log p(x, y) `[B, K]` of binary images by the trapezoidal rule over v; all classes are as probable."""
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


def test_the_class_bounds_take_the_models_own_p_of_y(one_unit: Artifact) -> None:
    x, prior = binary_points(4), torch.tensor([0.7, 0.2, 0.1])
    other = with_prior(one_unit, 0.7, 0.2, 0.1)
    gain = class_bounds(other, x, 5, seeded()) - class_bounds(one_unit, x, 5, seeded())
    torch.testing.assert_close(gain, (prior * 3).log().expand(4, -1), atol=1e-4, rtol=0)
    best = classify(one_unit, x).argmax(1)
    only_best = [importance_weighted_bound(model, x, 5, 0.999999, seeded()) for model in (other, one_unit)]
    torch.testing.assert_close(only_best[0] - only_best[1], (prior * 3).log()[best], atol=1e-4, rtol=0)


@pytest.mark.parametrize("changes", [VAE, M2, {"stochastic_r": True}], ids=["vae", "m2", "stochastic"])
def test_the_bounds_of_the_other_models_come_to_log_p_of_x_from_below(changes: dict[str, Any]) -> None:
    artifact, x = artifact_of(v_dim=1, spread=2.0, **changes), binary_points(150)
    truth = integrated(artifact, x).logsumexp(1)
    actual = importance_weighted_bound(artifact, x, 1000, 0.0, seeded())
    # The mean of 150 estimates is off by less than a hundredth of a nat; a class too many would be 0.7 or more.
    assert float((actual - truth).mean()) == pytest.approx(0, abs=0.03)
    gap = truth - plain_bound(artifact, x, 0)
    assert float(gap.mean()) > 3 * float(gap.std()) / math.sqrt(150)


def test_representations_of_batches_are_the_class_means_of_the_whole() -> None:
    model = tiny_model()
    x, y = (255 * points(13)).to(torch.uint8), torch.tensor([0, 1, 2, 0, 0, 1, 2, 2, 0, 1, 0, 2, 1])
    means, counts = representations(model, x, y, batch_size=4)
    torch.testing.assert_close(means, class_means(*class_sums(model.embed(x / 255), y, 3)).detach())
    assert counts.tolist() == [5, 4, 4]


def test_representations_without_a_class_are_an_error_that_names_it() -> None:
    x = torch.zeros(4, 1, 6, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"class \[1\]"):
        representations(tiny_model(), x, torch.tensor([0, 0, 2, 2]), batch_size=3)


@pytest.mark.parametrize(("changes", "codes"), [(M2, torch.eye(3)), (VAE, torch.zeros(1, 1))], ids=["m2", "vae"])
def test_representations_of_models_with_fixed_codes_are_those_codes(changes: dict[str, Any], codes: Tensor) -> None:
    r, counts = representations(tiny_model(**changes), points(5), torch.tensor([0, 0, 1, 0, 1]), batch_size=2)
    assert torch.equal(r, codes)
    assert counts.tolist() == [3, 2, 0]


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


def test_another_condition_changes_v_and_reconstruction_and_nothing_else(artifact: Artifact) -> None:
    x, condition = points(20), each_class(3, 7)[:20]
    plain, other = encode(artifact, x, 0.0, seeded()), encode(artifact, x, 0.0, seeded(), condition)
    r = artifact.class_representations[condition]
    mean, _ = artifact.model.posterior(artifact.model.features(x), r)
    torch.testing.assert_close(other.v_mean, mean.detach())
    torch.testing.assert_close(other.reconstruction, decoded(artifact, r, mean))
    same = condition == plain.log_q.argmax(1)
    assert 0 < int(same.sum()) < 20
    moved = (other.v_mean - plain.v_mean).abs().amax(1) > 1e-6
    assert torch.equal(moved, ~same)
    for name in ("f", "log_q", "bound"):
        assert torch.equal(getattr(other, name), getattr(plain, name))


def test_the_posterior_mean_is_that_of_encoding(artifact: Artifact) -> None:
    torch.testing.assert_close(posterior_mean(artifact, points(9)), encode(artifact, points(9), 0.0, seeded()).v_mean)


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
        "squared_error": (4,),
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


# Every kind of data and every model.


@pytest.mark.parametrize("changes", [{}, M2, VAE, {"stochastic_r": True}], ids=["equivae", "m2", "vae", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_of_every_kind_goes_through_every_function(kind: Kind, changes: dict[str, Any]) -> None:
    artifact = artifact_of(kind, **changes)
    x, r, shape = points(5, artifact.model.spec), artifact.class_representations, artifact.model.spec.shape
    encoded = encode(artifact, x, 0.01, seeded())
    chosen = r[encoded.log_q.argmax(1)]
    same = partial(torch.testing.assert_close, equal_nan=True)  # a series is NaN past its end
    same(encoded.reconstruction, decoded(artifact, chosen, encoded.v_mean, x))
    assert torch.equal(encoded.reconstruction.isnan(), x.isnan())
    assert bool(encoded.bound.isfinite().all()) and encoded.log_q.shape == (5, len(r))
    swapped, samples, v = swap(artifact, x), sample(artifact, 2, seeded()), torch.randn(2, 2, generator=seeded())
    assert swapped.shape == (5, len(r), *shape) and samples.shape == (len(r), 2, *shape)
    for c in range(len(r)):
        same(swapped[:, c], decoded(artifact, r[c].expand(5, -1), encoded.v_mean, x))
        torch.testing.assert_close(samples[c], decoded(artifact, r[c].expand(2, -1), v))
    by_class = class_bounds(artifact, x, 3, seeded())
    assert by_class.shape == (5, len(r)) and bool(by_class.isfinite().all())
    assert bool(importance_weighted_bound(artifact, x, 3, 0.0, seeded()).isfinite().all())


def test_the_swap_of_a_text_keeps_its_number_of_words() -> None:
    x = points(5, spec_of("counts"))
    torch.testing.assert_close(swap(artifact_of("counts"), x).sum(-1), x.sum(-1, keepdim=True).expand(-1, 3))


def test_the_squared_error_is_the_mean_over_known_values() -> None:
    x = torch.tensor([[[1.0, 2.0, torch.nan]], [[0.0, torch.nan, torch.nan]]])
    torch.testing.assert_close(squared_error(x, torch.full((2, 1, 3), 3.0)), torch.tensor([2.5, 9.0]))


@pytest.mark.parametrize("changes", [M2, VAE], ids=["m2", "vae"])
def test_fixed_codes_have_no_nearest_prototype(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"needs class_code 'embedding'; this model has '{changes['class_code']}'"):
        nearest_prototype(artifact_of(**changes), torch.zeros(1, 3))


# Lines between examples, and one unit at a time.


@pytest.mark.parametrize("along", ["r", "v", "both"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_interpolation_ends_at_the_reconstructions_of_its_ends(kind: Kind, along: str) -> None:
    artifact = artifact_of(kind)
    x, y = points(8, artifact.model.spec), points(8, artifact.model.spec, seed=1)
    (r0, v0), (r1, v1) = (
        (artifact.class_representations[classify(artifact, end).argmax(1)], posterior_mean(artifact, end))
        for end in (x, y)
    )
    assert not torch.equal(r0, r1)
    r1, v1 = r0 if along == "v" else r1, v0 if along == "r" else v1
    line = interpolate(artifact, x, y, 5, along=along)
    assert line.shape == (8, 5, *artifact.model.spec.shape)
    same = partial(torch.testing.assert_close, equal_nan=True)
    same(line[:, 0], encode(artifact, x, 0.0, seeded()).reconstruction)
    for step in range(5):  # the length of a text or a series is that of x all along
        t = step / 4
        same(line[:, step], decoded(artifact, (1 - t) * r0 + t * r1, (1 - t) * v0 + t * v1, x))
    if kind == "image" and along == "both":
        torch.testing.assert_close(line[:, -1], encode(artifact, y, 0.0, seeded()).reconstruction)


@pytest.mark.parametrize(("num_steps", "along"), [(1, "both"), (0, "r"), (5, "x"), (5, "")])
def test_an_interpolation_of_too_few_steps_or_along_something_else_is_refused(
    artifact: Artifact, num_steps: int, along: str
) -> None:
    with pytest.raises(ValueError, match=f"at least 2 and along r, v or both; got {num_steps} and '{along}'"):
        interpolate(artifact, points(2), points(2), num_steps, along=along)


@pytest.mark.parametrize("unit", [0, 1])
def test_a_traversal_sets_one_unit_and_keeps_the_others(artifact: Artifact, unit: int) -> None:
    r, v = artifact.class_representations, torch.randn(3, 2, generator=seeded())
    before, values = v.clone(), torch.tensor([-2.0, float(v[1, unit]), 3.0])
    images = traverse(artifact, r, v, unit, values)
    assert images.shape == (3, 3, 1, 6, 5)
    assert torch.equal(v, before)
    for column, value in enumerate(values.tolist()):
        other = [float("nan"), float("nan")]
        other[unit] = value
        moved = torch.where(torch.tensor(other).isnan(), v, torch.tensor(other))
        torch.testing.assert_close(images[:, column], decoded(artifact, r, moved))
    torch.testing.assert_close(images[1, 1], decoded(artifact, r, v)[1])
