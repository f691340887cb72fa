"""User-facing errors of a failed Ray Train run: a rank's own error, a lost rank, unreachable storage."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.errors import PipelineError, ResourceError, TrainingError, from_os_error


def user_side(error: Exception) -> Exception:
    """The user-facing error of a failed run: a worker's own PipelineError, a lost worker or rank.

    Anything else is a bug of a worker and is returned unchanged, with its traceback.
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
                    f"the worker of rank {rank} was lost, alone or with its host, more than train.max_failures "
                    "times; the same command resumes from the last checkpoint; `ie doctor` checks the hosts"
                )
            if _is_lost_rank(cause):
                text = " ".join(str(cause).split())[:200]
                return TrainingError(
                    f"rank {rank} timed out waiting for another, which was lost or is out of step ({text}); "
                    "`ie train` resumes from the last checkpoint; train.timeout_s sets the wait"
                )
    for cause in _causes(error):
        if (resource := _full_disk(cause)) is not None:
            return resource
        if type(cause).__module__.partition(".")[0] in _STORE_CLIENTS:
            return ResourceError(
                f"the object store of storage.url did not answer Ray ({type(cause).__name__}); when it is back, the "
                "same command resumes from the last checkpoint"
            )
        if type(cause).__name__ == "BroadcastCollectiveTimeoutError":
            return TrainingError("ranks reported unequally often: " + " ".join(str(cause).split())[:300])
    return error


def _full_disk(error: BaseException) -> ResourceError | None:
    known = from_os_error(error) if isinstance(error, OSError) else None
    # An error that crossed processes or pyarrow's file systems keeps its text, not always its errno.
    if known is None and "No space left on device" in str(error):
        return ResourceError("no space left on the device, in the storage folder or in the temporary one")
    return known


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__


# Packages whose errors may hold the store's address, which no message may show.
_STORE_CLIENTS = ("aiobotocore", "aiohttp", "botocore")

# Ray's errors for a lost process or host of a worker.
_LOST_WORKER = (
    "ActorDiedError",
    "ActorUnavailableError",
    "NodeDiedError",
    "RayActorError",
    "WorkerHealthCheckFailedError",
    "WorkerHealthCheckTimeoutError",
)

# Texts of torch's process groups for a silent peer: gloo and NCCL raise plain RuntimeErrors.
_LOST_RANK = (
    "Timed out waiting",
    "Connection closed by peer",
    "Connection reset by peer",
    "Read error",
    "NCCL timeout",
)


def _is_lost_rank(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_RANK)
