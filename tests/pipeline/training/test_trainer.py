"""Training as a function of its job: interruptions, seeds, checkpoints, fingerprints, failures, several ranks."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.multiprocessing
from torch import Tensor, nn

from ie_model.artifact import load_artifact, save_artifact
from pipeline.config.methods import Method
from pipeline.config.params import parse_params
from pipeline.errors import DataError, TrainingError
from pipeline.training.build_job import make_job
from pipeline.training.checkpoint import load_checkpoint
from pipeline.training.job import Job
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from pipeline.tuning.trials import score
from tests.helpers.project import small_params
from tests.helpers.sealed import edit_sealed

METHODS: list[Method] = ["supervised", "plain", "extended", "m2", "vae", "stochastic_r"]


class KilledError(Exception):
    """Stands for a lost worker."""


class KilledSession(TrialSession):
    """Keeps the checkpoints of `epochs` epochs and is killed in the next one, after its work and before its report."""

    epochs = 1

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        if metrics["epoch"] > self.epochs:
            raise KilledError
        super().report(metrics, write_checkpoint)


def small_job(project: Path, method: Method = "plain", world_size: int = 1, **sections: dict[str, Any]) -> Job:
    raw = small_params()
    for name, values in ({"train": {"epochs": 3, "batch_size": 128}} | sections).items():
        raw[name] |= values
    steps = raw["sweep"]["supervised_steps"] if method == "supervised" else None
    return make_job(parse_params(raw), project, method=method, world_size=world_size, steps=steps)


def several_epochs(job: Job) -> Job:
    """The same for supervised jobs, which a sweep gives a single epoch of many steps."""
    return job.model_copy(update={"epochs": 3, "steps_per_epoch": 10}) if job.method == "supervised" else job


def trained(job: Job, folder: Path) -> Trainer:
    trainer = Trainer(job, TrialSession(folder, job))
    trainer.run()
    return trainer


def error_of(trainer: Trainer) -> dict[str, float]:
    return score(trainer.job, trainer.artifact(), None, None)


def differing(first: nn.Module, second: nn.Module) -> list[str]:
    other = second.state_dict()
    return [name for name, value in first.state_dict().items() if not torch.equal(value, other[name])]


@pytest.fixture(scope="module")
def plain(digits_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A finished plain run; its checkpoint lies in the session's folder. Not to be changed."""
    return trained(small_job(digits_project), tmp_path_factory.mktemp("plain") / "checkpoint")


@pytest.mark.parametrize("method", METHODS)
def test_a_run_resumed_from_its_checkpoint_ends_bit_for_bit_as_one_that_was_never_interrupted(
    digits_project: Path, tmp_path: Path, method: Method
) -> None:
    job = several_epochs(small_job(digits_project, method))
    whole = trained(job, tmp_path / "whole")
    with pytest.raises(KilledError):
        Trainer(job, KilledSession(tmp_path / "cut", job)).run()
    resumed = trained(job, tmp_path / "cut")
    assert differing(resumed.fit.model, whole.fit.model) == []
    assert differing(resumed.published, whole.published) == []
    assert resumed.state.history == whole.state.history
    assert [row["epoch"] for row in resumed.state.history] == [1, 2, 3]
    assert error_of(resumed) == error_of(whole)


@pytest.mark.parametrize("method", ["plain", "extended"])
def test_a_run_killed_within_an_epoch_resumes_there_and_ends_bit_for_bit_the_same(
    digits_project: Path, tmp_path: Path, method: Method
) -> None:
    job = small_job(digits_project, method).model_copy(update={"epochs": 2, "steps_per_epoch": 25})
    whole = trained(job, tmp_path / "whole")
    often = job.model_copy(update={"checkpoint_every_s": 1e-6})
    steps: list[int] = []

    class Killed(TrialSession):
        """Killed when it has kept a checkpoint of step 40, within the second epoch."""

        def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
            super().save(step, write_checkpoint)
            steps.append(step)
            if step == 40:
                raise KilledError

    with pytest.raises(KilledError):
        Trainer(often, Killed(tmp_path / "cut", often)).run()
    assert steps == [10, 20, 25, 30, 40]
    resumed = trained(job, tmp_path / "cut")
    assert differing(resumed.fit.model, whole.fit.model) == []
    assert differing(resumed.published, whole.published) == []
    assert resumed.state.history == whole.state.history


