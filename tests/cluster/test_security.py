"""Who gets in: nobody without the token; and the messages to hosts that are not fit."""

from __future__ import annotations

import time

import pytest

from tests.cluster.lab import ADDRESSES, Lab
from tests.cluster.launched import PROJECT, Laptop

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

_WITHOUT = "env RAY_AUTH_MODE=disabled"


def test_a_client_without_the_token_is_turned_away(laptop: Laptop, lab: Lab) -> None:
    laptop.up()
    address = f"{ADDRESSES['head']}:6379"
    python = "export PATH=~/venv/bin:$PATH;"
    assert lab.run("worker1", f"{python} RAY_AUTH_MODE=token ray status --address {address}").returncode == 0
    for without in (_WITHOUT, "env RAY_AUTH_MODE=token RAY_AUTH_TOKEN=" + "0" * 64):
        done = lab.run("worker1", f"{python} {without} timeout 60 ray status --address {address}")
        assert done.returncode != 0
        assert "Active" not in done.stdout


def test_a_stage_without_the_token_says_so_in_one_line(laptop: Laptop) -> None:
    laptop.normal()
    done = laptop.try_to(laptop.typed_on_head(f"{_WITHOUT} python -m pipeline train"))
    assert done.returncode != 0
    assert "wants its token; export RAY_AUTH_MODE=token" in done.stdout, done.stdout[-3000:]
    assert "Traceback" not in done.stdout


def test_a_job_without_the_token_is_refused_and_one_with_it_runs(laptop: Laptop) -> None:
    laptop.up()
    submit = "ray job submit --address http://127.0.0.1:8265 -- echo submitted"
    done = laptop.try_to(laptop.typed_on_head(f"{_WITHOUT} {submit}"))
    assert done.returncode != 0
    assert "nauthorized" in done.stdout or "uthentication" in done.stdout
    assert "submitted" in laptop.on_head(submit)


def test_the_dashboard_is_on_loopback_alone(laptop: Laptop, lab: Lab) -> None:
    laptop.up()
    knock = "timeout 5 bash -c '</dev/tcp/{}/8265'"
    assert lab.run("head", knock.format("127.0.0.1")).returncode == 0
    assert lab.run("worker1", knock.format(ADDRESSES["head"])).returncode != 0
    assert lab.run("laptop", knock.format(ADDRESSES["head"])).returncode != 0


def test_the_token_is_in_no_log_and_not_in_the_project(laptop: Laptop, lab: Lab) -> None:
    laptop.normal()
    token = lab.exec("laptop", "cat ~/.ray/auth_token").strip()
    assert len(token) >= 32
    for host in ("head", "worker1"):
        assert lab.run(host, f"grep -rlsF {token} /tmp/ray {PROJECT}").stdout == ""
        assert lab.exec(host, "stat -c %a ~/.ray/auth_token").strip() == "600"


def test_doctor_finds_every_host_fit(laptop: Laptop) -> None:
    laptop.normal()
    output = laptop.on_head("python -m pipeline doctor")
    assert "FAIL" not in output
    assert "3 answer: " in output


def test_doctor_names_the_host_that_is_not_fit_and_what_to_do(laptop: Laptop, lab: Lab) -> None:
    laptop.normal()
    lab.storage(there=False, hosts=("worker2",))
    hosts = lab.disk("worker1", "/etc/hosts")
    text = hosts.read_text()
    hosts.write_text(f"127.0.1.1 worker1\n{text}")
    try:
        done = laptop.try_to(laptop.typed_on_head("python -m pipeline doctor"))
    finally:
        hosts.write_text(text)
    assert done.returncode != 0
    assert "FAIL storage: worker2" in done.stdout
    assert "FAIL name: worker1 takes its own name for 127.0.1.1" in done.stdout
    assert "2 of " in done.stdout


def test_storage_that_the_workers_do_not_see_is_one_line_and_no_restart(laptop: Laptop) -> None:
    laptop.normal()
    laptop.params(storage={"url": "/tmp/mine"})
    try:
        done = laptop.try_to(laptop.typed_on_head("python -m pipeline train"))
    finally:
        laptop.params(storage={"url": ".runs"})
    assert done.returncode != 0
    assert "error: 2 of 2 workers do not see the run's folder /tmp/mine/train-" in done.stdout
    assert "Traceback" not in done.stdout


def test_a_second_ray_up_in_the_middle_of_a_run_leaves_the_run_alone_and_says_so(laptop: Laptop) -> None:
    whole = laptop.normal()
    run = laptop.start("python -m pipeline train")
    run.wait_for_epoch(2)
    assert "note: a run is under way on this cluster" in laptop.do("ray up -y cluster/local.yaml")
    assert run.finish() == 0, run.text
    assert laptop.outcome() == whole


def test_before_ray_up_keys_and_hosts_are_looked_at(laptop: Laptop, lab: Lab) -> None:
    laptop.stop()
    assert "FAIL" not in laptop.do("python -m pipeline doctor --launch cluster/local.yaml")
    lab.exec("laptop", "mv ~/.ssh/id_ed25519 ~/.ssh/kept && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
    lab.power_off("worker2")
    try:
        done = laptop.try_to("python -m pipeline doctor --launch cluster/local.yaml")
    finally:
        # Not the other's public half: ssh would offer it in the place of this one's.
        lab.exec("laptop", "mv ~/.ssh/kept ~/.ssh/id_ed25519 && rm ~/.ssh/id_ed25519.pub")
    assert done.returncode == 5
    assert f"FAIL host {ADDRESSES['head']}: turns the key away" in done.stdout
    assert f"FAIL host {ADDRESSES['worker2']}: cannot be reached by ssh" in done.stdout


def test_ray_down_leaves_nothing_running_on_any_host(laptop: Laptop, lab: Lab) -> None:
    laptop.up()
    laptop.stop()
    deadline = time.monotonic() + 45
    for host in ("head", *laptop.workers):
        while lab.run(host, "pgrep -x 'raylet|gcs_server'").returncode == 0:
            assert time.monotonic() < deadline, f"Ray still runs on {host}"
            time.sleep(1)
