"""Before `ray up`: whether a launch file, the keys and the hosts that it names are fit. Asks no cloud."""

from __future__ import annotations

import copy
import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml  # Ray's own reader of launch files

from pipeline.cluster.host_findings import Finding
from pipeline.cluster.preflight import TOKEN, conclude
from pipeline.errors import ParamsError
from pipeline.utils.progress import Log

_SSH_TIMEOUT_S = 5
# Prints: own name's address, addresses, what is missing, and whether Ray's head runs there.
_ASK = (
    "getent ahostsv4 $(hostname) | head -1 | cut -d' ' -f1; hostname -I; "
    'for tool in rsync python3; do command -v $tool > /dev/null || echo -n "$tool "; done; echo; '
    "pgrep -x gcs_server > /dev/null && echo running || echo idle"
)


def check_launch(path: Path, log: Log) -> None:
    """Looks at a launch file and at all that it names, before `ray up` does.

    Raises:
        ParamsError: the file is not there, or is no launch file of Ray's.
        ResourceError: a key, the token or a host is not fit; the lines say what to do.
    """
    config = load_launch(path)
    findings = [Finding("launch file", True, f"{path}, provider {config['provider']['type']}"), _token()]
    findings += _key(config["auth"])
    if config["provider"]["type"] == "local":
        head, workers = config["provider"]["head_ip"], config["provider"]["worker_ips"]
        with ThreadPoolExecutor(16) as pool:
            findings += pool.map(lambda host: _host(host, config["auth"], is_head=host == head), [head, *workers])
    conclude(findings, log)


def load_launch(path: Path) -> dict[str, Any]:
    """A launch file as Ray's launcher takes it, with its defaults.

    Raises:
        ParamsError: as `check_launch`.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParamsError(f"launch file {path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(raw, dict) or not isinstance(raw.get("provider"), dict):
        raise ParamsError(f"launch file {path} has no section `provider`; see cluster.yaml and cluster/local.yaml")
    # The launcher's own checks, which are not a public interface.
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        config: dict[str, Any] = prepare_config(copy.deepcopy(raw))
        validate_config(config)
    except ValidationError as error:
        where = ".".join(str(part) for part in error.absolute_path) or "the top level"
        raise ParamsError(f"launch file {path}, {where}: {error.message[:300]}") from error
    _check_counts(path, config)
    return config


def _check_counts(path: Path, config: dict[str, Any]) -> None:
    """What Ray's schema lets through: more workers of a type than there may be of all."""
    most = config["max_workers"]
    for name, kind in config["available_node_types"].items():
        if name != config["head_node_type"] and kind.get("max_workers", 0) > most:
            raise ParamsError(
                f"launch file {path}: max_workers of {name} is {kind['max_workers']}, above the cluster's {most}; "
                "raise the one or lower the other"
            )


def _token() -> Finding:
    path = TOKEN.expanduser()
    if not path.is_file():
        text = f"{path} is not there; make one with RAY_AUTH_MODE=token ray get-auth-token --generate"
        return Finding("token", False, text)
    return _private("token", path)


def _key(auth: dict[str, Any]) -> list[Finding]:
    if "ssh_private_key" not in auth:
        return []  # a cloud's launcher makes one
    path = Path(auth["ssh_private_key"]).expanduser()
    if not path.is_file():
        return [
            Finding("ssh key", False, f"{path} is not there; make it with ssh-keygen, or change auth.ssh_private_key")
        ]
    return [_private("ssh key", path)]


def _private(what: str, path: Path) -> Finding:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding(what, False, f"{path} can be read by others (mode {mode:o}); chmod 600 {path}")
    return Finding(what, True, f"{path} is there, and private")


def _host(host: str, auth: dict[str, Any], *, is_head: bool) -> Finding:
    what, user = f"host {host}", auth.get("ssh_user", os.environ.get("USER", "root"))
    key = ["-i", os.path.expanduser(auth["ssh_private_key"])] if "ssh_private_key" in auth else []
    settings = ["BatchMode=yes", f"ConnectTimeout={_SSH_TIMEOUT_S}", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
    settings += ["UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"]
    command = ["ssh", *key, *(part for setting in settings for part in ("-o", setting)), f"{user}@{host}", _ASK]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=3 * _SSH_TIMEOUT_S, check=False)
    except FileNotFoundError:
        return Finding(what, False, "there is no ssh on this machine; install openssh-client")
    except subprocess.TimeoutExpired:
        return Finding(what, False, "ssh gets no answer; is it on, and the address right?")
    said = " ".join(done.stderr.split())[-200:]
    if done.returncode == 255 and "Permission denied" in said:
        return Finding(
            what, False, f"turns the key away; put {auth.get('ssh_private_key')}.pub into {user}'s authorized_keys"
        )
    lines = done.stdout.split("\n")
    if done.returncode != 0 or len(lines) < 4:
        return Finding(
            what, False, f"cannot be reached by ssh ({said or 'no answer'}); is it on, and the address right?"
        )
    own, addresses, missing, ray = (line.strip() for line in lines[:4])
    if missing:
        return Finding(what, False, f"has no {' and no '.join(missing.split())}; install it there")
    if own not in addresses.split():
        text = f"takes its own name for {own or 'nothing'}: put '{host} NAME' into its /etc/hosts, gloo needs it"
        return Finding(what, False, text)
    if is_head and ray == "running":
        text = (
            "a cluster runs there: `ray up` would start it again and end what it does; to bring changes to it without "
            "that: ray up --no-restart; to end it: ray down"
        )
        return Finding(what, False, text)
    return Finding(what, True, "answers")
