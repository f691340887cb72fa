"""What the page shows, as plain values for its template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ie_model.spec import DataSpec
from pipeline.config.methods import METHODS
from pipeline.config.params import Params
from pipeline.config.yaml_text import to_yaml
from pipeline.data.shards.manifest import Split, SplitName
from pipeline.report.chart_data import drawn
from pipeline.report.charts import error_chart, error_table, small_charts
from pipeline.report.class_errors import CLASS_HEADER, MOST_CELLS, SHADES, class_errors, confusion_cells
from pipeline.report.downloads import downloads
from pipeline.report.inputs import FACTOR_HEADER, Inputs
from pipeline.report.metric_text import grouped, number
from pipeline.report.sprites import DRAWN_CHANNELS
from pipeline.report.tiles import style, tiles
from pipeline.results.history import CURVES
from pipeline.results.metric import BASELINES
from pipeline.results.verdict import verdict
from pipeline.utils.fingerprint import package_versions
from pipeline.utils.provenance import commit
from pipeline.utils.rounding import percent

_SECTIONS = (
    ("overview", "Verdict"),
    ("labels", "Error against labels"),
    ("maps", "Maps of r and v"),
    ("made", "Swaps and samples"),
    ("errors", "Errors by class"),
    ("training", "Calibration and training"),
    ("measures", "Measures"),
    ("provenance", "Data and provenance"),
)

_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

_MOST_CHECKSUMS = 200


def page_context(inputs: Inputs, params: Params, project: Path) -> dict[str, Any]:
    """Values of the template."""
    spec, text = inputs.manifest.spec, inputs.gallery.text
    provenance = inputs.model["provenance"]
    labels = int(inputs.metrics["labels"])
    about: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    counts, rows = error_table(inputs)
    kl = inputs.gallery.arrays["unit_kl"]
    more = f", the {len(text.units)} with the largest KL are shown" if text.active > len(text.units) else ""
    measures = grouped(inputs.measures, spec.num_classes, inputs.sweep, labels, inputs.not_measured)
    return {
        "sections": _SECTIONS,
        "name": inputs.data,
        "when": str(inputs.evaluate_timing.get("finished", "")).replace("T", " ").replace("Z", " UTC"),
        "left_out": inputs.left_out,
        "method": about.get(provenance.get("method", ""), "A custom method"),
        "labels_text": f"{labels:,} labels, {provenance.get('num_unlabelled', 0):,} training points without.",
        "commit": inputs.evaluate_timing.get("commit", ""),
        **_overview(inputs),
        "tiles": tiles(inputs),
        "style_text": style({row.name: row.value for row in inputs.measures}),
        "downloads": downloads(inputs, project / "results"),
        "error_counts": counts,
        "own_errors": [row for row in rows if row.kind != "published"],
        "published_errors": [row for row in rows if row.kind == "published"],
        "error_chart": error_chart(inputs),
        "num_sampled": text.num_sampled,
        "test_points": f"{len(inputs.latents.keys):,}",
        "example": {"image": "image", "series": "series", "counts": "text", "vector": "vector"}[spec.kind],
        "example_note": _example_note(spec),
        "units": [(unit, f"{kl[unit]:.2f}") for unit in text.units],
        "active_text": f"{text.active} of {len(kl)} units are active (mean KL above 0.05 nats){more}.",
        "pairs": len(text.pairs),
        "classes": spec.classes,
        "class_header": CLASS_HEADER,
        "class_rows": [row.cells() for row in class_errors(inputs)],
        "confusion": confusion_cells(inputs),
        "shades": SHADES,
        "most_cells": MOST_CELLS,
        "num_errors": f"{inputs.confusion.sum() - np.trace(inputs.confusion):,}",
        "worst": len(text.errors),
        "charts": small_charts(inputs, project / "results/train/history.csv"),
        "calibration": [
            (f"{x:.3f}", f"{y:.3f}", f"{n:,.0f}") for x, y, n in zip(*inputs.calibration, strict=True) if n
        ],
        "risk": _risk(inputs),
        "measures": measures,
        "factor_header": FACTOR_HEADER,
        "factors": inputs.factors,
        **_history(inputs),
        **_data(inputs),
        **_provenance(inputs, params, project),
        "data": drawn(inputs, params.report.seed),
    }


def _overview(inputs: Inputs) -> dict[str, Any]:
    """The error, what it is to be read against, and what both come to."""
    values = {row.name: row.value for row in inputs.measures} | inputs.metrics
    found = verdict(values)
    beside = [
        (label, number(name, values[name]))
        for label, name in (
            *((words, f"baseline_{key}_error_pct") for key, words in BASELINES.items()),
            ("most frequent class", "baseline_constant_error_pct"),
        )
        if name in values
    ]
    ends = [values.get(f"test_error_classifier_{end}_pct") for end in ("low", "high")]
    interval = [percent(end, 2, "") for end in ends if end is not None]
    return {
        "verdict": found.text,
        "level": found.level,
        "error": number("test_error_classifier_pct", values["test_error_classifier_pct"]),
        "interval": f"95 % interval {' to '.join(interval)} %, " if len(interval) == 2 else "",
        "beside": beside,
    }


def _example_note(spec: DataSpec) -> str:
    """How an example that is no image is shown."""
    if spec.kind == "series":
        channels = min(DRAWN_CHANNELS, spec.shape[0])
        return f"A series is drawn by its first {channels} of {spec.shape[0]} channels, all on one scale."
    if spec.kind == "vector":
        return "A vector is drawn as a line through its standardised features, in their order, all on one scale."
    if spec.kind == "counts":
        return "A text is shown by the words that it has more often than all the texts shown here together."
    return ""


def _risk(inputs: Inputs) -> list[tuple[str, str]]:
    coverage, risk = inputs.risk_coverage
    rows = []
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0):
        at = int(np.abs(coverage - share).argmin())
        rows.append((percent(100 * coverage[at], 1, ""), percent(100 * risk[at], 3, "")))
    return rows


def _history(inputs: Inputs) -> dict[str, Any]:
    names = ["epoch", *(column for _, _, lines in CURVES for column, _ in lines if column in inputs.history)]
    rows = zip(*(inputs.history[name] for name in names), strict=True)
    return {
        "history_header": names,
        "history_rows": [[f"{float(cell):.5g}" if cell.strip() else "" for cell in row] for row in rows],
    }


def _data(inputs: Inputs) -> dict[str, Any]:
    manifest = inputs.manifest
    facts = [
        ("source", manifest.source),
        ("kind", f"{manifest.spec.kind}, {' x '.join(map(str, manifest.spec.shape))}"),
        ("likelihood", manifest.spec.likelihood.replace("_", " ")),
        *((name, _split_size(manifest.splits[name])) for name in _SPLITS),
        ("seed of the split", str(manifest.split_seed)),
        ("left out as unreadable", f"{sum(manifest.skipped.values()):,}"),
    ]  # fmt: skip
    checksums = [("manifest.json", "", inputs.manifest_sha256)]
    checksums += [(name, "", sha256) for name, sha256 in sorted(manifest.source_files.items())]
    shards = [(s.path, f"{s.samples:,}", s.sha256) for name in _SPLITS for s in manifest.splits[name].shards]
    left = len(checksums) + len(shards) - _MOST_CHECKSUMS
    shown = [*checksums, *shards][:_MOST_CHECKSUMS]
    return {
        "data_facts": facts,
        "checksums": [*shown, *([(f"and {left:,} more in the manifest", "", "")] if left > 0 else [])],
    }


def _split_size(split: Split) -> str:
    tars = len(split.shards)
    return f"{split.samples:,} examples in {tars} tar{'s' if tars > 1 else ''}"


def _provenance(inputs: Inputs, params: Params, project: Path) -> dict[str, Any]:
    price = params.report.price_per_hour
    timed = [
        ("train", inputs.train_timing["seconds"], inputs.train_timing),
        ("evaluate", inputs.evaluate_timing["seconds"], inputs.evaluate_timing),
    ]
    if inputs.sweep is not None:
        # Kept trials may have been run at other commits, on other machines.
        trials = inputs.sweep.results.rows
        where = {
            key: ", ".join(sorted({str(row[key]) for row in trials if row[key]})) for key in ("commit", "hardware")
        }
        timed.insert(1, (f"sweep, {len(trials)} trials in sum", inputs.sweep.trial_seconds, where))
    stages = [
        {
            "name": name,
            "time": _minutes(float(seconds)),
            "cost": f"{price * float(seconds) / 3600:.2f}" if price is not None else "",
            "commit": where.get("commit") or "not recorded",
            "hardware": where.get("hardware") or "not recorded",
        }
        for name, seconds, where in timed
    ]
    versions = ", ".join(f"{name} {version}" for name, version in package_versions().items())
    return {
        "provenance": [
            ("model's fingerprint", inputs.model["provenance"]["fingerprint"]),
            ("parameters of the model", f"{inputs.train_metrics['parameters']:,.0f}"),
            ("precision of training", inputs.model["provenance"].get("precision", "not recorded")),
            ("versions, where the page was made", versions),
            ("page made at commit", commit(project) or "not recorded"),
        ],
        "stages": stages,
        "price": price,
        "params": to_yaml(params.model_dump(mode="json")),
    }


def _minutes(seconds: float) -> str:
    """`4 min 32 s`, `3 h 5 min`."""
    whole = round(seconds)
    text = f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"
    return re.sub(r"^0 min ", "", text)
