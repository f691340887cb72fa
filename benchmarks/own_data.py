"""Own data by the documented command: `python benchmarks/own_data.py [--seeds 0,1,2 | --wall] [FOLDER...]`.

Makes the folders of `benchmarks/own_folders`, and for each runs docs/data.md's command in a fresh clone: every stage,
sweep and report included. The other label subsets are the same command in the same clone with another `labels.seed`,
which trains, evaluates and reports again. Writes benchmarks/results/own_data.json after each run: test error beside
1-NN and logistic regression on the same labels (`against`), and wall seconds. About an hour on two free cores. `--wall`
runs the command once and replaces the wall seconds alone, where something else ran beside the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.own_folders import FOLDERS  # noqa: E402
from benchmarks.publish import write  # noqa: E402
from pipeline.utils.hardware import hardware  # noqa: E402
from pipeline.utils.provenance import commit  # noqa: E402

# Measures of `evaluate`, and what their rows are called.
BASELINES = {"baseline_1nn_error_pct": "1-nn", "baseline_logistic_error_pct": "logistic-regression"}
RESULTS = REPOSITORY / "benchmarks" / "results" / "own_data.json"
PAGE = REPOSITORY / "docs" / "benchmarks.md"
BEGIN, END = "<!-- own data: begin -->\n", "<!-- own data: end -->\n"


@dataclass(frozen=True)
class Case:
    """A folder, its source, how many labels training sees, and the test error that was set as a goal, %."""

    source: str
    labels: int
    goal: float | None
    more: tuple[str, ...] = ()


CASES = {
    "digits": Case("images", 100, 0.64),
    "emoji": Case("images", 100, 54.5),
    "letters": Case("images", 150, 40.4, ("data.own.height=28", "data.own.width=28", "data.own.channels=1")),
    "texts": Case("texts", 40, 3.96),
    "waveforms": Case("series", 40, 9.63),
    "features": Case("vectors", 100, None),
}


def command(case: Case, folder: Path, seed: int) -> list[str]:
    """docs/data.md's command; what differs from its defaults is set with -S."""
    settings = [f"data.source={case.source}", f"data.folder={folder}", *case.more, f"labels.count={case.labels}"]
    if seed:
        settings.append(f"labels.seed={seed}")
    return ["dvc", "exp", "run", *(word for setting in settings for word in ("-S", setting))]


def run(project: Path, case: Case, folder: Path, seed: int) -> dict[str, Any]:
    """One run of the command: what `evaluate` measured, and wall seconds."""
    log = project.parent / f"{project.name}-{seed}.log"
    environment = os.environ | {"PYTHONPATH": str(project), "DVC_NO_ANALYTICS": "1"}
    began = time.monotonic()
    with log.open("w") as output:
        done = subprocess.run(
            command(case, folder, seed), cwd=project, env=environment, stdout=output, stderr=output, check=False
        )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise SystemExit(f"{project.name}, seed {seed}: exit code {done.returncode}\n{log.read_text()[-3000:]}")
    metrics: dict[str, float] = json.loads((project / "results/evaluate/metrics.json").read_text())
    return {"seconds": seconds} | metrics


def rows_of(name: str, runs: dict[int, dict[str, Any]]) -> list[dict[str, Any]]:
    """The published rows of a folder."""
    case, found = CASES[name], list(runs.values())
    key = "test_error_classifier_pct"
    errors = [r[key] for r in found]
    spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
    n = len(errors)
    base = {"unit": "%", "n": n, "labels": case.labels}
    error = statistics.mean(errors)
    rows = [{"name": f"{name}-error", "value": round(error, 2), "sd": round(spread, 2), "goal": case.goal} | base]
    for other, label in BASELINES.items():
        theirs = statistics.mean(r[other] for r in found)
        ratio = round(error / theirs, 3) if theirs else None
        rows.append(
            {"name": f"{name}-{label}", "value": round(theirs, 2), "against": f"{name}-error", "ratio": ratio} | base
        )
    whole = {"unit": "s", "n": 1, "value": round(runs[min(runs)]["seconds"], 1), "goal": 300}
    rows.append({"name": f"{name}-command-wall"} | whole)
    return rows


def with_table(page: str, record: dict[str, Any]) -> str:
    """docs/benchmarks.md with the table of what was measured."""
    rows = {row["name"]: row for row in record["rows"]}
    lines = [
        "| folder | labels | test error, % | 1-NN | logistic regression | goal | command, s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in CASES if f"{name}-error" in rows):
        ours = rows[f"{name}-error"]
        others = [rows[f"{name}-{label}"]["value"] for label in BASELINES.values()]
        wall = rows[f"{name}-command-wall"]["value"]
        error = f"{ours['value']} ± {ours['sd']} ({ours['n']})" if ours["n"] > 1 else f"{ours['value']} (1)"
        goal = "" if ours["goal"] is None else ours["goal"]
        lines.append(f"| {name} | {ours['labels']} | {error} | {others[0]} | {others[1]} | {goal} | {wall} |")
    made = f"`{record['command']}`, commit {record['commit']}, {record['hardware']}."
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    return before + BEGIN + "\n".join(lines) + f"\n\n{made}\n" + END + after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("folders", nargs="*", default=list(CASES))
    asked = parser.parse_args()
    seeds = [0] if asked.wall else [int(seed) for seed in asked.seeds.split(",")]
    kept = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    with tempfile.TemporaryDirectory() as scratch:
        for name in asked.folders:
            folder, project = Path(scratch) / "folders" / name, Path(scratch) / name
            FOLDERS[name](folder)
            subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(project)], check=True)
            cloned = commit(project)
            runs: dict[int, dict[str, Any]] = {}
            for seed in seeds:
                runs[seed] = run(project, CASES[name], folder, seed)
                own = [row | {"commit": cloned} for row in rows_of(name, runs)]
                if asked.wall:
                    own = [row for row in own if row["name"] == f"{name}-command-wall"]
                replaced = {row["name"] for row in own}
                rows = [row for row in kept if row["name"] not in replaced] + own
                commits = ", ".join(dict.fromkeys(row["commit"] for row in rows))
                record: dict[str, Any] = {"command": "python benchmarks/own_data.py", "commit": commits}
                record |= {"hardware": hardware(), "rows": rows}
                write("own_data", record)
                PAGE.write_text(with_table(PAGE.read_text(), record))
                print(json.dumps(rows[-4:]), flush=True)
            kept = rows
            shutil.rmtree(project)


if __name__ == "__main__":
    main()
