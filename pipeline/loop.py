"""The training loop of one rank: plain PyTorch, no Ray. A Session says who the rank is and keeps its checkpoints."""

from __future__ import annotations

import contextlib
import copy
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ie_model.artifact import Artifact, save_artifact
from ie_model.config import ModelConfig, ObjectiveConfig
from ie_model.inference import in_batches, representations
from ie_model.model import EquiVAE
from ie_model.networks import to_float
from ie_model.objective import Objective, Ranks, Shares, prune_error, unlabelled_bound
from pipeline.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.errors import TrainingError
from pipeline.labels import IntArray, choose_labelled
from pipeline.reader import EpochPlan, SplitData, draw_support, load_split
from pipeline.shards import read_manifest

# Streams of random numbers: each use has its own, a function of (seed, stream, step, rank).
_NOISE, _SUPPORT_SIZE, _SUPPORT = range(3)
_REPORT_EVERY_S = 1.0


class Job(BaseModel):
    """All that one training run depends on; travels to the workers as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fingerprint: str
    method: str
    """Name of the method in tables, see `pipeline.methods`."""

    shards: str
    """Absolute folder of the shards and their manifest."""

    model: ModelConfig
    objective: ObjectiveConfig
    label_count: int | float | str
    label_seed: int
    epochs: int
    steps_per_epoch: int | None
    """None: one pass over the data. A number where steps are given instead (supervised trials)."""

    batch_size: int
    learning_rate: float
    warmup_steps: int
    seed: int
    device: str
    precision: str
    threads: int
    evaluation_batch_size: int


class Session(Protocol):
    """The rank's surroundings: Ray Train, a sweep's trial, or a test."""

    rank: int
    world_size: int
    device: torch.device
    ranks: Ranks
    """Differentiable sums over all ranks, for the objective."""

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module for data-parallel training, on the device."""
        ...

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over all ranks."""
        ...

    def restore(self) -> contextlib.AbstractContextManager[Path | None]:
        """The last checkpoint's folder, or None."""
        ...

    def report(self, metrics: dict[str, float], write_checkpoint: Callable[[Path], None]) -> None:
        """Publishes an epoch's metrics and, from rank 0, a checkpoint. All ranks call it equally often."""
        ...

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        """Tells whoever watches; called on every rank, about once a second. The rate is that of all ranks."""
        ...


@dataclass(frozen=True)
class TrainingData:
    """The train split as a run sees it."""

    x: Tensor
    """`[N, *shape]`, as stored, on the training device."""

    y: Tensor
    members: list[IntArray]
    """Positions of the labelled points of each class."""

    labelled: IntArray
    unlabelled: IntArray
    val: SplitData

    @property
    def shares(self) -> Shares:
        return Shares(len(self.labelled), len(self.unlabelled))


def load_training_data(job: Job, device: torch.device) -> TrainingData:
    """Train and val from the shards, labels chosen."""
    folder = Path(job.shards)
    manifest = read_manifest(folder)
    train, val = load_split(folder, manifest, "train"), load_split(folder, manifest, "val")
    labelled = choose_labelled(train.keys, train.y, manifest.spec.classes, job.label_count, job.label_seed)
    y = torch.from_numpy(train.y)
    return TrainingData(
        x=train.x.to(device),
        y=y.to(device),
        members=[labelled[train.y[labelled] == c] for c in range(manifest.spec.num_classes)],
        labelled=labelled,
        unlabelled=np.setdiff1d(np.arange(len(train)), labelled),
        val=val,
    )


