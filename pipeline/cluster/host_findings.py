"""What each host of a cluster is asked and answers, and what the answers mean, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_MIN_FREE_GB = 1.0
_MAX_SKEW_S = 5.0


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
