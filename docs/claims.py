"""docs/results/claims.json from the last run, and the tables of README.md and docs/results from the claims.

`python docs/claims.py` does both; `--check` only says whether the tables are what the claims say.
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from docs.benchmark_claims import benchmark_claims, fault_claims  # noqa: E402
from pipeline.provenance import commit, hardware  # noqa: E402

CLAIMS = REPOSITORY / "docs/results/claims.json"
LABELS_OF_ALL = ("55000",)
# Tables that hold the methods of another one under other settings.
SUFFIXES = {
    "mnist-ablations": "-short-run",
    "mnist-kl-warmup": "-kl-warmup",
    "mnist-labels": "-12-epochs",
    "fashion-mnist-labels": "-label-table",
}
# Measure of a sweep's trial -> end of the claim's name, unit, better, digits.
MEASURES = {
    "test_error_classifier_pct": ("test-error", "%", "lower", 2),
    "test_error_generative_pct": ("test-error-generative-rule", "%", "lower", 2),
    "test_error_prototype_pct": ("test-error-single-sample-prototype", "%", "lower", 2),
    "ece": ("calibration-error", "ece", "lower", 4),
    "area_under_risk_coverage": ("area-under-risk-coverage", "aurc", "lower", 4),
    "bound_nats": ("bound", "nats", "higher", 2),
    "iw_bound_nats": ("iw-bound", "nats", "higher", 2),
    "kl_nats": ("kl", "nats", "", 2),
    "active_units": ("active-units", "of v", "higher", 1),
    "probe_class_from_r_linear_pct": ("class-from-r-linear", "%", "higher", 1),
    "probe_class_from_v_sampled_mlp_pct": ("class-from-sampled-v-mlp", "%", "lower", 1),
    "probe_class_from_v_active_means_mlp_pct": ("class-from-active-v-means-mlp", "%", "lower", 1),
    "probe_class_from_v_active_means_wrong_r_mlp_pct": ("class-from-active-v-means-wrong-r-mlp", "%", "", 1),
    "r2_rotation_sin_from_v_mlp": ("rotation-sine-r2-from-v", "R2", "higher", 3),
    "r2_rotation_sin_from_v_unseen_classes_mlp": ("rotation-sine-r2-from-v-unseen-classes", "R2", "higher", 3),
    "r2_rotation_sin_from_r_mlp": ("rotation-sine-r2-from-r", "R2", "lower", 3),
    "r2_rotation_sin_from_f_mlp": ("rotation-sine-r2-from-single-embedding", "R2", "lower", 3),
    "invariance_ratio_f": ("rotation-invariance-ratio-single-embedding", "ratio", "lower", 3),
    "invariance_ratio_pixels": ("rotation-invariance-ratio-pixels", "ratio", "", 3),
    "rotation_action_r2": ("rotation-linear-action-r2", "R2", "higher", 3),
    "rotation_action_composition_error": ("rotation-composition-error", "ratio", "lower", 3),
    "rotation_action_hit_at_1_of_100_pct": ("rotation-action-hit-at-1-of-100", "%", "higher", 1),
    "swap_oracle_pct": ("swap-oracle-says-new-class", "%", "higher", 1),
    "swap_v_hit_at_1_of_100_pct": ("swap-v-hit-at-1-of-100", "%", "higher", 1),
}
# Tables of which only these are published, for the sake of a reader.
SHORT = ("mnist-extended-more-labels",)
SHORT_MEASURES = ("test_error_classifier_pct", "test_error_prototype_pct", "bound_nats", "active_units")
TARGETS = {
    "mnist-100-plain-test-error": "below 6",
    "mnist-1000-plain-test-error": "below 3.5",
    "mnist-3000-plain-test-error": "below 2.2",
    "mnist-1000-plain-test-error-12-epochs": "below 3.5",
    "mnist-3000-plain-test-error-12-epochs": "below 2.2",
    "mnist-100-extended-test-error": "at most 0.95",
    "mnist-1000-extended-test-error": "at most 0.7",
    "mnist-all-extended-test-error": "at most 0.45",
    "mnist-100-extended-test-error-single-sample-prototype": "at most 3",
    "mnist-all-extended-test-error-single-sample-prototype": "at most 1",
}
for _method in ("plain", "extended"):
    TARGETS |= {
        f"mnist-100-{_method}-class-from-sampled-v-mlp": "at most 14",
        f"mnist-100-{_method}-class-from-active-v-means-mlp": "at most 25",
        f"mnist-100-{_method}-active-units": "at least 8",
        f"mnist-100-{_method}-rotation-sine-r2-from-v": "at least 0.95",
        f"mnist-100-{_method}-rotation-sine-r2-from-v-unseen-classes": "at least 0.9",
        f"mnist-100-{_method}-rotation-sine-r2-from-r": "at most 0.3",
        f"mnist-100-{_method}-rotation-sine-r2-from-single-embedding": "at most 0.3",
        f"mnist-100-{_method}-swap-oracle-says-new-class": "at least 97",
        f"mnist-100-{_method}-swap-v-hit-at-1-of-100": "at least 90",
    }


def collect() -> list[dict[str, Any]]:
    """A row per published figure, from results/ and benchmarks/repro.json."""
    common = {"hardware": hardware(), "commit": commit_of("results")}
    rows = []

    def add(name: str, value: float, unit: str, target: str, n: int = 1, better: str = "lower", **more: Any) -> None:
        row = {"name": name, "value": value, "unit": unit, "better": better, "target": target, "n": n}
        rows.append(row | {"command": "make repro"} | common | more)

    evaluated = read("results/evaluate/metrics.json")
    count = evaluated["labels"]
    main = f"mnist-{count}-extended-main-run"
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
    rows += table_claims()
    for (method, labels, epochs), errors in sweep_errors(REPOSITORY / "results/sweep/table.csv").items():
        name = f"mnist-{labels}-{method}-sweep-test-error"
        note = f"{epochs} epochs" if method != "supervised" else "labelled points alone"
        add(name, round(sum(errors) / len(errors), 2), "%", "", n=len(errors), note=note)
    rows += fault_claims(REPOSITORY / "benchmarks") + benchmark_claims(REPOSITORY / "benchmarks")
    runs = json.loads((REPOSITORY / "benchmarks/repro.json").read_text())
    whole = [run for run in runs if run["stages_run"] == 6]

    def add_median(name: str, chosen: list[dict[str, Any]], key: str, unit: str, target: str) -> None:
        if not chosen:
            return
        commits = ", ".join(run["commit"] for run in chosen)
        value = round(statistics.median(run[key] for run in chosen), 2)
        add(name, value, unit, target, n=len(chosen), command="python benchmarks/repro.py", commit=commits)

    add_median("mnist-100-extended-main-run-training-time", runs, "training_minutes", "min", "at most 6")
    add_median("make-repro-time", whole, "repro_minutes", "min", "below 12")
    add_median("make-repro-environment-time", whole, "environment_minutes", "min", "")
    add_median("make-repro-again-time", runs, "second_repro_seconds", "s", "seconds")
    add_median("make-repro-peak-memory", runs, "peak_memory_gib", "GiB", "at most 6")
    return rows


def commit_of(path: str) -> str:
    """The commit that last changed files below a path; the present one where they have changed since."""
    if git("status", "--porcelain", "--", path):
        return commit(REPOSITORY)
    return git("log", "-1", "--format=%H", "--", path)[:12]


def git(*arguments: str) -> str:
    """What a git command prints."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout.strip()


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


