"""Rows of docs/results/claims.json from what the benchmarks measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any


def benchmark_claims(folder: Path) -> list[dict[str, Any]]:
    """A row per published figure of each benchmark whose JSON is in the folder."""
    rows = []
    for name, claims_of in CLAIMS.items():
        path = folder / f"{name}.json"
        if path.exists():
            measured = json.loads(path.read_text())
            made_by = {key: measured[key] for key in ("command", "hardware", "commit")}
            # Where parts were measured at different commits, all of them.
            if commits := measured.get("commits"):
                made_by["commit"] = ", ".join(dict.fromkeys(commits.values()))
            rows += [row | made_by for row in claims_of(measured)]
    return rows


def fault_claims(folder: Path) -> list[dict[str, Any]]:
    """In the lab of hosts: from a fault to the end of the next epoch, from `ray up` to the first, over all runs."""
    runs = json.loads((folder / "faults.json").read_text())
    rows: list[dict[str, Any]] = []

    def add(fault: str, key: str, name: str, target: str, unit: str = "s") -> None:
        found = [run for run in runs if key in run["faults"].get(fault, {})]
        if found:
            seen = [run["faults"][fault][key] for run in found]
            # Of times the middle, of work that is lost the most.
            value = max(seen) if unit == "epochs" else round(statistics.median(seen), 2)
            made_by = {
                "command": "make test-cluster",
                "hardware": found[-1]["hardware"],
                "commit": ", ".join(dict.fromkeys(run["commit"] for run in found)),
            }
            rows.append(claim(f"digits-cluster-{name}", value, unit, "lower", len(found), target) | made_by)

    for fault in dict.fromkeys(fault for run in runs for fault in run["faults"]):
        name = fault.replace("_", "-")
        add(fault, "gap_s", f"{name}-gap", "at most 60" if fault == "elastic_shrink" else "at most 40")
        add(fault, "epochs_trained_twice", f"{name}-most-lost", "at most 1", unit="epochs")
    add("elastic_regrow", "from_boot_s", "elastic-regrow-gap", "at most 60")
    add("normal", "ray_up_to_first_epoch_s", "ray-up-to-first-epoch", "below 90")
    return rows


def claim(name: str, value: float, unit: str, better: str, n: int, target: str = "") -> dict[str, Any]:
    """A row without what made it."""
    return {"name": name, "value": value, "unit": unit, "better": better, "target": target, "n": n}


def reading_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The reader beside others, in one run: medians of several rounds."""
    # Names are those of the benchmark: what is compared, with what.
    targets = {"in memory / bare loop": "at least 0.95"}
    for workers in range(3):
        targets[f"stream png / image folder, {workers} workers"] = "at least 2"
        targets[f"stream png / webdataset png, {workers} workers"] = "at least 1"
    rows = []
    for ratio, found in measured["ratios"].items():
        what = ratio.lower().replace(" / ", "-to-").replace(", ", "-").replace(" ", "-")
        name = f"images-28x28-{measured['samples']}-reading-{what}"
        rows.append(claim(name, found, "ratio", "higher", measured["rounds"], targets.get(ratio, "")))
    name, restart = "images-1000000-reading-restart-in-mid-epoch", measured["restart_seconds"]
    return [*rows, claim(name, restart, "s", "lower", measured["rounds"], "at most 1")]


def sharding_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Time and memory of packing tars: medians of the runs there were."""
    rows = []
    for run in measured["runs"]:
        name = f"{run['data']}-{run['examples']}-sharding-{run['writers']}-writers"
        target = "at most 30" if run["data"] == "mnist" and run["writers"] == 2 else ""
        n = len(run["all_seconds"])
        rows.append(claim(f"{name}-time", run["seconds"], "s", "lower", n, target))
        rows.append(claim(f"{name}-memory", run["memory_mib"], "MiB", "lower", n))
    return rows


def step_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A step beside Pyro's, the pruned class sum beside the exact one, operations beside the machine's best."""
    peer, n = measured["peer"], measured["peer"]["rounds"]
    rows = []
    for name, target in (("pruned", "at least 3"), ("exact", "at least 1.25")):
        ratio = peer["ratios"][f"{name} / pyro"]
        rows.append(claim(f"mnist-m2-step-{name}-to-pyro", ratio, "ratio", "higher", n, target))
    rows.append(claim("mnist-m2-step-classes-alive", peer["classes_alive"], "of 10", "", n))
    for decoder, target in (("dense", "at least 1.8"), ("convolutional", "at least 2.5")):
        runs = measured["pruning"][decoder]
        name = f"mnist-plain-{decoder}-decoder-step-run"
        rows.append(claim(f"{name}-exact-to-pruned", runs["ratio"], "ratio", "higher", 1, target))
        for kind in ("pruned", "exact"):
            rows.append(claim(f"{name}-{kind}-val-error", runs[kind]["val_error_pct"], "%", "lower", 1))
    for what, share in measured["arithmetic"].items():
        decoder, precision = what.split()
        name = f"mnist-plain-{decoder}-decoder-step-{precision}-share-of-best-matrix-product"
        rows.append(claim(name, share["share"], "ratio", "higher", n, "at least 0.5"))
    for decoder in ("dense", "convolutional"):
        for kind, percent in measured.get("profile", {}).get(decoder, {}).items():
            name = f"mnist-plain-{decoder}-decoder-step-time-in-{kind.replace(' ', '-')}"
            rows.append(claim(name, percent, "%", "", measured["profile"]["steps"]))
    for kind in ("pruned", "exact"):
        for number in ("10", "50", "200"):
            milliseconds = measured["classes"][number][f"{kind}_ms"]
            rows.append(claim(f"computed-{number}-classes-step-{kind}", milliseconds, "ms", "lower", 5))
        growth = measured["classes"][f"{kind}_growth"]
        rows.append(claim(f"computed-10-to-200-classes-step-{kind}-growth", growth, "ratio", "lower", 5))
    return rows


