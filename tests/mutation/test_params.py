"""params.yaml, changed in many ways: it is accepted and a run can be planned, or refused in one line that names it."""

from __future__ import annotations

import copy
import functools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.params import Params, load_params, parse_params
from pipeline.config.yaml_text import parse_yaml
from pipeline.data.shards.manifest import Manifest, read_manifest
from pipeline.data.sources import TARS, make_source
from pipeline.errors import PipelineError
from pipeline.results.origin import STAGES, make_origin
from pipeline.stages.train import prepare
from pipeline.training.build_job import make_job
from pipeline.tuning.trials import measured_as, plan_trials
from tests.helpers.project import REPOSITORY, small_params

_DEEP: Any = "x"
for _ in range(5000):
    _DEEP = [_DEEP]
_CIRCLE: list[Any] = []
_CIRCLE.append(_CIRCLE)
_WIDE: Any = ["x"] * 10
for _ in range(12):
    _WIDE = [_WIDE] * 10  # 10^13 values, by references

VALUES: tuple[Any, ...] = (
    None, True, False, "", "text", "\ud800", "a\nb", "\x00", "../..", "~", "all", 0, -1, 1, 2, 3, 7, 1000, 2**31, 2**53,
    2**63, -(2**63) - 1, 2**64, 10**400, 10**5000, 0.0, -0.0, 0.5, 1e-300, 1e300, -1e300, float("nan"), float("inf"),
    float("-inf"), [], [1], [0.5, 0.5], ["a"], [None], {}, {"a": 1}, {1: 2}, {None: 1}, [[1]], [{}], b"bytes", (1, 2),
    {1, 2}, _DEEP, _CIRCLE, _WIDE, object,
)  # fmt: skip

TEXTS = (
    "a: &a [*a]", "&a {b: *a}", "a: &a {<<: *a}", "a: " + "[" * 3000, "a: " + "{a: " * 3000, "- " * 3000 + "1",
    "a: " + "9" * 5000, "a: 1e999", "a: -.inf", "a: 0x" + "f" * 5000, "a: 1_000", "a: !!python/object:os.system {}",
    "a: !!binary aGVsbG8=", "a: !!set {b, c}", "a: !!timestamp 2026-01-01", "a: !!omap [b: 1]", "a: !x y",
    "? [a, b]\n: c",    "? {a: b}\n: c", "{[]: 1}", "a: b: c", "a:\n\t- b", "%YAML 3.0\n---\na: 1",
    "---\n---\n", "a: 1\n---\nb: 2", "\x00",
    '"\\ud800": 1', 'a: "\\udfff"', "\ufeffa: 1", "*x", "&x", "!", "|", ">", "@", "`", "%", "a: *x", "a: 'b", 'a: "b',
    "<<: 1", "<<: [1]", "a: {<<: {b: 1}}", "a: !!int x", "a: !!float x", "a: !!bool x", "a: !!null x", "a: !!map [1]",
    "a: &l [1,1]\n" + "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}' if i else '1'] * 9)}]\n" for i in range(12)),
)  # fmt: skip


def leaves(section: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all sections and keys."""
    for key, value in section.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from leaves(value, (*prefix, key))


def changed(raw: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at a path."""
    result = copy.deepcopy(raw)
    section = result
    for name in path[:-1]:
        section = section[name]
    section[path[-1]] = value
    return result


def use(params: Params, project: Path, manifest: Manifest) -> None:
    """All that a stage derives from params before it works."""
    if params.data.source != TARS:
        make_source(params.data, project)
    # As if the shards of any source were those of the project.
    params = params.model_copy(update={"data": params.data.model_copy(update={"source": "digits"})})
    prepare(params, project, lambda line: None)
    make_job(params, project, method="supervised", in_sweep=True)
    plan_trials(params, project, manifest)
    measured_as(params)
    for stage in STAGES:
        make_origin(stage, params, project / "data/shards/digits")


def judge(
    what: str, read: Callable[[], Params], project: Path, manifest: Manifest, counts: Counter[str], wrong: list[str]
) -> None:
    """Reads changed params and uses them."""
    try:
        use(read(), project, manifest)
        counts["accepted"] += 1
    except PipelineError as error:
        counts["refused"] += 1
        line = str(error)
        if "\n" in line or len(line) > 4000 or not line.isprintable():
            wrong.append(f"{what}: {len(line)} characters: {line[:200]!r}")
    except Exception as error:
        wrong.append(f"{what}: {type(error).__name__} {str(error)[:200]}")


def values_at_leaves(every: int) -> Iterator[tuple[str, dict[str, Any]]]:
    raw = small_params()
    number = 0
    for path in leaves(raw):
        for i, value in enumerate(VALUES):
            number += 1
            if number % every == 0:
                yield f"{'.'.join(path)} = VALUES[{i}]", changed(raw, path, value)


def texts(num: int, every: int) -> Iterator[tuple[str, str]]:
    """YAML that is odd, in place of the file and after it; and the file with bytes changed."""
    text = (REPOSITORY / "params.yaml").read_text()
    for i, odd in enumerate(TEXTS):
        yield f"TEXTS[{i}]", odd
        if i % every == 0:
            yield f"TEXTS[{i}] at the end", f"{text}\n{odd}\n"
    rng = random.Random(0)
    for i in range(num):
        place = rng.randrange(len(text))
        kind = i % 3
        put = rng.choice("{}[]:&*!|>'\"%@`#-?,\t\n 0x9e.")
        yield f"text {i}", (text[:place] + put + text[place + (kind > 0) :]) if kind < 2 else text[:place]


def judge_all(digits_project: Path, folder: Path, every: int, num: int) -> Counter[str]:
    manifest = read_manifest(digits_project / "data/shards/digits")
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for what, raw in values_at_leaves(every):
        judge(what, functools.partial(parse_params, raw), digits_project, manifest, counts, wrong)
    file = folder / "params.yaml"
    for what, text in texts(num, every):
        file.write_bytes(text.encode("utf-8", "surrogatepass"))
        judge(what, functools.partial(load_params, file), digits_project, manifest, counts, wrong)
    print(dict(counts), *wrong, sep="\n")
    assert wrong == []
    return counts


def test_changed_params_are_refused_in_one_line_or_can_be_used(digits_project: Path, tmp_path: Path) -> None:
    counts = judge_all(digits_project, tmp_path, every=17, num=15)
    assert counts["refused"] > 300


@pytest.mark.slow
def test_all_changed_params_are_refused_in_one_line_or_can_be_used(digits_project: Path, tmp_path: Path) -> None:
    counts = judge_all(digits_project, tmp_path, every=1, num=800)
    assert counts.total() > 6194


def test_the_shipped_params_can_be_used(digits_project: Path) -> None:
    use(parse_params(small_params()), digits_project, read_manifest(digits_project / "data/shards/digits"))
    assert parse_yaml((REPOSITORY / "params.yaml").read_text(), "params.yaml")
