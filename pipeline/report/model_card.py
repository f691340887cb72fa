"""The model card: what a run's model is for, what it was made of, its numbers and what they say against it."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ie_model.metrics.measures import mean_and_std
from pipeline.config.methods import METHODS
from pipeline.report.inputs import FACTOR_HEADER, Inputs
from pipeline.report.metric_text import grouped, number
from pipeline.report.tiles import style
from pipeline.results.verdict import verdict
from pipeline.utils.fingerprint import package_versions
from pipeline.utils.rounding import percent

LOADING = """from pathlib import Path
import torch
from ie_model import artifact, inference

model = artifact.load_artifact(Path("results/train/model"))
q = inference.classify(model, torch.rand(2, *model.model.spec.shape)).exp()  # q(y|x) of two examples
"""
"""How a model is loaded, as the card shows it; run in the project's folder."""

_WORKS_ON = {
    "image": "images of this shape, values in [0, 1]",
    "series": "series with these channels, NaN past an end",
    "counts": "counts of this vocabulary's words",
    "vector": "vectors of these features, standardised as the model's `preprocessing` says",
}


def model_card(inputs: Inputs) -> str:
    """The card as Markdown; names of classes are written so that they cannot become markup."""
    spec, provenance = inputs.manifest.spec, inputs.model["provenance"]
    name = METHODS[method].about if (method := provenance.get("method")) in METHODS else "custom method"
    labels = int(inputs.metrics["labels"])
    shape = " x ".join(map(str, spec.shape))
    about = [
        ("method", name),
        ("data", f"{text(inputs.data)}: {spec.kind} {shape}, {spec.num_classes} classes"),
        ("labels in training", f"{labels:,}, and {provenance.get('num_unlabelled', 0):,} points without"),
        ("r, v", f"{inputs.model['model']['r_dim']}, {inputs.model['model']['v_dim']} numbers"),
        ("likelihood", spec.likelihood),
        ("parameters", f"{inputs.train_metrics['parameters']:,.0f}"),
        ("trained", f"{inputs.train_metrics['epochs']:.0f} epochs, {inputs.train_metrics['steps']:,.0f} steps"),
        ("on", text(str(inputs.train_timing.get("hardware") or "not recorded"))),
        ("commit", text(str(inputs.train_timing.get("commit") or "not recorded"))),
        ("fingerprint", f"`{provenance['fingerprint']}`"),
        (
            "packages, where the card was made",
            ", ".join(f"{package} {version}" for package, version in package_versions().items()),
        ),
    ]
    classes = ", ".join(text(c) for c in spec.classes)
    splits = [
        (split, f"{inputs.manifest.splits[split].samples:,}", str(len(inputs.manifest.splits[split].shards)))
        for split in ("train", "val", "test")
    ]
    sources = [(text(file), f"`{sha256}`") for file, sha256 in sorted(inputs.manifest.source_files.items())[:20]]
    measured = [
        (f"`{row.name}`", row.value, "; ".join(f"{label}: {value}" for label, value in row.controls))
        for _, _, rows in grouped(inputs.measures, spec.num_classes, inputs.sweep, labels, inputs.not_measured)
        for row in rows
    ]
    parts = [
        f"# Model card: {name}, {text(inputs.data)}",
        verdict(inputs.metrics).text,
        *(f"{text(line)}." for line in inputs.left_out),
        "Made by `ie report` from the tables of one run; docs/metrics.md explains each, and what fools it.",
        *_table(("model", ""), about),
        "## Intended use",
        f"Research on representations that separate class (r) and position within it (v). It classifies, encodes, "
        f"swaps classes of, and samples {_WORKS_ON[spec.kind]}. The classes it knows: {classes}.",
        "Not for decisions about people, nor for data of another origin: it assigns one of its classes to any input, "
        "and every measure here is of the test split below.",
        "## Data",
        *_table(("split", "examples", "tars"), splits),
        f"The manifest's SHA-256 is `{inputs.manifest_sha256}`. Raw files:",
        *_table(("file", "SHA-256"), sources),
        "## Numbers",
        f"Test split, last checkpoint, one run with one subset of {labels} labels: n = 1. A deviation (±) is over the "
        "seeds of a probe alone.",
        *_table(("measure", "value", "beside"), measured),
        *_spread(inputs),
        *_factors(inputs),
        "## Limits seen",
        "\n".join(f"- {limit}" for limit in limits(inputs)),
        "## Loading",
        f"```python\n{LOADING}```",
    ]
    return "\n\n".join(parts) + "\n"


