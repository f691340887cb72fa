"""factors.csv of latents whose content is known, and the way of a factor from the shards into the latents."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ie_model.artifact import load_artifact
from pipeline.config.params import EvaluateParams, load_params
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.index import describe_rows, factor_column, index_tar
from pipeline.data.shards.manifest import read_manifest, write_manifest
from pipeline.data.shards.reading import ONCE
from pipeline.evaluation.factors import write_factors
from pipeline.evaluation.latents import metadata
from pipeline.evaluation.slices import SPLITS, SliceEncoder, plan_slices
from pipeline.results.tables import FACTOR_COLUMNS
from tests.helpers.project import REPOSITORY
from tests.helpers.small import SPEC, model_of, shards_of

ANGLE = "angle.of [x], °"
PARAMS = load_params(REPOSITORY / "params.yaml").evaluate


def settings(**changes: object) -> EvaluateParams:
    return PARAMS.model_copy(update={"probe_seeds": (0,)} | changes)


def lists(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1).astype(np.float32)), values.shape[1])


def made_latents(folder: Path, log_var: float = -6.0) -> Path:
    """r holds the class, the first unit of v the style, the second nothing; angle goes with class and style."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, num in (("train", 600), ("test", 300)):
        y, style = rng.integers(0, 3, num), rng.normal(size=num)
        values = {ANGLE: 3 * y + style, "site": (style > 0).astype(float), "fixed": np.full(num, 0.5)}
        values[ANGLE][::7] = np.nan
        mean = np.stack([style, np.zeros(num)], 1) * (log_var < 0)
        columns = {
            "key": [f"{split}-{i}" for i in range(num)],
            "split": [split] * num,
            "label": [None if i % 50 == 1 and split == "train" else "abc"[c] for i, c in enumerate(y)],
            "r": lists(np.eye(3)[y] + 0.01 * rng.normal(size=(num, 3))),
            "v_mean": lists(mean),
            "v_log_var": lists(np.tile([log_var, 0.0], (num, 1))),
        }
        columns |= {f"factor_{name}": pa.array(column, mask=np.isnan(column)) for name, column in values.items()}
        pq.write_table(pa.table(columns), folder / f"{split}-000000.parquet")
    return folder


