"""What one training step does: which labelled points it takes, its noise, its learning rate, the averaged weights.

No files, no processes: the pipeline's trainer brings points, ranks and checkpoints, `ie_model.estimator` brings arrays.
All chance is a function of (seed, step, rank), so that a run can resume at any step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from ie_model.config import ObjectiveConfig
from ie_model.model import EquiVAE
from ie_model.objective import SINGLE, Objective, Ranks, Shares, weight_scale
from ie_model.schedule import kl_weight, learning_rate, seed_of
from ie_model.support import IntArray, LabelledPlan, draw_support

# Streams of random numbers: each use has its own.
_NOISE, _SUPPORT_SIZE, _SUPPORT = range(3)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    total_steps: int
    batch_size: int
    """Unlabelled points of a step, over all ranks."""

    learning_rate: float
    """The highest."""

    warmup: float
    """Share of the steps over which the learning rate rises."""

    seed: int
    precision: Literal["float32", "bfloat16"] = "float32"


class Fit:
    """A model in training, on one rank of any number.

    The steps of W ranks, each with its part of the points, change the weights as those of one rank with all of them.
    """

    def __init__(
        self,
        model: EquiVAE,
        objective: ObjectiveConfig,
        schedule: Schedule,
        members: Sequence[IntArray],
        num_unlabelled: int,
        known: Tensor,
        rank: int = 0,
        world_size: int = 1,
        ranks: Ranks = SINGLE,
    ) -> None:
        """
        Args:
            model: on the training device; its prior of the classes is set as `objective.label_prior` says.
            members: positions of the labelled points of each class.
            num_unlabelled: points without a label.
            known: some labelled points as floats `[N, *shape]`, on the device: their cost is the scale of the loss.
            ranks: how sums over ranks are taken.
        """
        self.model, self.config, self.schedule, self.members = model, objective, schedule, list(members)
        self.rank, self.world_size = rank, world_size
        self.device = known.device
        counts = torch.tensor([len(positions) for positions in members], device=self.device)
        if objective.label_prior == "labelled" and model.num_codes > 1:
            model.log_prior.copy_((counts / counts.sum()).log())
        shares = Shares(int(counts.sum()), num_unlabelled, tuple(counts.tolist()))
        self.objective = Objective(model, objective, shares, ranks, weight_scale(model, known))
        self.module: nn.Module = self.objective
        """What a step calls; data-parallel training puts its wrapper here."""

        freeze_unused(model, objective.loss == "bound")
        decay = objective.extended.ema_decay if objective.extended.enabled else 0.0
        self.averaged = copy.deepcopy(model).requires_grad_(False) if decay > 0 else None
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.parameters, lr=schedule.learning_rate, fused=True)
        self.unlabelled_batch = self._unlabelled_batch(num_unlabelled)
        self.labelled_plan = self._labelled_plan(shares)

    @property
    def published(self) -> EquiVAE:
        """The weights that are validated and kept: the averaged ones where there are any."""
        return self.averaged if self.averaged is not None else self.model

    def support(self, step: int) -> IntArray:
        """Positions of this rank's part of a step's labelled points, none of which the step has twice.

        m of each class over all ranks, or of each class in proportion where much is labelled. Drawn the same way on
        every rank and dealt out: two ranks that drew for themselves could draw the same point, and it would then be
        part of its own r.
        """
        if self.labelled_plan is not None:
            drawn = self.labelled_plan.batch(step)
        else:
            sizes = np.random.default_rng(self._seed(_SUPPORT_SIZE, step, 0))
            m = int(sizes.integers(self.config.support_min, self.config.support_max + 1))
            drawn = draw_support(self.members, m, np.random.default_rng(self._seed(_SUPPORT, step, 0)))
        return drawn[self.rank :: self.world_size]

    def step(
        self,
        step: int,
        x_labelled: Tensor,
        y: Tensor,
        x_unlabelled: Tensor | None,
        note: Callable[[int, Tensor], None] = lambda step, loss: None,
    ) -> dict[str, Tensor]:
        """Changes the weights once.

        Args:
            step: steps that are done.
            x_labelled, y: the points of `support` as floats `[M, *shape]` and their classes `[M]`.
            x_unlabelled: `[B, *shape]`, or None where all points are labelled.
            note: called with the step and its loss once there are gradients.

        Returns:
            what the objective logs, detached.

        Raises:
            ValueError: a class has fewer than two points in the support.
        """
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, schedule.total_steps, schedule.learning_rate, schedule.warmup)
        generator = torch.Generator().manual_seed(self._seed(_NOISE, step, self.rank))
        beta = kl_weight(step, schedule.total_steps, self.config.kl_warmup, self.config.kl_start)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=schedule.precision == "bfloat16"):
            loss, logged = self.module(x_labelled, y, x_unlabelled, generator, beta)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        note(step, loss)
        self.optimizer.step()
        if self.averaged is not None:
            average(self.averaged, self.model, self.config.extended.ema_decay, step)
        result: dict[str, Tensor] = logged
        return result

    def _seed(self, stream: int, step: int, rank: int) -> int:
        return seed_of(self.schedule.seed, stream, step, rank)

    def _unlabelled_batch(self, num_points: int) -> int:
        """Unlabelled points of a step over all ranks; 0 where there is not one for each rank."""
        if self.config.loss == "cross_entropy" or num_points < self.world_size:
            return 0
        # Fewer points than one batch: a batch of what there is, equal on all ranks.
        return min(self.schedule.batch_size, num_points // self.world_size * self.world_size)

    def _labelled_plan(self, shares: Shares) -> LabelledPlan | None:
        """Where much is labelled, labelled points take their share of the batch, each once before any comes again."""
        share = shares.labelled if self.unlabelled_batch else 1.0
        size = min(int(share * self.schedule.batch_size), shares.num_labelled // 2)
        if size <= self.config.support_max * len(self.members):
            return None
        return LabelledPlan(self.members, size, self.schedule.seed)


@torch.no_grad()
def average(averaged: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights; early on it forgets faster, or it would keep the initial ones."""
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(averaged.parameters()), list(model.parameters()), 1 - decay)


def freeze_unused(model: EquiVAE, has_bound: bool) -> None:
    """Data-parallel training wants no parameter that gets no gradient: without a bound f_inv and q(y|x) are trained."""
    if not has_bound:
        for part in (model.posterior_trunk, model.posterior_head, model.decoder, model.likelihood):
            part.requires_grad_(False)
