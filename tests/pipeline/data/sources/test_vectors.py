"""The user's own feature vectors: what is read, how it is split and scaled, and what is refused."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_wine

from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError, FaultError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought

X, Y = load_wine(return_X_y=True)
NAMES = tuple(f"f{i}" for i in range(X.shape[1]))


def csv_text(x: npt.NDArray[Any] = X, y: Any = Y, names: tuple[str, ...] = NAMES, delimiter: str = ",") -> str:
    lines = [delimiter.join([*names, "label"])]
    lines += [delimiter.join([*map(repr, row), str(label)]) for row, label in zip(x.tolist(), y, strict=True)]
    return "\n".join(lines) + "\n"


def npz_bytes(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def written(folder: Path, **files: str | bytes) -> Path:
    """Files by name, the dot before a suffix written as `__`."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


def parquet(folder: Path, name: str, **columns: Any) -> Path:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), folder / name)
    return folder


def as_csv(folder: Path) -> Path:
    return written(folder, wine__csv=csv_text())


def as_npz(folder: Path) -> Path:
    return written(folder, wine__npz=npz_bytes(x=X, y=Y))


def as_npy(folder: Path) -> Path:
    folder.mkdir()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", Y)
    return folder


def as_parquet(folder: Path) -> Path:
    columns = {name: X[:, i] for i, name in enumerate(NAMES)}
    return parquet(folder, "wine.parquet", label=[str(y) for y in Y], **columns)


def as_embeddings(folder: Path) -> Path:
    return parquet(folder, "wine.parquet", label=Y, embedding=pa.array(X.tolist()))


def message(folder: Path, tmp_path: Path) -> str:
    with pytest.raises(DataError) as caught:
        Brought("vectors", folder, tmp_path)
    return str(caught.value)


@pytest.mark.parametrize("form", [as_csv, as_npz, as_npy, as_parquet, as_embeddings])
def test_vectors_every_form_becomes_the_same_shards(form: Any, tmp_path: Path) -> None:
    brought = Brought("vectors", form(tmp_path / "mine"), tmp_path)
    out = shard(brought.params, tmp_path, lambda line: None)
    manifest = read_manifest(out)
    ShardedDataset(out, manifest).verify()
    assert (manifest.spec.kind, manifest.spec.shape, manifest.spec.classes) == ("vector", (13,), ("0", "1", "2"))
    assert sum(split.samples for split in manifest.splits.values()) == len(X)
    assert len(manifest.preprocessing.means) == 13
    train = np.stack([example.x for example in brought.examples("train")])
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, atol=1e-5)
    assert len(brought.examples("test")) == pytest.approx(0.25 * len(X), abs=2)


def test_vectors_files_named_by_split_are_that_split_with_columns_in_any_order(tmp_path: Path) -> None:
    backwards = csv_text(X[120:, ::-1], Y[120:], NAMES[::-1], ";")
    folder = written(tmp_path / "mine", Train__csv=csv_text(X[:120], Y[:120]), Testing__csv=backwards)
    with pytest.raises(DataError, match="class '2' is not in train"):
        Brought("vectors", folder, tmp_path)
    order = np.random.default_rng(0).permutation(len(X))
    x, y = X[order], Y[order]
    backwards = csv_text(x[120:, ::-1], y[120:], NAMES[::-1], ";")
    written(
        folder, Train__csv=csv_text(x[:90], y[:90]), Testing__csv=backwards, val__csv=csv_text(x[90:120], y[90:120])
    )
    brought = Brought("vectors", folder, tmp_path)
    test, scales = brought.examples("test"), brought.source.preprocessing(brought.raw)
    assert scales.features == NAMES
    values = np.stack([example.x for example in test]) * np.array(scales.deviations) + np.array(scales.means)
    np.testing.assert_allclose(values, x[120:], rtol=1e-4)
    assert len(brought.source.val_keys(brought.raw)) == 30  # type: ignore[attr-defined]
    assert len(brought.examples("train")) == 120


def test_vectors_a_column_split_and_key_are_used(tmp_path: Path) -> None:
    lines = csv_text().splitlines()
    splits = ["test" if i % 4 == 0 else "" for i in range(len(X))]
    rows = [f"{line},{split},wine-{i}" for i, (line, split) in enumerate(zip(lines[1:], splits, strict=True))]
    brought = Brought(
        "vectors", written(tmp_path / "mine", a__csv="\n".join([lines[0] + ",Split,KEY", *rows])), tmp_path
    )
    assert set(brought.examples("test").keys) == {f"wine-{i}" for i in range(0, len(X), 4)}


@pytest.mark.parametrize("missing", [[""], [" "], ["unlabelled"], ["-1"]], ids=str)
def test_vectors_rows_without_a_label_stay_in_train(missing: list[str], tmp_path: Path) -> None:
    labels = [*map(str, Y)]
    labels[5:40] = missing * 35
    brought = Brought("vectors", written(tmp_path / "mine", a__csv=csv_text(X, labels)), tmp_path)
    assert Counter(brought.classes("train"))[None] == 35 and None not in brought.classes("test")