def limits(inputs: Inputs) -> Iterator[str]:
    """What the run's own measures say against it, in sentences; nothing that was not measured."""
    values = {row.name: row.value for row in inputs.measures}
    spec = inputs.manifest.spec
    chance = f"{100 / spec.num_classes:.3g} %"

    def shown(name: str) -> str:
        return number(name, values[name])

    if (carried := style(values)).level in ("dead", "weak"):
        yield f"{carried.text[:1].upper()}{carried.text[1:]}. That no class is read from it proves nothing."
    sampled, means = "probe_class_from_v_redrawn_mlp_pct", "probe_class_from_v_active_means_mlp_pct"
    if sampled in values and means in values:
        yield (
            f"Class that v still carries: an MLP reads it from v, drawn from q(v|r,x), in {shown(sampled)} of the test "
            f"points, from the means of its active units in {shown(means)}; chance is {chance}."
        )
    from_f, from_r = "r2_rotation_sin_from_f_mlp", "r2_rotation_sin_from_r_mlp"
    if from_f in values and from_r in values:
        yield (
            f"Style that r still carries: the sine of a rotation is read from r of a single example with R² "
            f"{shown(from_f)}, from r of the predicted class, which the decoder gets, with {shown(from_r)}."
        )
    if "active_units" in values:
        active, size = values["active_units"], len(inputs.gallery.arrays["unit_kl"])
        yield f"{active:.0f} of {size} units of v are active (mean KL above 0.05 nats); the others carry nothing."
    if (few := "test_error_prototype_r_from_1_pct") in values:
        yield (
            f"With r from one labelled point of each class the nearest r errs in {shown(few)}, with all of them in "
            f"{shown('test_error_prototype_pct')}."
        )
    if "ece" in values:
        yield f"The confidence q(y|x) is off by {shown('ece')} on average (expected calibration error)."
    counts = inputs.confusion
    errors = counts.sum() - np.trace(counts)
    if errors:
        # A class without a test example has no share.
        share = np.where(counts.sum(1) > 0, 100 * (1 - np.diag(counts) / np.maximum(counts.sum(1), 1)), 0)
        worst = int(share.argmax())
        wrong = counts - np.diag(np.diag(counts))
        actual, predicted = np.unravel_index(int(wrong.argmax()), wrong.shape)
        yield (
            f"{errors:,} of {counts.sum():,} test points are classified wrong. The worst class is "
            f"{text(spec.classes[worst])} ({percent(float(share[worst]), 1)} wrong); the commonest mistake is "
            f"{text(spec.classes[actual])} taken for {text(spec.classes[predicted])} ({wrong.max()} times)."
        )
    if absent := [text(name) for name, number in zip(spec.classes, counts.sum(1), strict=True) if number == 0]:
        yield f"Classes without a test example, of which nothing was measured: {', '.join(absent)}."
    skipped = sum(inputs.manifest.skipped.values())
    if skipped:
        yield f"{skipped:,} raw examples could not be read and are in no split."


def _spread(inputs: Inputs) -> Iterator[str]:
    """The sweep's errors with their deviation over label subsets, where there was a sweep."""
    if inputs.sweep is None:
        return
    rows = []
    for (method, labels), measured in inputs.sweep.measures.items():
        if errors := measured.get("test_error_classifier_pct"):
            mean, std, n = mean_and_std(errors)
            rows.append((method, f"{labels:,}", number("_pct", mean, std if n > 1 else None), str(n)))
    if rows:
        yield "The same kind of model over label subsets (the sweep's runs, which are shorter or longer than this one):"
        yield from _table(("method", "labels", "test error", "n"), rows)


def _factors(inputs: Inputs) -> Iterator[str]:
    """How much r and v tell of the data's factors, where it has any."""
    if inputs.factors:
        yield "Factors of the data that the model never saw, read from it and from the class alone:"
        yield from _table(FACTOR_HEADER, [[text(cell) for cell in row] for row in inputs.factors])


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [header, ["---"] * len(header), *rows]
    yield "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(name: str) -> str:
    """A name as Markdown that shows it as it is written: no markup, no line of its own."""
    line = html.escape(" ".join(name.split()))
    return re.sub(r"[\\`*_{}\[\]|~#!]", lambda found: f"&#{ord(found[0])};", line)
