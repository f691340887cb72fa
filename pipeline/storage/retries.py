"""Which failures of an object store may pass, and what they are called."""

from __future__ import annotations

_THROTTLED = {"SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "TooManyRequests", "InternalError"}


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: timeouts, broken connections, 5xx and throttling."""
    name = failure_name(error)
    if name.isdigit():
        return int(name) >= 500 or int(name) in (408, 429)
    if name in _THROTTLED or isinstance(error, ConnectionError | TimeoutError):
        return True
    # By name: which of these there are depends on the file system, whose packages need not be installed.
    names = {kind.__name__ for kind in type(error).__mro__}
    broken = {"ConnectionError", "HTTPClientError", "ClientPayloadError", "IncompleteRead", "IncompleteReadError"}
    return bool(names & (broken | {"FSTimeoutError", "ResponseParserError", "ClientConnectionError"}))


def failure_name(error: BaseException) -> str:
    """What kind of failure it was, without the store's address: an HTTP status, a code of the store, or a type."""
    for seen in (error, error.__cause__):
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            code = response.get("Error", {}).get("Code")
            return str(code if code in _THROTTLED or status is None else status)
    return type(error).__name__
