"""Connecting to Ray: a cluster when RAY_ADDRESS names one, else this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import yaml  # Ray's own reader and writer of launch files

from pipeline.cluster.ray_folder import ray_folder
from pipeline.errors import ResourceError
from pipeline.utils.progress import Log

# Bytes. Nothing large goes through Ray's object store here; its default would be a third of the memory.
_OBJECT_STORE = 200 * 1024 * 1024
_CONNECT_TIMEOUT_S = 10
# Longest wait for hosts that the launcher is still starting: an instance of a cloud boots and installs for minutes.
_JOIN_TIMEOUT_S = 900
# Where an object store is; none of these is a secret.
_STORE_ENV = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
# Where `ray up` leaves the launch file on the head.
_LAUNCHED = Path("~/ray_bootstrap_config.yaml")


@contextlib.contextmanager
def ray_cluster(log: Log) -> Iterator[dict[str, float]]:
    """Ray for the length of a stage; yields its resources (`CPU`, `GPU`).

    Raises:
        ResourceError: the cluster that RAY_ADDRESS names does not answer, or Ray does not start on this machine.
    """
    with contextlib.ExitStack() as stack:
        address = os.environ.get("RAY_ADDRESS")
        _set_up(address)
        log(f"connecting to Ray at {address}" if address else "starting Ray on this machine")
        if threading.current_thread() is threading.main_thread():
            stack.callback(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT) or signal.default_int_handler)
        folder = None if address else stack.enter_context(ray_folder(log))
        import ray

        stack.callback(ray.shutdown)
        if threading.current_thread() is threading.main_thread():
            # A second Ctrl-C while the first ends Ray would leave processes behind.
            stack.callback(signal.signal, signal.SIGINT, signal.SIG_IGN)
        _init(address, folder)
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        yield resources


def _set_up(address: str | None) -> None:
    """The environment in which Ray is imported, and its processes start."""
    # Read when Ray is imported: what its libraries would otherwise print on every start.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("RAY_TRAIN_ENABLE_STATE_TRACKING", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Seconds between two looks of Ray Train at its workers; every epoch's report waits for one, 2 s by default.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    # Seconds that Ray Train waits for room for its workers before it looks again what hosts there are. It asks without
    # an end; the default of 60 is what an elastic run would lose whenever a host is lost.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "6")
    if address:
        _check_answers(address)
        if os.environ.get("RAY_AUTH_MODE") != "token" and _wants_token():
            raise _turned_away(address)
    else:
        _stay_on_loopback()
        # One machine is not taken back with notice, and nobody reads metrics without a dashboard: a process less.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
        os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
        # The same for what Ray's own processes count and note of themselves, beside the work, on the same cores.
        for name in ("enable_metrics_collection", "event_stats", "task_events_report_interval_ms"):
            os.environ.setdefault(f"RAY_{name}", "0")


def _init(address: str | None, folder: Path | None) -> None:
    """Connects to the cluster at `address`, or starts Ray on this machine with its files in `folder`."""
    import ray

    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            # The code that runs on the workers is this process's, not that on their disks.
            packages = [folder for name in ("pipeline", "ie_model") for folder in _folders(name)]
            environment: dict[str, Any] = {"py_modules": packages, "excludes": ["__pycache__"], "env_vars": store_env()}
            ray.init(address=address, runtime_env=environment, **quiet)
        else:
            # Reads the environment again: where Ray was imported before, it has not seen that a token is asked for.
            cast(Any, ray)._raylet.Config.initialize("")
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=os.cpu_count(),
                object_store_memory=_OBJECT_STORE,
                _temp_dir=str(folder),
                **quiet,
            )
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        if any(word in f"{type(error).__name__} {error}".lower() for word in ("authentic", "unauth")):
            raise _turned_away(address) from error
        where = f"the Ray cluster at RAY_ADDRESS={address}" if address else "Ray on this machine"
        raise ResourceError(f"{where} does not start or answer: {' '.join(str(error).split())[:300]}") from error


def _folders(package: str) -> list[str]:
    """Where a package is; `ie_model` itself is not imported, with it would come torch."""
    found = find_spec(package)
    assert found is not None
    return list(found.submodule_search_locations or ())


def store_env() -> dict[str, str]:
    """What this process knows of an object store's place, for the workers of a cluster.

    No more than that: Ray writes down and shows what is forwarded, so credentials must not be. Each host has its own,
    by its role, in ~/.aws/credentials, or in the environment in which Ray was started there.

    Raises:
        ResourceError: the endpoint itself holds a password.
    """
    known = {name: value for name in _STORE_ENV if (value := os.environ.get(name))}
    for name, value in known.items():
        if "@" in value:
            raise ResourceError(
                f"{name} holds a user or a password, which would be written into Ray's logs; take it out"
            )
    return known


def keep_keys_here() -> None:
    """Keeps Tune from passing this process's AWS keys on to trials: Ray would write them into its logs.

    Tune does so unasked (Ray 2.60), and offers no way to say no.
    """
    from ray.tune.execution import class_cache

    passed_on = class_cache.ENV_VARS_TO_PROPAGATE
    class_cache.ENV_VARS_TO_PROPAGATE = {name for name in passed_on if not name.startswith("AWS_")}


def _check_answers(address: str) -> None:
    """Knocks at host:port first: Ray itself would try a dead address for minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or "//" in address or not port.isdigit():
        return  # `auto`, or a scheme of Ray's own
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ResourceError(
            f"the Ray cluster at RAY_ADDRESS={address} does not answer ({error}); start it, or unset RAY_ADDRESS to "
            "run on this machine"
        ) from error


