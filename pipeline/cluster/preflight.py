"""`ie doctor`: whether this machine, or every host of a cluster, is fit for a run; and what to do where it is not."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import check_resources, ray_cluster
from pipeline.cluster.host_findings import Answer, Finding, Question, judge
from pipeline.cluster.ray_folder import temporary_folder
from pipeline.cluster.shard_staging import published_as
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.loading.shard_store import Store
from pipeline.data.shards.manifest import MANIFEST, read_manifest
from pipeline.errors import DataError, PipelineError, ResourceError
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Storage, open_storage
from pipeline.utils.fingerprint import TRAINING, code_hash
from pipeline.utils.progress import Log

TOKEN = Path("~/.ray/auth_token")
_HOST_TIMEOUT_S = 60
_PATIENCE_S = 5.0


def doctor(params: Params, project: Path, log: Log) -> None:
    """Looks at everything and prints a line for each; without RAY_ADDRESS at this machine alone.

    Raises:
        ResourceError: something is not fit; the lines say what, and what to do.
    """
    findings: list[Finding] = []
    with contextlib.ExitStack() as stack:
        question, found = _question(params, project, stack)
        findings += found
        address = os.environ.get("RAY_ADDRESS")
        if address:
            resources = stack.enter_context(ray_cluster(log))
            findings += [_token(), _room(params, resources)]
            answers, lost = _ask_hosts(question)
            findings += lost
        else:
            findings.append(_room(params, {"CPU": float(os.cpu_count() or 1), "GPU": float(_count_gpus())}))
            findings.append(_sockets())
            answers = [examine(question)]
        findings += judge(answers, question, on_cluster=bool(address))
    conclude(findings, log)


def conclude(findings: list[Finding], log: Log) -> None:
    """Prints the findings. Raises ResourceError where one is not fit."""
    for finding in findings:
        log(finding.line)
    bad = [finding for finding in findings if not finding.fit]
    if bad:
        names = ", ".join(dict.fromkeys(finding.what for finding in bad))
        raise ResourceError(
            f"{len(bad)} of {len(findings)} checks failed ({names}); remedies are on the lines marked FAIL"
        )


def _sockets() -> Finding:
    """Where Ray puts its sockets on this machine, whose paths have a limit."""
    try:
        folder = temporary_folder()
    except ResourceError as error:
        return Finding("sockets", False, str(error))
    asked = tempfile.gettempdir()
    note = "" if str(folder) == asked else f" ({asked} cannot be written to, or its path is too long for sockets)"
    return Finding("sockets", True, f"Ray's are in {folder}{note}")


def _question(params: Params, project: Path, stack: contextlib.ExitStack) -> tuple[Question, list[Finding]]:
    """Marks the storage and lists the shards, as this host sees them."""
    findings = []
    storage = open_storage(params.storage.url, project, patience_s=_PATIENCE_S)
    mark = f".doctor-{uuid.uuid4().hex[:8]}"
    try:
        storage.check()
        storage.write(mark, socket.gethostname().encode())
        stack.callback(_take_away, storage, mark)
    except (OSError, ResourceError) as error:
        text = str(error)
        if not storage.remote:
            text = f"{storage.url} cannot be written to here ({error}); give storage.url a folder that can"
        findings.append(Finding("storage", False, text))
    folder, files = shards_folder(params, project), {}
    location = str(folder)
    try:
        manifest = read_manifest(folder)
        files = {shard.path: shard.bytes for split in manifest.splits.values() for shard in split.shards}
        location = manifest.location or location
    except DataError as error:
        findings.append(Finding("shards", False, f"{error}; make them with `dvc repro shard`"))
    pins = read_pins(project / "requirements.txt")
    question = Question(storage.url, mark, location, files, pins, params.train.device == "cuda")
    if files and not findings and isinstance(storage, Bucket) and os.environ.get("RAY_ADDRESS"):
        question, found = _published(question, folder, storage)
        findings += found
    return question, findings


def _published(question: Question, folder: Path, storage: Bucket) -> tuple[Question, list[Finding]]:
    """Workers that do not see this host's disk read shards that a run has put into the store, if one has."""
    if "://" in question.shards:
        return question, []
    if wrong := _try_shards(question):
        return replace(question, files={}), [Finding("shards", False, f"here: {wrong}")]
    name = published_as(folder)
    if MANIFEST not in storage.files(name):
        text = f"{len(question.files)} tars readable here; the first run puts them to {storage.where(name)}"
        return replace(question, files={}), [Finding("shards", True, text)]
    return replace(question, shards=storage.where(name)), []


def _take_away(storage: Storage, mark: str) -> None:
    with contextlib.suppress(PipelineError, OSError):
        storage.remove(mark)


