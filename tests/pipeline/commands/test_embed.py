"""A model applied to files: taken as its own data were, refused where they mean something else, damage left out."""

from __future__ import annotations

import csv
import os
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow.parquet as pq
import pytest

from ie_model.artifact import load_artifact, save_artifact
from ie_model.spec import DataSpec, Preprocessing
from pipeline.commands.embed import embed
from pipeline.data.shards.manifest import read_manifest
from pipeline.errors import DataError
from pipeline.stages.shard import shard
from tests.helpers.own import Brought, picture, text
from tests.helpers.sealed import edit_sealed
from tests.helpers.small import SPEC, model_of, shards_of
from tests.helpers.tiny import spec_of
from tests.helpers.waiting import silent

SERIES = "@problemName x\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true a b\n@data\n"


def series_file(path: Path, seed: int, num: int, scale: float = 40.0) -> Path:
    """Cases of two channels, the second `scale` times as large and far from 0."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(num):
        x = rng.normal(size=(2, 6)) * [[1.0], [scale]] + [[0.0], [300.0]]
        lines.append(":".join(",".join(f"{v:.3f}" for v in row) for row in x) + f":{'ab'[i % 2]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SERIES + "\n".join(lines) + "\n")
    return path


def series_shards(folder: Path, seed: int = 0, scale: float = 40.0) -> Path:
    """A project's shards of a pair of .ts files."""
    series_file(folder / "mine/X_TRAIN.ts", seed, 16, scale)
    series_file(folder / "mine/X_TEST.ts", seed + 1, 6, scale)
    return shard(Brought("series", folder / "mine", folder).params, folder, silent)


def text_shards(folder: Path, *words: str) -> Path:
    """A project's shards of texts that are of these words."""
    for i in range(16):
        text(folder / "mine" / "ab"[i % 2] / f"{i}.txt", " ".join([words[i % 2]] * (1 + i) + [words[2]] * 3))
    return shard(Brought("texts", folder / "mine", folder, num_words=3).params, folder, silent)


def model_for(shards: Path, folder: Path) -> Path:
    """A model with random weights for the data of shards."""
    manifest = read_manifest(shards)
    return model_of(folder, manifest.spec, manifest.preprocessing)


def run(
    model: Path, source: Path, out: Path, faults: Literal["skip", "fatal"] = "skip", resize: bool = False
) -> tuple[dict[str, list[Any]], list[str]]:
    """Columns of the latents, and what was said."""
    lines: list[str] = []
    embed(model, source, out, lines.append, resize=resize, batch_size=5, device="cpu", faults=faults)
    return pq.read_table(out).to_pydict(), lines


