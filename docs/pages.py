"""Writes what pages take from code and from published results: `python docs/pages.py`.

docs/params.md comes from the typed models, the tables of docs/metrics.md from the metric catalogue, README's table and
docs/results/method.md from the published tables, those of benchmarks from benchmarks/results.
"""

from __future__ import annotations

import csv
import json
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks import publish  # noqa: E402
from pipeline.config.params import Params  # noqa: E402
from pipeline.results.metric import PARTS  # noqa: E402
from pipeline.results.metric_catalog import MEASURED, TRAINED, about  # noqa: E402

DOCS, RESULTS = REPOSITORY / "docs", REPOSITORY / "docs" / "results"
_PARAMS = """# Parameters

Every key of `params.yaml`, with the value it is shipped with. Unknown keys, wrong types and impossible combinations are
refused before any work starts. Change one for one run with `dvc exp run -S section.key=value`. Made by
`docs/pages.py`.
"""
_PICTURES = {
    "error_against_labels.png": "Test error against the number of labels",
    "leak_against_bound.png": "The class in v against the bound",
}
Cells = dict[tuple[str, str], dict[str, list[float]]]


def pages() -> dict[Path, str]:
    """Files and the text that they are to hold."""
    made = {DOCS / "params.md": params(), RESULTS / "method.md": comparison()}
    readme, metrics = REPOSITORY / "README.md", DOCS / "metrics.md"
    made[readme] = re.sub(
        r"(?s)(<!-- table: begin -->\n).*(?=<!-- table: end -->)", rf"\1{headline()}", readme.read_text()
    )
    table = re.compile(r"<!-- (\w+) -->\n(?s:.*?)<!-- end -->")
    made[metrics] = table.sub(lambda found: _metrics(found[1]), metrics.read_text())
    return made | {page: publish.filled(page.read_text()) for page in publish.PAGES}


def params() -> str:
    """docs/params.md: a table a section of params.yaml."""
    shipped = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    parts = [_PARAMS]
    for name, field in Params.model_fields.items():
        section: Any = field.annotation
        summary = " ".join((section.__doc__ or "").split())
        parts.append(f"\n## {name}\n\n{summary}\n\n| key | value | meaning |\n|---|---|---|\n")
        parts += _params(section, shipped[name])
    return "".join(parts)


