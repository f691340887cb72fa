"""The export of `evaluate` in Ray Data's actors: the bytes of one process, also where an actor is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import pipeline.stages.evaluate
from pipeline.cluster.actor_pool import map_in_actors
from pipeline.cluster.connection import ray_cluster
from pipeline.errors import DataError
from pipeline.utils.progress import silent
from tests.pipeline.evaluation.test_slices import Exported, files, made

# Ray Data warns of settings that it makes itself.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]
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
    """Each actor of it but the last ends its own process once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Any:
        def run(item: int) -> dict[str, Any]:
            died = self.folder / "died"
            if item == 3 and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if item == 5:
                raise DataError("item 5 is unreadable")
            return {"square": item * item}

        return run


def test_actor_that_is_lost_is_replaced_and_its_item_done_again(tmp_path: Path) -> None:
    with ray_cluster(silent):
        done = {item: row["square"] for item, row in map_in_actors(_Mortal(tmp_path), [1, 2, 3, 4], 2, cpus=1, gpus=0)}
        assert done == {1: 1, 2: 4, 3: 9, 4: 16}
        with pytest.raises(DataError, match="item 5"):
            list(map_in_actors(_Mortal(tmp_path), [4, 5], 1, cpus=1, gpus=0))