def rows_of(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open(newline="") as file:
        return {(row["factor"], row["from"]): row for row in csv.DictReader(file)}


def test_write_factors_tells_what_r_v_and_the_class_hold(tmp_path: Path) -> None:
    write_factors(tmp_path / "f.csv", made_latents(tmp_path / "latents"), (ANGLE, "site", "fixed"), settings())
    rows = rows_of(tmp_path / "f.csv")
    sources = ["r", "v_sampled", "v_active_means", "label", "constant"]
    assert [*rows] == [(factor, source) for factor in (ANGLE, "site", "fixed") for source in sources]
    angle = {source: {k: float(v) for k, v in rows[ANGLE, source].items() if v and k in FACTOR_COLUMNS[4:10]}
             for source in sources}  # fmt: skip
    for probe in ("linear", "mlp"):
        assert angle["r"][probe] > 0.8 > 0.1 > abs(angle["r"][f"within_class_{probe}"])
        assert angle["v_active_means"][f"within_class_{probe}"] > 0.95 > 0.3 > angle["v_active_means"][probe]
        assert angle["v_sampled"][f"within_class_{probe}"] > 0.85
    assert angle["label"]["linear"] == pytest.approx(angle["r"]["linear"], abs=0.05)
    assert -0.05 < angle["constant"]["linear"] <= 0
    assert (angle["r"]["train_points"], angle["r"]["test_points"]) == (503, 257)
    assert rows["site", "r"]["measure"] == "accuracy" and rows[ANGLE, "r"]["measure"] == "r2"
    assert float(rows["site", "v_sampled"]["linear"]) > 0.9 > 0.65 > float(rows["site", "r"]["linear"])
    assert 0.4 < float(rows["site", "constant"]["linear"]) < 0.6
    assert rows["fixed", "r"]["linear"] == "" and "one value" in rows["fixed", "r"]["reason"]


def beyond_latents(folder: Path) -> Path:
    """Seven classes; v is place and size, but for class 6 upside down; in half of test place goes beyond train's."""
    rng = np.random.default_rng(1)
    folder.mkdir()
    for split, num in (("train", 1400), ("test", 1400)):
        y = np.arange(num) % 7
        place, size = rng.uniform(0, 1, (2, num))
        place[(np.arange(num) % 2 == 1) & (split == "test")] += 1
        sign = np.where(y == 6, -1, 1)
        columns = {
            "key": [f"{split}-{i}" for i in range(num)],
            "split": [split] * num,
            "label": ["abcdefg"[c] for c in y],
            "r": lists(np.eye(7)[y]),
            "v_mean": lists(np.stack([sign * place, sign * size], 1)),
            "v_log_var": lists(np.full((num, 2), -8.0)),
            "factor_place": pa.array(place),
            "factor_size": pa.array(size),
        }
        pq.write_table(pa.table(columns), folder / f"{split}-000000.parquet")
    return folder


def test_values_beyond_train_and_classes_that_the_probe_has_not_seen_have_rows_of_their_own(tmp_path: Path) -> None:
    measured = write_factors(tmp_path / "f.csv", beyond_latents(tmp_path / "l"), ("place", "size"), settings())
    with (tmp_path / "f.csv").open(newline="") as file:
        rows = {(row["factor"], row["scored_on"], row["from"]): row for row in csv.DictReader(file)}
    assert {scored_on for factor, scored_on, _ in rows if factor == "size"} == {"test", "unseen classes"}
    place = {scored_on: rows["place", scored_on, "v_active_means"] for _, scored_on, _ in rows}
    points = {name: (row["train_points"], row["test_points"]) for name, row in place.items()}
    assert points == {"test": ("1400", "700"), "unseen range": ("1400", "700"), "unseen classes": ("1200", "100")}
    assert float(place["test"]["mlp"]) > 0.95
    # Six of seven classes: what is linear goes on beyond. The seventh is read upside down.
    assert float(rows["place", "unseen classes", "v_active_means"]["linear"]) < -2
    assert float(rows["size", "test", "v_active_means"]["mlp"]) > 0.95
    assert "label" not in {source for _, scored_on, source in rows if scored_on == "unseen classes"}
    assert place["unseen classes"]["within_class_linear"] == ""
    assert float(rows["place", "unseen range", "constant"]["linear"]) < -5
    found = {row.name: row.value for row in measured}
    assert found["factor_disentanglement_v"] > 0.9 and found["factor_completeness_v"] > 0.9


def test_disentanglement_of_one_quantity_is_not_measured(tmp_path: Path) -> None:
    rows = write_factors(tmp_path / "f.csv", made_latents(tmp_path / "latents"), (ANGLE, "site"), settings())
    assert {row.reason for row in rows} == {"1 of the factors are quantities, at least 2 are needed"}


def test_write_factors_says_where_v_carries_nothing(tmp_path: Path) -> None:
    write_factors(tmp_path / "f.csv", made_latents(tmp_path / "latents", log_var=0.0), (ANGLE,), settings())
    rows = rows_of(tmp_path / "f.csv")
    assert rows[ANGLE, "v_active_means"]["linear"] == ""
    assert "no unit of v is active" in rows[ANGLE, "v_active_means"]["reason"]
    assert abs(float(rows[ANGLE, "v_sampled"]["within_class_linear"])) < 0.1


def test_write_factors_without_factors_leaves_the_header(tmp_path: Path) -> None:
    write_factors(tmp_path / "f.csv", tmp_path / "none", (), settings())
    assert (tmp_path / "f.csv").read_text().split() == [",".join(FACTOR_COLUMNS)]


def test_latents_have_the_factors_of_the_shards(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    manifest = shards_of(folder)
    values: dict[str, float | None] = {}
    for name in SPLITS:
        split = manifest.splits[name]
        table = index_tar(folder / split.shards[0].path, "npy")
        angles = [None if i == 3 else ord(name[1]) + i / 10 for i in range(len(table))]
        values |= dict(zip(table["key"].to_pylist(), angles, strict=True))
        table = table.append_column(factor_column(ANGLE), pa.array(angles))
        manifest.splits[name] = describe_rows(folder, name, split.shards, [table], SPEC, [ANGLE])
    write_manifest(folder, manifest.model_copy(update={"factors": (ANGLE,)}))
    assert read_manifest(folder).factors == (ANGLE,)
    model_of(tmp_path / "model", SPEC)
    artifact, dataset = load_artifact(tmp_path / "model"), ShardedDataset.open(folder)
    used = np.zeros(8, dtype=bool)
    encoder = SliceEncoder(artifact, dataset, ONCE, settings(batch_size=3), used, metadata(artifact, "0"), "cpu", 1)
    for part in plan_slices(manifest, 3):
        rows = pq.read_table(pa.BufferReader(encoder(part)[0]))
        assert rows.schema.field(f"factor_{ANGLE}").type == pa.float64()
        assert rows[f"factor_{ANGLE}"].to_pylist() == [values[key] for key in rows["key"].to_pylist()]
