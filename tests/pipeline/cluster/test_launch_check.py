"""Launch files: what Ray's own launcher makes of them, without asking any cloud; and what is refused."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from pipeline.cluster.launch_check import check_launch, load_launch
from pipeline.errors import ParamsError, ResourceError
from tests.helpers.project import REPOSITORY

AWS, LOCAL = REPOSITORY / "cluster.yaml", REPOSITORY / "cluster/local.yaml"
FILES = pytest.mark.parametrize("path", [AWS, LOCAL], ids=["aws", "local"])


RAYJOB = REPOSITORY / "cluster/rayjob.yaml"


def read(path: Path) -> dict[str, Any]:
    raw: dict[str, Any] = yaml.safe_load(path.read_text())
    return raw


def changed(tmp_path: Path, path: Path, **sections: Any) -> Path:
    file = tmp_path / "changed.yaml"
    file.write_text(yaml.safe_dump(read(path) | sections))
    return file


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(key)
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
    else:
        yield str(value)


@FILES
def test_a_launch_file_fits_rays_own_schema(path: Path) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    # As the launcher has prepared it: for hosts of one's own it takes keys that the schema does not know.
    jsonschema.validate(load_launch(path), schema)


def test_the_heads_on_demand_and_the_workers_spot_and_none_when_idle() -> None:
    types = load_launch(AWS)["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}, "no rank or trial runs on the head"
    assert "InstanceMarketOptions" not in types["head"]["node_config"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["min_workers"] == 0


def test_no_instance_gets_the_launchers_security_group_that_is_open_to_the_world() -> None:
    for kind in load_launch(AWS)["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"]
        assert kind["node_config"]["MetadataOptions"] == {"HttpTokens": "required"}
    assert "0.0.0.0" not in "\n".join(texts(read(AWS)))


@FILES
def test_the_cluster_asks_for_its_token_and_the_dashboard_stays_on_loopback(path: Path) -> None:
    config = load_launch(path)
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        start = next(command for command in commands if "ray start" in command)
        assert "RAY_AUTH_MODE=token" in start.partition("ray start")[0]
    head = next(command for command in config["head_start_ray_commands"] if "ray start" in command)
    assert "--dashboard-host=127.0.0.1" in head
    assert "~/.ray/auth_token" in config["file_mounts"]


@FILES
def test_no_credential_is_in_a_launch_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|aws_secret|PRIVATE KEY-|\b[0-9a-f]{64}\b", text)


def test_hosts_of_ones_own_have_private_addresses() -> None:
    provider = read(LOCAL)["provider"]
    assert all(ipaddress.ip_address(host).is_private for host in [provider["head_ip"], *provider["worker_ips"]])


def test_an_unknown_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"changed.yaml, the top level: .*setup_command"):
        load_launch(changed(tmp_path, AWS, setup_command=["true"]))


def test_more_workers_of_a_type_than_of_all_are_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"max_workers of gpu is 4, above the cluster's 2"):
        load_launch(changed(tmp_path, AWS, max_workers=2))


@pytest.mark.parametrize("text", ["a: [", "- 1", "cluster_name: ie"])
def test_what_is_no_launch_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError, match=r"launch file .*x.yaml"):
        load_launch(path)


def test_missing_and_open_keys_are_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("x")
    (tmp_path / ".ray/auth_token").chmod(0o644)
    launch = changed(tmp_path, AWS, auth={"ssh_user": "ubuntu", "ssh_private_key": "~/.ssh/none"})
    lines: list[str] = []
    with pytest.raises(ResourceError, match=r"2 of 3 checks failed \(token, ssh key\)"):
        check_launch(launch, lines.append)
    assert "FAIL token" in lines[1]
    assert "chmod 600" in lines[1]
    assert "ssh-keygen" in lines[2]


def test_rayjob_runs_the_pinned_ray_with_a_key_and_one_volume_in_all_pods() -> None:
    cluster = read(RAYJOB)["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    assert all(pod["volumes"] == pods[0]["volumes"] for pod in pods)
    mounted = {mount["mountPath"] for pod in pods for box in pod["containers"] for mount in box["volumeMounts"]}
    (folder,) = mounted
    assert f"cd {folder}/project" in read(RAYJOB)["spec"]["entrypoint"]
