"""What every benchmark writes: benchmarks/results/NAME.json, and the table that docs show of it.

`python docs/pages.py` makes the tables of docs anew from the files. A row is {name, value, unit, n}; `against`
names the row of a peer, `ratio` is how many times as good as the peer ours is, `target` what was aimed at.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from pipeline.utils.hardware import hardware  # noqa: E402
from pipeline.utils.provenance import commit  # noqa: E402

RESULTS = REPOSITORY / "benchmarks" / "results"
PAGES = tuple(REPOSITORY / "docs" / f"{name}.md" for name in ("benchmarks", "scale", "cluster", "gallery"))
Row = dict[str, Any]


def row(name: str, value: float, unit: str, n: int = 1, target: str = "", **more: Any) -> Row:
    """A figure; `name` is a case, or a case and a measure of it: "plan, 1000 rows: time"."""
    return {"name": name, "value": value, "unit": unit, "n": n} | ({"target": target} if target else {}) | more


def keep(
    name: str, rows: list[Row], small: bool = False, arguments: str = "", part: bool = False, at: str = ""
) -> None:
    """Prints the rows, writes them and their table, unless the run was a small one.

    Args:
        at: the commit of a clone in which the rows were made; else that of this one.
        part: the rows take the place of those of the same name in the file, and carry their own commit.
    """
    record: dict[str, Any] = {"command": f"python benchmarks/{name}.py{arguments}"}
    record |= {"commit": at or commit(REPOSITORY), "hardware": hardware(), "rows": rows}
    path = RESULTS / f"{name}.json"
    if part and path.exists():
        new = {(r["name"], r.get("against")): r | {"commit": record["commit"]} for r in rows}
        record = json.loads(path.read_text())
        old = {(r["name"], r.get("against")): r for r in record["rows"]}
        record["rows"] = list((old | new).values())
    print(json.dumps(rows, indent=2))
    if not small:
        write(name, record)


def write(name: str, record: dict[str, Any]) -> None:
    """Writes the file of a benchmark, and its table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    for page in PAGES:
        page.write_text(filled(page.read_text()))


def filled(page: str) -> str:
    """A page's text with the table of each benchmark that it marks and that was measured."""
    for name in re.findall(r"<!-- (\w+): begin -->", page):
        path = RESULTS / f"{name}.json"
        if path.exists():
            begin, end = (f"<!-- {name}: {word} -->\n" for word in ("begin", "end"))
            before, rest = page.split(begin)
            page = before + begin + table(json.loads(path.read_text())) + end + rest.split(end)[1]
    return page


def table(record: dict[str, Any]) -> str:
    """Markdown: a row a case, beside its peers where it has any; then missed targets, then what made them."""
    rows = record["rows"]
    by_name = {r["name"]: r for r in rows}
    compared = [r for r in rows if "against" in r]
    peers = {r["against"] for r in compared}
    parts = []
    if compared:
        lines = ["| case | ours | peer | ratio |", "|---|---|---|---|"]
        for r in compared:
            peer = by_name[r["against"]]
            lines.append(f"| {r['name']} | {_figure(r)} | {peer['name']}: {_figure(peer)} | {r['ratio']} |")
        parts.append("\n".join(lines))
    cases: dict[str, dict[str, Row]] = {}
    for r in rows:
        if "against" not in r and r["name"] not in peers:
            case, _, measure = r["name"].partition(": ")
            cases.setdefault(case, {})[measure or "ours"] = r
    # Cases with the same measures share a table.
    for measures in dict.fromkeys(map(tuple, cases.values())):
        group = (case for case, seen in cases.items() if tuple(seen) == measures)
        lines = [f"| case | {' | '.join(measures)} |", f"|---|{'---|' * len(measures)}"]
        lines += [f"| {case} | {' | '.join(_figure(r) for r in cases[case].values())} |" for case in group]
        parts.append("\n".join(lines))
    numbers = sorted({r["n"] for r in rows})
    commits = ", ".join(dict.fromkeys([record["commit"], *(r["commit"] for r in rows if "commit" in r)]))
    n = f"n = {numbers[0]}" + (f" to {numbers[-1]}" if len(numbers) > 1 else "")
    made = f"`{record['command']}`, commit {commits}, {record['hardware']}; {n}."
    aimed = [(_name(r), r.get("ratio", r["value"]), r["target"]) for r in rows if "target" in r]
    return "\n\n".join([*parts, *targets(aimed), made]) + "\n"


def targets(aimed: list[tuple[str, float, str]]) -> list[str]:
    """A sentence for each figure that misses its target, and one on those that meet it; nothing without targets."""
    missed = [
        f"- {name} is {value}, the target was {target}." for name, value, target in aimed if not met(value, target)
    ]
    num_met = len(aimed) - len(missed)
    said = f"Targets met: {num_met} of {len(aimed)}." + (" Missed:\n\n" + "\n".join(missed) if missed else "")
    return [said] if aimed else []


def met(value: float, target: str) -> bool:
    """Whether a value is "at most", "below" or "at least" a number."""
    word, limit = target.rsplit(" ", 1)
    if word not in ("at most", "below", "at least"):
        raise ValueError(f"target {target!r} is no limit")
    if word == "at least":
        return value >= float(limit)
    return value < float(limit) or (word == "at most" and value == float(limit))


def _figure(r: Row) -> str:
    return f"{r['value']:,} {r['unit']}".strip()


def _name(r: Row) -> str:
    return f"{r['name']}, beside {r['against']}" if "against" in r else r["name"]
