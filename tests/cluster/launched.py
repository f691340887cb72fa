"""A user at the lab's laptop: `ray up`, the project to the hosts, `dvc repro` there, results back, `ray down`."""

from __future__ import annotations

import hashlib
import re
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.lab import ADDRESSES, SHARED, Lab
from tests.helpers.project import REPOSITORY, copy_project

PROJECT = SHARED / "project"
"""The project on the cluster."""

TRAIN_COMMAND = "python -m pipeline train"
_STEP = re.compile(r"train: (\d+)/\d+ steps, .*?([\d.]+) points/s")
_EPOCH = re.compile(r"train: epoch (\d+)/(\d+)")


class Laptop:
    """The project on the laptop, and the cluster that it launches."""

    def __init__(self, lab: Lab, workers: tuple[str, ...] = ("worker1", "worker2"), **sections: dict[str, Any]) -> None:
        self.lab, self.workers = lab, workers
        self.folder = copy_project(lab.disk("laptop", "/root/ie"), **sections)
        self._whole: dict[str, str] = {}
        self._launched: tuple[str, ...] = ()
        self._write_launch_file()
        for worker in ("worker1", "worker2", "worker3"):
            # Hosts of one core each: two ranks need two hosts.
            with lab.disk(worker, "/root/.bashrc").open("a") as file:
                file.write("export RAY_OVERRIDE_RESOURCES='{\"CPU\": 1}'\n")
        self.do("git init --quiet --initial-branch=main && git add --all")
        self.do("git -c user.name=Someone -c user.email=someone@example.org commit --quiet --message=first")
        self.do("RAY_AUTH_MODE=token ray get-auth-token --generate > /dev/null && chmod 600 ~/.ray/auth_token")

    def do(self, command: str, timeout: float = 240) -> str:
        """A command as the user types it in the project's folder on the laptop; it must exit with 0."""
        return self.lab.exec("laptop", self._typed(command), timeout)

    def try_to(self, command: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        """As `do`, with any exit code."""
        return self.lab.run("laptop", self._typed(command), timeout)

    def up(self, workers: tuple[str, ...] = ("worker1", "worker2"), timeout: float = 120) -> None:
        """`ray up` with these workers, unless they are up already, and the project's files to the hosts."""
        if self._launched != workers:
            if self._launched:
                self.down()
            self.workers = workers
            self._write_launch_file()
            self.do("ray up -y cluster/local.yaml", timeout)
            self._launched = workers
        self.sync()

    def relaunch(self) -> None:
        """`ray up` once more, after the head was lost."""
        workers, self._launched = self.workers, ()
        self.up(workers)

    def normal(self) -> dict[str, str]:
        """What an undisturbed run gives; trained once."""
        self.up()
        if not self._whole:
            self.on_head("dvc repro shard")
            self.on_head(TRAIN_COMMAND)
            self.keep_as_normal()
        return self._whole

    def keep_as_normal(self) -> None:
        """The last run was undisturbed: others are compared with it."""
        self._whole = self.outcome()

    def outcome(self) -> dict[str, str]:
        """What the last run on the cluster gave."""
        return outcome(self.lab.disk("head", str(PROJECT)))

    def fetch_results(self, stages: str = "") -> None:
        """Outputs and lock file back, as docs/cluster.md has it; of these stages where not all have run."""
        for path in ("dvc.lock", ".dvc/cache/", "results/"):
            self.do(f"ray rsync-down cluster/local.yaml {PROJECT}/{path} ./{path}")
        self.do(f"dvc checkout {stages}")

    def sync(self) -> None:
        """The project's files to the hosts."""
        self.do(f"ray rsync-up cluster/local.yaml ./ {PROJECT}/")

    def on_head(self, command: str, timeout: float = 240) -> str:
        """A command in the project's folder on the head; it must exit with 0."""
        return self.do(self.typed_on_head(command), timeout)

    def start(self, command: str) -> Run:
        """A command on the head whose lines are watched while it runs."""
        return Run(self.lab.arguments("laptop", self._typed(self.typed_on_head(command))))

    def params(self, **sections: dict[str, Any]) -> None:
        """Changes params.yaml, on the laptop and on the hosts."""
        path = self.folder / "params.yaml"
        raw = yaml.safe_load(path.read_text())
        for section, values in sections.items():
            raw[section] |= values
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        self.sync()

    def ranks(self) -> list[str]:
        """Hosts on which a training worker runs."""
        return [worker for worker in self.workers if worker in self.lab.running and self._trains(worker)]

    def stop(self) -> None:
        """`ray down`, if there is a cluster."""
        if self._launched:
            self.down()

    def down(self) -> None:
        """`ray down`."""
        said = self.do("ray down -y cluster/local.yaml")
        self._launched = ()
        deadline = time.monotonic() + 30
        while self.lab.run("head", "pgrep -x gcs_server").returncode == 0:
            left = self.lab.run("head", "ps -eo pid,ppid,stat,etimes,args | grep -v ' ps '").stdout
            assert time.monotonic() < deadline, f"the head still runs\n{said}\n{left}"
            time.sleep(1)

    def _trains(self, worker: str) -> bool:
        return self.lab.run(worker, "pgrep -f ray::.*TrainWorker").returncode == 0

    def typed_on_head(self, command: str) -> str:
        """What the user types to have a command run in the project's folder on the head."""
        return f"ray exec cluster/local.yaml 'cd {PROJECT} && RAY_ADDRESS=auto {command}'"

    @staticmethod
    def _typed(command: str) -> str:
        return f"export PATH=~/venv/bin:$PATH; cd ~/ie && {command}"

    def _write_launch_file(self) -> None:
        """The shipped file as it is, unless there are other workers than its two."""
        text = (REPOSITORY / "cluster/local.yaml").read_text()
        raw = yaml.safe_load(text)
        addresses = [ADDRESSES[worker] for worker in self.workers]
        if raw["provider"]["worker_ips"] != addresses:
            raw["provider"]["worker_ips"] = addresses
            raw["min_workers"] = raw["max_workers"] = len(addresses)
            text = yaml.safe_dump(raw, sort_keys=False)
        (self.folder / "cluster/local.yaml").write_text(text)


class Run:
    """A command that runs, and its lines with the time each came."""

    def __init__(self, arguments: list[str]) -> None:
        self.lines: list[tuple[float, str]] = []
        self.started = time.monotonic()
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def text(self) -> str:
        """All lines so far."""
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, line_is: Callable[[str], bool], timeout: float = 120) -> float:
        """The time at which such a line came."""
        deadline, seen = time.monotonic() + timeout, 0
        while time.monotonic() < deadline:
            ended = not self._reader.is_alive()
            while seen < len(self.lines):
                at, line = self.lines[seen]
                if line_is(line):
                    return at
                seen += 1
            if ended:
                break
            time.sleep(0.02)
        raise AssertionError(f"no such line:\n{self.text}")

    def wait_for_epoch(self, epoch: int, timeout: float = 120) -> float:
        """The time at which an epoch, or a later one, was reported."""
        return self.wait_for(
            lambda line: (found := _EPOCH.search(line)) is not None and int(found[1]) >= epoch, timeout
        )

    def epochs(self) -> list[tuple[float, int]]:
        """Epochs in the order in which they were reported, with times."""
        return [(at, int(found[1])) for at, line in self.lines if (found := _EPOCH.search(line))]

    def steps(self) -> list[tuple[float, int, float]]:
        """Time, step and points a second of each progress line."""
        found = ((at, _STEP.search(line)) for at, line in self.lines)
        return [(at, int(line[1]), float(line[2])) for at, line in found if line]

    def finish(self, timeout: float = 300) -> int:
        """Waits for the end; returns the exit code."""
        code = self._process.wait(timeout)
        self._close()
        return code

    def kill(self) -> None:
        """Ends the command's process on this machine, if it still runs."""
        self._process.kill()
        self._process.wait(10)
        self._close()

    def _close(self) -> None:
        # Of what the process has written, lines may still be on their way.
        self._reader.join(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def gap_after(self, fault: float) -> tuple[float, int]:
        """Seconds from a fault to the end of the first epoch that was new after it, and how many were trained twice.

        Lines lag behind by up to half a second.
        """
        epochs = self.epochs()
        before = max((epoch for at, epoch in epochs if at <= fault), default=0)
        again = [epoch for at, epoch in epochs if at > fault and epoch <= before]
        started = False
        for at, epoch in epochs:
            # An epoch that was under way, or is reported late, may still come: what counts is after a silence.
            started = started or (at > fault and at - self._before(at) > _SILENCE_S)
            if started and epoch > before:
                return at - fault, len(again)
        raise AssertionError(f"training did not continue after the fault:\n{self.text}")

    def _before(self, time_: float) -> float:
        """The time of the last epoch's line before."""
        return max((at for at, _ in self.epochs() if at < time_), default=self.started)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))


def note_gap(run: Run, fault: float, record: dict[str, Any], name: str, target_s: float) -> None:
    """Notes how long training stood still beside the target; at most one epoch may have been trained twice.

    The figure is of the machine as busy as it is; twice the target and more is a fault of the launch file's time-outs.
    """
    seconds, again = run.gap_after(fault)
    record[name] = {"gap_s": round(seconds, 1), "target_s": target_s, "epochs_trained_twice": again}
    assert again <= 1
    assert seconds <= 2 * target_s


# A pause between two epochs' lines that is a restart and no slow epoch.
_SILENCE_S = 5.0


def outcome(project: Path) -> dict[str, str]:
    """SHA-256 of what a run must give again to the last bit: weights, history, metrics."""
    names = ("model/weights.safetensors", "history.csv", "metrics.json")
    return {name: hashlib.sha256((project / "results/train" / name).read_bytes()).hexdigest() for name in names}