def test_embed_of_raw_series_gives_what_their_shards_give_and_says_so(tmp_path: Path) -> None:
    shards = series_shards(tmp_path)
    model = model_for(shards, tmp_path / "model")
    of_shards, _ = run(model, shards, tmp_path / "shards.parquet")
    pairs = zip(of_shards["key"], of_shards["r"], strict=True)
    wanted = [r for key, r in sorted(pairs) if key.startswith("test")]
    of_file, lines = run(model, tmp_path / "mine/X_TEST.ts", tmp_path / "ts.parquet")
    assert "standardised by the model's own means" in lines[0]
    assert of_file["label"] == ["a", "b"] * 3
    cases = (tmp_path / "mine/X_TEST.ts").read_text().splitlines()[SERIES.count("\n") :]
    raw = np.array([[row.split(",") for row in case.split(":")[:2]] for case in cases], dtype=np.float64)
    for dtype in (np.float64, np.float32):
        np.save(tmp_path / "raw.npy", raw.astype(dtype))
        of_array, lines = run(model, tmp_path / "raw.npy", tmp_path / "npy.parquet")
        assert "standardised by the model's own means" in lines[0]
        np.testing.assert_allclose(of_array["r"], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(of_file["r"], wanted, rtol=1e-6)


def test_embed_of_shards_of_another_standardisation_is_refused_by_name(tmp_path: Path) -> None:
    model = model_for(series_shards(tmp_path / "one"), tmp_path / "model")
    other = series_shards(tmp_path / "two", scale=80.0)
    with pytest.raises(DataError, match=r"two/.*mean of channel 2 is .*, the model's is"):
        run(model, other, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_embed_of_shards_of_another_vocabulary_is_refused_by_name(tmp_path: Path) -> None:
    model = model_for(text_shards(tmp_path / "one", "horse", "ship", "road"), tmp_path / "model")
    other = text_shards(tmp_path / "two", "horse", "ship", "lamp")
    with pytest.raises(DataError, match=r"two/.*word . is 'lamp', the model's is 'road'"):
        run(model, other, tmp_path / "out.parquet")


def test_embed_of_texts_counts_the_words_of_the_model(tmp_path: Path) -> None:
    shards = text_shards(tmp_path, "horse", "ship", "road")
    model = model_for(shards, tmp_path / "model")
    of_shards, _ = run(model, shards, tmp_path / "shards.parquet")
    of_texts, lines = run(model, tmp_path / "mine", tmp_path / "texts.parquet")
    assert "3 words" in lines[0] and of_texts["key"][:2] == ["a/0.txt", "a/10.txt"]
    np.testing.assert_allclose(sorted(of_texts["r"]), sorted(of_shards["r"]), rtol=1e-5)


def test_embed_of_a_text_without_a_known_word_leaves_it_out(tmp_path: Path) -> None:
    model = model_for(text_shards(tmp_path, "horse", "ship", "road"), tmp_path / "model")
    text(tmp_path / "new/a.txt", "horse ship")
    text(tmp_path / "new/b.txt", "submarine")
    found, lines = run(model, tmp_path / "new", tmp_path / "out.parquet")
    assert found["key"] == ["a.txt"]
    assert any("left out" in line and "b.txt" in line for line in lines)


@pytest.mark.parametrize(("kind", "name"), [("series", "new.npy"), ("series", "new.ts"), ("counts", "new.txt")])
def test_embed_by_a_model_that_does_not_know_its_scales_or_words_is_refused(
    tmp_path: Path, kind: Any, name: str
) -> None:
    spec = spec_of(kind, 2, (2, 6) if kind == "series" else (3,))
    model = model_of(tmp_path / "model", spec)
    np.save(tmp_path / "new.npy", np.zeros((4, 2, 6), np.float32))
    series_file(tmp_path / "new.ts", 0, 4)
    text(tmp_path / "new.txt", "horse")
    with pytest.raises(DataError, match="does not know"):
        run(model, tmp_path / name, tmp_path / "out.parquet")


def test_embed_without_anything_in_provenance_works(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", SPEC)
    np.save(tmp_path / "new.npy", np.zeros((3, *SPEC.shape), np.uint8))
    assert len(run(model, tmp_path / "new.npy", tmp_path / "out.parquet")[0]["key"]) == 3


@pytest.fixture
def folder_of_pictures(tmp_path: Path) -> Path:
    for i in range(4):
        picture(tmp_path / f"new/{i}.png", 40 * i, (5, 4))
    (tmp_path / "new/2.png").write_bytes((tmp_path / "new/2.png").read_bytes()[:40])
    return tmp_path / "new"


def test_embed_leaves_a_broken_picture_out_names_and_counts_it(tmp_path: Path, folder_of_pictures: Path) -> None:
    found, lines = run(model_of(tmp_path / "model", SPEC), folder_of_pictures, tmp_path / "out.parquet")
    assert found["key"] == ["0.png", "1.png", "3.png"]
    assert [line for line in lines if "2.png" in line] and lines[-1].endswith("1 left out")


def test_embed_with_fatal_faults_ends_at_a_broken_picture(tmp_path: Path, folder_of_pictures: Path) -> None:
    with pytest.raises(DataError, match=r"2\.png"):
        run(model_of(tmp_path / "model", SPEC), folder_of_pictures, tmp_path / "out.parquet", "fatal")
    assert not (tmp_path / "out.parquet").exists()


def test_embed_of_nothing_but_broken_pictures_is_an_error(tmp_path: Path, folder_of_pictures: Path) -> None:
    with pytest.raises(DataError, match=r"2\.png"):
        run(model_of(tmp_path / "model", SPEC), folder_of_pictures / "2.png", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_embed_leaves_out_a_file_too_large_and_a_name_that_is_not_utf_8(
    tmp_path: Path, folder_of_pictures: Path
) -> None:
    with (folder_of_pictures / "huge.png").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    picture(folder_of_pictures / "3.png", 120, (5, 4)).rename(os.fsdecode(bytes(folder_of_pictures) + b"/\xff.png"))
    found, lines = run(model_of(tmp_path / "model", SPEC), folder_of_pictures, tmp_path / "out.parquet")
    assert found["key"] == ["0.png", "1.png"]
    assert [line for line in lines if "huge.png: 1,099,512 MB" in line]
    assert [line for line in lines if r"\udcff.png': its name is not UTF-8" in line]


def test_embed_of_an_array_without_rows_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "none.npy", np.zeros((0, *SPEC.shape), np.uint8))
    with pytest.raises(DataError, match=r"none\.npy: no example in it"):
        run(model_of(tmp_path / "model", SPEC), tmp_path / "none.npy", tmp_path / "out.parquet")


def test_embed_of_a_pipe_is_refused_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(DataError, match=r"pipe\.npy: neither a file nor a folder"):
        run(model_of(tmp_path / "model", SPEC), tmp_path / "pipe.npy", tmp_path / "out.parquet")


def test_embed_of_what_is_no_npy_file_does_not_advise_to_load_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "junk.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.npy: .* \(no \.npy file, or a pickle\)"):
        run(model_of(tmp_path / "model", SPEC), tmp_path / "junk.npy", tmp_path / "out.parquet")


def test_embed_of_a_picture_of_another_size_names_the_option(tmp_path: Path, folder_of_pictures: Path) -> None:
    picture(folder_of_pictures / "9.png", size=(9, 9))
    with pytest.raises(DataError, match=r"9\.png: 9x9 pixels.*--resize"):
        run(model_of(tmp_path / "model", SPEC), folder_of_pictures, tmp_path / "out.parquet")


def test_embed_of_tars_elsewhere_gives_what_tars_here_give(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", SPEC)
    shards_of(tmp_path / "here")
    shards_of(tmp_path / "there", tmp_path / "tars")
    here, _ = run(model, tmp_path / "here", tmp_path / "here.parquet")
    assert here == run(model, tmp_path / "there", tmp_path / "there.parquet")[0]
    assert len(here["key"]) == 24


def test_embed_of_a_tar_swapped_for_another_of_its_size_names_tar_and_keys(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", SPEC)
    shards_of(tmp_path / "shards")
    tar = tmp_path / "shards/val-000000.tar"
    other = (tmp_path / "shards/test-000000.tar").read_bytes()
    assert len(other) == tar.stat().st_size
    tar.write_bytes(other)
    found, lines = run(model, tmp_path / "shards", tmp_path / "out.parquet")
    assert len(found["key"]) == 16 and lines[-1].endswith("8 left out")
    assert "val-000000.tar, key k0008" in "\n".join(lines)
    with pytest.raises(DataError, match=r"val-000000\.tar, key k0008"):
        run(model, tmp_path / "shards", tmp_path / "out.parquet", "fatal")


def test_embed_of_shards_with_the_index_of_another_split_names_the_index(tmp_path: Path) -> None:
    shards_of(tmp_path / "shards")
    (tmp_path / "shards/index-val.npy").write_bytes((tmp_path / "shards/index-test.npy").read_bytes())
    with pytest.raises(DataError, match=r"index-val\.npy"):
        run(model_of(tmp_path / "model", SPEC), tmp_path / "shards", tmp_path / "out.parquet")


def test_embed_by_a_model_of_another_format_says_what_to_do(tmp_path: Path) -> None:
    model = model_of(tmp_path / "model", SPEC)
    edit_sealed(model / "config.json", lambda config: config.update(format=3))
    with pytest.raises(DataError, match=r"config\.json: format 3, of an older version.*train the model again"):
        run(model, tmp_path, tmp_path / "out.parquet")


def test_embed_refuses_latents_that_are_not_finite_and_names_the_example(tmp_path: Path) -> None:
    spec = DataSpec(kind="series", shape=(1, 6), dtype="float32", classes=("a", "b"), likelihood="gaussian")
    model = model_of(tmp_path / "model", spec, Preprocessing(means=(0.0,), deviations=(1.0,)))
    x = np.zeros((7, 1, 6), np.float32)
    x[5] = 3e38
    np.save(tmp_path / "new.npy", x)
    with pytest.raises(DataError, match="not finite .*00000005"):
        run(model, tmp_path / "new.npy", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def vector_table(path: Path, columns: list[str], seed: int = 0, num: int = 24) -> Path:
    """Rows of the features a, b and c, each with a scale of its own, and a label that they tell."""
    x = np.random.default_rng(seed).normal(size=(num, 3)) * [1.0, 50.0, 0.01] + [0.0, 300.0, 1.0]
    values: dict[str, Any] = {
        "a": x[:, 0],
        "b": x[:, 1],
        "c": x[:, 2],
        "d": x[:, 0] + 1,
        "label": ["up" if v > 0 else "no" for v in x[:, 0]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(str(values[name][i]) for name in columns) for i in range(num)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")
    return path


@pytest.fixture
def vector_shards(tmp_path: Path) -> Path:
    vector_table(tmp_path / "mine/train.csv", ["a", "b", "c", "label"], 0)
    vector_table(tmp_path / "mine/test.csv", ["a", "b", "c", "label"], 1)
    return shard(Brought("vectors", tmp_path / "mine", tmp_path).params, tmp_path, silent)


def test_embed_of_raw_vectors_gives_what_their_shards_give_with_columns_in_any_order(
    tmp_path: Path, vector_shards: Path
) -> None:
    model = model_for(vector_shards, tmp_path / "model")
    of_shards, _ = run(model, vector_shards, tmp_path / "shards.parquet")
    pairs = zip(of_shards["key"], of_shards["r"], of_shards["label"], strict=True)
    wanted = [(r, label) for key, r, label in sorted(pairs) if key.startswith("test")]
    vector_table(tmp_path / "new.csv", ["c", "label", "d", "a", "b"], 1)
    found, lines = run(model, tmp_path / "new.csv", tmp_path / "new.parquet")
    assert "standardised by the model's own means" in lines[0] and "1 other column(s) are not read" in lines[0]
    np.testing.assert_allclose(found["r"], [r for r, _ in wanted], rtol=1e-5)
    assert found["label"] == [label for _, label in wanted]


def test_embed_of_vectors_without_a_feature_of_the_model_or_of_another_width_is_refused(
    tmp_path: Path, vector_shards: Path
) -> None:
    model = model_for(vector_shards, tmp_path / "model")
    with pytest.raises(DataError, match=r"new\.csv: no column 'c', which is a feature of the model"):
        run(model, vector_table(tmp_path / "new.csv", ["a", "b", "d"]), tmp_path / "out.parquet")
    np.save(tmp_path / "new.npy", np.zeros((4, 5)))
    with pytest.raises(DataError, match=r"new\.npy: 5 features, the model takes 3"):
        run(model, tmp_path / "new.npy", tmp_path / "out.parquet")


def test_embed_of_a_vector_with_a_missing_value_leaves_the_row_out_by_name(tmp_path: Path, vector_shards: Path) -> None:
    model = model_for(vector_shards, tmp_path / "model")
    (tmp_path / "new.csv").write_text("a,b,c\n1,300,1\n2,,1\n")
    found, lines = run(model, tmp_path / "new.csv", tmp_path / "out.parquet")
    assert found["key"] == ["00000000"]
    assert any("new.csv: row 2: feature 'b' is missing" in line for line in lines)


def test_embed_into_csv_has_class_confidence_and_how_usual_an_example_is(tmp_path: Path) -> None:
    model = tmp_path / "model"
    bounds = np.linspace(-40.0, -1.0, 101)
    artifact = replace(load_artifact(model_of(tmp_path / "plain", SPEC)), val_bounds=tuple(bounds.tolist()))
    model.mkdir()
    save_artifact(model, artifact)
    for i in range(4):
        picture(tmp_path / f"new/{i}.png", 60 * i, (5, 4))
    lines: list[str] = []
    arguments: dict[str, Any] = {"resize": False, "batch_size": 3, "device": "cpu"}
    embed(model, tmp_path / "new", tmp_path / "out.csv", lines.append, **arguments)
    embed(model, tmp_path / "new", tmp_path / "out.parquet", lines.append, **arguments)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    whole = pq.read_table(tmp_path / "out.parquet")
    first = ["key", "prediction", "confidence", "val_below_pct", "label", "bound_nats", "squared_error"]
    assert list(rows[0]) == first == whole.column_names[:7]
    assert [row["key"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    for row, other in zip(rows, whole.to_pylist(), strict=True):
        assert row["prediction"] == other["prediction"]
        assert float(row["confidence"]) == pytest.approx(max(other["probabilities"]), rel=1e-6)
        below = 100 * np.mean(bounds <= other["bound_nats"])
        assert float(row["val_below_pct"]) == pytest.approx(below, rel=1e-5) == pytest.approx(other["val_below_pct"])
    unusual = sum(float(row["val_below_pct"]) == 0 for row in rows)
    told = [f"bound of {unusual} is below" in line for line in lines if "unlike" in line]
    assert told == [True, True] if unusual else not told


def test_embed_by_a_model_that_does_not_know_vals_bounds_leaves_the_column_empty(tmp_path: Path) -> None:
    picture(tmp_path / "new/0.png", 60, (5, 4))
    found, lines = run(model_of(tmp_path / "model", SPEC), tmp_path / "new", tmp_path / "out.parquet")
    assert found["val_below_pct"] == [None]
    assert not [line for line in lines if "unlike" in line]


def test_embed_into_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "new/0.png", 60, (5, 4))
    with pytest.raises(DataError, match=r"--out is .*out\.tsv; allowed: a name that ends in \.parquet or \.csv"):
        run(model_of(tmp_path / "model", SPEC), tmp_path / "new", tmp_path / "out.tsv")


def test_embed_of_a_table_of_pictures_takes_its_labels_and_names_a_row_that_cannot_be(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"new/{i}.png", 60 * i, (5, 4))
    label = SPEC.classes[1]
    table = tmp_path / "new" / "table.csv"
    table.write_text(f"path,label\n0.png,{label}\n1.png,\n../2.png,\n7.png,\n2.png,other\n")
    model = model_of(tmp_path / "model", SPEC)
    found, lines = run(model, table, tmp_path / "out.parquet")
    assert found["key"] == ["0.png", "1.png", "2.png"]
    assert found["label"] == [label, None, None]
    assert [line for line in lines if "line 4: path is '../2.png'; it must be relative" in line]
    assert [line for line in lines if "line 5: no such file" in line]
    of_folder, _ = run(model, tmp_path / "new", tmp_path / "folder.parquet")
    assert of_folder["r"] == found["r"]


def test_embed_of_tars_gives_what_the_pictures_in_them_give(tmp_path: Path) -> None:
    for i in range(3):
        picture(tmp_path / f"new/{i}.png", 60 * i, (5, 4))
    for part, names in enumerate((["0", "1"], ["2"])):
        (tmp_path / "tars").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / f"tars/{part}.tar", "w") as tar:
            for name in names:
                tar.add(tmp_path / f"new/{name}.png", f"{name}.png")
                (tmp_path / "label").write_text("1" if name == "0" else "77")
                if name != "1":
                    tar.add(tmp_path / "label", f"{name}.cls")
    model = model_of(tmp_path / "model", SPEC)
    pictures, _ = run(model, tmp_path / "new", tmp_path / "folder.parquet")
    found, lines = run(model, tmp_path / "tars", tmp_path / "out.parquet")
    assert found["key"] == ["0", "1"]
    assert found["label"] == [SPEC.classes[1], None]
    assert found["r"] == pictures["r"][:2]
    assert [line for line in lines if "1.tar: key 2: class '77'; allowed: 0 to" in line]
    alone, _ = run(model, tmp_path / "tars/0.tar", tmp_path / "one.parquet")
    assert alone["r"] == found["r"]
    with tarfile.open(tmp_path / "tars/0.tar") as tar:
        middle = tar.getmember("1.png").offset_data + 10
    (tmp_path / "tars/0.tar").write_bytes((tmp_path / "tars/0.tar").read_bytes()[:middle])
    # More of the sample before may be lost: none is left.
    with pytest.raises(DataError, match=r"0\.tar: truncated, member '1\.png' has 10 of"):
        run(model, tmp_path / "tars/0.tar", tmp_path / "cut.parquet")
