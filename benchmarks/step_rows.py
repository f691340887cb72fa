"""The rows of benchmarks/results/step.json, by part of benchmarks/step.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.publish import Row, row


def _peer(found: dict[str, Any]) -> list[Row]:
    n, rates, pyro = found["rounds"], found["points_per_s"], "M2 of Pyro"
    rows = []
    for kind, target in (("pruned", "at least 3"), ("exact", "at least 1.25")):
        ratio = found["ratios"][f"{kind} / pyro"]
        name = f"M2, {kind} sum, {found['precision']}, batch of {found['batch']}"
        rows.append(row(name, rates[kind], "points/s", n, target, against=pyro, ratio=ratio))
    return [
        *rows,
        row(pyro, rates["pyro"], "points/s", n),
        row("M2, classes alive of 10", found["classes_alive"], "", n),
    ]


def _pruning(found: dict[str, Any]) -> list[Row]:
    rows = []
    for decoder, target in (("dense", "at least 1.8"), ("convolutional", "at least 2.5")):
        runs, ours, peer = found[decoder], f"run, {decoder} decoder, pruned", f"run, {decoder} decoder, exact"
        rows.append(row(ours, runs["pruned"]["seconds"], "s", 1, target, against=peer, ratio=runs["ratio"]))
        rows.append(row(peer, runs["exact"]["seconds"], "s"))
        for kind, name in (("pruned", ours), ("exact", peer)):
            if "val_error_pct" in runs[kind]:
                rows.append(row(f"{name}: val error", runs[kind]["val_error_pct"], "%"))
    return rows


def _classes(found: dict[str, Any]) -> list[Row]:
    rows = []
    for number, seen in found.items():
        if number.isdigit():
            for kind in ("pruned", "exact"):
                rows.append(row(f"step, {number} classes: {kind}", seen[f"{kind}_ms"], "ms", 5))
            rows.append(row(f"step, {number} classes: classes alive", seen["classes_alive"], ""))
    for kind in ("pruned", "exact"):
        rows.append(row(f"step, growth from few classes to many: {kind}", found[f"{kind}_growth"], "", 5))
    return rows


def _arithmetic(found: dict[str, Any]) -> list[Row]:
    rows = []
    for what, seen in found.items():
        decoder, precision = what.split()
        name = f"operations, {decoder} decoder, {precision}"
        peer, share = f"best matrix product in that run, {decoder}, {precision}", seen["share"]
        rows.append(row(name, seen["gflop_per_s"], "GFLOP/s", 7, "at least 0.5", against=peer, ratio=share))
        rows.append(row(peer, seen["matrix_product_gflop_per_s"], "GFLOP/s", 7))
        rows.append(row(f"step, {decoder} decoder, {precision}: time", seen["step_ms"], "ms", 7))
        rows.append(row(f"step, {decoder} decoder, {precision}: operations", seen["step_gflop"], "GFLOP", 7))
    return rows


def _profile(found: dict[str, Any]) -> list[Row]:
    return [
        row(f"time, {decoder} decoder: {kind}", percent, "%", found["steps"])
        for decoder in ("dense", "convolutional")
        for kind, percent in found[decoder].items()
    ]


ROWS: dict[str, Callable[[dict[str, Any]], list[Row]]] = {
    "peer": _peer,
    "pruning": _pruning,
    "classes": _classes,
    "arithmetic": _arithmetic,
    "profile": _profile,
}
