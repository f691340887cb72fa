"""Ray on one machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.cluster.connection import check_resources, keep_keys_here, ray_cluster
from pipeline.errors import ResourceError
from tests.helpers.project import REPOSITORY, environment

# Prints where the processes of a local Ray listen, then where those of its own process do.
_LISTEN = """
import os, psutil
from pipeline.cluster.connection import ray_cluster
with ray_cluster(lambda line: None):
    import ray
    @ray.remote
    def work():
        return os.getpid()
    ray.get(work.remote())
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                print(connection.laddr.ip)
"""


@pytest.mark.slow
def test_ray_on_one_machine_listens_on_loopback_alone() -> None:
    variables = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", _LISTEN]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=variables, check=True)
    addresses = set(done.stdout.split())
    assert addresses
    assert addresses <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with (
        pytest.raises(ResourceError, match=r"RAY_ADDRESS=127.0.0.1:1 does not answer .*unset RAY_ADDRESS"),
        ray_cluster(print),
    ):
        pass


def test_a_cluster_that_was_launched_with_a_token_is_not_knocked_at_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    (tmp_path / "ray_bootstrap_config.yaml").write_text((REPOSITORY / "cluster/local.yaml").read_text())
    with pytest.raises(ResourceError, match=r"wants its token; export RAY_AUTH_MODE=token"), ray_cluster(print):
        pass


def test_more_gpus_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"num_workers 4, one GPU each; here are 2 GPUs"):
        check_resources({"CPU": 8.0, "GPU": 2.0}, workers=4, threads=1, device="cuda")


def test_more_threads_than_there_are_is_refused_with_both_numbers() -> None:
    with pytest.raises(ResourceError, match=r"num_workers 2 x train.threads_per_worker 3 ask for 6 CPUs; here are 4"):
        check_resources({"CPU": 4.0}, workers=2, threads=3, device="cpu")
    with pytest.raises(ResourceError, match=r"sweep.threads_per_trial asks for 8 CPUs; here are 4"):
        check_resources({"CPU": 4.0}, workers=1, threads=8, device="cpu", in_trials=True)


@pytest.mark.slow
def test_tune_passes_no_aws_keys_on_to_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Should Ray move what `keep_keys_here` changes, this fails."""
    import ray.tune.execution.class_cache

    module: Any = ray.tune.execution.class_cache
    monkeypatch.setattr(module, "ENV_VARS_TO_PROPAGATE", before := module.ENV_VARS_TO_PROPAGATE)
    assert [name for name in before if name.startswith("AWS_")]
    keep_keys_here()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something-secret")
    passed_on: list[Any] = []

    def remote(runtime_env: Any) -> Any:
        passed_on.append(runtime_env)
        return lambda trainable: trainable

    monkeypatch.setattr("ray.remote", remote)
    module._ActorClassCache().get(object)
    assert passed_on and "something-secret" not in str(passed_on)


def test_what_fits_is_let_through() -> None:
    check_resources({"CPU": float(psutil.cpu_count() or 1), "GPU": 1.0}, workers=1, threads=1, device="cuda")
