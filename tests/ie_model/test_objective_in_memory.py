"""The objective on data in memory: its weights, and the points that it draws for a step."""

from __future__ import annotations

import pytest
import torch

from ie_model.config import ModelConfig, ObjectiveConfig
from ie_model.model import EquiVAE
from ie_model.objective import Objective, Shares, weight_scale
from tests.helpers.tiny import points, seeded, tiny_model, tiny_spec


class TestDataInMemory:
    X = points(40)
    Y = torch.tensor([0, 1, 2, -1] * 10)

    def test_a_model_and_its_objective_need_no_configuration(self) -> None:
        model = EquiVAE(tiny_spec())
        assert (model.config, Objective.of(model, self.X, self.Y).config) == (ModelConfig(), ObjectiveConfig())

    def test_weights_and_scale_are_those_of_the_data(self) -> None:
        model = tiny_model()
        made = Objective.of(model, self.X, self.Y)
        assert made.shares == Shares(30, 10, (10, 10, 10))
        assert made.alpha == pytest.approx(ObjectiveConfig().alpha * weight_scale(model, self.X[self.Y >= 0]))

    def test_a_step_has_m_points_of_each_class_and_a_batch_of_those_without_a_label(self) -> None:
        objective, sizes = Objective.of(tiny_model(), self.X, self.Y), set()
        for seed in range(20):
            x, y, others = objective.draw(self.X, self.Y, seeded(seed), batch_size=16)
            (m,) = set(y.bincount().tolist())
            sizes.add(m)
            assert others is not None and len(others) == 16
            rows = {tuple(row.flatten().tolist()) for row in x}
            assert len(rows) == len(x) == 3 * m, "no point twice: it would be in its own r"
            loss, _ = objective(x, y, others, seeded(seed))
            assert torch.isfinite(loss)
        assert min(sizes) == 5 and max(sizes) == 10

    def test_without_unlabelled_points_and_with_small_classes(self) -> None:
        y = torch.tensor([0, 0, 1, 1, 1, 2, 2])
        objective = Objective.of(tiny_model(), self.X[:7], y)
        _, drawn, others = objective.draw(self.X[:7], y, seeded())
        assert others is None and drawn.bincount().tolist() == [2, 3, 2]

    def test_a_class_of_one_point_or_of_no_name_is_refused(self) -> None:
        for y in ([0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3]):
            with pytest.raises(ValueError, match="allowed: two or more of each of 3"):
                Objective.of(tiny_model(), self.X[: len(y)], torch.tensor(y))
