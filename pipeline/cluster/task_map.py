"""A function of many tasks on the hosts of a cluster: one process a task, done again where its host is lost."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import islice
from typing import Any, TypeVar

from pipeline.cluster.connection import ray_cluster, wait_for_workers
from pipeline.errors import ResourceError
from pipeline.utils.fingerprint import package_versions
from pipeline.utils.process_pool import Report, as_sent
from pipeline.utils.progress import Log

Context = TypeVar("Context")
Task = TypeVar("Task")
Result = TypeVar("Result")

# Times that a task is begun anew after its process or its host was lost.
_RETRIES = 5
# Tasks that wait for room, for each CPU: a host that joins has work at once.
_WAITING = 2


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
        ResourceError: no host has a CPU, a task's process was lost more than `_RETRIES` times, or a host has other
            versions of packages.
    """
    with ray_cluster(log):
        wait_for_workers(1, 1, "cpu", log)
        import ray

        shared = ray.put((work, context, package_versions()))
        remote: Any = ray.remote(_run).options(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")
        waiting, finished = iter(tasks), 0
        running: list[Any] = []
        while True:
            room = int(_WAITING * ray.cluster_resources().get("CPU", 1)) - len(running)  # type: ignore[no-untyped-call]
            running += [remote.remote(shared, task) for task in islice(waiting, max(0, room))]
            if not running:
                return
            (done,), running = ray.wait(running)
            try:
                units, result, error = ray.get(done)
            except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError,
                    ray.exceptions.OutOfMemoryError) as lost:  # fmt: skip
                raise ResourceError(
                    f"a task was lost with its process or host more than {_RETRIES} times ({type(lost).__name__}); "
                    "`ie doctor` checks the hosts; the same command resumes"
                ) from lost
            if error is not None:
                raise error
            finished += units
            progress(finished)
            yield result


def _run(shared: Any, task: Any) -> tuple[int, Any, Exception | None]:
    """Units and result of a task, or the error to be raised by the one who waits for it."""
    work, context, packages = shared
    if (found := package_versions()) != packages:
        message = f"a worker has other versions of packages than the head, {found}, not {packages}"
        return 0, None, ResourceError(f"{message}; install requirements.txt there")
    units = [0]

    def report(done: int) -> None:
        units[0] = done

    try:
        result = work(context, task, report)
    except Exception as error:
        return units[0], None, as_sent(error)
    return units[0], result, None
