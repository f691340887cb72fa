"""A step over several ranks against the same step of one rank with all the points: loss, log and gradients."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ie_model.fit import Fit, Schedule, freeze_unused
from ie_model.model import EquiVAE
from ie_model.objective import SINGLE, Objective, Ranks, Shares
from ie_model.spec import Kind
from pipeline.training.data_parallel import ranks_here
from tests.helpers.tiny import (
    KINDS,
    M2,
    VAE,
    backward,
    binary_points,
    known_noise,
    objective_config,
    points,
    seeded,
    spec_of,
    tiny_model,
)

SHARES = Shares(num_labelled=30, num_unlabelled=170, by_class=(22, 6, 2))
WIDE: dict[str, Any] = {"encoder": "wide_residual", "channels": (4, 6)}


class Case(NamedTuple):
    """A step, and which rank has which of its points."""

    model: dict[str, Any]
    objective: dict[str, Any]
    kind: Kind = "image"
    labelled: tuple[int, ...] = (0, 1, 1, 0, 1, 1, 1, 1, 1)
    """Rank of each labelled point, of classes 0, 1, 2, 0, ...: two of class 0 on one rank, all others on the other."""

    unlabelled: tuple[int, ...] | None = (0, 0, 1, 0, 0)
    beta: float = 1.0


ALL_ON_RANK_0 = (0,) * 9
MIXED = (0, 0, 0, 1, 1, 0, 0, 0, 1)
CONSISTENT: dict[str, Any] = {"extended": True, "confidence": 0.6}
CASES: dict[str, Case] = {
    "distance": Case({}, {}),
    "network": Case({"classifier": "network"}, {}),
    "aligned": Case({}, CONSISTENT | {"align": True}),
    "a rank without labelled points": Case({}, {}, labelled=ALL_ON_RANK_0),
    "a rank without labelled points, free bits": Case({}, {"free_bits": 3.0}, labelled=ALL_ON_RANK_0),
    "free bits": Case({}, {"free_bits": 3.0, "prune": 0.2}),
    "class moments": Case({}, {"class_moments": 3.0, "prune": 0.2}),
    "extended": Case({}, CONSISTENT),
    "extended, network": Case({"classifier": "network"}, CONSISTENT | {"confidence": 0.45}, labelled=MIXED),
    "extended, a rank without labelled points": Case({}, CONSISTENT, labelled=ALL_ON_RANK_0),
    "extended, series": Case({}, CONSISTENT | {"free_bits": 2.0}, "series"),
    "everything": Case({}, CONSISTENT | {"free_bits": 3.0, "prune": 0.3}, labelled=MIXED, beta=0.5),
    "counts": Case({}, {"free_bits": 2.0}, "counts"),
    "wide residual": Case(WIDE | {"decoder": "convolutional"}, {}, labelled=ALL_ON_RANK_0),
    "nothing unlabelled": Case({}, {"free_bits": 3.0}, unlabelled=None),
    "nothing unlabelled, a rank without points": Case({}, {}, labelled=ALL_ON_RANK_0, unlabelled=None),
    "cross-entropy": Case({}, {"loss": "cross_entropy"}, unlabelled=None),
    "cross-entropy, network": Case({"classifier": "network"}, {"loss": "cross_entropy"}, unlabelled=None),
    "cross-entropy, extended": Case({}, CONSISTENT | {"loss": "cross_entropy"}, unlabelled=None),
    "cross-entropy, a rank without points": Case(
        {"classifier": "network"}, CONSISTENT | {"loss": "cross_entropy"}, labelled=ALL_ON_RANK_0, unlabelled=None
    ),
    "consistency": Case({}, CONSISTENT | {"loss": "consistency"}, labelled=MIXED),
    "consistency, nothing unlabelled": Case({}, CONSISTENT | {"loss": "consistency"}, unlabelled=None),
    "self-included": Case({}, {"self_included": True}),
    "stochastic r": Case({"stochastic_r": True}, {"free_bits": 3.0}, beta=0.5),
    "m2": Case(M2, {"free_bits": 3.0}),
    "vae": Case(VAE, {"free_bits": 0.6}),
}


def case_model(case: Case) -> EquiVAE:
    model = tiny_model(spec_of(case.kind), spread=2.0, **case.model).double()
    # One unit of v with much KL and one with little, classes that tell points apart.
    model.posterior_head.out.bias.data[0] += 2
    if model.config.classifier == "distance":
        model.log_inverse_temperature.data += 2.5
    freeze_unused(model, case.objective.get("loss", "bound") == "bound")
    return model


def case_points(case: Case) -> tuple[Tensor, Tensor, Tensor | None]:
    """All points of the step: labelled ones, their classes, unlabelled ones."""
    spec = spec_of(case.kind)
    num = 0 if case.unlabelled is None else len(case.unlabelled)
    drawn = (binary_points if case.kind == "image" else points)(len(case.labelled) + num, spec).double()
    x, x_unlabelled = drawn[: len(case.labelled)], drawn[len(case.labelled) :]
    return x, torch.arange(len(x)) % 3, None if case.unlabelled is None else x_unlabelled


def part(case: Case, rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """The points of one rank."""
    x, y, x_unlabelled = case_points(case)
    mine = torch.tensor(case.labelled) == rank
    if x_unlabelled is None or case.unlabelled is None:
        return x[mine], y[mine], None
    return x[mine], y[mine], x_unlabelled[torch.tensor(case.unlabelled) == rank]


def known_uniform(x: Tensor, num: int, generator: torch.Generator) -> Tensor:
    """Stands for the numbers that a distortion is made of: a function of the point, wherever it stands."""
    return torch.sin(5 * x.flatten(1).nansum(1, keepdim=True) + torch.arange(num, dtype=x.dtype))


def without_chance(replace: Callable[[str, Any], None]) -> None:
    """A point then has the same noise and the same distortion in whichever batch it is."""
    for module in ("ie_model.model", "ie_model.bounds", "ie_model.augment"):
        replace(f"{module}.noise_like", known_noise)
    replace("ie_model.augment._uniform", known_uniform)


@pytest.fixture(autouse=True)
def _without_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    without_chance(lambda name, value: monkeypatch.setattr(name, value))


def gradients(model: EquiVAE) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def one_step(case: Case) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients and log of one rank with all the points."""
    model = case_model(case)
    objective = Objective(model, objective_config(**case.objective), SHARES, SINGLE)
    loss, logged = objective(*case_points(case), seeded(), case.beta)
    backward(loss)
    return gradients(model), logged