def test_vectors_labels_of_floats_with_gaps_are_whole_numbers(tmp_path: Path) -> None:
    y = Y.astype(float)
    y[:10] = np.nan
    brought = Brought("vectors", written(tmp_path / "mine", a__npz=npz_bytes(X=X, label=y)), tmp_path)
    assert brought.source.spec(brought.raw).classes == ("0", "1", "2")
    assert Counter(brought.classes("train"))[None] == 10


def test_vectors_numbered_classes_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    y = np.arange(len(X)) % 12
    brought = Brought("vectors", written(tmp_path / "mine", a__npz=npz_bytes(x=X, y=y)), tmp_path)
    assert brought.source.spec(brought.raw).classes == tuple(map(str, range(12)))


def test_vectors_a_constant_feature_becomes_zero(tmp_path: Path) -> None:
    x = X.copy()
    x[:, 3] = 0.1
    brought = Brought("vectors", written(tmp_path / "mine", a__npz=npz_bytes(x=x, y=Y)), tmp_path)
    assert all(example.x[3] == 0 for example in brought.examples("train"))


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "missing or NaN"), (np.inf, "infinite"), (1e300, "too far from train's")]
)
def test_vectors_a_value_that_is_not_finite_is_a_fault_of_its_row(value: float, said: str, tmp_path: Path) -> None:
    x = X.copy()
    x[7, 2] = value
    brought = Brought("vectors", written(tmp_path / "mine", wine__csv=csv_text(x)), tmp_path)
    found = []
    for split in ("train", "test"):
        examples = brought.examples(split)
        for i in range(len(examples)):
            try:
                assert np.isfinite(examples.read(i)).all()
            except FaultError as error:
                found.append(str(error))
    assert len(found) == 1
    assert "wine.csv: row 8: key row-0000007: feature 'f2' is " + said in found[0]


def test_vectors_a_row_that_changed_since_fetch_is_named(tmp_path: Path) -> None:
    folder = as_csv(tmp_path / "mine")
    brought = Brought("vectors", folder, tmp_path)
    (folder / "wine.csv").write_text(csv_text(X + 1))
    with pytest.raises(DataError, match=r"wine\.csv: changed since fetch"):
        brought.source.spec(brought.raw)


TEXT = csv_text()
LINES = TEXT.splitlines()
ROW = LINES[1]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "expected one .csv.*found: none"),
        ({"a__csv": TEXT, "b__csv": TEXT}, r"expected one .*found: a\.csv, b\.csv"),
        ({"a__csv": TEXT, "train__csv": TEXT}, r"expected one .*found: a\.csv, train\.csv"),
        ({"test__csv": TEXT}, r"no file for train among test\.csv"),
        ({"a__csv": TEXT.replace("label", "target")}, r"a\.csv: expected a column `label`.*its columns are: f0, f1"),
        ({"a__csv": "\n".join(LINES[1:])}, r"a\.csv: no header"),
        ({"a__csv": TEXT.replace("f1,", "f0,", 1)}, r"a\.csv: column 'f0' is there twice"),
        ({"a__csv": TEXT.replace("f0,", ",", 1)}, r"a\.csv: column 1 has no name"),
        ({"a__csv": TEXT.replace(ROW, "abc" + ROW[ROW.index(","):], 1)}, r"column 'f0' holds 'abc' in row 1"),
        ({"a__csv": TEXT + "1,2,3\n"}, r"a\.csv: not a \.csv file that can be read.*Expected 14 columns, got 3"),
        ({"a__csv": TEXT.encode("utf-16-le")}, r"a\.csv: .*NUL"),
        ({"a__csv": "\n".join([*LINES, ROW[:-1] + "rare"])}, "class 'rare' has 1 row in train"),
        ({"a__csv": csv_text(X, ["a"] * len(X))}, "one class, 'a'"),
        ({"a__csv": csv_text(X, np.where(Y == 0, -1, 1))}, "label -1 may be a class"),
        ({"a__csv": csv_text(X, np.full(len(X), -1))}, "no class"),
        ({"a__csv": csv_text(X, ["none" if y == 0 else "some" for y in Y])}, "'none' may be a class"),
        ({"a__csv": LINES[0]}, "0 rows of"),
        ({"a__npz": npz_bytes(a=X, b=Y)}, r"a\.npz: arrays are a, b; expected x \[N, D\]"),
        ({"a__npz": npz_bytes(x=X, y=Y[:5])}, r"a\.npz: 5 values of label for 178 rows of x"),
        ({"a__npz": npz_bytes(x=X.reshape(-1), y=Y)}, r"a\.npz: x is float64 of shape \[2314\]"),
        ({"a__npz": npz_bytes(x=X, y=X[:, 0])}, r"a\.npz: row 1: y is 14\.23; a class is a text or a whole number"),
        ({"a__npz": b"PK\x03\x04 nothing"}, r"a\.npz: not a \.npz file that can be read"),
        ({"a__parquet": b"PAR1 nothing"}, r"a\.parquet: not a \.parquet file that can be read"),
        ({"x__npy": npz_bytes(x=X), "y__npy": b""}, r"x\.npy: not a \.npy array"),
    ],
)  # fmt: skip
def test_vectors_what_is_no_such_data_is_refused_by_name(
    files: dict[str, str | bytes], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=said):
        Brought("vectors", written(tmp_path / "mine", **files), tmp_path)


