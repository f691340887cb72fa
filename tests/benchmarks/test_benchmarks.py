"""The benchmarks run: what they report is of the run that they made."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.gallery import factor_rows, picture, rows_of
from tests.helpers.project import REPOSITORY, succeed


def test_one_run_of_the_sharding_benchmark_reports_speed_and_the_memory_of_stage_and_writers() -> None:
    output = succeed(REPOSITORY, sys.executable, "benchmarks/sharding.py", "--once", "computed", "4000", "2", ".")
    run = json.loads(output.splitlines()[-1])
    assert (run["data"], run["examples"], run["writers"]) == ("computed", 4040, 2)
    assert run["examples_per_s"] > 100
    # Neither the stage nor a writer loads PyTorch, which alone takes more than 200 MiB.
    assert 0 < run["writer_memory_mib"] < run["memory_mib"] < 200


def test_a_picture_of_the_gallery_has_both_maps_and_what_is_below_them_in_few_colours(tmp_path: Path) -> None:
    shades = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    for name, height in (("map_r", 200), ("map_v", 150), ("words", 100)):
        Image.fromarray(shades[:height]).save(tmp_path / f"{name}.png")
    picture(tmp_path, tmp_path / "gallery" / "texts.png")
    made = Image.open(tmp_path / "gallery" / "texts.png")
    assert made.size == (1100, round(200 * 550 / 300) + 100)
    assert len(made.getcolors() or range(65)) <= 64
    rows = rows_of("texts", {"labels": 40, "test_error_classifier_pct": 3.14159, "other": 1.0})
    assert [(row["name"], row["value"], row["unit"]) for row in rows] == [
        ("texts: labels", 40, ""),
        ("texts: test error", 3.14, "%"),
    ]
    header = "factor,measure,scored_on,from,linear,mlp\n"
    (tmp_path / "factors.csv").write_text(header + "slant,r2,test,r,0.1,0.25\nslant,r2,test,constant,0,\n")
    (slant,) = factor_rows("glyphs", tmp_path / "factors.csv")
    assert (slant["name"], slant["value"], slant["target"]) == ("glyphs, slant: r", 0.25, "at most 0.1")
