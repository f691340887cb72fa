"""Stage `report`: one HTML page and a model card from the tables that the other stages left."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ie_model.spec import DataSpec
from pipeline.errors import ResourceError
from pipeline.figures import CURVES
from pipeline.files import atomic_file
from pipeline.fingerprint import package_versions
from pipeline.jobs import shards_folder
from pipeline.methods import METHODS
from pipeline.page.card import model_card
from pipeline.page.content import drawn, errors_beside, headline
from pipeline.page.inputs import Inputs, read_inputs
from pipeline.page.measured import grouped
from pipeline.page.sprites import DRAWN_CHANNELS
from pipeline.page.write import render
from pipeline.params import Params
from pipeline.progress import Log
from pipeline.provenance import commit
from pipeline.shards import Split, SplitName

_SECTIONS = (
    ("headline", "Headline"),
    ("labels", "Error against labels"),
    ("maps", "Maps of r and v"),
    ("swap", "Class swap"),
    ("traversal", "Units of v"),
    ("interpolation", "Interpolation"),
    ("samples", "Samples"),
    ("errors", "Confusion"),
    ("calibration", "Calibration"),
    ("measures", "Measures"),
    ("training", "Training"),
    ("data", "Data"),
    ("provenance", "Provenance"),
)
_SPLITS: tuple[SplitName, ...] = ("train", "val", "test")
_MOST_CHECKSUMS = 200


def report(params: Params, project: Path, log: Log, with_sweep: bool = True) -> Path:
    """Writes results/report/index.html and model_card.md.

    Args:
        with_sweep: False leaves out what the sweep measured, where none was run.

    Raises:
        DataError: a result is missing or damaged, or they are not of one run; the message names it.
        ResourceError: the plotting library's script is not where its package has it.
    """
    inputs = read_inputs(project, shards_folder(params, project), with_sweep)
    out = project / "results" / "report"
    html = render(_context(inputs, params, project), _plotting_scripts())
    for name, text in (("index.html", html), ("model_card.md", model_card(inputs))):
        with atomic_file(out / name) as part:
            part.write_text(text, encoding="utf-8")
    log(f"report: {out / 'index.html'} ({len(html.encode()) / 1e6:.1f} MB) and model_card.md beside it")
    return out


def _plotting_scripts() -> list[str]:
    """BokehJS as its Python package ships it."""
    folder = files("bokeh") / "server" / "static" / "js"
    try:
        return [(folder / name).read_text(encoding="utf-8") for name in ("bokeh.min.js", "bokeh-api.min.js")]
    except FileNotFoundError as error:
        raise ResourceError(f"the package bokeh lacks {error.filename}: install requirements.txt again") from error


def _context(inputs: Inputs, params: Params, project: Path) -> dict[str, Any]:
    """What the template says."""
    spec, text = inputs.manifest.spec, inputs.gallery.text
    provenance = inputs.model["provenance"]
    labels = int(inputs.metrics["labels"])
    about: dict[str, str] = {name: changes.about for name, changes in METHODS.items()}
    counts, rows = errors_beside(inputs)
    kl = inputs.gallery.arrays["unit_kl"]
    confusion = inputs.confusion
    more = f", the {len(text.units)} with the largest KL are shown" if text.active > len(text.units) else ""
    return {
        "sections": _SECTIONS,
        "source": inputs.manifest.source,
        "method": about.get(provenance.get("method", ""), "A custom method"),
        "labels_text": f"{labels:,} labels, {provenance.get('num_unlabelled', 0):,} training points without.",
        "commit": inputs.evaluate_timing.get("commit", ""),
        "tiles": headline(inputs),
        "error_counts": counts,
        "error_rows": rows,
        "num_sampled": text.num_sampled,
        "test_points": f"{len(inputs.latents.keys):,}",
        "example": {"image": "image", "series": "series", "counts": "text"}[spec.kind],
        "example_note": _example_note(spec),
        "units": [(unit, f"{kl[unit]:.2f}") for unit in text.units],
        "active_text": f"{text.active} of {len(kl)} units are active (mean KL above 0.05 nats){more}.",
        "classes": spec.classes,
        "confusion": _confusion(confusion, spec.classes),
        "num_errors": f"{confusion.sum() - np.trace(confusion):,}",
        "worst": len(text.errors),
        "calibration": [
            (f"{x:.3f}", f"{y:.3f}", f"{n:,.0f}") for x, y, n in zip(*inputs.calibration, strict=True) if n
        ],
        "risk": _risk(inputs),
        "measures": grouped(inputs.measures, spec.num_classes, inputs.sweep, labels),
        **_history(inputs),
        **_data(inputs),
        **_provenance(inputs, params, project),
        "data": drawn(inputs, params.report.seed),
    }


def _example_note(spec: DataSpec) -> str:
    """How an example that is no image is shown."""
    if spec.kind == "series":
        channels = min(DRAWN_CHANNELS, spec.shape[0])
        return f"A series is drawn by its first {channels} of {spec.shape[0]} channels, all on one scale."
    if spec.kind == "counts":
        return "A text is shown by the words that it has more often than all the texts shown here together."
    return ""


def _confusion(counts: np.ndarray[Any, Any], classes: tuple[str, ...]) -> list[tuple[str, list[dict[str, Any]]]]:
    """A row of cells per actual class; a shade is the square root of a share, so that one error in a hundred shows."""
    share = np.sqrt(counts / np.maximum(counts.sum(1, keepdims=True), 1))
    return [
        (
            name,
            [
                {
                    "count": int(counts[i, j]),
                    "share": f"{share[i, j]:.3f}",
                    "kind": "right" if i == j else "wrong" if counts[i, j] else "",
                }
                for j in range(len(classes))
            ],
        )
        for i, name in enumerate(classes)
    ]


def _risk(inputs: Inputs) -> list[tuple[str, str]]:
    coverage, risk = inputs.risk_coverage
    rows = []
    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0):
        at = int(np.abs(coverage - share).argmin())
        rows.append((f"{100 * coverage[at]:.1f}", f"{100 * risk[at]:.3f}"))
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
    used = inputs.model["provenance"].get("labels_per_class", {})
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
        "class_rows": [
            (name, *(f"{manifest.splits[s].class_counts[name]:,}" for s in _SPLITS), f"{used.get(name, 0):,}")
            for name in manifest.spec.classes
        ],
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
        "params": yaml.safe_dump(params.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
    }


def _minutes(seconds: float) -> str:
    """`4 min 32 s`, `3 h 5 min`."""
    whole = round(seconds)
    text = f"{whole // 3600} h {whole % 3600 // 60} min" if whole >= 3600 else f"{whole // 60} min {whole % 60} s"
    return re.sub(r"^0 min ", "", text)