def read_pins(path: Path) -> dict[str, str]:
    """`name==version` lines of a requirements file; none where there is no file."""
    lines = path.read_text().splitlines() if path.is_file() else []
    found = (re.match(r"([A-Za-z0-9._-]+)==([^\s;]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def examine(question: Question) -> Answer:
    """A host's answer about itself; runs on each host."""
    answer = Answer(host=socket.gethostname(), python=".".join(map(str, sys.version_info[:3])))
    with contextlib.suppress(OSError):
        answer.resolves_to = socket.gethostbyname(answer.host)
    answer.code = code_hash(TRAINING)[:12]
    for name, pinned in question.pins.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            installed = "missing"
        # The part behind + names the build (cpu, cu128), which may differ.
        if installed.partition("+")[0] != pinned.partition("+")[0]:
            answer.unlike_pins[name] = installed
    answer.sees_storage = _try_storage(question)
    answer.shards = _try_shards(question)
    folders = {"temporary": tempfile.gettempdir()}
    if "://" not in question.storage:
        folders["storage"] = question.storage
    for name, folder in folders.items():
        with contextlib.suppress(OSError):
            answer.free_gb[name] = round(shutil.disk_usage(folder).free / 1e9, 1)
    answer.gpus = _count_gpus()
    answer.nccl = _nccl() if question.cuda else ""
    answer.time = time.time()
    return answer


def _try_storage(question: Question) -> str:
    storage = open_storage(question.storage, patience_s=_PATIENCE_S)
    own = f"{question.mark}-{socket.gethostname()}-{os.getpid()}"
    if isinstance(storage, Bucket):
        try:
            if storage.read(question.mark) is None:
                return f"{storage.url} is in another store than on the host that asks"
            storage.write(own, b"seen")
            if storage.read(own) != b"seen":
                return f"{storage.url} does not give back what is written there"
            storage.remove(own)
        except (OSError, ResourceError) as error:
            return str(error)
        return ""
    folder = Path(storage.url)
    try:
        if not folder.is_dir():
            return f"{folder} is not there"
        if not (folder / question.mark).is_file():
            return f"{folder} is another folder than on the host that asks"
        (folder / own).write_text("")
        (folder / own).unlink()
    except OSError as error:
        return f"{folder} cannot be written to ({error.strerror})"
    return ""


def _try_shards(question: Question) -> str:
    store = Store(question.shards)
    try:
        for name, size in question.files.items():
            store.read_range(name, 0, 1)
            if (found := store.size(name)) != size:
                return f"{store.where(name)} has {found} bytes, the manifest has {size}"
    except PipelineError as error:
        return str(error)
    return ""


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _nccl() -> str:
    import torch

    if not (torch.cuda.is_available() and torch.distributed.is_nccl_available()):
        return ""
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]


def _ask_hosts(question: Question) -> tuple[list[Answer], list[Finding]]:
    """Every live host's answer; a finding for each that gives none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    answers, lost = [], []
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    remote: Any = ray.remote(examine)
    asked = []
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked.append((node, time.time(), remote.options(num_cpus=0, scheduling_strategy=here).remote(question)))
    for node, sent, reference in asked:
        address = node["NodeManagerAddress"]
        try:
            answer: Answer = ray.get(reference, timeout=_HOST_TIMEOUT_S)
        except (ray.exceptions.RayError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:200]
            lost.append(
                Finding("host", False, f"{address} gives no answer ({reason}); look at it with ssh, or `ray up` again")
            )
            continue
        answer.address = address
        answer.ray_gpus = int(node["Resources"].get("GPU", 0))
        # It looked at its clock after the question was sent and before now: another time is wrong by so much.
        answer.skew_s = min(0.0, answer.time - sent) + max(0.0, answer.time - time.time())
        answers.append(answer)
    lost.append(
        Finding("hosts", bool(answers), f"{len(answers)} answer: {', '.join(answer.host for answer in answers)}")
    )
    return answers, lost


def _room(params: Params, resources: dict[str, float]) -> Finding:
    try:
        check_resources(
            resources,
            workers=params.train.worker_range[0],
            threads=params.train.threads_per_worker,
            device=params.train.device,
        )
    except PipelineError as error:
        return Finding("workers", False, str(error))
    low, high = params.train.worker_range
    return Finding("workers", True, f"room for {low if low == high else f'{low} to {high}'}")


def _token() -> Finding:
    """That the cluster asks for its token, and that nobody else on this host can read it."""
    path = TOKEN.expanduser()
    if os.environ.get("RAY_AUTH_MODE") != "token" or not path.is_file():
        text = (
            "this cluster asks for none, and any client may run code there: `ray get-auth-token --generate`, "
            "then RAY_AUTH_MODE=token for `ray start` and here"
        )
        return Finding("token", False, text)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Finding("token", False, f"{path} can be read by others (mode {mode:o}); chmod 600 {path}")
    return Finding("token", True, f"asked for; {path} is private")