def _params(model: type[BaseModel], values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _params(field.annotation, values[name], f"{prefix}{name}.")
            continue
        text = " ".join((field.description or "").split()).replace("|", "\\|")
        value = yaml.safe_dump(values[name], default_flow_style=True).splitlines()[0]
        yield f"| `{prefix}{name}` | `{value}` | {text} |\n"


def _metrics(group: str) -> str:
    lines = [f"<!-- {group} -->", "| name | better | meaning | what fools it |", "|---|---|---|---|"]
    for metric in (*MEASURED, *TRAINED):
        if metric.group == group:
            name = re.sub(r"{(\w+)}", _part, metric.name)
            cells = (f"`{name}`", metric.better, metric.meaning, metric.caution)
            lines.append("|" + "|".join(f" {cell} " if cell else " " for cell in map(_escaped, cells)) + "|")
    return "\n".join([*lines, "<!-- end -->"])


def _part(found: re.Match[str]) -> str:
    options = PARTS.get(found[1], {})
    return f"<{'|'.join(options) if len(options) == 2 else found[1]}>"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|")


def read(path: str) -> Any:
    """A JSON file of the repository."""
    return json.loads((REPOSITORY / path).read_text())


def cells(folder: Path) -> Cells:
    """Values over label subsets by (labels, method), then by measure."""
    found: Cells = {}
    with (folder / "table.csv").open(newline="") as table, (folder / "measures.csv").open(newline="") as measures:
        rows = [
            r | {"measure": "test_error_classifier_pct", "value": r["test_error_pct"]} for r in csv.DictReader(table)
        ]
        for key, r in {
            (r["labels"], r["method"], r["measure"], r["seed"]): r for r in [*rows, *csv.DictReader(measures)]
        }.items():
            if r["value"]:
                found.setdefault(key[:2], {}).setdefault(r["measure"], []).append(float(r["value"]))
    return found


def figure(values: list[float] | None, digits: int = 2) -> str:
    """Mean and deviation."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


def headline() -> str:
    """README's table: the method beside its alternatives at 100 labels."""
    known = yaml.safe_load((RESULTS / "targets.yaml").read_text())
    columns = known["columns"]
    lines = [f"| MNIST, 100 labels | {' | '.join(columns.values())} |", f"|---|{'---|' * len(columns)}"]
    for text, name, method in known["methods"]:
        run, found = read(f"docs/results/{name}/run.json"), cells(RESULTS / name)["100", method]
        length = f"{run['changes']['sweep']['epochs']} epochs"
        if method.startswith("supervised"):
            length = f"{run['supervised_steps']} steps"
        lines.append(f"| {text}, {length} | {' | '.join(figure(found.get(measure)) for measure in columns)} |")
    error = read("docs/results/mnist-run/evaluate/metrics.json")["test_error_classifier_pct"]
    rows = read("benchmarks/results/repro.json")["rows"]
    minutes = next(row["value"] for row in rows if row["name"] == "training")
    lines.append(
        "\nMeans over three label subsets; class from v: an MLP on one draw of v of 10,000 points, chance is 10 %; on "
        "all of train a probe [finds more](docs/method.md#what-routing-does-and-does-not). `make repro` trains the "
        f"extended objective on the first subset, in {minutes} minutes on 2 cores without bfloat16, to {error:.1f} %. "
        "[docs/results/method.md](docs/results/method.md) has every measure and the targets that were missed."
    )
    return "\n".join(lines) + "\n"


def comparison() -> str:
    """docs/results/method.md: for each table the measures as rows and the methods as columns."""
    known = yaml.safe_load((RESULTS / "targets.yaml").read_text())
    parts = [
        "# The method beside its alternatives\n\nMeans and deviations over label subsets, last checkpoint, test split. "
        "Made by `docs/pages.py`; [metrics.md](../metrics.md) says what each measure means and what fools it. "
        "Published numbers of other work are not in these tables.\n"
    ]
    for folder in sorted(path.parent for path in RESULTS.glob("*/run.json")):
        run, found = read(f"docs/results/{folder.name}/run.json"), cells(folder)
        grid = run["changes"]["sweep"]
        parts.append(
            f"\n## {folder.name}\n\n{run['changes'].get('data', {}).get('source', 'mnist')}, {grid['epochs']} epochs "
            f"(supervised: {run['supervised_steps']} steps), {len(grid['seeds'])} label subsets; `{run['command']}`, "
            f"commit {run['commit']}, {run['hardware']}.\n"
        )
        for picture, text in _PICTURES.items():
            if (folder / picture).is_file():
                parts.append(f"\n![{text}]({folder.name}/{picture})\n")
        for labels in dict.fromkeys(labels for labels, _ in found):
            methods = [method for count, method in found if count == labels]
            parts.append(f"\n{labels} labels\n\n| measure | {' | '.join(methods)} |\n|---|{'---|' * len(methods)}\n")
            for measure in known["measures"]:
                metric = about(measure)
                texts = [figure(found[labels, method].get(measure), max(1, metric.digits)) for method in methods]
                if any(texts):
                    parts.append(f"| {metric.heading} | {' | '.join(texts)} |\n")
        aimed = [
            (f"{method}, {labels} labels, {about(measure).label}", round(statistics.mean(values), 3), target)
            for name, labels, method, measure, target in known["targets"]
            if name == folder.name and (values := found[str(labels), method][measure])
        ]
        parts += [f"\n{text}\n" for text in publish.targets(aimed)]
    return "".join(parts)


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text)