def test_vectors_python_objects_are_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    np.save(folder / "x.npy", X.astype(object), allow_pickle=True)
    np.save(folder / "y.npy", Y)
    assert "x.npy: not a .npy array that can be read (Object arrays cannot be loaded" in message(folder, tmp_path)


def test_vectors_an_array_without_its_pair_is_named(tmp_path: Path) -> None:
    folder = as_npy(tmp_path / "mine")
    (folder / "y.npy").unlink()
    assert "X.npy without its array y" in message(folder, tmp_path)


def test_vectors_lists_of_unequal_lengths_are_refused(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "mine", "a.parquet", label=["a", "b"], e=pa.array([[1.0], [1.0, 2.0]]))
    assert "column 'e' holds lists of 1 to 2 values" in message(folder, tmp_path)


def test_vectors_files_of_other_columns_are_refused(tmp_path: Path) -> None:
    other = csv_text(X, Y, (*NAMES[:-1], "other"))
    assert "test.csv: its columns are not those of" in message(
        written(tmp_path / "mine", train__csv=TEXT, test__csv=other), tmp_path
    ) or "train.csv: its columns are not those of" in message(tmp_path / "mine", tmp_path)


def with_factors(folder: Path, **columns: Any) -> Path:
    features = {name: X[:, i] for i, name in enumerate(NAMES[:4])}
    return parquet(folder, "wine.parquet", label=[str(y) for y in Y], **features, **columns)


def test_factors_are_no_features_and_stand_with_the_keys(tmp_path: Path) -> None:
    site = [None if i % 5 == 0 else i % 3 for i in range(len(X))]
    folder = with_factors(tmp_path / "mine", Site=site, angle=X[:, 5])
    brought = Brought("vectors", folder, tmp_path, factors=["angle", "site"])
    assert brought.source.spec(brought.raw).shape == (4,)
    assert brought.source.preprocessing(brought.raw).features == NAMES[:4]
    out = shard(brought.params, tmp_path, lambda line: None)
    dataset = ShardedDataset.open(out)
    found: dict[str, tuple[float, float | None]] = {}
    for split in dataset.manifest.splits:
        index = dataset.index(split)
        table = index.factors
        assert table.column_names == ["factor_angle", "factor_site"]
        found |= dict(zip(index.keys, zip(*(column.to_pylist() for column in table.columns), strict=True), strict=True))
    assert found == {f"row-{i:07d}": (X[i, 5], site[i]) for i in range(len(X))}
    other = Brought("vectors", folder, tmp_path, factors=["angle", "f0"])
    assert other.source.preprocessing(other.raw).features == (*NAMES[1:4], "Site")


def test_an_npz_has_its_factors_as_arrays(tmp_path: Path) -> None:
    folder = written(tmp_path / "mine", wine__npz=npz_bytes(x=X, y=Y, Angle=X[:, 2]))
    brought = Brought("vectors", folder, tmp_path, factors=["angle"])
    rows = [int(key[-7:]) for key in brought.examples("train").keys]
    assert brought.factors("train")[:, 0].tolist() == X[rows, 2].tolist()


@pytest.mark.parametrize(
    ("values", "factor", "expected"),
    [
        (["a"] * len(X), "site", r"'site' holds 'a' in row 1; a factor is a number"),
        (
            X[:, 5],
            "angle",
            r"no column 'angle', which data\.own\.factors names; its features are: f0, f1, f2, f3, site",
        ),
        ([np.inf, *X[1:, 5]], "site", r"row 1: factor 'site' is infinite"),
        (X[:, :2].tolist(), "site", r"factor 'site' holds lists"),
    ],
)
def test_what_is_wrong_with_a_factor_is_one_line(values: Any, factor: str, expected: str, tmp_path: Path) -> None:
    folder = with_factors(tmp_path / "mine", site=values)
    with pytest.raises(DataError, match=rf"wine\.parquet: .*{expected}"):
        Brought("vectors", folder, tmp_path, factors=[factor])


def test_arrays_without_names_have_no_factors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"X\.npy: no column 'angle'"):
        Brought("vectors", as_npy(tmp_path / "mine"), tmp_path, factors=["angle"])
