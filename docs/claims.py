"""docs/results/claims.json from the last run, and the tables of README.md and docs/results from the claims.

`python docs/claims.py` does both; `--check` only says whether the tables are what the claims say.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from pipeline.provenance import commit, hardware  # noqa: E402

CLAIMS = REPOSITORY / "docs/results/claims.json"
# Made by SUBSETS_COMMAND, then copied here from results/sweep/table.csv.
SUBSETS = REPOSITORY / "docs/results/mnist-100-subsets.csv"
SUBSETS_COMMAND = "dvc exp run -S sweep.label_counts=[100] -S sweep.seeds=[0,1,2] -S sweep.epochs=12 sweep"
SUBSETS_COMMIT = "59748163b03c"  # where that sweep ran; its table is a copy, not of this checkout
_BEGIN, _END = "<!-- claims: begin -->", "<!-- claims: end -->"


def collect() -> list[dict[str, Any]]:
    """A row per published figure, from results/ and benchmarks/repro.json."""
    common = {"hardware": hardware(), "commit": commit(REPOSITORY)}
    rows = []

    def add(name: str, value: float, unit: str, target: str, n: int = 1, better: str = "lower", **more: Any) -> None:
        row = {"name": name, "value": value, "unit": unit, "better": better, "target": target, "n": n}
        rows.append(row | {"command": "make repro"} | common | more)

    evaluated = read("results/evaluate/metrics.json")
    count = evaluated["labels"]
    main = f"mnist-{count}-extended"
    add(f"{main}-test-error", round(evaluated["test_error_classifier_pct"], 2), "%", "at most 2.5")
    for rule in ("generative", "prototype"):
        add(f"{main}-test-error-{rule}-rule", round(evaluated[f"test_error_{rule}_pct"], 2), "%", "")
    add(f"{main}-bound", round(evaluated["bound_nats"], 1), "nats", "", better="higher")
    add(f"{main}-iw-bound", round(evaluated["iw_bound_nats"], 1), "nats", "", better="higher")
    add(f"{main}-class-from-r-linear", round(evaluated["probe_class_from_r_linear_pct"], 1), "%", "", better="higher")
    add(f"{main}-class-from-sampled-v-mlp", round(evaluated["probe_class_from_v_sampled_mlp_pct"], 1), "%", "")
    active = evaluated["probe_class_from_v_active_means_mlp_pct"]
    add(f"{main}-class-from-active-v-means-mlp", round(active, 1), "%", "")
    add(f"{main}-active-units", evaluated["active_units"], "of v", "", better="higher")
    subsets: dict[str, Any] = {"command": SUBSETS_COMMAND, "commit": SUBSETS_COMMIT}
    for (method, labels, epochs), errors in sweep_errors(SUBSETS).items():
        note = f"{epochs} epochs" if method != "supervised" else "labelled points alone"
        target = "at most 2.5" if method == "extended" else ""
        mean, std = round(statistics.mean(errors), 2), round(statistics.stdev(errors), 2)
        name = f"mnist-{labels}-{method}-test-error-over-subsets"
        add(name, mean, "%", target, n=len(errors), note=note, std=str(std), **subsets)
    for (method, labels, epochs), errors in sweep_errors(REPOSITORY / "results/sweep/table.csv").items():
        name = f"mnist-{labels}-{method}-sweep-test-error"
        note = f"{epochs} epochs" if method != "supervised" else "labelled points alone"
        add(name, round(sum(errors) / len(errors), 2), "%", "", n=len(errors), note=note)
    runs = json.loads((REPOSITORY / "benchmarks/repro.json").read_text())
    whole = [run for run in runs if run["stages_run"] == 5]

    def add_median(name: str, chosen: list[dict[str, Any]], key: str, unit: str, target: str) -> None:
        commits = ", ".join(run["commit"] for run in chosen)
        value = round(statistics.median(run[key] for run in chosen), 2)
        add(name, value, unit, target, n=len(chosen), command="python benchmarks/repro.py", commit=commits)

    add_median("mnist-100-extended-training-time", runs, "training_minutes", "min", "at most 6")
    add_median("make-repro-time", whole, "repro_minutes", "min", "at most 20")
    add_median("make-repro-again-time", runs, "second_repro_seconds", "s", "seconds")
    add_median("make-repro-peak-memory", runs, "peak_memory_gib", "GiB", "at most 6")
    return rows


def sweep_errors(path: Path) -> dict[tuple[str, str, str], list[float]]:
    """Test errors of a sweep's finished trials by method, labels, epochs."""
    result: dict[tuple[str, str, str], list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["status"] == "finished":
                key = row["method"], row["labels"], row["epochs"]
                result.setdefault(key, []).append(float(row["test_error_pct"]))
    return result


def read(path: str) -> dict[str, Any]:
    """A JSON file of the repository."""
    value: dict[str, Any] = json.loads((REPOSITORY / path).read_text())
    return value


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of all claims."""
    lines = ["| figure | value | better | target | n | command | commit |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        note = f" ({row['note']})" if "note" in row else ""
        lines.append(
            f"| {row['name']}{note} | {value(row)} {row['unit']} | {row['better']} | {row['target']} | {row['n']} "
            f"| `{row['command']}` | {row['commit']} |"
        )
    return "\n".join(lines) + f"\n\nHardware: {rows[0]['hardware']}.\n"


def value(row: dict[str, Any]) -> str:
    """The figure, with its deviation where there is one."""
    return f"{row['value']:.2f} ± {float(row['std']):.2f}" if "std" in row else str(row["value"])


def headline(rows: list[dict[str, Any]]) -> str:
    """README's table: the main run beside its baselines."""
    by_name = {row["name"]: row for row in rows}
    main = by_name["mnist-100-extended-test-error"]
    minutes = by_name["mnist-100-extended-training-time"]["value"]
    lines = [
        "| MNIST, 100 labels | test error, three label subsets | |",
        "|---|---|---|",
    ]
    names = {"extended": "EquiVAE, extended objective", "plain": "EquiVAE, plain objective"}
    names |= {"supervised": "supervised, same encoder"}
    for method, text in names.items():
        row = by_name[f"mnist-100-{method}-test-error-over-subsets"]
        lines.append(f"| {text} | {value(row)} % | {row['note']} |")
    lines.append("")
    lines.append(
        "`make repro` trains the extended objective on the first subset with two workers, in "
        f"{minutes} minutes on 2 cores, to {main['value']} %. The plain objective is still falling at that budget. "
        "Every figure, with its command and commit, is in [docs/results](docs/results/claims.md)."
    )
    return "\n".join(lines) + "\n"


def pages(rows: list[dict[str, Any]]) -> dict[Path, str]:
    """Files whose text follows from the claims."""
    readme = (REPOSITORY / "README.md").read_text()
    before, rest = readme.split(_BEGIN)
    after = rest.split(_END)[1]
    heading = (
        "# Measured figures\n\nMade from `claims.json` by `docs/claims.py`. A target that was missed stays in.\n\n"
    )
    return {
        REPOSITORY / "README.md": f"{before}{_BEGIN}\n{headline(rows)}{_END}{after}",
        REPOSITORY / "docs/results/claims.md": heading + table(rows),
    }


if __name__ == "__main__":
    if "--check" not in sys.argv:
        CLAIMS.parent.mkdir(parents=True, exist_ok=True)
        CLAIMS.write_text(json.dumps(collect(), indent=2) + "\n")
    claims = json.loads(CLAIMS.read_text())
    for path, text in pages(claims).items():
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                sys.exit(f"{path.name} is not what claims.json says; run: python docs/claims.py")
        else:
            path.write_text(text)