def run_rank(rank: int, folder: str) -> None:
    """What each of the processes runs: every case, results into the folder."""
    import importlib

    def replace(name: str, value: Any) -> None:
        module, _, attribute = name.rpartition(".")
        setattr(importlib.import_module(module), attribute, value)

    without_chance(replace)
    torch.set_num_threads(1)
    if "lo" in {name for _, name in socket.if_nameindex()}:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
    try:
        ranks, results = ranks_here(), {}
        for name, case in CASES.items():
            model = case_model(case)
            objective = Objective(model, objective_config(**case.objective), SHARES, ranks)
            wrapped = DistributedDataParallel(objective, broadcast_buffers=False)
            # A generator of its own, as in training.
            loss, logged = wrapped(*part(case, rank), seeded(rank), case.beta)
            loss.backward()
            results[name] = (gradients(model), logged)
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Results of the two processes for every case."""
    folder = tmp_path_factory.mktemp("ranks")
    spawn: Any = torch.multiprocessing.spawn  # type: ignore[attr-defined]
    spawn(run_rank, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


class TestTwoProcesses:
    @pytest.mark.parametrize("name", CASES)
    def test_both_end_with_the_gradients_of_one_rank_with_all_points(self, two_ranks: list[Any], name: str) -> None:
        expected, _ = one_step(CASES[name])
        assert any(bool(gradient.any()) for gradient in expected.values())
        for results in two_ranks:
            torch.testing.assert_close(results[name][0], expected, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("name", CASES)
    def test_the_mean_of_what_they_log_is_that_of_one_rank_with_all_points(
        self, two_ranks: list[Any], name: str
    ) -> None:
        _, expected = one_step(CASES[name])
        first, second = (results[name][1] for results in two_ranks)
        assert list(first) == list(second) == list(expected)
        mean = {key: (first[key] + second[key]) / 2 for key in first}
        torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-10, check_dtype=False)

    def test_the_cases_reach_what_they_are_about(self) -> None:
        """Classes dropped, points that are and are not confident, units on either side of the free amount."""
        for name, case in CASES.items():
            found, logged = one_step(case)
            if case.objective.get("prune", 0) > 0:
                assert 1 < float(logged["classes_alive"]) < 3, name
            if "consistency" in logged:
                assert 0 < float(logged["confident"]) < 1, name
            if "free_bits" in case.objective:
                key = "posterior_head.out.bias"
                plain, _ = one_step(case._replace(objective=case.objective | {"free_bits": 0.0}))
                costly, _ = one_step(case._replace(objective=case.objective | {"free_bits": 1e9}))
                assert not torch.allclose(found[key], plain[key]) and not torch.allclose(found[key], costly[key]), name


class Meeting:
    """Ranks as threads of this process: each brings its values and takes the sum of all, with its graph."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.brought: list[Tensor] = [torch.zeros(())] * world_size
        self.barrier = threading.Barrier(world_size, timeout=60)

    def ranks(self, rank: int) -> Ranks:
        def total(values: Tensor) -> Tensor:
            self.brought[rank] = values
            self.barrier.wait()
            result = torch.stack(self.brought).sum(0)
            self.barrier.wait()
            return result

        return Ranks(self.world_size, lambda values: partial(total, values))


