"""The export of `evaluate` in actors: the bytes of one process, also where an actor is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import pipeline.cluster.actor_pool
import pipeline.stages.evaluate
from pipeline.cluster.actor_pool import map_in_actors
from pipeline.cluster.connection import ray_cluster
from pipeline.errors import DataError, ResourceError
from pipeline.utils.progress import silent
from tests.pipeline.evaluation.test_slices import Exported, files, made

pytestmark = pytest.mark.slow
__all__ = ["made"]


def test_export_in_actors_gives_the_bytes_and_sums_of_one_process(
    made: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, here = made.to(tmp_path / "alone")
    monkeypatch.setattr(pipeline.stages.evaluate, "_RAY_PAYS_S", -1.0)
    parts, sums = made.to(tmp_path / "actors")
    assert files(parts) == files(alone)
    for split, totals in here.items():
        assert {name: value.tolist() for name, value in sums[split].items()} == {
            name: value.tolist() for name, value in totals.items()
        }


class _Mortal:
    """The first actor with 3 ends its own process, each with 7."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Any:
        def run(item: int) -> dict[str, Any]:
            died = self.folder / "died"
            if item == 7 or (item == 3 and not died.exists()):
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item == 5:
                raise DataError("item 5 is unreadable")
            return {"square": item * item}

        return run


def test_actor_that_is_lost_is_replaced_and_its_item_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.cluster.actor_pool, "_RETRIES", 1)

    def done(items: list[int], actors: int) -> dict[int, int]:
        rows = map_in_actors(_Mortal(tmp_path), items, actors, cpus=1, gpus=0)
        return {item: row["square"] for item, row in rows}

    with ray_cluster(silent) as resources:
        # One more than there is room for: items do not wait for it.
        assert done([*range(5)], int(resources["CPU"]) + 1) == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}
        with pytest.raises(DataError, match="item 5"):
            done([4, 5], 1)
        with pytest.raises(ResourceError, match="lost"):
            done([4, 7], 2)