def table_claims() -> list[dict[str, Any]]:
    """A row for each published measure of each cell of docs/results/<table>, over its label subsets."""
    rows = []
    for folder in sorted(path.parent for path in (REPOSITORY / "docs/results").glob("*/run.json")):
        run = json.loads((folder / "run.json").read_text())
        source = run["changes"].get("data", {}).get("source", "mnist")
        for (method, labels), measured in cells(folder).items():
            count = "all" if labels in LABELS_OF_ALL else labels
            for measure, values in measured.items():
                if measure not in MEASURES or (folder.name in SHORT and measure not in SHORT_MEASURES):
                    continue
                suffix, unit, better, digits = MEASURES[measure]
                name = f"{source}-{count}-{method.replace('_', '-')}-{suffix}"
                name += SUFFIXES.get(folder.name, "")
                row = {
                    "name": name,
                    "value": round(statistics.mean(values), digits),
                    "std": str(round(statistics.stdev(values), digits)) if len(values) > 1 else "0",
                    "unit": unit,
                    "better": better,
                    "target": TARGETS.get(name, ""),
                    "n": len(values),
                }
                rows.append(row | {key: run[key] for key in ("command", "hardware", "commit")})
    return rows


def cells(folder: Path) -> dict[tuple[str, str], dict[str, list[float]]]:
    """Values over seeds by method and labels, then by measure; the errors alone where no more was measured."""
    result: dict[tuple[str, str], dict[str, list[float]]] = {}
    with (folder / "table.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["test_error_pct"]:
                cell = result.setdefault((row["method"], row["labels"]), {})
                cell.setdefault("test_error_classifier_pct", []).append(float(row["test_error_pct"]))
    measured: dict[tuple[str, str], dict[str, list[float]]] = {}
    with (folder / "measures.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            cell = measured.setdefault((row["method"], row["labels"]), {})
            cell.setdefault(row["measure"], []).append(float(row["value"]))
    return {key: result.get(key, {}) | measured.get(key, {}) for key in result | measured}


def comparison(rows: list[dict[str, Any]]) -> str:
    """docs/results/method.md: for each table the measures as rows and the methods as columns."""
    parts = [
        "# The method beside its alternatives\n\n"
        "Means and deviations over label subsets (n in the table's heading), last checkpoint, test split. Made from "
        "`claims.json` by `docs/claims.py`; [claims.md](claims.md) has commands and commits, "
        "[metrics.md](../metrics.md) what each measure means and what fools it. A cell in bold meets its target, one "
        "in italics misses it. Published numbers of other work are not in these tables.\n"
    ]
    for folder in sorted(path.parent for path in (REPOSITORY / "docs/results").glob("*/run.json")):
        run = json.loads((folder / "run.json").read_text())
        mine = [row for row in rows if row["command"] == run["command"]]
        if not mine:
            continue
        source = run["changes"].get("data", {}).get("source", "mnist")
        grid = run["changes"]["sweep"]
        parts.append(
            f"\n## {folder.name}\n\n{source}, {grid['epochs']} epochs (supervised: {run['supervised_steps']} steps), "
            f"{len(grid['seeds'])} label subsets; `{run['command']}`, commit {run['commit']}, {run['hardware']}.\n"
        )
        if git("ls-files", f"docs/results/{folder.name}/error_against_labels.png"):
            parts.append(f"\n![Test error against the number of labels]({folder.name}/error_against_labels.png)\n")
        for labels in dict.fromkeys(labels for _, labels in cells(folder)):
            count = "all" if labels in LABELS_OF_ALL else labels
            methods = [method for method, n in cells(folder) if n == labels]
            parts.append(f"\n{count} labels\n\n| measure | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}\n")
            for suffix, unit, _, _ in MEASURES.values():
                texts = []
                for method in methods:
                    name = f"{source}-{count}-{method.replace('_', '-')}-{suffix}"
                    found = [row for row in mine if row["name"] == name + SUFFIXES.get(folder.name, "")]
                    texts.append(mark(found[0]) if found else "")
                if any(texts):
                    parts.append(f"| {suffix.replace('-', ' ')}, {unit} | {' | '.join(texts)} |\n")
    return "".join(parts)


def mark(row: dict[str, Any]) -> str:
    """The figure, bold where it meets its target and in italics where it does not."""
    text = value(row)
    if not row["target"]:
        return text
    word, limit = row["target"].rsplit(" ", 1)
    met = row["value"] <= float(limit) if word in ("at most", "below") else row["value"] >= float(limit)
    return f"**{text}**" if met else f"*{text}*"


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
    """README's table: the method beside its alternatives at 100 labels."""
    by_name = {row["name"]: row for row in rows}
    main = by_name["mnist-100-extended-main-run-test-error"]
    minutes = by_name["mnist-100-extended-main-run-training-time"]["value"]
    names = {"extended": "EquiVAE, extended objective", "plain": "EquiVAE, plain objective"}
    names |= {"m2": "M2, same networks", "vae": "plain VAE, same networks"}
    names |= {"supervised_augmented": "supervised, same encoder, augmented", "supervised": "supervised, same encoder"}
    columns = {"test-error": "test error, %", "bound": "bound, nats", "class-from-sampled-v-mlp": "class from v, %"}
    lines = [f"| MNIST, 100 labels | {' | '.join(columns.values())} |", f"|---|{'---|' * len(columns)}"]
    # Where a method has no table yet: one run, or the same methods under other settings, and the row says so.
    origins = {"": "", "-main-run": ", one subset", "-kl-warmup": ", with KL warm-up"}
    for method, text in names.items():
        for origin, note in origins.items():
            stem = f"mnist-100-{method.replace('_', '-')}"
            claims = [
                by_name.get(f"{stem}{origin}-{suffix}" if origin == "-main-run" else f"{stem}-{suffix}{origin}")
                for suffix in columns
            ]
            if any(claims):
                note = "" if method.startswith("supervised") else note  # trained without a KL
                note += budget(next(row for row in claims if row), method)
                lines.append(f"| {text}{note} | {' | '.join(value(row) if row else '' for row in claims)} |")
                break
    lines.append("")
    lines.append(
        "Means over three label subsets unless it says otherwise; class from v: an MLP on sampled v, chance is 10 %. "
        "`make repro` trains the "
        f"extended objective on the first subset with two workers, in {minutes} minutes on 2 cores, to {main['value']} "
        "%. [docs/results/method.md](docs/results/method.md) has every measure with its controls and the targets that "
        "were missed; [docs/results/claims.md](docs/results/claims.md) every figure with its command and commit."
    )
    return "\n".join(lines) + "\n"


def budget(row: dict[str, Any], method: str) -> str:
    """How long the trials of a table's claim trained; methods in one table may come from tables of several lengths."""
    word, _, name = row["command"].rpartition(" ")
    if not word.endswith("tables.py"):
        return ""
    run = read(f"docs/results/{name}/run.json")
    if method.startswith("supervised"):
        return f", {run['supervised_steps']} steps"
    return f", {run['changes']['sweep']['epochs']} epochs"


def pages(rows: list[dict[str, Any]]) -> dict[Path, str]:
    """Files whose text follows from the claims."""
    heading = (
        "# Measured figures\n\nMade from `claims.json` by `docs/claims.py`. A target that was missed stays in.\n\n"
    )
    return {
        REPOSITORY / "README.md": filled((REPOSITORY / "README.md").read_text(), "", headline(rows)),
        REPOSITORY / "docs/benchmarks.md": benchmarks(rows),
        REPOSITORY / "docs/scale.md": scale(rows),
        REPOSITORY / "docs/cluster.md": cluster(rows),
        REPOSITORY / "docs/results/claims.md": heading + table(rows),
        REPOSITORY / "docs/results/method.md": comparison(rows),
    }


def filled(page: str, part: str, text: str) -> str:
    """A page with the text between a part's two marks."""
    begin, end = (f"<!-- claims{part}: {word} -->" for word in ("begin", "end"))
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}{end}{rest.split(end)[1]}"


def benchmarks(rows: list[dict[str, Any]]) -> str:
    """docs/benchmarks.md with its tables."""
    page = (REPOSITORY / "docs/benchmarks.md").read_text()
    for part in ("reading", "sharding", "step", "loop", "tune", "evaluating", "page", "gain"):
        page = filled(page, f" {part}", figures(rows, f"-{part}-"))
    return page


def scale(rows: list[dict[str, Any]]) -> str:
    """docs/scale.md with its table."""
    return filled((REPOSITORY / "docs/scale.md").read_text(), " scale", figures(rows, "-scale-"))


def cluster(rows: list[dict[str, Any]]) -> str:
    """docs/cluster.md with its table."""
    return filled((REPOSITORY / "docs/cluster.md").read_text(), " cluster", figures(rows, "-cluster-"))


def figures(rows: list[dict[str, Any]], word: str) -> str:
    """Table of the claims whose names hold a word, with what they have in common below."""
    chosen = [row for row in rows if word in row["name"]]
    if not chosen:
        return "Not measured yet.\n"
    lines = ["| figure | value | target | n |", "|---|---|---|---|"]
    for row in chosen:
        lines.append(f"| {row['name'].replace('-', ' ')} | {value(row)} {row['unit']} | {row['target']} | {row['n']} |")
    first = chosen[0]
    return "\n".join(lines) + f"\n\n`{first['command']}`, commit {first['commit']}, {first['hardware']}.\n"


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