def in_threads(case: Case, model: EquiVAE, world_size: int) -> list[Any]:
    """Loss and log of each rank, or the error that it ended with."""
    meeting = Meeting(world_size)

    def step(rank: int) -> Any:
        objective = Objective(model, objective_config(**case.objective), SHARES, meeting.ranks(rank))
        try:
            return objective(*part(case, rank), seeded(rank), case.beta)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(step, range(world_size)))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, int]:
    world_size = draw(st.integers(1, 4))
    rank = st.integers(0, world_size - 1)
    labelled = tuple(draw(st.lists(rank, min_size=6, max_size=10)))
    unlabelled = draw(st.none() | st.lists(rank, min_size=1, max_size=6).map(tuple))
    kind: Kind = draw(st.sampled_from(KINDS))
    models: list[dict[str, Any]] = [{}, {"classifier": "network"}, {"stochastic_r": True}, {"posterior": "x"}, M2, VAE]
    if kind == "image":
        models += [WIDE, {"decoder": "convolutional"}]
    model = draw(st.sampled_from(models))
    # What leaves words out draws its own numbers.
    extended = kind != "counts" and draw(st.booleans())
    losses = ["bound"] if model == VAE else ["bound", "cross_entropy", *(["consistency"] if extended else [])]
    objective = {
        "free_bits": draw(st.sampled_from([0.0, 1.0])),
        "prune": draw(st.sampled_from([0.0, 0.2])),
        "self_included": draw(st.booleans()),
        "loss": draw(st.sampled_from(losses)),
        "extended": extended,
        "confidence": 0.4,
    }
    return Case(model, objective, kind, labelled, unlabelled, draw(st.sampled_from([0.0, 0.5, 1.0]))), world_size


