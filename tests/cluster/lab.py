"""Hosts of a cluster on one machine, for tests: as real as a machine allows without a second one.

A host is a set of namespaces (network, processes, mounts, name) with an ssh server of its own. Each has its own
address, `/root`, `/tmp` and process table: `ray stop`, which the launcher runs on every host, finds the processes of
its host alone. All but the laptop see one folder as `/srv/ie`, as hosts see a network file system. Needs root,
iproute2, openssh-server and rsync.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.helpers.project import REPOSITORY

ADDRESSES = {
    "laptop": "10.77.0.2",
    "head": "10.77.0.10",
    "worker1": "10.77.0.11",
    "worker2": "10.77.0.12",
    "worker3": "10.77.0.13",
}
SHARED = Path("/srv/ie")
"""The shared folder as hosts see it."""

_INIT = Path(__file__).parent / "host.sh"
_SSHD = """
ListenAddress {address}
HostKey /run/host/host_key
AuthorizedKeysFile /root/.ssh/authorized_keys
PidFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
PrintMotd no
UseDNS no
MaxStartups 100:30:200
MaxSessions 100
"""


def missing() -> str:
    """What this machine lacks for a lab; empty when it can have one."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "the cluster's lab needs Linux and root, for namespaces"
    tools = {
        "ip": "iproute2",
        "sshd": "openssh-server",
        "ssh": "openssh-client",
        "rsync": "rsync",
        "nsenter": "util-linux",
    }
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    lacking = sorted({package for tool, package in tools.items() if shutil.which(tool, path=path) is None})
    if lacking:
        return f"the cluster's lab needs {', '.join(lacking)}: apt-get install {' '.join(lacking)}"
    tried = _ip("netns", "add", f"ie{os.getpid()}-try", check=False)
    if tried.returncode != 0:
        return f"the cluster's lab needs network namespaces: {tried.stderr.strip()}"
    _ip("netns", "del", f"ie{os.getpid()}-try")
    return ""


