"""The same step twice, on several threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from ie_model.config import ModelConfig
from ie_model.model import EquiVAE
from ie_model.objective import Objective, Shares
from ie_model.spec import Kind
from tests.helpers.tiny import KINDS, each_class, objective_config, points, seeded, spec_of


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_the_same_step_on_two_threads_are_the_same(kind: Kind) -> None:
    """Of as many points as threads divide among them: a gradient of gathered rows was added up in any order."""
    spec = spec_of(kind)
    torch.manual_seed(0)
    model = EquiVAE(spec, ModelConfig())
    objective = Objective(model, objective_config(extended=True, confidence=0.4), Shares(300, 3000))
    y, x = each_class(spec.num_classes, 100), points(100 * spec.num_classes + 600, spec)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        loss, _ = objective(x[: len(y)], y, x[len(y) :], seeded())
        loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    first = gradients()
    assert first
    for _ in range(8):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
