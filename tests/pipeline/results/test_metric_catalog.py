"""The metric catalogue: which names it has, what it gives of each, and that pages and files agree with it."""

from __future__ import annotations

import csv
import subprocess
import sys

import pytest

from pipeline.results.metric_catalog import GROUPS, MEASURED, TRAINED, about, find
from tests.helpers.project import REPOSITORY


def test_docs_page_has_the_tables_of_the_catalogue() -> None:
    page = (REPOSITORY / "docs/metrics.md").read_text()
    groups = {metric.group for metric in (*MEASURED, *TRAINED)}
    assert groups == {*GROUPS, "training"}
    assert [group for group in groups if f"<!-- {group} -->" not in page] == []


def test_published_measures_are_the_catalogue_s() -> None:
    with (REPOSITORY / "docs/results/mnist-run/evaluate/measures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 50
    for row in rows:
        metric = about(row["name"])
        assert (metric.group, metric.better, metric.control) == (row["group"], row["better"], row["control"]), row


def test_catalogue_names_controls_that_it_has() -> None:
    parts = {"output": "scale", "probe": "mlp", "k": 1, "n": 9, "feature": "slant"}
    beside = [name.format(**parts) for metric in MEASURED for _, name in metric.beside]
    assert [name for name in beside if find(name) is None] == []
    directed = [metric.name for metric in MEASURED if metric.better and not metric.control]
    assert directed == ["val_error_classifier_pct", "skipped", "active_units"]


@pytest.mark.parametrize(
    ("name", "label", "unit", "digits"),
    [
        ("r2_shift_x_from_v_mlp", "shift along x from v, MLP probe", "", 3),
        ("invariance_ratio_pixels", "pixels (the control): moved by a rotation", "", 3),
        ("test_error_prototype_r_from_3_pct", "error of the nearest r, m = 3", "%", 2),
        ("rotation_action_hit_at_5_of_100_pct", "v(gx) found by the linear map, among the nearest 5 of 100", "%", 2),
        ("bound_bits_per_dim", "bound, bits per dimension", "bits/dim", 4),
        ("val_bound_nats", "val bound", "nats", 2),
        ("swap_oracle_neither_low_pct", "it sees neither class, low end of its 95 % interval", "%", 2),
        ("something_new_pct", "something_new_pct", "%", 2),
    ],
)
def test_about_a_name_gives_its_words_and_unit(name: str, label: str, unit: str, digits: int) -> None:
    metric = about(name)
    assert (metric.name, metric.label, metric.unit, metric.digits) == (name, label, unit, digits)


@pytest.mark.parametrize(
    "name",
    [
        "test_error_pct", "test_error_prototype_r_from_m_pct", "iw_bound", "probe_class_from_w_mlp_pct",
        "probe_class_from_r_mlp", "probe_class_from_v_shuffled_mlp_pct", "r2_hue_from_v_mlp", "r2_scale_from_v",
        "r2_scale_from_v_forest", "r2_scale_from_noise_mlp", "invariance_ratio_r", "rotation_action",
        "rotation_action_hit_at_10_of_100_pct", "swap_r_hit_at_1_of_100_pct", "bound_nats_std",
        "swap_oracle_new_pct", "swap_mass_correlation", "swap_slant_correlation_v_zero",
    ],
)  # fmt: skip
def test_find_a_name_that_no_metric_has_gives_none(name: str) -> None:
    assert find(name) is None


def test_catalogue_imports_no_torch() -> None:
    code = "import sys, pipeline.results.metric_catalog; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
