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
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.cluster.connection import check_resources, ray_cluster
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
_MIN_FREE_GB = 1.0
_MAX_SKEW_S = 5.0
_HOST_TIMEOUT_S = 60
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: fit, or what was found and what to do."""

    what: str
    fit: bool
    text: str

    @property
    def line(self) -> str:
        return f"{'ok  ' if self.fit else 'FAIL'} {self.what}: {self.text}"


@dataclass(frozen=True)
class Question:
    """What every host is asked; travels to it."""

    storage: str
    """An absolute folder, or a prefix of an object store."""

    mark: str
    """Name of the file, in the storage, that the asking host has written."""

    shards: str
    """Folder, or prefix of an object store."""

    files: dict[str, int]
    """Bytes of each tar; none where there is no manifest."""

    pins: dict[str, str]
    cuda: bool


@dataclass
class Answer:
    """What a host found out about itself."""

    host: str
    address: str = ""
    resolves_to: str = ""
    """What the host's own name resolves to."""

    python: str = ""
    code: str = ""
    unlike_pins: dict[str, str] = field(default_factory=dict)
    sees_storage: str = ""
    """Empty: it does, and can write there."""

    shards: str = ""
    """Empty: every file is there."""

    free_gb: dict[str, float] = field(default_factory=dict)
    gpus: int = 0
    nccl: str = ""
    time: float = 0.0
    skew_s: float = 0.0
    ray_gpus: int = 0


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


def judge(answers: list[Answer], question: Question, *, on_cluster: bool) -> list[Finding]:
    """What the answers mean, alone and side by side. The first host's is the measure for the others."""
    seen = f"{question.storage} is seen, writable"
    findings = [
        _for_each(answers, "packages", _judge_packages(question), f"{len(question.pins)} pins installed"),
        _for_each(answers, "storage", lambda a: _unshared(a, a.sees_storage, question.storage), seen),
        _for_each(answers, "disk", _judge_disk, f"at least {_MIN_FREE_GB:g} GB free"),
    ]
    if question.files:
        fit = f"{len(question.files)} tars readable"
        findings.append(_for_each(answers, "shards", lambda a: _unshared(a, a.shards, question.shards), fit))
    if on_cluster:
        first = answers[0] if answers else Answer("")
        findings += [
            _for_each(answers, "python", lambda a: _differs(a, first, "python"), first.python),
            _for_each(answers, "code", lambda a: _differs(a, first, "code"), first.code),
            _for_each(answers, "name", _judge_name, "each host's name resolves to its address"),
            _for_each(answers, "clock", _judge_clock, f"less than {_MAX_SKEW_S:g} s apart"),
        ]
    if question.cuda:
        findings.append(_for_each(answers, "gpu", _judge_gpu, ", ".join(f"{a.host} {a.gpus}" for a in answers)))
    return findings


_SHARE = "all hosts must see the same folder at the same path: mount it there, or set storage.url to one that is"


def _for_each(answers: list[Answer], what: str, wrong: Any, fit: str) -> Finding:
    texts = [text for answer in answers if (text := wrong(answer))]
    return Finding(what, not texts, " | ".join(texts) if texts else fit)


_REACH = "each host needs a role, or credentials of its own, for the store; its place is taken from the host that asks"


def _unshared(answer: Answer, wrong: str, where: str) -> str:
    return f"{answer.host}: {wrong}; {_REACH if '://' in where else _SHARE}" if wrong else ""


def _judge_packages(question: Question) -> Any:
    def wrong(answer: Answer) -> str:
        if not answer.unlike_pins:
            return ""
        shown = [f"{name} {found} (pinned: {question.pins[name]})" for name, found in answer.unlike_pins.items()]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        return f"{answer.host} has {', '.join(shown[:3])}{more}; pip install -r requirements.txt there"

    return wrong


def _judge_disk(answer: Answer) -> str:
    short = {name: free for name, free in answer.free_gb.items() if free < _MIN_FREE_GB}
    found = ", ".join(f"{free} GB in the {name} folder" for name, free in short.items())
    return f"{answer.host} has {found}; make room, at least {_MIN_FREE_GB:g} GB" if short else ""


def _differs(answer: Answer, first: Answer, name: str) -> str:
    here, there = getattr(answer, name), getattr(first, name)
    return "" if here == there else f"{answer.host} has {here}, {first.host} {there}; make them the same with `ray up`"


def _judge_name(answer: Answer) -> str:
    if answer.resolves_to == answer.address:
        return ""
    return (
        f"{answer.host} takes its own name for {answer.resolves_to or 'nothing'}, its address is {answer.address}: "
        f"gloo's ranks would not find each other; put '{answer.address} {answer.host}' into its /etc/hosts"
    )


def _judge_clock(answer: Answer) -> str:
    if abs(answer.skew_s) < _MAX_SKEW_S:
        return ""
    return f"{answer.host}'s clock is off by {answer.skew_s:.0f} s; start chrony or ntp there"


def _judge_gpu(answer: Answer) -> str:
    if answer.ray_gpus > answer.gpus:
        found = f"Ray offers {answer.ray_gpus} GPUs, torch sees {answer.gpus}"
        return f"{answer.host}: {found}; install the CUDA build of torch"
    if answer.gpus and not answer.nccl:
        return f"{answer.host}: {answer.gpus} GPUs but no NCCL in torch; install the CUDA build of torch"
    return ""


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
