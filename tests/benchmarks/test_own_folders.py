"""benchmarks/own_data.py and the folders that it makes: those that need no package from outside."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import own_data
from benchmarks.own_folders import FOLDERS
from benchmarks.own_folders.waveforms import make_waveforms


def test_digits_are_grey_png_files_of_ten_classes(tmp_path: Path) -> None:
    FOLDERS["digits"](tmp_path / "digits")
    found = Counter(path.parent.name for path in (tmp_path / "digits").rglob("*.png"))
    assert sum(found.values()) == 1797 and len(found) == 10
    with Image.open(tmp_path / "digits" / "0" / "0000.png") as picture:
        assert (picture.mode, picture.size) == ("L", (8, 8))


def test_waveforms_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("first", "second"):
        make_waveforms(tmp_path / name)
    for split in ("TRAIN", "TEST"):
        texts = {(tmp_path / name / f"Waves_{split}.ts").read_text() for name in ("first", "second")}
        assert len(texts) == 1


def test_command_differs_from_the_pages_in_labels_and_subset_alone(tmp_path: Path) -> None:
    words = own_data.command(own_data.CASES["texts"], tmp_path, seed=2)
    page = (own_data.REPOSITORY / "docs" / "data.md").read_text()
    assert " ".join(words[:5]) == "dvc exp run -S data.source=texts"
    assert "dvc exp run -S data.source=texts -S data.folder=my_texts" in page
    assert words[6:] == [f"data.folder={tmp_path}", "-S", "labels.count=40", "-S", "labels.seed=2"]


def test_rows_are_means_over_label_subsets() -> None:
    runs = {
        seed: {
            "seconds": 100.0 + seed,
            "test_error_classifier_pct": 2.0 + seed,
            "baseline_1nn_error_pct": 8.0,
            "baseline_logistic_error_pct": 6.0,
        }
        for seed in (0, 1)
    }
    rows = {row["name"]: row for row in own_data.rows_of("texts", runs)}
    assert (rows["texts-error"]["value"], rows["texts-error"]["n"]) == (2.5, 2)
    assert rows["texts-1-nn"]["ratio"] == pytest.approx(2.5 / 8, abs=1e-3)
    assert rows["texts-command-wall"]["value"] == 100.0


def test_the_pages_table_is_of_the_published_figures() -> None:
    if not own_data.RESULTS.exists():
        pytest.skip("nothing is published yet")
    page = own_data.PAGE.read_text()
    assert own_data.with_table(page, json.loads(own_data.RESULTS.read_text())) == page
