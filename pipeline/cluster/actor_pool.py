"""A function of many items in Ray actors, each of which makes the function once; others take over from a lost one."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from pipeline.cluster.failures import user_side
from pipeline.errors import ResourceError
from pipeline.utils.fingerprint import package_versions
from pipeline.utils.process_pool import as_sent

T = TypeVar("T")
Row = dict[str, Any]
Make = Callable[[], Callable[[T], Row]]

# Times that an item is begun anew after its actor was lost; also how many actors in a row may be lost as they start.
_RETRIES = 5
# Seconds between two looks for hosts that have joined.
_LOOK_S = 5.0


class _Actor:
    """Answers with a row, or with an error to be raised by the one who waits for it."""

    def start(self, make: Make[Any], packages: dict[str, str]) -> tuple[Row, Exception | None]:
        """No row; the actor has a process on a host with room for it, and its function."""
        if (found := package_versions()) != packages:
            message = f"a worker has other versions of packages than the head, {found}, not {packages}"
            return {}, ResourceError(f"{message}; install requirements.txt there")
        try:
            self._run = make()
        except Exception as error:
            return {}, as_sent(error)
        return {}, None

    def run(self, item: Any) -> tuple[Row, Exception | None]:
        try:
            return self._run(item), None
        except Exception as error:
            return {}, as_sent(error)


def map_in_actors(make: Make[T], items: Sequence[T], most: int, *, cpus: int, gpus: int) -> Iterator[tuple[T, Row]]:
    """Items and rows as they finish, on the connected Ray. An item whose actor or host is lost goes to another actor.

    As many actors run as there is room for; hosts that join get theirs. Not tasks, which Ray retries itself: one on a
    host without power was still taken for running after five minutes (Ray 2.60), while an actor is declared lost with
    its host.

    Args:
        make: called once in each actor; its function gives a row of plain values, and may run twice for an item.
        most: actors.
        cpus, gpus: of each actor.

    Raises:
        PipelineError: the function's own, or a worker has other versions of packages.
        ResourceError: an item's actor, or one actor after another as it starts, was lost more than `_RETRIES` times.
    """
    import ray

    remote: Any = ray.remote(_Actor).options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy="SPREAD")
    shared, packages = ray.put(make), package_versions()
    waiting, num_left = deque(range(len(items))), len(items)
    losses: Counter[int | None] = Counter()
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, int | None]] = {}  # actor and item; None while it starts
    while num_left:
        for _ in range(min(most, num_left, _room(cpus, gpus)) - len(busy) - len(idle)):
            actor = remote.remote()
            busy[actor.start.remote(shared, packages)] = actor, None
        done, _ = ray.wait(list(busy), timeout=_LOOK_S)
        if not done:
            continue
        actor, item = busy.pop(done[0])
        row: Row | None = None
        try:
            row, error = ray.get(done[0])
        except (ray.exceptions.RayActorError, ray.exceptions.ObjectLostError, ray.exceptions.OutOfMemoryError) as lost:
            losses[item] += 1
            if losses[item] > _RETRIES:
                raise ResourceError(
                    f"a process of a worker was lost, alone or with its host, more than {_RETRIES} times "
                    f"({type(lost).__name__}); `ie doctor` checks the hosts; the same command resumes"
                ) from lost
            if item is not None:
                waiting.appendleft(item)
        except ray.exceptions.RayError as failed:
            raise user_side(failed) from failed
        else:
            if error is not None:
                raise error
            idle.append(actor)
            losses.pop(item, None)
        # Before the row is given away: no actor waits for the one who uses it.
        while idle and waiting:
            actor, following = idle.pop(), waiting.popleft()
            busy[actor.run.remote(items[following])] = actor, following
        if row is not None and item is not None:
            num_left -= 1
            yield items[item], row


def _room(cpus: int, gpus: int) -> int:
    """Actors that the cluster has room for; one at least, which waits for a host."""
    import ray

    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {"CPU": cpus, "GPU": gpus}
    return max(1, int(min(resources.get(name, 0) // count for name, count in asked.items() if count)))
