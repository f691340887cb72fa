"""What a run says of itself beside simple classifiers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.results.verdict import verdict

METRICS = {
    "test_error_classifier_pct": 5.0,
    "test_error_classifier_low_pct": 3.2,
    "test_error_classifier_high_pct": 7.8,
    "test_examples": 360,
    "labels": 100,
    "baseline_labels": 100,
    "baseline_1nn_error_pct": 9.0,
    "baseline_1nn_mcnemar_p": 0.01,
    "baseline_logistic_error_pct": 10.0,
    "baseline_logistic_mcnemar_p": 0.001,
    "baseline_constant_error_pct": 89.0,
}


@pytest.mark.parametrize(
    ("changes", "level", "first"),
    [
        ({}, "good", "Test error 5.00 % (95 % interval 3.20 to 7.80, 360 test examples)"),
        ({"baseline_1nn_mcnemar_p": 0.2}, "close", "Not clearly better than 1-NN (9.00 %) on the same 100 labels"),
        ({"baseline_1nn_error_pct": 4.0, "baseline_1nn_mcnemar_p": 0.2}, "close", "No better than 1-NN (4.00 %)"),
        ({"baseline_1nn_error_pct": 5.0, "baseline_1nn_mcnemar_p": 1.0}, "close", "As good as 1-NN (5.00 %)"),
        ({"baseline_1nn_error_pct": 1.0}, "worse", "Worse than 1-NN (1.00 %) on the same 100 labels"),
        ({"baseline_1nn_error_pct": 1.0, "baseline_logistic_error_pct": 0.5}, "worse",
         "Worse than logistic regression (0.50 %) and 1-NN (1.00 %)"),
        ({"baseline_constant_error_pct": 4.0}, "worse", "No better than always predicting the most frequent class"),
        ({"baseline_labels": 50}, "good", "Test error 5.00 %"),
    ],
)  # fmt: skip
def test_verdict_beside_baselines_has_level_and_first_words(changes: dict[str, float], level: str, first: str) -> None:
    found = verdict(METRICS | changes)
    assert (found.level, found.text[: len(first)]) == (level, first)
    assert "5.00 % (95 % interval 3.20 to 7.80, 360 test examples)" in found.text.replace("Test", "test")
    assert ("50 of the 100 labels" in found.text) == ("baseline_labels" in changes)


def test_verdict_without_baselines_claims_no_comparison() -> None:
    assert verdict({"test_error_classifier_pct": 1.0}).level == "close"
    assert verdict({}).level == "close"


def test_verdict_imports_no_torch() -> None:
    code = "import sys, pipeline.results.verdict; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
