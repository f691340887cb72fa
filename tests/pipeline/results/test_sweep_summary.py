"""results.parquet and the summary made of it: the numbers, the test against a baseline, files of other versions."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from pipeline.errors import DataError
from pipeline.plots.error_vs_labels import error_against_labels
from pipeline.plots.published_results import PUBLISHED
from pipeline.results.sweep_summary import compare, latex, markdown, summarize, write_summary
from pipeline.results.sweep_table import COLUMNS, SCHEMA, Results, read_results, write_results
from pipeline.utils.checksums import write_checksums
from tests.helpers.project import REPOSITORY, run


def row(method: str, labels: int, seed: int, error: float | None, **more: Any) -> dict[str, Any]:
    """A finished trial."""
    fixed = {"label_count": str(labels), "status": "finished", "error": "", "epochs": 1, "steps": 10, "seconds": 1.5}
    found = {"method": method, "labels": labels, "seed": seed, "test_error_classifier_pct": error}
    return dict.fromkeys(COLUMNS) | fixed | found | more


def grid(seed: int = 0, seeds: int = 4) -> Results:
    """Three methods at two numbers of labels, one of them with a deviation of its own."""
    rng = np.random.default_rng(seed)
    rows = [
        row(method, labels, s, round(float(rng.uniform(1, 20)), 4), bound_nats=float(rng.normal(-100, 5)))
        for labels in (100, 600)
        for method in ("m2", "supervised_augmented", "plain")
        for s in range(seeds)
    ]
    return Results(rows, "mnist", "m2")


def test_the_summary_is_a_recomputation_from_the_parquet_file(tmp_path: Path) -> None:
    write_results(tmp_path / "results.parquet", grid())
    write_summary(tmp_path)
    frame = pq.read_table(tmp_path / "results.parquet").to_pandas()
    lines = [re.split(r" *\| *", line.strip("| ")) for line in (tmp_path / "summary.md").read_text().splitlines()]
    header = next(line for line in lines if line[0] == "labels")
    assert header == ["labels", "method", "test error, %", "test bound, nats", "n", "less `m2`", "p"]
    shown = {(int(line[0]), line[1]): line[2:] for line in lines if line[0].isdigit()}
    assert len(shown) == 6
    for (labels, method), cells in shown.items():
        mine = frame[(frame.labels == labels) & (frame.method == method)].sort_values("seed")
        base = frame[(frame.labels == labels) & (frame.method == "m2")].sort_values("seed")
        errors, bounds = mine.test_error_classifier_pct, mine.bound_nats
        assert cells[0] == f"{errors.mean():.2f} ± {errors.std():.2f}"
        assert cells[1] == f"{bounds.mean():.2f} ± {bounds.std():.2f}"
        assert cells[2] == "4"
        if method != "m2":
            difference = errors.to_numpy() - base.test_error_classifier_pct.to_numpy()
            t = difference.mean() / (difference.std(ddof=1) / math.sqrt(4))
            assert cells[3] == f"{difference.mean():+.2f}"
            assert float(cells[4]) == pytest.approx(2 * stats.t.sf(abs(t), df=3), abs=6e-4)


def test_latex_holds_the_same_numbers_and_escapes_names(tmp_path: Path) -> None:
    results = grid()
    cells = summarize(results)
    text = latex(results, cells, "m2")
    plain = text.replace(r"$\pm$", "±").replace("$", "")
    for cell in cells:
        spread = cell.values["test_error_classifier_pct"]
        assert f"{spread.mean:.2f} ± {spread.std:.2f}" in plain
        if cell.against_baseline is not None:
            assert f"{cell.against_baseline.difference:+.2f}" in plain
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert r"supervised\_augmented" in body and r"test error, \%" in body
    assert not re.search(r"(?<!\\)[%_]", body.replace(r"\begin{tabular}", ""))
    assert all(line.count("&") == 6 for line in body.splitlines() if "&" in line)


def test_pairs_are_the_label_subsets_that_both_methods_have() -> None:
    mine = [row("plain", 100, s, e) for s, e in ((0, 5.0), (1, 6.0), (3, 9.0))]
    base = [row("m2", 100, s, e) for s, e in ((3, 10.0), (0, 7.0), (2, 50.0))]
    found = compare(mine, base)
    assert found is not None
    assert (found.difference, found.n) == (-1.5, 2)
    assert found.p == pytest.approx(float(stats.ttest_rel([5.0, 9.0], [7.0, 10.0]).pvalue))


@pytest.mark.parametrize("differences", [(2.0,), (2.0, 2.0, 2.0)])
def test_where_the_test_is_not_defined_there_is_no_p(differences: tuple[float, ...]) -> None:
    mine = [row("plain", 100, s, 5.0 + d) for s, d in enumerate(differences)]
    base = [row("m2", 100, s, 5.0) for s in range(3)]
    found = compare(mine, base)
    assert found is not None
    assert (found.difference, found.n, found.p) == (2.0, len(differences), None)


def test_methods_without_classes_and_failed_trials_have_no_error_and_no_test() -> None:
    rows = [row("m2", 100, s, 5.0 + s) for s in range(3)]
    rows += [row("vae", 100, s, None, val_bound_nats=-100.0) for s in range(3)]
    failed = row("plain", 100, 0, None) | {"status": "failed", "error": "RuntimeError: broken"}
    results = Results([*rows, failed], "mnist", "m2")
    cells = summarize(results)
    assert [cell.method for cell in cells] == ["m2", "vae"]
    text = markdown(results, cells, "m2")
    assert "| 100 | vae |  | -100.00 ± 0.00 | 3 |  |  |" in text
    assert "1 of 7 trials failed and are left out: plain 100 labels seed 0" in text


def test_the_limits_of_the_test_are_stated_where_there_are_few_pairs() -> None:
    few, many = grid(seeds=3), grid(seeds=5)
    assert "two degrees of freedom" in markdown(few, summarize(few), "m2")
    assert "two degrees of freedom" not in markdown(many, summarize(many), "m2")
    # The figure that the note quotes: |t| of p = 0.05, over the root of 3.
    assert stats.t.isf(0.025, 2) / math.sqrt(3) == pytest.approx(2.5, abs=0.05)


def test_the_file_gives_back_what_was_written_with_types_and_further_measures(tmp_path: Path) -> None:
    results = Results([row("m2", 100, 0, 5.0, ece=0.25), row("vae", 100, 0, None, kl_nats=12.0)], "digits", "m2")
    write_results(tmp_path / "r.parquet", results)
    back = read_results(tmp_path / "r.parquet")
    assert (back.source, back.baseline) == ("digits", "m2")
    assert [(r["ece"], r["kl_nats"]) for r in back.rows] == [(0.25, None), (None, 12.0)]
    assert [{k: r[k] for k in COLUMNS} for r in back.rows] == [{k: r[k] for k in COLUMNS} for r in results.rows]


@pytest.mark.parametrize("version", ["0", None])
def test_results_of_another_schema_are_refused_and_nothing_is_overwritten(tmp_path: Path, version: str | None) -> None:
    path = tmp_path / "results.parquet"
    write_results(path, grid())
    write_summary(tmp_path)
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata) | {b"ie_results_schema": (version or "").encode()}
    if version is None:
        del metadata[b"ie_results_schema"]
    pq.write_table(table.replace_schema_metadata(metadata), path)
    write_checksums(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in ("results.parquet", "summary.md", "summary.tex")}
    done = run(REPOSITORY, "ie", "summary", str(tmp_path))
    assert done.returncode == 4
    (line,) = done.stderr.splitlines()
    assert f"results have schema {version or 'none'}, this version reads {SCHEMA}" in line
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="results is missing"):
        read_results(tmp_path / "results.parquet")
    (tmp_path / "results.parquet").write_bytes(b"damage")
    with pytest.raises(DataError, match="results is damaged"):
        read_results(tmp_path / "results.parquet")
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"ie_results_schema": SCHEMA}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="results lack column method, labels"):
        read_results(tmp_path / "x.parquet")


def test_a_baseline_that_is_not_there_is_refused() -> None:
    with pytest.raises(DataError, match="baseline 'vae' is none of the results' methods: m2, supervised_augmented"):
        summarize(grid(), "vae")


def test_published_errors_are_drawn_and_named_as_published_and_none_is_of_this_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[str] = []
    original = Figure.legend

    def legend(self: Figure, handles: Any, names: list[str], **more: Any) -> Any:
        drawn.extend(names)
        return original(self, handles, names, **more)

    monkeypatch.setattr(Figure, "legend", legend)
    table = tmp_path / "table.csv"
    table.write_text("method,labels,seed,test_error_pct\nplain,100,0,5\nplain,1000,0,3\n")
    error_against_labels(table, tmp_path / "out.png", PUBLISHED["mnist"])
    assert drawn[0] == "plain (1 seed)"
    assert "published: M2 (Kingma et al. 2014)" in drawn
    assert all(name.startswith("published: ") for name in drawn[1:])
    assert len(drawn) == 1 + len(PUBLISHED["mnist"])
    names = [work.name.lower() for works in PUBLISHED.values() for work in works]
    assert not [name for name in names if "equivae" in name or "feige" in name]
