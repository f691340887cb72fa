"""The gallery: `python benchmarks/gallery.py [SOURCE...]`, about half an hour on two free cores.

Trains and evaluates the default model on each data set, in a fresh clone, by `dvc exp run -S data.source=SOURCE
evaluate`. Keeps one picture of each run in docs/gallery, writes benchmarks/results/gallery.json and the table of
docs/gallery.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).parent.parent
sys.path.insert(0, str(REPOSITORY))

from benchmarks.publish import Row, keep, row  # noqa: E402
from pipeline.data.sources import SOURCES  # noqa: E402
from pipeline.utils.provenance import commit  # noqa: E402

SHOWN = ("mnist", "fashion-mnist", "digits", "glyphs", "japanese-vowels", "basic-motions", "reuters", "hand-pose")
MEASURES = {
    "labels": ("labels", ""),
    "test error": ("test_error_classifier_pct", "%"),
    "logistic regression": ("baseline_logistic_error_pct", "%"),
    "active units of v": ("active_units", ""),
    "class from sampled v": ("probe_class_from_v_sampled_mlp_pct", "%"),
    "swap seen as its new class": ("swap_oracle_pct", "%"),
}
# What a factor is read from by an MLP, and on which part of test: factors.csv.
FACTORS = {
    "v": ("test", "v_active_means"),
    "sampled v": ("test", "v_sampled"),
    "r": ("test", "r"),
    "v, unseen range": ("unseen range", "v_active_means"),
    "v, unseen classes": ("unseen classes", "v_active_means"),
}
TARGETS = {
    (f"glyphs, {factor}", read): target
    for factor in ("weight", "slant")
    for read, target in (("v", "at least 0.9"), ("r", "at most 0.1"), ("v, unseen range", "at least 0.5"))
}
OUT = REPOSITORY / "docs" / "gallery"
_WIDTH = 1100
_COLOURS = 64


def run(project: Path, source: str) -> str:
    """Every stage up to `evaluate`, of a fresh clone in `project`; its commit."""
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(project)], check=True)
    made_at = commit(project)
    command = ["dvc", "exp", "run", "-S", f"data.source={source}", "evaluate"]
    environment = os.environ | {"PYTHONPATH": str(project), "DVC_NO_ANALYTICS": "1"}
    log = project.parent / f"{source}.log"
    with log.open("w") as output:
        done = subprocess.run(command, cwd=project, env=environment, stdout=output, stderr=output, check=False)
    if done.returncode != 0:
        sys.exit(f"{source}: exit code {done.returncode}\n{log.read_text()[-3000:]}")
    return made_at


def picture(figures: Path, out: Path) -> None:
    """r and v side by side, class swaps (of texts, words) below them; in few colours, to be small in git."""
    maps = [Image.open(figures / f"map_{name}.png").convert("RGB") for name in ("r", "v")]
    below = Image.open(figures / ("swap.png" if (figures / "swap.png").exists() else "words.png")).convert("RGB")
    half = [_to_width(image, _WIDTH // 2) for image in maps]
    below = _to_width(below, min(_WIDTH, below.width))
    sheet = Image.new("RGB", (_WIDTH, max(image.height for image in half) + below.height), "white")
    sheet.paste(half[0], (0, 0))
    sheet.paste(half[1], (_WIDTH // 2, 0))
    sheet.paste(below, ((_WIDTH - below.width) // 2, sheet.height - below.height))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(_COLOURS, dither=Image.Dither.NONE).save(out, optimize=True)


def _to_width(image: Image.Image, width: int) -> Image.Image:
    return image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


def rows_of(source: str, metrics: dict[str, Any]) -> list[Row]:
    """What is published of a run; measures that its kind of data does not have are left out."""
    return [
        row(f"{source}: {words}", round(metrics[name], 2), unit)
        for words, (name, unit) in MEASURES.items()
        if name in metrics
    ]


def factor_rows(source: str, factors: Path) -> list[Row]:
    """R^2 of each factor of the data, by what it is read from; none where the data has no factors."""
    with factors.open(newline="", encoding="utf-8") as file:
        found = {(r["factor"], r["scored_on"], r["from"]): r["mlp"] for r in csv.DictReader(file)}
    rows = []
    for factor in dict.fromkeys(name for name, _, _ in found):
        case = f"{source}, {factor}"
        for read, (scored_on, code) in FACTORS.items():
            if value := found.get((factor, scored_on, code)):
                rows.append(row(f"{case}: {read}", round(float(value), 3), "", target=TARGETS.get((case, read), "")))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=SHOWN, metavar="SOURCE", help=", ".join(SOURCES))
    for source in parser.parse_args().sources:
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch) / source
            made_at = run(project, source)
            results = project / "results" / "evaluate"
            picture(results / "figures", OUT / f"{source}.png")
            rows = rows_of(source, json.loads((results / "metrics.json").read_text()))
            keep("gallery", rows + factor_rows(source, results / "factors.csv"), part=True, at=made_at)


if __name__ == "__main__":
    main()