def test_a_notice_of_preemption_is_answered_by_one_checkpoint(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.training.trainer._ASK_EVERY_S", 0.0)
    job = small_job(digits_project).model_copy(update={"epochs": 1, "steps_per_epoch": 45})
    steps: list[int] = []

    class Preempted(TrialSession):
        def save(self, step: int, write_checkpoint: Callable[[Path], None]) -> None:
            steps.append(step)

        def is_preempted(self) -> bool:
            return trainer.state.step >= 20

    trainer = Trainer(job, Preempted(tmp_path / "none", job))
    trainer.run()
    assert steps == [20, 45]


def test_a_resumed_run_does_not_repeat_epochs(digits_project: Path, tmp_path: Path) -> None:
    job = small_job(digits_project)
    with pytest.raises(KilledError):
        Trainer(job, KilledSession(tmp_path / "cut", job)).run()
    reported: list[float] = []

    class Watched(TrialSession):
        def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
            reported.append(metrics["epoch"])

    Trainer(job, Watched(tmp_path / "cut", job)).run()
    assert reported == [2, 3]


def test_a_finished_run_that_is_started_again_trains_no_further(
    digits_project: Path, tmp_path: Path, plain: Trainer
) -> None:
    job = small_job(digits_project)
    first = trained(job, tmp_path / "again")
    again = Trainer(job, TrialSession(tmp_path / "again", job))
    assert again.run() == first.state.history[-1]
    assert differing(again.fit.model, first.fit.model) == []


def test_two_runs_of_the_same_job_are_bit_identical(digits_project: Path, tmp_path: Path, plain: Trainer) -> None:
    again = trained(small_job(digits_project), tmp_path / "again")
    assert differing(again.fit.model, plain.fit.model) == []
    assert again.state.history == plain.state.history


def test_a_run_does_not_depend_on_the_global_random_state(digits_project: Path, tmp_path: Path, plain: Trainer) -> None:
    job = small_job(digits_project)
    trainer = Trainer(job, TrialSession(tmp_path / "again", job))
    torch.manual_seed(12345)
    trainer.run()
    assert differing(trainer.fit.model, plain.fit.model) == []


def test_another_seed_gives_other_weights(digits_project: Path, tmp_path: Path, plain: Trainer) -> None:
    other = trained(small_job(digits_project, train={"epochs": 3, "batch_size": 128, "seed": 1}), tmp_path / "other")
    # The prior over classes is the only tensor that is not drawn.
    assert set(plain.fit.model.state_dict()) - set(differing(other.fit.model, plain.fit.model)) == {"log_prior"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns(digits_project: Path, tmp_path: Path, method: Method) -> None:
    train = {"epochs": 5, "batch_size": 64, "learning_rate": 0.005}
    sections: dict[str, Any] = {"train": train, "sweep": {"supervised_steps": 60}}
    trainer = trained(small_job(digits_project, method, **sections), tmp_path / "run")
    # Chance is 90 % wrong. The plain VAE has no classes.
    assert trainer.state.history[-1].get("val_error", 0.0) < 50
    assert ("val_error" in trainer.state.history[-1]) == (method != "vae")
    if method != "supervised":
        assert trainer.state.history[-1]["val_bound"] > trainer.state.history[0]["val_bound"]


def test_bfloat16_repeats_bit_for_bit_and_ends_near_full_precision(
    digits_project: Path, tmp_path: Path, plain: Trainer
) -> None:
    train = {"epochs": 3, "batch_size": 128, "precision": "bfloat16"}
    first, second = (trained(small_job(digits_project, train=train), tmp_path / name) for name in ("first", "second"))
    assert differing(first.fit.model, second.fit.model) == []
    assert "invariant_out.weight" in differing(first.fit.model, plain.fit.model)
    assert {parameter.dtype for parameter in first.fit.model.parameters()} == {torch.float32}
    assert abs(first.state.history[-1]["val_bound"] - plain.state.history[-1]["val_bound"]) < 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns of what it does itself
def test_compiled_networks_train_as_plain_ones_and_leave_the_same_files(
    digits_project: Path, tmp_path: Path, plain: Trainer
) -> None:
    train = {"epochs": 3, "batch_size": 128, "compile": True}
    job = small_job(digits_project, train=train)
    assert job.fingerprint != small_job(digits_project, train=train | {"compile": False}).fingerprint
    compiled = trained(job, tmp_path / "run")
    assert list(compiled.fit.model.state_dict()) == list(plain.fit.model.state_dict())
    for mine, theirs in zip(compiled.state.history, plain.state.history, strict=True):
        assert mine["val_bound"] == pytest.approx(theirs["val_bound"], abs=0.5)
    # From the last checkpoint, and from the model on disk.
    again = Trainer(job, TrialSession(tmp_path / "run", job))
    again.run()
    assert differing(again.fit.model, compiled.fit.model) == []
    save_artifact(tmp_path, compiled.artifact())
    assert differing(load_artifact(tmp_path).model, compiled.fit.model) == []


def test_compiling_without_a_compiler_is_an_error_that_says_what_to_do(
    digits_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = small_job(digits_project, train={"compile": True})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(TrainingError, match=r"no C\+\+ compiler \(looked for no-such-compiler\): install one, or set"):
        Trainer(job, TrialSession(tmp_path / "run", job))


def test_labelled_prior_follows_the_labelled_points_and_is_saved_with_the_model(
    digits_project: Path, tmp_path: Path
) -> None:
    job = small_job(digits_project, objective={"label_prior": "labelled"}, labels={"count": 25})
    trainer = trained(job, tmp_path / "run")
    sizes = torch.tensor([float(len(members)) for members in trainer.data.members])
    assert len(set(sizes.tolist())) == 2, "with 25 labels of 10 classes some have three"
    torch.testing.assert_close(trainer.published.log_prior, (sizes / sizes.sum()).log())


def test_no_point_is_in_two_ranks_parts_of_a_support(digits_project: Path, tmp_path: Path) -> None:
    job = small_job(digits_project, train={"batch_size": 120})
    for world_size in (1, 2, 3, 5):
        parts = []
        for rank in range(world_size):
            session = TrialSession(tmp_path / "run", job)
            session.rank, session.world_size = rank, world_size
            trainer = Trainer(job, session)
            trainer.state.step = 7
            parts.append(trainer.fit.support(trainer.state.step))
        whole = np.concatenate(parts)
        assert len(set(whole.tolist())) == len(whole)
        if world_size == 1:
            alone = whole
        assert set(whole.tolist()) == set(alone.tolist())


def test_a_supervised_run_leaves_all_but_the_classifier_as_it_was(digits_project: Path, tmp_path: Path) -> None:
    job = small_job(digits_project, "supervised", sweep={"supervised_steps": 10})
    untrained = Trainer(job, TrialSession(tmp_path / "none", job)).fit.model
    changed = differing(trained(job, tmp_path / "run").fit.model, untrained)
    assert {name.split(".")[0] for name in changed} == {"invariant_trunk", "invariant_out", "class_logits"}


def test_a_supervised_run_takes_the_steps_it_was_given_and_reports_no_bound(
    digits_project: Path, tmp_path: Path
) -> None:
    trainer = trained(small_job(digits_project, "supervised", sweep={"supervised_steps": 7}), tmp_path / "run")
    assert trainer.state.step == 7
    assert set(trainer.state.history[-1]) == {"epoch", "loss", "log_q_labelled", "val_error", "val_nll"}


def test_a_bounds_run_keeps_the_percentiles_of_vals_bounds(extended: tuple[Trainer, Path]) -> None:
    trainer = extended[0]
    bounds = trainer.artifact().val_bounds
    assert len(bounds) == 101
    assert list(bounds) == sorted(bounds)
    assert bounds[0] < trainer.state.history[-1]["val_bound"] < bounds[-1]
    # A run that was killed after its last checkpoint has them too.
    again = Trainer(trainer.job, TrialSession(extended[1], trainer.job))
    again.run()
    assert again.artifact().val_bounds == bounds


def test_an_extended_run_publishes_averaged_weights(extended: tuple[Trainer, Path]) -> None:
    trainer, _ = extended
    assert trainer.published is trainer.fit.averaged
    assert len(differing(trainer.published, trainer.fit.model)) > 0


def test_without_averaging_the_last_weights_are_published(plain: Trainer) -> None:
    assert plain.fit.averaged is None
    assert plain.published is plain.fit.model


def test_all_points_labelled_is_a_run_without_unlabelled_terms(digits_project: Path, tmp_path: Path) -> None:
    sections: dict[str, Any] = {"labels": {"count": "all"}, "train": {"epochs": 1, "batch_size": 128}}
    trainer = trained(small_job(digits_project, **sections), tmp_path / "run")
    assert len(trainer.data.unlabelled) == 0
    assert trainer.state.step == 1237 // 128
    assert "bound_unlabelled" not in trainer.state.history[-1]
    assert "val_bound" in trainer.state.history[-1]


def test_labelled_and_unlabelled_points_are_disjoint_and_complete(plain: Trainer) -> None:
    data = plain.data
    together = np.concatenate([data.labelled, data.unlabelled])
    assert sorted(together.tolist()) == list(range(data.num_points))
    assert len(data.labelled) == 100
    assert sorted(np.concatenate(data.members).tolist()) == data.labelled.tolist()


def test_every_row_is_finite_and_numbered(plain: Trainer) -> None:
    assert [row["epoch"] for row in plain.state.history] == [1, 2, 3]
    assert all(math.isfinite(value) for row in plain.state.history for value in row.values())


def test_the_last_checkpoint_holds_the_published_model_as_an_artifact(extended: tuple[Trainer, Path]) -> None:
    trainer, folder = extended
    loaded = load_artifact(folder / "artifact")
    assert differing(loaded.model, trainer.published) == []
    assert loaded.class_counts.tolist() == [10] * 10
    assert loaded.provenance["fingerprint"] == trainer.job.fingerprint
    assert loaded.provenance["num_unlabelled"] == 1137


def test_an_earlier_checkpoint_holds_no_artifact(digits_project: Path, tmp_path: Path) -> None:
    job = small_job(digits_project)
    with pytest.raises(KilledError):
        Trainer(job, KilledSession(tmp_path / "cut", job)).run()
    assert not (tmp_path / "cut" / "artifact").exists()


@pytest.mark.parametrize("method", ["plain", "extended"])
def test_a_learning_rate_of_a_million_is_an_error_that_names_it(
    digits_project: Path, tmp_path: Path, method: Method
) -> None:
    train = {"epochs": 3, "batch_size": 128, "learning_rate": 1e6, "warmup": 0.0}
    job = small_job(digits_project, method, train=train)
    with pytest.raises(
        TrainingError, match=r"not finite in epoch .*the loss of step .*lower train.learning_rate \(1e\+06\)"
    ):
        trained(job, tmp_path / "run")


@pytest.mark.parametrize("method", ["plain", "extended"])
def test_a_model_that_the_last_step_of_an_epoch_ruined_is_the_same_error(
    digits_project: Path, tmp_path: Path, method: Method
) -> None:
    train = {"epochs": 1, "batch_size": 1136, "learning_rate": 1e30, "warmup": 0.0}
    with pytest.raises(TrainingError, match=r"lower train.learning_rate"):
        trained(small_job(digits_project, method, train=train), tmp_path / "run")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_gradient_that_is_not_finite_is_told_from_a_loss_and_blames_the_arithmetic(
    digits_project: Path, tmp_path: Path, precision: str
) -> None:
    job = small_job(digits_project, train={"epochs": 2, "batch_size": 128, "precision": precision})
    trainer = Trainer(job, TrialSession(tmp_path / "run", job))
    weight = next(p for p in trainer.fit.optimizer.param_groups[0]["params"] if p.ndim > 1)

    def ruined(gradient: Tensor) -> Tensor:
        return gradient if trainer.state.step < 4 else gradient * torch.nan

    weight.register_hook(ruined)
    remedy = "set train.precision to float32" if precision == "bfloat16" else "its loss was finite"
    with pytest.raises(TrainingError, match=f"the gradient of step 5 was the first, after loss .*{remedy}"):
        trainer.run()


def restore(trainer: Trainer, folder: Path, fingerprint: str | None = None) -> None:
    load_checkpoint(
        folder, fingerprint or trainer.job.fingerprint, trainer.fit.model, trainer.fit.averaged, trainer.fit.optimizer
    )


@pytest.fixture(scope="module")
def extended(digits_project: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    """A finished extended run of one epoch and its checkpoint. Not to be changed."""
    folder = tmp_path_factory.mktemp("extended") / "checkpoint"
    return trained(small_job(digits_project, "extended", train={"epochs": 1, "batch_size": 512}), folder), folder


@pytest.fixture
def checkpoint(extended: tuple[Trainer, Path], tmp_path: Path) -> tuple[Trainer, Path]:
    """A trainer and a copy of its checkpoint, which a test may damage."""
    trainer, folder = extended
    return trainer, Path(shutil.copytree(folder, tmp_path / "checkpoint-1"))


def test_a_checkpoint_of_another_run_is_refused_and_both_runs_are_named(checkpoint: tuple[Trainer, Path]) -> None:
    trainer, folder = checkpoint
    with pytest.raises(DataError, match=f"checkpoint-1 belongs to run {trainer.job.fingerprint}, not to 0123"):
        restore(trainer, folder, fingerprint="0123")


@pytest.mark.parametrize(
    "name", ["progress.json", "model.safetensors", "averaged.safetensors", "optimizer.safetensors"]
)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "binary"])
def test_a_damaged_checkpoint_is_an_error_that_names_it(
    checkpoint: tuple[Trainer, Path], name: str, damage: str
) -> None:
    trainer, folder = checkpoint
    data = (folder / name).read_bytes()
    (folder / name).unlink()
    if damage != "missing":
        contents = {"empty": b"", "half": data[: len(data) // 2], "binary": b"\xff\xfe\x80" * 100}
        (folder / name).write_bytes(contents[damage])
    with pytest.raises(DataError, match=r"checkpoint .*checkpoint-1 is damaged"):
        restore(trainer, folder)


@pytest.mark.parametrize("content", ["[]", "7", '"text"', "null", "{}", '{"format": 3}', '{"format": 3, "x": 2}'])
def test_progress_that_is_other_json_is_an_error_that_names_the_checkpoint(
    checkpoint: tuple[Trainer, Path], content: str
) -> None:
    trainer, folder = checkpoint
    (folder / "progress.json").write_text(content)
    with pytest.raises(DataError, match=r"checkpoint .*checkpoint-1 is damaged"):
        restore(trainer, folder)


def test_a_checkpoint_of_another_format_is_an_error_that_says_what_to_do(checkpoint: tuple[Trainer, Path]) -> None:
    trainer, folder = checkpoint
    state = json.loads((folder / "progress.json").read_text())
    (folder / "progress.json").write_text(json.dumps(state | {"format": 99}))
    with pytest.raises(DataError, match="written by another version; remove the folder"):
        restore(trainer, folder)


def test_a_checkpoint_holds_no_pickle(checkpoint: tuple[Trainer, Path]) -> None:
    _, folder = checkpoint
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors"}


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("labels", {"count": 50}),
        ("labels", {"seed": 1}),
        ("model", {"r_dim": 9}),
        ("model", {"classifier": "network"}),
        ("objective", {"alpha": 1.0}),
        ("objective", {"prune": 0.0}),
        ("objective", {"support_max": 6}),
        ("train", {"epochs": 4}),
        ("train", {"batch_size": 32}),
        ("train", {"learning_rate": 0.1}),
        ("train", {"warmup": 0.1}),
        ("train", {"seed": 1}),
    ],
)
def test_the_fingerprint_changes_with_what_a_run_computes(
    digits_project: Path, section: str, changes: dict[str, Any]
) -> None:
    raw = small_params()
    before = make_job(parse_params(raw), digits_project).fingerprint
    raw[section] |= changes
    assert make_job(parse_params(raw), digits_project).fingerprint != before


@pytest.mark.parametrize("key", ["augment", "consistency", "confidence", "ema_decay"])
def test_the_fingerprint_changes_with_the_extended_settings(digits_project: Path, key: str) -> None:
    raw = small_params()
    before = make_job(parse_params(raw), digits_project).fingerprint
    extended = raw["objective"]["extended"]
    extended[key] = extended[key] | {"shear": 0.0} if key == "augment" else 0.5
    assert make_job(parse_params(raw), digits_project).fingerprint != before


def test_the_fingerprint_changes_with_the_method_the_seed_and_the_number_of_ranks(digits_project: Path) -> None:
    params = parse_params(small_params())
    jobs = [
        make_job(params, digits_project),
        make_job(params, digits_project, method="plain"),
        make_job(params, digits_project, method="supervised"),
        make_job(params, digits_project, seed=7),
        make_job(params, digits_project, world_size=1),
    ]
    assert len({job.fingerprint for job in jobs}) == len(jobs)


def test_the_fingerprint_changes_with_the_manifest(digits_project: Path, tmp_path: Path) -> None:
    shards = tmp_path / "data" / "shards" / "digits"
    shards.mkdir(parents=True)
    text = (digits_project / "data" / "shards" / "digits" / "manifest.json").read_text()
    params = parse_params(small_params())
    (shards / "manifest.json").write_text(text)
    same = make_job(params, tmp_path).fingerprint
    edit_sealed(shards / "manifest.json", lambda manifest: manifest.update(split_seed=1))
    other = make_job(params, tmp_path).fingerprint
    assert same == make_job(params, digits_project).fingerprint
    assert other != same


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("storage", {"url": "elsewhere"}),
        ("evaluate", {"seed": 5}),
        ("sweep", {"seeds": [3]}),
        ("train", {"max_failures": 0, "timeout_s": 99, "checkpoints_to_keep": 5, "checkpoint_every_s": 7}),
        ("train", {"loggers": ["tensorboard", "mlflow"], "profile": True}),
    ],
)
def test_the_fingerprint_keeps_what_does_not_change_the_weights_out(
    digits_project: Path, section: str, changes: dict[str, Any]
) -> None:
    raw = small_params()
    before = make_job(parse_params(raw), digits_project).fingerprint
    raw[section] |= changes
    assert make_job(parse_params(raw), digits_project).fingerprint == before
