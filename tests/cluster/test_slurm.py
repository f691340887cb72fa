"""cluster/slurm.sh, submitted with `sbatch` on hosts of the lab: slurmctld on the head, slurmd on two workers."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.lab import ADDRESSES, SHARED, Lab
from tests.cluster.launched import outcome
from tests.helpers.project import REPOSITORY, copy_project
from tests.helpers.waiting import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NODES = ("worker1", "worker2")
PROJECT = SHARED / "slurm-project"
_CONF = """
ClusterName=ie
SlurmctldHost=head
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
StateSaveLocation=/tmp/slurmctld
SlurmdSpoolDir=/tmp/slurmd
SlurmctldLogFile=/tmp/slurmctld.log
SlurmdLogFile=/tmp/slurmd.log
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
{hosts}
"""
_MUNGED = (
    "mkdir -p -m 755 /run/munge && cp {key} /run/munge/key && chmod 400 /run/munge/key && munged --force "
    "--key-file=/run/munge/key --log-file=/tmp/munged.log --seed-file=/tmp/munged.seed --pid-file=/run/munge/pid"
)


class Slurm:
    """A SLURM cluster in the lab."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        hosts = "\n".join(f"NodeName={name} NodeAddr={ADDRESSES[name]} CPUs=1" for name in NODES)
        lab.disk("head", f"{SHARED}/slurm.conf").write_text(_CONF.format(nodes=",".join(NODES), hosts=hosts))
        # Processes are found by their groups: hosts of the lab have one tree of cgroups between them.
        lab.disk("head", f"{SHARED}/cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        lab.disk("head", f"{SHARED}/munge.key").write_bytes(secrets.token_bytes(128))
        for host in ("head", *NODES):
            lab.exec(host, _MUNGED.format(key=f"{SHARED}/munge.key"))
        self.do("mkdir -p /tmp/slurmctld && slurmctld")
        for node in NODES:
            self.start_node(node)
        wait_for(lambda: self.do("sinfo --noheader --format=%T").split() == ["idle"], seconds=60)

    def start_node(self, node: str) -> None:
        self.lab.exec(
            node, f"mkdir -p /tmp/slurmd && SLURM_CONF={SHARED}/slurm.conf slurmd || {{ cat /tmp/slurmd.log; exit 1; }}"
        )

    def do(self, command: str) -> str:
        """A command on the head, in the project's folder where there is one; it must exit with 0."""
        return self.lab.exec("head", f"export SLURM_CONF={SHARED}/slurm.conf; cd {PROJECT} 2>/dev/null; {command}")

    def submit(self, *arguments: str) -> str:
        """The job's number. Nodes of one core each, as the lab's other clusters have them."""
        one = "RAY_OVERRIDE_RESOURCES='{\"CPU\": 1}'"
        return self.do(f"{one} sbatch --parsable cluster/slurm.sh {' '.join(arguments)}").strip()

    def log(self, job: str) -> str:
        path = self.lab.disk("head", f"{PROJECT}/slurm-{job}.log")
        return path.read_text() if path.exists() else ""

    def state(self, job: str) -> str:
        """As `scontrol` has it: state and exit code."""
        shown = self.do(f"scontrol show job {job}")
        return " ".join(re.findall(r"(?:JobState|ExitCode)=(\S+)", shown))

    def wait(self, job: str, state: str, seconds: float = 400) -> None:
        deadline = time.monotonic() + seconds
        while not (found := self.state(job)).startswith(state):
            assert time.monotonic() < deadline, f"{found}\n{self.log(job)}"
            time.sleep(0.5)


@pytest.fixture(scope="module")
def slurm(lab: Lab) -> Iterator[Slurm]:
    if lacking := [tool for tool in ("munged", "slurmctld", "slurmd") if shutil.which(tool, path="/usr/sbin") is None]:
        pytest.skip(f"SLURM is not installed ({', '.join(lacking)}): apt-get install slurm-wlm")
    project = copy_project(
        lab.disk("head", str(PROJECT)), train={"epochs": 12, "num_workers": 2}, storage={"url": ".runs"}
    )
    (project / ".venv").symlink_to(Path(shutil.which("dvc") or "dvc").parent.parent)
    made = Slurm(lab)
    made.do("git init --quiet --initial-branch=main && git add --all")
    made.do("git -c user.name=S -c user.email=s@example.org commit --quiet --message=first")
    yield made
    for host in ("head", *NODES):
        lab.run(host, "pkill slurmctld; pkill slurmd; pkill munged")


def test_a_job_trains_on_both_nodes_and_leaves_no_key(slurm: Slurm, lab: Lab) -> None:
    job = slurm.submit("train")
    wait_for(lambda: "train: epoch 2/" in slurm.log(job), seconds=200)
    ranks = [node for node in NODES if lab.run(node, "pgrep -f 'ray::RayTrainWorker'").returncode == 0]
    assert ranks == list(NODES), "one rank on each node"
    (key,) = lab.disk("head", f"{PROJECT}/.runs").glob("slurm-*.key")
    assert key.stat().st_mode & 0o777 == 0o600
    slurm.wait(job, "COMPLETED 0:0")
    assert not key.exists()
    assert not any("raylet" in lab.run(node, "ps -eo comm").stdout for node in NODES), "Ray ends with the job"
    assert outcome(lab.disk("head", str(PROJECT)))


def test_a_job_whose_node_loses_its_power_starts_again_and_ends_in_the_same_bytes(slurm: Slurm, lab: Lab) -> None:
    project = lab.disk("head", str(PROJECT))
    whole = outcome(project)
    shutil.rmtree(project / "results")
    (project / "dvc.lock").unlink()
    shutil.rmtree(project / ".dvc/cache/runs", ignore_errors=True)
    job = slurm.submit("train")
    wait_for(lambda: "train: epoch 5/" in slurm.log(job), seconds=200)
    lab.power_off("worker2")
    slurm.do("scontrol update nodename=worker2 state=down reason=power")  # or wait for SlurmdTimeout, minutes
    lab.boot("worker2")
    lab.exec("worker2", _MUNGED.format(key=f"{SHARED}/munge.key"))
    slurm.start_node("worker2")
    wait_for(lambda: slurm.state(job).startswith("PENDING"), seconds=120)
    slurm.do(f"scontrol update jobid={job} starttime=now")  # a job that was requeued waits two minutes
    slurm.wait(job, "COMPLETED 0:0")
    assert "train: resuming from epoch" in slurm.log(job)
    assert outcome(project) == whole


def test_a_command_that_fails_is_a_failed_job(slurm: Slurm) -> None:
    job = slurm.submit("no-such-stage")
    slurm.wait(job, "FAILED")
    assert "no-such-stage" in slurm.log(job)


def test_the_script_is_the_one_of_the_page() -> None:
    assert "sbatch cluster/slurm.sh" in (REPOSITORY / "docs/cluster.md").read_text()
