"""benchmarks/results/faults.json: what the tests of the lab of hosts measured, over all of their runs."""

from __future__ import annotations

import json
import statistics
from typing import Any

from benchmarks.publish import REPOSITORY, RESULTS, row, write
from pipeline.utils.hardware import hardware
from pipeline.utils.provenance import commit

# What the tests call a figure -> its name and unit.
NAMES = {
    "gap_s": ("gap", "s"),
    "epochs_trained_twice": ("lost", "epochs"),
    "work_lost_s": ("work lost", "s"),
    "from_boot_s": ("gap", "s"),
    "ray_up_to_first_epoch_s": ("`ray up` to first epoch", "s"),
}
TARGETS = {
    "power cut within an epoch: work lost": "at most 20",
    "elastic shrink: gap": "at most 60",
    "elastic regrow: gap": "at most 60",
    "normal: `ray up` to first epoch": "below 90",
}


def merged(record: dict[str, Any], run: dict[str, Any]) -> dict[str, Any]:
    """The record with one more run: of times the median, of lost epochs the most."""
    seen = {r["name"]: list(r["values"]) for r in record.get("rows", [])}
    units = {r["name"]: r["unit"] for r in record.get("rows", [])}
    for kind, found in run["faults"].items():
        fault = kind.replace("_", " ")
        for key, value in found.items():
            if key != "target_s":
                name, unit = NAMES.get(key, (key.removesuffix("_s").replace("_", " "), "s" if key[-2:] == "_s" else ""))
                seen.setdefault(f"{fault}: {name}", []).append(value)
                units[f"{fault}: {name}"] = unit
    if "load_of_15_min" in run:
        seen.setdefault("load of 15 minutes", []).append(run["load_of_15_min"])
    rows = []
    for name, values in seen.items():
        unit, target = units.get(name, ""), TARGETS.get(name, "")
        if not target and name.endswith((": gap", ": lost")):
            target = "at most 40" if unit == "s" else "at most 1"
        value = max(values) if unit == "epochs" else round(statistics.median(values), 2)
        rows.append(row(name, value, unit, len(values), target, values=values))
    commits = [*(record["commit"].split(", ") if record else []), run["commit"]]
    about = {"command": "make test-cluster", "commit": ", ".join(dict.fromkeys(commits)), "hardware": run["hardware"]}
    return about | {"rows": rows}


def add(measured: dict[str, Any], load: float) -> None:
    """Adds a run of this commit on this machine to the file and to docs/cluster.md."""
    path = RESULTS / "faults.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    about = {"commit": commit(REPOSITORY), "hardware": hardware(), "load_of_15_min": load}
    write("faults", merged(record, about | {"faults": measured}))