class Lab:
    """Hosts by name; see `ADDRESSES`."""

    def __init__(self, folder: Path) -> None:
        # Short: Ray's sockets lie below the hosts' /tmp, and a socket's path has 107 characters at most.
        self.folder = folder
        self.shared = folder / "shared"
        self._prefix = f"ie{os.getpid()}"
        self._inits: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def running(self) -> set[str]:
        """Hosts that are on."""
        return set(self._inits)

    def set_up(self, hosts: tuple[str, ...]) -> None:
        """Switch, keys, hosts."""
        self.shared.mkdir(parents=True)
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))
        _ip("netns", "add", self._netns("switch"))
        _ip("-n", self._netns("switch"), "link", "add", "br0", "type", "bridge")
        _ip("-n", self._netns("switch"), "link", "set", "br0", "up")
        for name in hosts:
            self._furnish(name)
            self.boot(name)

    def stop(self) -> None:
        """Power and network off."""
        for name in list(self._inits):
            self.power_off(name)
        listed = _ip("netns", "list").stdout
        for line in listed.splitlines():
            if line.split()[0].startswith(f"{self._prefix}-"):
                _ip("netns", "del", line.split()[0], check=False)

    def boot(self, name: str) -> None:
        """Plugs a host in and starts it; its disk is as it was left."""
        netns, address = self._netns(name), ADDRESSES[name]
        _ip("netns", "add", netns)
        _ip("link", "add", self._port(name), "netns", self._netns("switch"),
            "type", "veth", "peer", "name", "eth0", "netns", netns)  # fmt: skip
        _ip("-n", self._netns("switch"), "link", "set", self._port(name), "master", "br0", "up")
        # Always the same, or the other hosts would still send to the old one.
        _ip("-n", netns, "link", "set", "eth0", "address", f"02:00:00:00:00:{int(address.rpartition('.')[2]):02x}")
        for link in ("lo", "eth0"):
            _ip("-n", netns, "link", "set", link, "up")
        _ip("-n", netns, "addr", "add", f"{address}/24", "dev", "eth0")
        # Ray takes for a host's address the one that the way out leaves from.
        _ip("-n", netns, "route", "add", "default", "dev", "eth0")
        disk = self.folder / name
        shared = "" if name == "laptop" else str(self.shared)
        seen = {sys.prefix, sys.base_prefix, str(REPOSITORY)}
        command = [
            "ip",
            "netns",
            "exec",
            netns,
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--ipc",
            "--fork",
            "--kill-child",
        ]
        command += ["--mount-proc", "bash", str(_INIT), name, str(disk), shared, *sorted(seen)]
        log = disk / "host.log"
        with log.open("wb") as output:
            self._inits[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        wait_for(lambda: "READY" in log.read_text(), 20, lambda: f"host {name} does not start: {log.read_text()}")

    def power_off(self, name: str) -> None:
        """Ends every process of a host at once and takes its network card away, as a cut of its power does."""
        init = self._inits.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first_process(init), signal.SIGKILL)
        init.kill()
        init.wait(timeout=10)
        _ip("netns", "del", self._netns(name))
        _ip("-n", self._netns("switch"), "link", "del", self._port(name), check=False)

    def unplug(self, name: str) -> None:
        """Pulls a host's network cable: it runs on, and its packets are dropped in silence."""
        _ip("-n", self._netns("switch"), "link", "set", self._port(name), "down")

    def plug(self, name: str) -> None:
        """Puts the cable back."""
        _ip("-n", self._netns("switch"), "link", "set", self._port(name), "up")

    def kill_raylet(self, name: str) -> None:
        """Ends Ray's process of a host; the host itself runs on."""
        self.exec(name, "kill -9 $(pgrep -x raylet)")

    def storage(self, *, there: bool, hosts: tuple[str, ...] = tuple(ADDRESSES)) -> None:
        """Lets hosts that run write to the shared folder no more, or again."""
        for name in hosts:
            if name in self._inits and name != "laptop":
                self.exec(name, f"mount -o remount,bind,{'rw' if there else 'ro'} {SHARED}")

    def arguments(self, name: str, command: str) -> list[str]:
        """The command line, on this machine, of a shell command on a host."""
        settings = {
            "HOME": "/root",
            "USER": "root",
            "TERM": "dumb",
            "LANG": "C.UTF-8",
            "PATH": f"{sys.prefix}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        }
        inner = self._first_process(self._inits[name])
        enter = ["nsenter", "-t", str(inner), "-n", "-m", "-p", "-u", "-i", "env", "-i"]
        return [*enter, *(f"{key}={value}" for key, value in settings.items()), "bash", "-c", f"cd; {command}"]

    def run(self, name: str, command: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """A shell command on a host, in its home; output and errors together."""
        return subprocess.run(
            self.arguments(name, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def exec(self, name: str, command: str, timeout: float = 120) -> str:
        """`run` that must exit with 0; returns what it printed."""
        done = self.run(name, command, timeout)
        assert done.returncode == 0, f"{name}: {command} exited with {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, name: str, command: str) -> None:
        """A shell command in the background, until the host goes off."""
        self.exec(name, f"export PATH=~/venv/bin:$PATH; nohup {command} > /tmp/started.log 2>&1 &")

    def disk(self, name: str, path: str) -> Path:
        """Where a file below a host's /root or /tmp, or of the shared folder, lies on this machine."""
        if path.startswith(str(SHARED)):
            return self.shared / Path(path).relative_to(SHARED)
        return self.folder / name / path.lstrip("/")

    def _furnish(self, name: str) -> None:
        disk = self.folder / name
        for part in ("root/.ssh", "tmp", "etc", "srv"):
            (disk / part).mkdir(parents=True)
        (disk / "tmp").chmod(0o1777)
        (disk / "root/.ssh").chmod(0o700)
        shutil.copy(self.folder / "key.pub", disk / "root/.ssh/authorized_keys")
        if name == "laptop":
            shutil.copy(self.folder / "key", disk / "root/.ssh/id_ed25519")
        # What the launch file's set-up makes: here it finds it done. Hosts of a lab have no way to a package index.
        (disk / "root/venv").symlink_to(sys.prefix)
        shutil.copy(REPOSITORY / "requirements.txt", disk / "root/.installed")
        (disk / "root/.bashrc").write_text("export PYTHONDONTWRITEBYTECODE=1\n")
        hosts = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in ADDRESSES.items())]
        (disk / "etc/hosts").write_text("\n".join(hosts) + "\n")
        (disk / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        (disk / "etc/sshd_config").write_text(_SSHD.format(address=ADDRESSES[name]))
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(disk / "etc/host_key"))

    def _netns(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _port(self, name: str) -> str:
        """The host's port of the switch."""
        return f"{self._prefix}p{ADDRESSES[name][-2:]}".replace(".", "0")

    @staticmethod
    def _first_process(init: subprocess.Popen[bytes]) -> int:
        children = Path(f"/proc/{init.pid}/task/{init.pid}/children").read_text().split()
        if not children:
            raise ProcessLookupError(f"the host of process {init.pid} is off")
        return int(children[0])


def wait_for(done: Callable[[], bool], timeout: float, message: Callable[[], str]) -> None:
    """Returns when `done` holds; TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(message())
        time.sleep(0.05)


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return _run("ip", *arguments, check=check)


def _run(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done