def training_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Ray Train beside bare loops."""
    n = measured["rounds"]
    rows = [
        claim(
            f"mnist-plain-loop-{name}-to-bare",
            measured["ratios"][f"bare / ray train, {which}"],
            "ratio",
            "higher",
            n,
            f"at least {target}",
        )
        for which, name, target in (
            ("1", "1-worker", 0.95),
            ("2", "2-workers", 0.93),
            ("2, twice the batch", "2-workers-twice-the-batch", 0.93),
        )
    ]
    more = measured["fixed_cost_more_s"]
    return [*rows, claim("mnist-plain-loop-fixed-cost-more", more, "s", "lower", n, "at most 15")]


def evaluating_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The export of latents beside bare passes, and memory by number of examples."""
    n, ratio = measured["rounds"], measured["ratio"]
    rows = [claim("mnist-latents-evaluating-export-to-bare", ratio, "ratio", "higher", n, "at least 0.8")]
    for kind in ("export", "embed"):
        for number, memory in measured[f"{kind}_memory_mib"].items():
            rows.append(claim(f"images-28x28-{number}-evaluating-{kind}-memory", memory, "MiB", "lower", 1))
    return rows


def change_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """What changes for speed brought, before and after."""
    rows = []
    for name, found in measured["changes"].items():
        for when in ("before", "after"):
            rows.append(claim(f"{name}-{when}", found[when], found["unit"], "lower", measured["rounds"]))
    return rows


def sweep_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """A sweep beside its trials without Ray."""
    name, n = f"mnist-plain-tune-{measured['trials']}-trials-overhead", len(measured["pairs"])
    return [claim(name, measured["overhead_pct"], "%", "lower", n, "at most 15")]


def page_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """The report of a run: how long it takes to make, how large it is, how soon it can be used."""
    n = measured["rounds"]
    return [
        claim("mnist-report-page-stage-time", measured["stage_s"], "s", "lower", n, "below 60"),
        claim("mnist-report-page-size", measured["page_mb"], "MB", "lower", 1, "below 8"),
        claim("mnist-report-page-usable", measured["usable_s"], "s", "lower", n, "at most 2"),
    ]


def scale_claims(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Seconds and memory of a rank by number of samples."""
    rows = []
    for part in ("plan", "index", "labels"):
        for number, found in measured[part].items():
            rows.append(claim(f"rows-{number}-scale-{part}-time", found["seconds"], "s", "lower", 1))
            rows.append(claim(f"rows-{number}-scale-{part}-memory", found["memory_mib"], "MiB", "lower", 1))
            if "bytes" in found:
                size = round(found["bytes"] / 2**20, 1)
                rows.append(claim(f"rows-{number}-scale-{part}-on-disk", size, "MiB", "lower", 1))
    for name, size in measured["checkpoint_mib"].items():
        rows.append(claim(f"model-{name.replace(' ', '-')}-scale-checkpoint", size, "MiB", "lower", 1))
    records = measured["trial_records"]
    return [*rows, claim(f"trials-{records['trials']}-scale-records-read", records["seconds"], "s", "lower", 1)]


CLAIMS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]]]] = {
    "reading": reading_claims,
    "sharding": sharding_claims,
    "step": step_claims,
    "training": training_claims,
    "evaluating": evaluating_claims,
    "sweep": sweep_claims,
    "changes": change_claims,
    "page": page_claims,
    "scale": scale_claims,
}