class Trainer:
    """State of one rank of a run, from its first step or its last checkpoint to the finished model."""

    def __init__(self, job: Job, session: Session) -> None:
        self.job, self.session = job, session
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        self.data = load_training_data(job, session.device)
        self.model = EquiVAE(self.data.val.spec, job.model).to(session.device)
        if job.objective.label_prior == "labelled":
            counts = torch.tensor([len(members) for members in self.data.members], device=session.device)
            if self.model.num_codes > 1:
                self.model.log_prior.copy_((counts / counts.sum()).log())
        self.objective = Objective(self.model, job.objective, self.data.shares, session.ranks)
        _freeze_unused(self.model, self.supervised)
        extended = job.objective.extended
        averaged = extended.enabled and extended.ema_decay > 0
        self.averaged = copy.deepcopy(self.model).requires_grad_(False) if averaged else None
        self.wrapped = session.wrap(self.objective)
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=job.learning_rate, foreach=True)
        self.plan = self._plan()
        self.state = Progress(job.fingerprint)

    @property
    def published(self) -> EquiVAE:
        """The weights that are validated and saved: the averaged ones where there are any."""
        return self.averaged if self.averaged is not None else self.model

    @property
    def supervised(self) -> bool:
        return self.job.objective.loss == "cross_entropy"

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which as many points are seen as there are in the train split, labelled or not."""
        return self.job.steps_per_epoch or max(1, len(self.data.x) // self.job.batch_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.job.epochs

    def run(self) -> dict[str, float]:
        """Trains to the end, from the last checkpoint if there is one. Returns the last epoch's metrics."""
        with self.session.restore() as folder:
            if folder is not None:
                self.state = load_checkpoint(folder, self.job.fingerprint, self.model, self.averaged, self.optimizer)
        while self.state.epoch < self.job.epochs:
            started = time.monotonic()
            row = self._finite(self._epoch()) | self._finite(self._validate())
            self.state.epoch += 1
            row = {"epoch": self.state.epoch, **row}
            self.state.history.append(row)
            self.state.seconds += time.monotonic() - started
            self.session.report(row, self._write_checkpoint)
        return self.state.history[-1]

    def _epoch(self) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        last_report, started = time.monotonic(), time.monotonic()
        for done, positions in enumerate(self._batches(), start=1):
            for group in self.optimizer.param_groups:
                group["lr"] = self._learning_rate(self.state.step)
            for name, value in self._step(positions).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            self.state.step += 1
            if time.monotonic() - last_report >= _REPORT_EVERY_S:
                last_report = time.monotonic()
                rate = done * self.job.batch_size / (last_report - started)
                self.session.progress(self.state.step, self.total_steps, rate)
        names = sorted(sums)
        totals = self.session.all_reduce(torch.stack([sums[name] for name in names]))
        means = (totals / (self.steps_per_epoch * self.session.world_size)).tolist()
        return dict(zip(names, means, strict=True))

    def _finite(self, row: dict[str, float]) -> dict[str, float]:
        """Training means, or validation metrics: an epoch's last step is seen in these alone."""
        if not all(math.isfinite(value) for value in row.values()):
            raise TrainingError(
                f"loss is not finite in epoch {self.state.epoch + 1}: {row}; "
                f"lower train.learning_rate ({self.job.learning_rate})"
            )
        return row

    def _step(self, positions: IntArray | None) -> dict[str, Tensor]:
        """One step on the points at `positions`, which are unlabelled (or None: all points are labelled)."""
        support = self._draw_support()
        generator = torch.Generator().manual_seed(self._random_state(_NOISE, self.session.rank))
        with torch.autocast(self.session.device.type, torch.bfloat16, enabled=self.job.precision == "bfloat16"):
            loss, logged = self.wrapped(
                to_float(self.data.x[support]),
                self.data.y[support],
                None if positions is None else to_float(self.data.x[torch.from_numpy(positions)]),
                generator,
                self._beta(),
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.averaged is not None:
            _average(self.averaged, self.model, self.job.objective.extended.ema_decay, self.state.step)
        result: dict[str, Tensor] = logged
        return result

    def _batches(self) -> Iterator[IntArray | None]:
        """An epoch's steps: unlabelled points, each once before any comes again; None where there are none."""
        if self.plan is None:
            yield from itertools.repeat(None, self.steps_per_epoch)
            return
        for positions in itertools.islice(self.plan.stream(self.session.rank, self.state.step), self.steps_per_epoch):
            yield self.data.unlabelled[positions]

    def _draw_support(self) -> Tensor:
        """This rank's part of the step's labelled points: m of each class over all ranks, none of them twice.

        Drawn the same way on every rank and dealt out: two ranks that drew for themselves could draw the same point,
        and it would then be part of its own r.
        """
        objective = self.job.objective
        sizes = np.random.default_rng(self._random_state(_SUPPORT_SIZE, 0))
        drawn = int(sizes.integers(objective.support_min, objective.support_max + 1))
        # Where much is labelled, labelled points take their share of the batch.
        share = self.data.shares.labelled if self.plan is not None else 1.0
        m = max(drawn, int(share * self.job.batch_size) // len(self.data.members))
        rng = np.random.default_rng(self._random_state(_SUPPORT, 0))
        support = draw_support(self.data.members, m, rng)
        return torch.from_numpy(support[self.session.rank :: self.session.world_size])

    def _beta(self) -> float:
        """Weight of the KL at this step."""
        steps = self.job.objective.kl_warmup * self.total_steps
        return 1.0 if self.state.step >= steps else self.state.step / steps

    def _random_state(self, stream: int, rank: int) -> int:
        state = np.random.SeedSequence([self.job.seed, stream, self.state.step, rank]).generate_state(1, np.uint64)
        return int(state[0] >> np.uint64(1))

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then a cosine to zero."""
        warmup = min(1.0, (step + 1) / max(1, self.job.warmup_steps))
        return self.job.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * step / self.total_steps))

    def _plan(self) -> EpochPlan | None:
        """Order of the unlabelled points; None where there is not one for each rank."""
        num_points, world_size = len(self.data.unlabelled), self.session.world_size
        if self.supervised or num_points < world_size:
            return None
        # Fewer points than one batch: a batch of what there is, equal on all ranks.
        batch_size = min(self.job.batch_size, num_points // world_size * world_size)
        return EpochPlan(num_points, batch_size, world_size, self.job.seed)

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Error and bound on val, summed over all ranks: each takes every world_size-th point."""
        model, device, size = self.published, self.session.device, self.job.evaluation_batch_size
        r, prune = self._representations()[0], self.job.objective.prune
        rank, world = self.session.rank, self.session.world_size
        x, y = self.data.val.x[rank::world], torch.from_numpy(self.data.val.y[rank::world])
        generator = torch.Generator().manual_seed(self.job.seed)
        # points, wrong, -log q, bound, points of the exact sum, exact less pruned sum
        sums = torch.zeros(6, dtype=torch.float64, device=device)
        for i, (batch, labels) in enumerate(zip(in_batches(x, size, device), torch.split(y, size), strict=True)):
            log_q = model.classify(model.embed(batch), r)
            sums[0] += len(batch)
            if model.num_codes > 1:
                sums[1] += (log_q.argmax(1) != labels.to(device)).sum()
                sums[2] -= log_q.gather(1, labels.to(device).unsqueeze(1)).sum()
            if not self.supervised:
                features = model.features(batch)
                sums[3] += unlabelled_bound(model, batch, features, r, log_q, prune, generator).bound.sum()
                if i == 0 and prune > 0:  # the exact sum costs K decoder passes a point: one batch tells enough
                    sums[4] += len(batch)
                    sums[5] += prune_error(model, batch, features, r, log_q, prune, generator).sum()
        points, wrong, surprise, bound, exact_points, difference = self.session.all_reduce(sums).tolist()
        metrics: dict[str, float] = {}
        if model.num_codes > 1:
            metrics |= {"val_error": 100 * wrong / points, "val_nll": surprise / points}
        if not self.supervised:
            metrics |= {"val_bound": bound / points, "val_prune_error": difference / max(1.0, exact_points)}
        return metrics

    def _representations(self) -> tuple[Tensor, Tensor]:
        labelled = torch.from_numpy(self.data.labelled)
        return representations(
            self.published,
            self.data.x[labelled],
            self.data.y[labelled],
            self.job.evaluation_batch_size,
            self.session.device,
        )

    def _write_checkpoint(self, folder: Path) -> None:
        save_checkpoint(folder, self.state, self.model, self.averaged, self.optimizer)
        if self.state.epoch == self.job.epochs:
            (folder / "artifact").mkdir()
            save_artifact(folder / "artifact", self.artifact())

    def artifact(self) -> Artifact:
        """The model as it is now, with the representations of its classes."""
        r, counts = self._representations()
        classes = self.data.val.spec.classes
        provenance = {
            "method": self.job.method,
            "loss": self.job.objective.loss,
            "extended": self.job.objective.extended.enabled,
            "precision": self.job.precision,
            "fingerprint": self.job.fingerprint,
            "prune": self.job.objective.prune,
            "epochs": self.state.epoch,
            "steps": self.state.step,
            "world_size": self.session.world_size,
            "labels_per_class": {name: len(members) for name, members in zip(classes, self.data.members, strict=True)},
            "num_unlabelled": 0 if self.supervised else len(self.data.unlabelled),
        }
        return Artifact(self.published, r, counts, provenance)


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights; early on it forgets faster, or it would keep the initial ones."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def _freeze_unused(model: EquiVAE, supervised: bool) -> None:
    """Data-parallel training wants no parameter that gets no gradient: a supervised run trains f_inv and q(y|x)."""
    if supervised:
        for part in (model.posterior_trunk, model.posterior_head, model.decoder, model.likelihood):
            part.requires_grad_(False)
