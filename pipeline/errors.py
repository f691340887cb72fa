"""User-facing errors. Each message has what was expected, what was found and what to do, in one line.

    PipelineError           base; exit code 1
    +-- ParamsError         params.yaml is wrong; exit code 2
    +-- FetchError          raw data cannot be fetched, or does not match its checksum; exit code 3
    +-- DataError           shards, manifest or an input file are missing, damaged or do not fit; exit code 4
    |   +-- FaultError      one example is damaged; the rest can be read without it
    +-- ResourceError       disk, memory, workers or devices are not there; exit code 5
    +-- TrainingError       the run itself failed (ranks out of step, loss not finite); exit code 6

Anything else that reaches the command line is a bug and prints its traceback.
"""

from __future__ import annotations

import errno


class PipelineError(Exception):
    """Base of all user-facing errors."""

    exit_code = 1


class ParamsError(PipelineError):
    """params.yaml holds an unknown key, a wrong type, a value out of range or an impossible combination."""

    exit_code = 2


class FetchError(PipelineError):
    """A raw file could not be fetched by any way, or does not match its checksum."""

    exit_code = 3


class DataError(PipelineError):
    """Shards, a manifest, an artifact or an input file are missing, damaged or do not fit."""

    exit_code = 4


class FaultError(DataError):
    """The values of one example are damaged. A reader may be configured to leave it out."""


class ResourceError(PipelineError):
    """The machine lacks what was asked: disk space, a writable folder, workers, devices."""

    exit_code = 5


class TrainingError(PipelineError):
    """A training run failed for a reason that is not a bug."""

    exit_code = 6


_RESOURCE_ERRNOS = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "disk quota exceeded",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EROFS: "read-only file system",
    errno.EFBIG: "file too large for this process or file system",
    errno.ENOTDIR: "a file stands where a folder is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EEXIST: "a file stands where a folder is needed",
    errno.EISDIR: "a folder stands where a file is needed",
    errno.EMFILE: "too many open files",
    errno.ENAMETOOLONG: "the path is too long for this system",
    errno.ELOOP: "a link that leads to itself",
}


def from_os_error(error: OSError) -> ResourceError | None:
    """The user's side of an operating-system error, or None when it looks like a bug."""
    reason = _RESOURCE_ERRNOS.get(error.errno or 0)
    if reason is None:
        return None
    where = error.filename2 or error.filename
    return ResourceError(f"{where}: {reason}" if where else reason)
