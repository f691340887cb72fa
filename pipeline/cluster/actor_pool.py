"""A function of many items in Ray Data's pool of actors, each of which makes the function once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from pipeline import errors
from pipeline.cluster.failures import user_side
from pipeline.errors import PipelineError, ResourceError
from pipeline.utils.fingerprint import package_versions

T = TypeVar("T")
Row = dict[str, Any]
Make = Callable[[], Callable[[T], Row]]


class _Actor(Generic[T]):
    """Answers with a row, or with a user-facing error as one: Ray's own would not name it across processes."""

    def __init__(self, make: Make[T], items: Sequence[T], packages: dict[str, str]) -> None:
        self._items = items
        found = package_versions()
        message = f"a worker has other versions of packages than the head, {found}, not {packages}"
        self._failure = {"error": "ResourceError", "message": f"{message}; install requirements.txt there"}
        self._run = make() if found == packages else None

    def __call__(self, row: Row) -> Row:
        if self._run is None:
            return self._failure
        try:
            return self._run(self._items[row["id"]]) | {"id": row["id"], "error": ""}
        except PipelineError as error:
            return {"error": type(error).__name__, "message": str(error)}


def map_in_actors(make: Make[T], items: Sequence[T], actors: int, *, cpus: int, gpus: int) -> Iterator[tuple[T, Row]]:
    """Items and rows as they finish, on the connected Ray. An item whose actor or host is lost is done again.

    Args:
        make: called once in each actor; its function gives a row of plain values.
        cpus, gpus: of each actor.

    Raises:
        PipelineError: the function's own, or a worker has other versions of packages.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars, context.print_on_execution_start = False, False
    rows = ray.data.range(len(items), override_num_blocks=len(items)).map(
        _Actor,  # type: ignore[arg-type]  # declared for functions of rows alone
        fn_constructor_args=(make, items, package_versions()),
        compute=ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for row in rows.iter_rows():
            if row["error"]:
                raise getattr(errors, row["error"], ResourceError)(row["message"])
            yield items[row["id"]], row
    except ray.exceptions.RayError as error:
        raise user_side(error) from error
