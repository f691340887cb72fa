"""Length, batch, warm-up, weights and arithmetic by the data: what `auto` and the floors of params.yaml come to."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ie_model.config import ModelConfig
from ie_model.objective import uninformed_nats, weight_scale
from ie_model.schedule import auto_batch_size, steps_per_epoch
from ie_model.spec import DataSpec
from pipeline.config.params import parse_params
from pipeline.data.shards.manifest import read_manifest, write_manifest
from pipeline.errors import ParamsError
from pipeline.training.build_job import choose_precision, make_job
from pipeline.training.local_session import TrialSession
from pipeline.training.schedule import shortness
from pipeline.training.trainer import Trainer
from tests.helpers.project import small_params
from tests.helpers.tiny import backward, points, spec_of, tiny_model, tiny_spec


@pytest.mark.parametrize(
    ("num_points", "expected"), [(1, 64), (400, 64), (4095, 64), (4096, 128), (8192, 256), (10**9, 256)]
)
def test_auto_batch_size_follows_the_number_of_points(num_points: int, expected: int) -> None:
    assert auto_batch_size(num_points, (1, 2)) == expected


def test_auto_batch_size_gives_every_allowed_number_of_ranks_an_equal_part() -> None:
    assert auto_batch_size(1000, (2, 4)) == 72
    assert auto_batch_size(1000, (7, 7)) == 70


def test_steps_per_epoch_of_large_data_are_one_pass() -> None:
    assert steps_per_epoch(num_points=55_000, batch_size=256, epochs=12, min_steps=2500) == 214


def test_steps_per_epoch_of_small_data_reach_the_floor() -> None:
    each = steps_per_epoch(num_points=1200, batch_size=64, epochs=12, min_steps=2500)
    assert each == 209
    assert 12 * each >= 2500


def test_steps_per_epoch_without_a_floor_are_at_least_one() -> None:
    assert steps_per_epoch(num_points=10, batch_size=64, epochs=5, min_steps=0) == 1


def test_shortness_of_few_steps_names_the_key() -> None:
    assert "train.min_steps" in shortness(60)
    assert shortness(2500) == ""


def job_with(project: Path, **sections: dict[str, Any]) -> Any:
    return make_job(parse_params(small_params(**sections)), project, world_size=1)


def test_make_job_small_data_is_trained_for_the_floor_of_steps(digits_project: Path) -> None:
    job = job_with(digits_project, train={"epochs": 4, "min_steps": 1000, "batch_size": "auto"})
    assert (job.batch_size, job.epochs, job.steps_per_epoch) == (64, 4, 250)


def test_make_job_guesses_are_aligned_where_all_known_labels_are_about_as_many_of_each_class(
    digits_project: Path, tmp_path: Path
) -> None:
    params = parse_params(small_params())
    assert make_job(params, digits_project).objective.extended.align is True
    shards = tmp_path / "shards"
    shutil.copytree(digits_project / "data/shards/digits", shards)
    manifest = read_manifest(shards)
    train = manifest.splits["train"]
    few = train.class_counts | {"0": min(train.class_counts.values()) // 3}
    write_manifest(shards, manifest.model_copy(update={"splits": manifest.splits | {
        "train": train.model_copy(update={"class_counts": few})
    }}))  # fmt: skip
    assert make_job(params, digits_project, shards=shards).objective.extended.align is False
    extended = small_params()["objective"]["extended"] | {"align": True}
    asked = parse_params(small_params(objective={"extended": extended}))
    assert make_job(asked, digits_project, shards=shards).objective.extended.align is True


def test_make_job_a_sweeps_trial_has_the_floor_of_the_sweep(digits_project: Path) -> None:
    params = parse_params(small_params(sweep={"epochs": 4, "min_steps": 400}, train={"min_steps": 9000}))
    job = make_job(params, digits_project, method="plain", world_size=1, in_sweep=True)
    assert (job.epochs, job.steps_per_epoch) == (4, 100)


@pytest.mark.parametrize(
    ("spec", "nats"),
    [
        # 784 ln 2, 3072 ln 256, 14 of a standard normal's entropy
        (spec_of("image", shape=(1, 28, 28)), 543.43),
        (
            DataSpec(
                kind="image", shape=(3, 32, 32), dtype="uint8", classes=("a", "b"), likelihood="discretized_logistic"
            ),
            17034.8,
        ),
        (spec_of("series"), 14 * 1.41894),
    ],
    ids=["grey", "colour", "series"],
)
def test_uninformed_nats_know_the_number_of_values_and_the_likelihood(spec: DataSpec, nats: float) -> None:
    assert uninformed_nats(tiny_model(spec), torch.zeros(4, *spec.shape)) == pytest.approx(nats, rel=1e-4)


def test_uninformed_nats_of_texts_are_those_of_their_words() -> None:
    x = torch.zeros(2, 6)
    x[0, 1], x[1, 2] = 10, 30
    assert uninformed_nats(tiny_model(spec_of("counts")), x) == pytest.approx(20 * 1.791759)


def test_uninformed_nats_leave_missing_values_out() -> None:
    x = torch.zeros(1, 2, 7)
    x[..., 3:] = torch.nan
    assert uninformed_nats(tiny_model(spec_of("series")), x) == pytest.approx(6 * 1.41894, rel=1e-4)


def test_trainer_weights_of_the_loss_are_shares_of_the_datas_scale(digits_project: Path, tmp_path: Path) -> None:
    job = job_with(digits_project, train={"epochs": 1})
    trainer = Trainer(job, TrialSession(tmp_path, job))
    # 8x8 pixels cost less than MNIST's: the least scale.
    assert trainer.fit.objective.alpha == pytest.approx(job.objective.alpha * 543.427, rel=1e-5)
    assert trainer.fit.objective.consistency == pytest.approx(job.objective.extended.consistency * 543.427, rel=1e-5)


def test_weight_scale_is_that_of_the_data_and_at_least_mnists() -> None:
    large = spec_of("image", shape=(1, 40, 40))
    assert weight_scale(tiny_model(large), torch.zeros(1, 1, 40, 40)) == pytest.approx(1600 * 0.693147, rel=1e-5)
    assert weight_scale(tiny_model(spec_of("series")), torch.zeros(1, 2, 7)) == pytest.approx(543.427, rel=1e-5)


def model_config(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(small_params()["model"] | {"channels": (8, 16)} | changes)


def test_choose_precision_auto_is_float32_for_series_on_a_cpu() -> None:
    assert choose_precision("auto", "cpu", spec_of("series"), model_config()) == "float32"


@pytest.mark.parametrize("spec", [spec_of("series", shape=(2, 7)), tiny_spec((1, 7, 20))], ids=["series", "image"])
def test_choose_precision_bfloat16_of_small_data_on_a_cpu_is_refused(spec: DataSpec) -> None:
    with pytest.raises(ParamsError, match="train.precision"):
        choose_precision("bfloat16", "cpu", spec, model_config())
    assert choose_precision("auto", "cpu", spec, model_config()) == "float32"
    assert choose_precision("bfloat16", "cpu", spec, model_config(channels=(8,))) == "bfloat16"
    assert choose_precision("bfloat16", "cuda", spec, model_config()) == "bfloat16"


def test_choose_precision_bfloat16_of_counts_has_no_least_size() -> None:
    assert choose_precision("bfloat16", "cpu", spec_of("counts"), model_config()) == "bfloat16"


@pytest.mark.parametrize("spec", [spec_of("series", shape=(6, 8)), tiny_spec((3, 8, 8))], ids=["series", "image"])
def test_bfloat16_gradients_of_the_smallest_data_that_are_allowed_are_finite(spec: DataSpec) -> None:
    for seed in range(5):
        model = tiny_model(spec, seed=seed, channels=(8, 16))
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.embed(points(64, spec, seed)).square().mean()
        backward(loss)
        assert all(p.grad.isfinite().all() for p in _with_gradient(model))


def _with_gradient(model: nn.Module) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.grad is not None]
