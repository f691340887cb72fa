"""A function of many tasks on the hosts of a cluster; a task is done again where its host is lost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline.cluster.actor_pool import map_in_actors
from pipeline.cluster.connection import ray_cluster, wait_for_workers
from pipeline.utils.process_pool import Report
from pipeline.utils.progress import Log

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")


def run_on_hosts(
    work: Callable[[Context, Task, Report], Result],
    context: Context,
    tasks: Sequence[Task],
    progress: Report,
    log: Log,
) -> Generator[Result, None, None]:
    """As `pipeline.utils.process_pool.run_tasks`, on all CPUs of the cluster that RAY_ADDRESS names.

    Args:
        work: may run twice for a task, also at the same time: what it leaves behind must be the same then.

    Raises:
        PipelineError: as `work` raised it, on whichever host.
        ResourceError: no host has a CPU; also see `map_in_actors`.
    """
    with ray_cluster(log):
        wait_for_workers(1, 1, "cpu", log)
        finished = 0
        for _, row in map_in_actors(_OnHost(work, context), tasks, len(tasks), cpus=1, gpus=0):
            finished += row["units"]
            progress(finished)
            yield row["result"]


@dataclass
class _OnHost:
    """Makes an actor's function; travels there."""

    work: Callable[[Any, Any, Report], Any]
    context: Any

    def __call__(self) -> Callable[[Any], dict[str, Any]]:
        def run(task: Any) -> dict[str, Any]:
            units = [0]

            def report(done: int) -> None:
                units[0] = done

            return {"result": self.work(self.context, task, report), "units": units[0]}

        return run