class TestAnyDeal:
    @given(drawn=cases())
    @settings(max_examples=60, deadline=None)
    def test_the_mean_over_ranks_is_the_step_of_one_rank_however_the_points_are_dealt(
        self, drawn: tuple[Case, int]
    ) -> None:
        case, world_size = drawn
        expected_gradients, expected = one_step(case)
        model = case_model(case)
        results = in_threads(case, model, world_size)
        loss = torch.stack([loss for loss, _ in results]).mean()
        backward(loss)
        torch.testing.assert_close(gradients(model), expected_gradients, rtol=1e-9, atol=1e-10)
        for name, value in expected.items():
            mean = torch.stack([logged[name] for _, logged in results]).mean(0)
            torch.testing.assert_close(mean, value, rtol=1e-9, atol=1e-10, check_dtype=False)

    @pytest.mark.parametrize("loss", ["bound", "cross_entropy"])
    def test_two_points_of_a_class_on_two_ranks_are_enough(self, loss: str) -> None:
        case = Case({}, {"loss": loss}, labelled=(0, 0, 0, 1, 1, 1), unlabelled=(0, 1))
        for result in in_threads(case, case_model(case), 2):
            assert bool(result[0].isfinite())

    @pytest.mark.parametrize(("num", "message"), [(5, r"class \[2\] has a single"), (2, r"no labelled point .* \[2\]")])
    def test_what_the_support_lacks_is_an_error_on_every_rank_also_on_one_without_points(
        self, num: int, message: str
    ) -> None:
        case = Case({}, {}, labelled=(0, 1, 1, 0, 1, 1)[:num], unlabelled=(0, 1, 2))
        errors = in_threads(case, case_model(case), 3)
        assert len(errors) == 3
        for error in errors:
            with pytest.raises(ValueError, match=message):
                raise error


def support_of(
    rank: int, world_size: int, step: int, sizes: list[int], limits: tuple[int, int], batch_size: int = 1
) -> list[int]:
    """What a rank of a run with `sizes` labelled points of each class draws."""
    ends = np.cumsum(sizes)
    config = objective_config(support_min=limits[0], support_max=limits[1])
    members = [np.arange(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    model = tiny_model()
    fit = Fit(model, config, Schedule(1001, batch_size, 0.1, 0.0, 7), members, 1000, points(2), rank, world_size)
    drawn: list[int] = fit.support(step).tolist()
    return drawn


class TestDrawnSupport:
    @given(
        world_size=st.integers(1, 5),
        step=st.integers(0, 1000),
        sizes=st.lists(st.integers(2, 20), min_size=2, max_size=5),
        limits=st.tuples(st.integers(2, 6), st.integers(0, 4)).map(lambda pair: (pair[0], pair[0] + pair[1])),
        batch_size=st.integers(1, 4000),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_ranks_parts_are_a_partition_of_what_one_rank_would_draw(
        self, world_size: int, step: int, sizes: list[int], limits: tuple[int, int], batch_size: int
    ) -> None:
        whole = support_of(0, 1, step, sizes, limits, batch_size)
        parts = [support_of(rank, world_size, step, sizes, limits, batch_size) for rank in range(world_size)]
        dealt = [point for each in parts for point in each]
        assert len(set(dealt)) == len(dealt)
        assert sorted(dealt) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        class_of = np.repeat(np.arange(len(sizes)), sizes)[whole]
        counts = np.bincount(class_of, minlength=len(sizes))
        share = int(sum(sizes) / (sum(sizes) + 1000) * batch_size)
        if min(share, sum(sizes) // 2) > limits[1] * len(sizes):
            # Much is labelled: each class in proportion, two at least.
            assert all(counts >= 2)
            return
        assert all(counts >= np.minimum(sizes, limits[0]))
        # All classes have the same number, but for those that have fewer points.
        assert set(counts) <= {max(counts)} | {size for size in sizes if size < max(counts)}

    @pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
    def test_every_step_draws_anew_and_every_size_between_the_limits_occurs(self, world_size: int) -> None:
        drawn = [
            [point for rank in range(world_size) for point in support_of(rank, world_size, step, [9, 9], (2, 4))]
            for step in range(40)
        ]
        assert {len(points) for points in drawn} == {4, 6, 8}
        assert len({tuple(sorted(points)) for points in drawn}) > 30

    def test_more_ranks_than_points_leave_some_without(self) -> None:
        parts = [support_of(rank, 5, 0, [3, 3], (2, 2)) for rank in range(5)]
        assert [len(each) for each in parts] == [1, 1, 1, 1, 0]