def _wants_token() -> bool:
    """Whether the launch file that started the cluster from this host asks for a token.

    Ray itself tries for half a minute to get in without, and then ends the process with pages of its own log.
    """
    path = _LAUNCHED.expanduser()
    return path.is_file() and "RAY_AUTH_MODE=token" in path.read_text()


def _turned_away(address: str | None) -> ResourceError:
    return ResourceError(
        f"the Ray cluster at RAY_ADDRESS={address} wants its token; export RAY_AUTH_MODE=token and put the cluster's "
        "token into ~/.ray/auth_token"
    )


def _stay_on_loopback() -> None:
    """On one machine, lets nobody else in: Ray runs whatever code comes to its ports.

    On Linux Ray listens on all interfaces, unless told that this machine cannot be part of a cluster, as it assumes
    on Windows and macOS. Read when Ray is imported, and inherited by its processes.
    """
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def check_resources(
    resources: dict[str, float], *, workers: int, threads: int, device: str, in_trials: bool = False
) -> None:
    """That the workers of a run find room, before Ray waits for it without an end.

    Args:
        in_trials: `threads` are those of a sweep's trial, not of a rank.

    Raises:
        ResourceError: fewer GPUs or CPUs than the params ask for.
    """
    gpus, cpus = resources.get("GPU", 0), resources.get("CPU", 0)
    if device == "cuda" and gpus < workers:
        raise ResourceError(
            f"train.device is cuda with train.num_workers {workers}, one GPU each; here are {gpus:g} GPUs: "
            "lower num_workers or set train.device to cpu"
        )
    if in_trials and threads > cpus:
        raise ResourceError(f"sweep.threads_per_trial asks for {threads} CPUs; here are {cpus:g}: lower it")
    if workers * threads > cpus:
        raise ResourceError(
            f"train.num_workers {workers} x train.threads_per_worker {threads} ask for {workers * threads} CPUs; "
            f"here are {cpus:g}: lower one of them"
        )


def wait_for_workers(workers: int, threads: int, device: str, log: Log, *, in_trials: bool = False) -> dict[str, float]:
    """`check_resources` on the connected Ray; hosts that the launcher can still start are asked and waited for.

    Raises:
        ResourceError: there are not enough resources, and no more will come.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    deadline, asked = time.monotonic() + _JOIN_TIMEOUT_S, False
    try:
        while True:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            try:
                check_resources(resources, workers=workers, threads=threads, device=device, in_trials=in_trials)
            except ResourceError as error:
                hosts = sum(bool(node["Alive"]) for node in ray.nodes()) - 1  # type: ignore[no-untyped-call]
                most = _most_workers()
                if hosts >= most or time.monotonic() > deadline:
                    raise
                if not asked:
                    asked = True
                    log(f"waiting for hosts: {hosts} of at most {most} have joined ({error})")
                    per_worker = {"CPU": threads} | ({"GPU": 1} if device == "cuda" else {})
                    request_resources(bundles=[per_worker] * workers)
                time.sleep(1)
            else:
                return resources
    finally:
        if asked:
            request_resources(bundles=[])  # or the hosts would stay for ever


def _most_workers() -> int:
    """Hosts besides the head that the launcher may start; 0 where none was used, or not from this host."""
    path = _LAUNCHED.expanduser()
    if not os.environ.get("RAY_ADDRESS") or not path.is_file():
        return 0
    return int(yaml.safe_load(path.read_text()).get("max_workers", 0))


def queue_here() -> Any:
    """A queue for what workers tell, on this process's host: on another it could be lost together with that host."""
    import ray
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
