"""The training loop of one rank: plain PyTorch, no Ray. A Session has the rank's place and its checkpoints."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ie_model.artifact import Artifact, save_artifact
from ie_model.bounds import marginal_elbo
from ie_model.fit import Fit, Schedule
from ie_model.inference import streamed_representations
from ie_model.model import EquiVAE
from ie_model.networks import to_float
from ie_model.pruning import prune_error
from pipeline.errors import TrainingError
from pipeline.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from pipeline.training.finite import Watch, explain
from pipeline.training.job import Job
from pipeline.training.session import Session
from pipeline.training.training_data import load_training_data

_REPORT_EVERY_S = 1.0
# Steps between those at which ranks agree on a checkpoint within an epoch, and seconds between looks for a preemption.
_AGREE_EVERY = 10
_ASK_EVERY_S = 5.0
# Labelled points whose cost sets the scale of the loss: of texts and series each has its own.
_MEASURED_FOR_SCALE = 1000


class Trainer:
    """State of one rank of a run, from its first step or its last checkpoint to the finished model."""

    def __init__(self, job: Job, session: Session) -> None:
        self.job, self.session = job, session
        torch.set_num_threads(job.threads)
        torch.manual_seed(job.seed)
        count, seed = job.label_count, job.label_seed
        self.data = load_training_data(Path(job.shards), job.reading, count, seed, session.device, session)
        model = EquiVAE(self.data.spec, job.model).to(session.device)
        known = to_float(self.data.points.take(self.data.labelled[:_MEASURED_FOR_SCALE]).to(session.device))
        schedule = Schedule(self.total_steps, job.batch_size, job.learning_rate, job.warmup, job.seed, job.precision)
        self.fit = Fit(
            model,
            job.objective,
            schedule,
            self.data.members,
            self.data.num_unlabelled,
            known,
            session.rank,
            session.world_size,
            session.ranks,
        )
        if job.compile:
            _compile_networks(model)
        self.fit.module = session.wrap(self.fit.objective)
        self.watch = Watch(self.fit.parameters, session.device)
        self.state = Progress(job.fingerprint)
        self._counted = self._saved = self._asked = time.monotonic()
        self._is_noticed = False
        self.after_step: Callable[[], None] = lambda: None

    @property
    def published(self) -> EquiVAE:
        """The weights that are validated and saved."""
        return self.fit.published

    @property
    def has_bound(self) -> bool:
        return self.job.objective.loss == "bound"

    @property
    def total_steps(self) -> int:
        return self.job.steps_per_epoch * self.job.epochs

    def run(self) -> dict[str, float]:
        """Trains to the end, from the last checkpoint if there is one. Returns the last epoch's metrics."""
        with self.session.restore() as folder:
            if folder is not None:
                weights = self.fit.model, self.fit.averaged, self.fit.optimizer
                self.state = load_checkpoint(folder, self.job.fingerprint, *weights)
        with self._batches() as batches, _imports_set_aside():
            self._counted = time.monotonic()
            while self.state.epoch < self.job.epochs:
                row = self._finite(self._epoch(batches)) | self._finite(self._validate())
                self.state.epoch += 1
                row = {"epoch": self.state.epoch, **row}
                self.state.history.append(row)
                self.state.sums = {}
                self._count_time()
                self.session.report(row, self._write_checkpoint)
                self._saved = time.monotonic()
        return self.state.history[-1]

    def _epoch(self, batches: Iterator[tuple[Tensor | None, int]]) -> dict[str, float]:
        names, sums = self._restored_sums()
        last_report, started = time.monotonic(), time.monotonic()
        first = self.state.step - self.state.epoch * self.job.steps_per_epoch
        to_do = itertools.islice(batches, self.job.steps_per_epoch - first)
        for done, (x_unlabelled, skipped) in enumerate(to_do, start=1):
            logged = self._step(x_unlabelled)
            if self.job.reading.faults == "skip":
                logged["skipped"] = torch.tensor(float(skipped), device=self.session.device)
            # Every step logs the same.
            names = names or sorted(logged)
            values = torch.stack([logged[name] for name in names])
            sums = values if sums is None else sums.add_(values)
            self.state.step += 1
            self.after_step()
            if self.state.step % _AGREE_EVERY == 0 and first + done < self.job.steps_per_epoch and self._is_due():
                self._save(names, sums)
            if time.monotonic() - last_report >= _REPORT_EVERY_S:
                last_report = time.monotonic()
                rate = done * self.job.batch_size / (last_report - started)
                self.session.progress(self.state.step, self.total_steps, rate)
        assert sums is not None, "an epoch has at least one step"
        totals = self.session.all_reduce(sums)
        means = (totals / (self.job.steps_per_epoch * self.session.world_size)).tolist()
        row = dict(zip(names, means, strict=True))
        if "skipped" in row:
            # Points of the epoch, and those that were left out from the start.
            row["skipped"] = totals[names.index("skipped")].item() + self.data.skipped
        return row

    def _is_due(self) -> bool:
        """Whether to write a checkpoint within the epoch; one answer on all ranks, by rank 0's clock."""
        now, first = time.monotonic(), self.session.rank == 0
        wishes = [now - self._saved >= self.job.checkpoint_every_s, now - self._asked >= _ASK_EVERY_S]
        flags = torch.tensor([float(first and wish) for wish in wishes], device=self.session.device)
        due, ask = (flag > 0 for flag in self.session.all_reduce(flags).tolist())
        if ask and not self._is_noticed:
            self._asked = now
            due |= (noticed := self.session.is_preempted())
            self._is_noticed = noticed
        return due

    def _save(self, names: list[str], sums: Tensor) -> None:
        """A checkpoint within the epoch, with each rank's sums: a run that continues from it ends in the same bytes."""
        table = torch.zeros(self.session.world_size, len(names), device=self.session.device)
        table[self.session.rank] = sums
        columns = self.session.all_reduce(table).T.tolist()
        self._saved = time.monotonic()
        if not all(math.isfinite(value) for column in columns for value in column):
            return  # the end of the epoch reports it
        self.state.sums = dict(zip(names, columns, strict=True))
        self._count_time()
        self.session.save(self.state.step, self._write_checkpoint)

    def _restored_sums(self) -> tuple[list[str], Tensor | None]:
        """Names and sums of what this rank has logged in the epoch under way; rank 0 has all if ranks changed."""
        if not self.state.sums:
            return [], None
        table = torch.tensor(list(self.state.sums.values()), device=self.session.device)
        if table.shape[1] == self.session.world_size:
            return list(self.state.sums), table[:, self.session.rank].clone()
        return list(self.state.sums), table.sum(1) if self.session.rank == 0 else torch.zeros_like(table[:, 0])

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self._counted
        self._counted = now

    def _finite(self, row: dict[str, float]) -> dict[str, float]:
        """Training means, or validation metrics, the same on all ranks: an epoch's last step is seen in these alone."""
        if not all(math.isfinite(value) for value in row.values()):
            first, x = self.watch.first(self.session.all_reduce), self.data.points.take(self.data.labelled[:1000])
            known = explain(first, row, self.job.precision, self.job.learning_rate, x)
            raise TrainingError(f"not finite in epoch {self.state.epoch + 1}: {known}")
        return row

    def _step(self, x_unlabelled: Tensor | None) -> dict[str, Tensor]:
        """One step on unlabelled points as stored (None: all points are labelled) and labelled ones."""
        support, device = self.fit.support(self.state.step), self.session.device
        return self.fit.step(
            self.state.step,
            to_float(self.data.points.take(support).to(device)),
            torch.from_numpy(self.data.classes(support)).to(device),
            None if x_unlabelled is None else to_float(x_unlabelled),
            self.watch.note,
        )

    @contextlib.contextmanager
    def _batches(self) -> Iterator[Iterator[tuple[Tensor | None, int]]]:
        """Unlabelled points of step after step, each once before any comes again; None where there are none."""
        if self.fit.unlabelled_batch == 0:
            yield itertools.repeat((None, 0))
            return
        rank, world_size, device = self.session.rank, self.session.world_size, self.session.device
        with self.data.unlabelled_batches(
            self.fit.unlabelled_batch, self.job.seed, rank, world_size, self.state.step, device
        ) as batches:
            yield batches

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """Error and bound on val, summed over all ranks: each takes every world_size-th point."""
        model, device, size = self.published, self.session.device, self.job.evaluation_batch_size
        r, prune = self._representations()[0], self.job.objective.prune
        rank, world = self.session.rank, self.session.world_size
        positions = np.arange(len(self.data.val_y))[rank::world]
        generator = torch.Generator().manual_seed(self.job.seed)
        # points, wrong, -log q, bound, points of the exact sum, exact less pruned sum
        sums = torch.zeros(6, dtype=torch.float64, device=device)
        bounds = torch.zeros(len(self.data.val_y), dtype=torch.float64, device=device)
        for i, begin in enumerate(range(0, len(positions), size)):
            rows = positions[begin : begin + size]
            batch = to_float(self.data.val.take(rows).to(device))
            labels = torch.from_numpy(self.data.val_y[rows]).to(device)
            log_q = model.classify(model.embed(batch), r)
            sums[0] += len(batch)
            if model.num_codes > 1:
                sums[1] += (log_q.argmax(1) != labels).sum()
                sums[2] -= log_q.gather(1, labels.unsqueeze(1)).sum()
            if self.has_bound:
                features = model.features(batch)
                bound = marginal_elbo(model, batch, features, r, log_q, prune, generator).bound
                bounds[torch.from_numpy(rows).to(device)] = bound.double()
                sums[3] += bound.sum()
                if i == 0 and prune > 0:  # the exact sum costs K decoder passes a point: one batch is enough
                    sums[4] += len(batch)
                    sums[5] += prune_error(model, batch, features, r, log_q, prune, generator).sum()
        points, wrong, surprise, total_bound, exact_points, difference = self.session.all_reduce(sums).tolist()
        metrics: dict[str, float] = {}
        if model.num_codes > 1:
            metrics |= {"val_error": 100 * wrong / points, "val_nll": surprise / points}
        if self.has_bound:
            if self.state.epoch + 1 == self.job.epochs:
                self.state.val_bounds = _percentiles(self.session.all_reduce(bounds))
            metrics |= {"val_bound": total_bound / points, "val_prune_error": difference / max(1.0, exact_points)}
        return metrics

    def _representations(self) -> tuple[Tensor, Tensor]:
        size, labelled, device = self.job.evaluation_batch_size, self.data.labelled, self.session.device
        parts = (labelled[begin : begin + size] for begin in range(0, len(labelled), size))
        batches = (
            (to_float(self.data.points.take(part).to(device)), torch.from_numpy(self.data.classes(part)).to(device))
            for part in parts
        )
        return streamed_representations(self.published, batches, device)

    def _write_checkpoint(self, folder: Path) -> None:
        save_checkpoint(folder, self.state, self.fit.model, self.fit.averaged, self.fit.optimizer)
        if self.state.epoch == self.job.epochs:
            (folder / "artifact").mkdir()
            save_artifact(folder / "artifact", self.artifact())

    def artifact(self) -> Artifact:
        """The model as it is now, with the representations of its classes."""
        r, counts = self._representations()
        classes = self.data.spec.classes
        provenance = {
            "method": self.job.method,
            "extended": self.job.objective.extended.enabled,
            "precision": self.job.precision,
            "fingerprint": self.job.fingerprint,
            "alpha_nats": round(self.fit.objective.alpha, 3),
            "consistency_nats": round(self.fit.objective.consistency, 3),
            "epochs": self.state.epoch,
            "steps": self.state.step,
            "world_size": self.session.world_size,
            "labels_per_class": {name: len(members) for name, members in zip(classes, self.data.members, strict=True)},
            "num_unlabelled": 0 if self.job.objective.loss == "cross_entropy" else self.data.num_unlabelled,
            "skipped": self.data.skipped,
        }
        artifact = Artifact(
            model=self.published,
            class_representations=r,
            class_counts=counts,
            provenance=provenance,
            preprocessing=self.data.preprocessing,
            prune=self.job.objective.prune,
            loss=self.job.objective.loss,
            val_bounds=tuple(self.state.val_bounds),
        )
        try:
            artifact.tensors()
        except ValueError as error:
            raise TrainingError(f"the model of epoch {self.state.epoch} cannot be used: {error}") from error
        return artifact


def _percentiles(values: Tensor) -> list[float]:
    """At 0, 1, ..., 100 %, each one of the values."""
    order = values.sort().values
    places = torch.linspace(0, len(order) - 1, 101).round().long()
    percentiles: list[float] = order[places.to(order.device)].tolist()
    return percentiles


@contextlib.contextmanager
def _imports_set_aside() -> Iterator[None]:
    """Keeps Python's collector from going through all that was imported, in the middle of an epoch.

    It takes a third of a second, in which the other ranks wait.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _compile_networks(model: EquiVAE) -> None:
    """Has the trunks and the decoder compiled when they are first called; weights and their names stay as they are.

    Raises:
        TrainingError: there is no compiler.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    if not any(map(shutil.which, compilers)):
        raise TrainingError(
            f"train.compile is true and {socket.gethostname()} has no C++ compiler (looked for "
            f"{', '.join(compilers)}): install one, or set train.compile to false"
        )
    for name in ("invariant_trunk", "posterior_trunk", "decoder"):
        if (network := getattr(model, name, None)) is not None:
            # As many pairs as classes are alive: another number in each step.
            network.compile(dynamic=True)
