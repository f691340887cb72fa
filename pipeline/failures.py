"""What a user can mend in a failed Ray Train run: a rank's own error, a rank that was lost, storage that is gone."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import PipelineError, ResourceError, TrainingError, from_os_error


def user_side(error: Exception) -> Exception:
    """What the user can mend in a failed run: a worker's own PipelineError, a worker or rank that was lost.

    Anything else is a bug of a worker and is returned as it came, with its traceback.
    """
    failures = getattr(error, "worker_failures", {})
    for rank in sorted(failures):
        for cause in _causes(failures[rank]):
            if isinstance(cause, PipelineError):
                return cause
            if (resource := _full_disk(cause)) is not None:
                return resource
            if type(cause).__name__ in _LOST_WORKER:
                return TrainingError(
                    f"the worker of rank {rank} was lost, with its host or without, more than train.max_failures "
                    "times; the same command goes on from the last checkpoint; `ie doctor` looks at the hosts"
                )
            if _is_lost_rank(cause):
                text = " ".join(str(cause).split())[:200]
                return TrainingError(
                    f"rank {rank} waited in vain for another, which was lost or is out of step ({text}); "
                    "`ie train` goes on from the last checkpoint; a longer wait is train.timeout_s"
                )
    for cause in _causes(error):
        if (resource := _full_disk(cause)) is not None:
            return resource
        if type(cause).__module__.partition(".")[0] in _STORE_CLIENTS:
            return ResourceError(
                f"the object store of storage.url did not answer Ray ({type(cause).__name__}); when it is back, the "
                "same command goes on from the last checkpoint"
            )
        if type(cause).__name__ == "BroadcastCollectiveTimeoutError":
            return TrainingError("ranks reported unequally often: " + " ".join(str(cause).split())[:300])
    return error


def _full_disk(error: BaseException) -> ResourceError | None:
    known = from_os_error(error) if isinstance(error, OSError) else None
    # What crosses processes or pyarrow's file systems keeps the words, not always the number.
    if known is None and "No space left on device" in str(error):
        return ResourceError("no space left on the device, in the storage folder or in the temporary one")
    return known


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


# Whose errors may hold the store's address, which no message shows.
_STORE_CLIENTS = ("aiobotocore", "aiohttp", "botocore")

# How Ray says that a worker's process or host is gone.
_LOST_WORKER = (
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "RayActorError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
)

# How torch's process groups word a peer that does not answer: gloo and NCCL raise plain RuntimeErrors.
_LOST_RANK = (
    "Timed out waiting",
    "Connection closed by peer",
    "Connection reset by peer",
    "Read error",
    "NCCL timeout",
)


def _is_lost_rank(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_RANK)
