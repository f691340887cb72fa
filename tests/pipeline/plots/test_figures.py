"""Figures from tables that the tests make: whole, readable files, the same bytes twice, and clear refusals."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from numpy.typing import NDArray

from pipeline.errors import DataError, PipelineError
from pipeline.plots import error_vs_labels, figures

ODD_NAMES = ("$x$ and $y", "<b>bold</b>", "_hidden", "%d \\frac")


def write_csv(path: Path, columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def history(folder: Path, epochs: int = 12) -> Path:
    e = np.arange(1, epochs + 1)
    columns: dict[str, Any] = {
        "epoch": e,
        "loss": 180 * np.exp(-e / 3) + 120,
        "bound_labelled": -90 - 100 * np.exp(-e / 3),
        "bound_unlabelled": -105 - 100 * np.exp(-e / 3),
        "val_bound": -107 - 95 * np.exp(-e / 3),
        "kl": 12 * (1 - np.exp(-e / 4)),
        "classes_alive": 1 + 8 * np.exp(-e / 2),
        "confident": 1 - np.exp(-e / 3),
        "val_error": ["" if i % 2 else 40 / i + 1 for i in e],
        "images_per_second": e * 100,
    }
    return write_csv(folder / "history.csv", columns)


def supervised_history(folder: Path) -> Path:
    e = np.arange(1, 31)
    columns: dict[str, Any] = {
        "epoch": e,
        "loss": 2 * np.exp(-e / 9),
        "bound_labelled": [""] * 30,
        "val_error": 20 + 60 / e,
    }
    return write_csv(folder / "supervised.csv", columns)


def runs(folder: Path, methods: Sequence[str] = ("supervised", "plain", "extended")) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        (method, labels, seed, base / (labels / 100) ** 0.45 * rng.uniform(0.8, 1.2))
        for method, base in zip(methods, (24.0, 9.0, 2.0), strict=False)
        for labels in (100, 600, 1000, 3000, 55000)
        for seed in range(1 if labels == 55000 else 3)
    ]
    names = ("method", "labels", "seed", "test_error_pct")
    return write_csv(folder / "runs.csv", dict(zip(names, zip(*rows, strict=True), strict=True)))


def predictions(folder: Path, classes: Sequence[str] = tuple("0123456789"), num_points: int = 5000) -> Path:
    rng = np.random.default_rng(0)
    actual = rng.integers(0, len(classes), num_points)
    wrong = rng.random(num_points) < 0.05
    predicted = np.where(wrong, rng.integers(0, len(classes), num_points), actual)
    columns = {"actual": [classes[i] for i in actual], "predicted": [classes[i] for i in predicted]}
    return write_csv(folder / "confusion.csv", columns)


def latents(
    folder: Path, classes: Sequence[str] = tuple("0123456789"), num_points: int = 200, spread: float = 1.0, dim: int = 6
) -> Path:
    rng = np.random.default_rng(0)
    y = rng.integers(0, len(classes), num_points)
    r = (rng.normal(size=(len(classes), dim))[y] * 3 + rng.normal(size=(num_points, dim))) * spread
    v = rng.normal(size=(num_points, dim)) * spread

    def vectors(x: NDArray[np.float64]) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float32).ravel()), dim)

    table = pa.table(
        {
            "key": [f"{i:05}" for i in range(num_points)],
            "split": ["val" if i % 5 == 0 else "test" for i in range(num_points)],
            "label": [classes[i] for i in y],
            "r": vectors(r),
            "v_mean": vectors(v),
        }
    )
    pq.write_table(table, folder / "latents.parquet")
    return folder / "latents.parquet"


def arrays(folder: Path, rows: int = 3, columns: int = 11, channels: int = 1, side: int = 28) -> Path:
    y, x = np.mgrid[:side, :side] / side
    phase = np.arange(rows)[:, None, None, None, None] + np.arange(columns)[:, None, None, None]
    images = np.broadcast_to(0.5 + 0.5 * np.sin(9 * (x + y) + phase), (rows, columns, 1, side, side))
    images = np.concatenate([images ** (c + 1) for c in range(channels)], axis=2).astype(np.float32)
    np.savez(folder / "arrays.npz", swap=images, samples=images[:, :1], reconstructions=images[:2])
    return folder / "arrays.npz"


def calibration_table(folder: Path) -> Path:
    centre = (np.arange(15) + 0.5) / 15
    count = np.array([0, 0, 0, 1, 5, 9, 12, 20, 22, 31, 40, 66, 120, 400, 9274])
    columns: dict[str, Any] = {
        "bin": np.arange(15),
        "confidence": ["" if n == 0 else c for c, n in zip(centre, count, strict=True)],
        "accuracy": ["nan" if n == 0 else c**1.3 for c, n in zip(centre, count, strict=True)],
        "count": count,
    }
    return write_csv(folder / "calibration.csv", columns)


def measured(folder: Path) -> Path:
    """Trials of five methods; one lacks the bound, as a supervised net does."""
    rows = [
        (f"method {i}", "100", str(seed), name, value)
        for i in range(5)
        for seed in range(2)
        for name, value in (
            ("mi_v_class_nats", 0.2 * i + 0.05 * seed), ("bound_nats", -100.0 - 5 * i), ("active_units", 3.0 + i)
        )
        if (i, name) != (1, "bound_nats")
    ]  # fmt: skip
    columns = dict(zip(("method", "labels", "seed", "measure", "value"), zip(*rows, strict=True), strict=True))
    return write_csv(folder / "measures.csv", columns)


@dataclass(frozen=True)
class Case:
    table: Callable[[Path], Path]
    draw: Callable[[Path, Path], None]


def grid(key: str, title: str, rows: list[str] | None, columns: list[str] | None) -> Callable[[Path, Path], None]:
    return lambda table, out: figures.image_grid(table, key, out, title, rows, columns)


CASES = {
    "training": Case(history, figures.training_curves),
    "supervised": Case(supervised_history, figures.training_curves),
    "leak": Case(measured, figures.leak_against_bound),
    "errors": Case(runs, error_vs_labels.error_against_labels),
    "confusion": Case(predictions, figures.confusion_matrix),
    "latents_r": Case(latents, lambda table, out: figures.latent_map(table, "r", out)),
    "latents_v": Case(latents, lambda table, out: figures.latent_map(table, "v_mean", out)),
    "swap": Case(arrays, grid("swap", "Swap: v of x, r of each class", None, ["x", *(f"r of {d}" for d in range(10))])),
    "reconstructions": Case(arrays, grid("reconstructions", "Test images, decoded", ["zero", "decoded"], None)),
    "samples": Case(arrays, grid("samples", "Samples", ["zero", "one", "two"], ["v"])),
    "calibration": Case(calibration_table, figures.calibration),
}

every_figure = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def pixels(path: Path) -> NDArray[np.float32]:
    """The image as `[H, W, 3]` in 0..1; refuses what is no PNG."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    image: NDArray[np.float32] = imread(path, format="png")[..., :3]
    return image


@pytest.fixture
def drawn_texts(monkeypatch: pytest.MonkeyPatch) -> list[Text]:
    """Every text of the figures that are saved during the test."""
    texts: list[Text] = []
    savefig = Figure.savefig

    def spy(self: Figure, *args: Any, **kwargs: Any) -> None:
        savefig(self, *args, **kwargs)
        texts.extend(text for text in self.findobj(Text) if isinstance(text, Text) and text.get_visible())

    monkeypatch.setattr(Figure, "savefig", spy)
    return texts


def settings() -> dict[str, Any]:
    """matplotlib's global settings but the backend, which is chosen when it is first read."""
    return {name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}


@every_figure
def test_a_figure_shows_something_and_has_the_same_bytes_twice(case: Case, tmp_path: Path) -> None:
    table, one, two = case.table(tmp_path), tmp_path / "new" / "one.png", tmp_path / "two.png"
    case.draw(table, one)
    with matplotlib.rc_context({"font.size": 20, "lines.linewidth": 9, "savefig.dpi": 40}):
        # Neither what was drawn before nor a user's own settings may change the bytes.
        before = settings()
        case.draw(table, two)
        assert settings() == before
    image = pixels(one)
    height, width = image.shape[:2]
    assert 100 <= height <= 2000 and 100 <= width <= 2000
    assert image[0, 0].tolist() == [1, 1, 1]
    assert 0.005 < np.mean(np.abs(image - 1).max(axis=2) > 0.1) < 0.98
    assert one.read_bytes() == two.read_bytes()
    assert b"atplotlib" not in one.read_bytes()
    assert [path.name for path in one.parent.iterdir()] == ["one.png"]


@every_figure
def test_another_table_gives_another_picture(case: Case, tmp_path: Path) -> None:
    table, out = case.table(tmp_path), tmp_path / "out.png"
    case.draw(table, out)
    first = out.read_bytes()
    if table.suffix == ".parquet":
        pq.write_table(pq.read_table(table).slice(2), table)
    elif table.suffix == ".npz":
        with np.load(table) as held:
            np.savez(table, **{name: array[:, :, :, ::-1] for name, array in held.items()})
    else:
        lines = table.read_text().splitlines()
        # A calibration table keeps its number of bins.
        lines[-1:] = ["14,1.0,0.5,9274"] if table.stem == "calibration" else []
        table.write_text("\n".join(lines) + "\n")
    case.draw(table, out)
    assert out.read_bytes() != first


@every_figure
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "a folder", "cut short"])
def test_a_table_that_cannot_be_read_is_named_and_draws_nothing(case: Case, damage: str, tmp_path: Path) -> None:
    table = case.table(tmp_path)
    whole = table.read_bytes()
    table.unlink()
    if damage == "a folder":
        table.mkdir()
    elif damage != "missing":
        # A CSV cut in the middle of a row; half of another file.
        half = whole[: whole.index(b",", len(whole) // 2)] if table.suffix == ".csv" else whole[: len(whole) // 2]
        table.write_bytes({"empty": b"", "garbage": b'\xff\xfe\x00"' * 99, "cut short": half}[damage])
    # A folder in a file's place is the machine's state rather than the table's.
    with pytest.raises(PipelineError if damage == "a folder" else DataError, match=re.escape(str(table))):
        case.draw(table, tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ([] if damage == "missing" else [table.name])


def shown(texts: list[Text]) -> set[str]:
    assert not any(text.get_parse_math() for text in texts if "$" in text.get_text())
    return {text.get_text() for text in texts}


def test_odd_class_names_are_shown_as_they_are(tmp_path: Path, drawn_texts: list[Text]) -> None:
    out = tmp_path / "out.png"
    figures.confusion_matrix(predictions(tmp_path, ODD_NAMES, 200), out)
    assert shown(drawn_texts) >= set(ODD_NAMES)
    drawn_texts.clear()
    figures.latent_map(latents(tmp_path, ODD_NAMES, 60), "r", out)
    assert shown(drawn_texts) >= set(ODD_NAMES)
    drawn_texts.clear()
    figures.image_grid(arrays(tmp_path, 2, 4), "swap", out, "cost: $1 to $2", ["a", "$b$"], ODD_NAMES)
    assert shown(drawn_texts) >= {*ODD_NAMES, "a", "$b$", "cost: $1 to $2"}
    drawn_texts.clear()
    error_vs_labels.error_against_labels(runs(tmp_path, ODD_NAMES[:3]), out)
    assert shown(drawn_texts) >= {f"{name} (1 to 3 seeds)" for name in ODD_NAMES[:3]}


def test_names_in_any_script_of_any_length_or_with_line_breaks_are_drawn_without_a_warning(
    tmp_path: Path, drawn_texts: list[Text]
) -> None:
    names = ("one\ntwo", "漢字", "x" * 80, "NA", "größe", "العربية", "हिन्दी", "ไทย", "emoji 🙂", "a$b$_{c", "\x07bell")
    figures.confusion_matrix(predictions(tmp_path, names, 200), tmp_path / "confusion.png")
    assert {text.get_text() for text in drawn_texts} >= {"one two", "漢字", "x" * 23 + "…", "NA"}
    np.savez(tmp_path / "x.npz", x=np.zeros((len(names), 2, 1, 4, 4)))
    figures.image_grid(tmp_path / "x.npz", "x", tmp_path / "grid.png", "title", names)


def in_cells(texts: list[Text]) -> list[Text]:
    """The texts that are centred both ways: neither titles nor ticks."""
    return [t for t in texts if t.get_horizontalalignment() == t.get_verticalalignment() == "center"]


def test_confusion_counts_stand_in_their_cells(tmp_path: Path, drawn_texts: list[Text]) -> None:
    columns = {"actual": ["10", "10", "10", "9", "9", "2"], "predicted": ["10", "10", "9", "9", "9", "10"]}
    figures.confusion_matrix(write_csv(tmp_path / "c.csv", columns), tmp_path / "out.png")
    cells = {text.get_position(): text.get_text() for text in in_cells(drawn_texts)}
    # Classes are 2, 9, 10, in the order of their values; (predicted, actual).
    expected = {(2, 2): "2", (1, 2): "1", (1, 1): "2", (2, 0): "1"}
    assert cells == expected
    assert "Confusion matrix: 6 test points, 33.33 % wrong" in shown(drawn_texts)


def test_the_colour_of_a_confusion_cell_is_its_share_of_the_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coloured = []
    imshow = Axes.imshow

    def spy(self: Axes, values: Any, **kwargs: Any) -> Any:
        coloured.append(values)
        return imshow(self, values, **kwargs)

    monkeypatch.setattr(Axes, "imshow", spy)
    # Class c is predicted once and never the truth: its row is empty.
    columns = {"actual": list("aaaab"), "predicted": list("aaacb")}
    figures.confusion_matrix(write_csv(tmp_path / "c.csv", columns), tmp_path / "out.png")
    assert [values.tolist() for values in coloured] == [[[0.75, 0, 0.25], [0, 1, 0], [0, 0, 0]]]


def test_classes_are_ordered_by_the_numbers_in_their_names() -> None:
    assert figures._ordered({"10", "9", "2"}) == ["2", "9", "10"]
    assert figures._ordered({"c10", "c2", "b7x3", "", "07", "7"}) == ["", "07", "7", "b7x3", "c2", "c10"]


def test_counts_are_left_out_above_20_classes(tmp_path: Path, drawn_texts: list[Text]) -> None:
    figures.confusion_matrix(predictions(tmp_path, [f"class{i}" for i in range(45)], 3000), tmp_path / "out.png")
    assert "class0" in shown(drawn_texts)
    assert in_cells(drawn_texts) == []


def test_label_counts_are_the_ticks(tmp_path: Path, drawn_texts: list[Text]) -> None:
    error_vs_labels.error_against_labels(runs(tmp_path), tmp_path / "out.png")
    assert shown(drawn_texts) >= {"100", "600", "1,000", "3,000", "55,000"}


def test_an_error_of_zero_can_be_drawn(tmp_path: Path) -> None:
    columns: dict[str, Any] = {"method": ["a", "a"], "labels": [100, 100], "seed": [0, 1], "test_error_pct": [0, 12.5]}
    error_vs_labels.error_against_labels(write_csv(tmp_path / "t.csv", columns), tmp_path / "out.png")
    pixels(tmp_path / "out.png")


def test_training_curves_draw_what_is_there(tmp_path: Path, drawn_texts: list[Text]) -> None:
    figures.training_curves(supervised_history(tmp_path), tmp_path / "out.png")
    assert {"Validation error", "Training loss"} <= shown(drawn_texts)
    assert not {"Bounds", "What v carries", "Classes in the class sum"} & shown(drawn_texts)


def test_one_epoch_is_enough(tmp_path: Path) -> None:
    figures.training_curves(history(tmp_path, 1), tmp_path / "out.png")
    pixels(tmp_path / "out.png")


@pytest.mark.parametrize(("spread", "dim"), [(0.0, 6), (1.0, 1), (1e-9, 3)])
def test_a_collapsed_or_one_dimensional_representation_can_be_drawn(spread: float, dim: int, tmp_path: Path) -> None:
    figures.latent_map(latents(tmp_path, num_points=40, spread=spread, dim=dim), "v_mean", tmp_path / "out.png")
    pixels(tmp_path / "out.png")


def test_latent_map_draws_test_points_only_and_no_more_than_asked(tmp_path: Path, drawn_texts: list[Text]) -> None:
    path = latents(tmp_path, num_points=100)
    figures.latent_map(path, "r", tmp_path / "out.png")
    figures.latent_map(path, "r", tmp_path / "out.png", max_points=30)
    titles = {text for text in shown(drawn_texts) if "invariant" in text}
    assert titles == {f"r, invariant: should cluster by class ({n} test points)" for n in (80, 30)}


def test_a_class_has_the_colour_of_its_place_in_the_model(tmp_path: Path, drawn_texts: list[Text]) -> None:
    path = latents(tmp_path)
    table = pq.read_table(path)
    labels = [f"class {label}" for label in table["label"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("label"), "label", [labels])
    names = sorted(set(labels), reverse=True)
    pq.write_table(table.replace_schema_metadata({"classes": json.dumps(names)}), path)
    figures.latent_map(path, "r", tmp_path / "map.png")
    shown = [text.get_text() for text in drawn_texts if text.get_text() in names]
    assert list(dict.fromkeys(shown)) == names, "the legend's order, and so the colours, are those of the page"


def test_image_grid_keeps_every_pixel_and_its_place(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((2, 3, 3, 8, 8))
    np.savez(tmp_path / "a.npz", x=images)
    figures.image_grid(tmp_path / "a.npz", "x", tmp_path / "out.png", "title")
    image = pixels(tmp_path / "out.png")
    # Cells are 8 pixels of 7 screen pixels, and 3 between; the grid's left edge is the first coloured column.
    coloured = np.ptp(image, axis=2) > 0
    top = int(np.argmax(coloured.sum(axis=1) > 60))
    left = int(np.argmax(coloured[top : top + 100].any(axis=0)))
    for row in range(2):
        for column in range(3):
            y, x = top + row * 59 + 3, left + column * 59 + 3
            cell = image[y : y + 56 : 7, x : x + 56 : 7].transpose(2, 0, 1)
            assert np.abs(cell - images[row, column]).max() < 0.01


HISTORY = {"epoch": [1, 2], "val_error": [3, 2]}
RUNS = {"method": ["a"], "labels": [100], "seed": [0], "test_error_pct": [2.0]}
BINS = {"confidence": [0.4, 0.9], "accuracy": [0.5, 0.8], "count": [3, 7]}


@pytest.mark.parametrize(
    ("draw", "columns", "message"),
    [
        (figures.training_curves, {"val_error": [3]}, "lacks column epoch, it has val_error"),
        (figures.training_curves, HISTORY | {"epoch": [1, "two"]}, "epoch, row 2 is not a number .'two'"),
        (figures.training_curves, HISTORY | {"epoch": [1, ""]}, "epoch, row 2 is not a number"),
        (figures.training_curves, HISTORY | {"val_error": ["", "nan"]}, "in none of the columns val_error"),
        (figures.training_curves, {"epoch": [], "loss": []}, "no rows"),
        (error_vs_labels.error_against_labels, {"method": ["a"], "labels": [1]}, "lacks column seed, test_error_pct"),
        (error_vs_labels.error_against_labels, RUNS | {"labels": ["all"]}, "labels, row 1 is not a number .'all'"),
        (error_vs_labels.error_against_labels, RUNS | {"labels": [0]}, "above 0, got 0"),
        (
            error_vs_labels.error_against_labels,
            RUNS | {"test_error_pct": [""]},
            "no run in the table has an error rate",
        ),
        (figures.confusion_matrix, {"actual": ["a"], "guess": ["a"]}, "lacks column predicted, it has actual, guess"),
        (figures.calibration, {"confidence": [0.5], "count": [1]}, "lacks column accuracy"),
        (figures.calibration, BINS | {"count": [0, 0]}, "no points"),
        (figures.calibration, BINS | {"confidence": [0.9, 0.4]}, "bin 1 of 2 has confidence 0.9"),
        (figures.calibration, BINS | {"accuracy": ["", 0.8]}, "bin 1 of 2 .* accuracy nan"),
        (figures.calibration, BINS | {"count": [3, "inf"]}, "count, row 2 is not a finite number"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(
    draw: Callable[[Path, Path], None], columns: dict[str, Sequence[Any]], message: str, tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "table.csv", columns)
    with pytest.raises(DataError, match=f"{message}.*{re.escape(str(table))}"):
        draw(table, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_failed_run_is_left_out(tmp_path: Path, drawn_texts: list[Text]) -> None:
    columns: dict[str, Any] = {
        "method": ["a", "a", "b"],
        "labels": [100, 100, 100],
        "seed": [0, 1, 0],
        "test_error_pct": [2, "", ""],
    }
    error_vs_labels.error_against_labels(write_csv(tmp_path / "t.csv", columns), tmp_path / "out.png")
    assert "a (1 seed)" in shown(drawn_texts)
    assert not any(text.startswith("b (") for text in shown(drawn_texts))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("r"), "lack column r, they have key, split, label, v_mean"),
        (lambda t: t.set_column(3, "r", t["r"].cast(pa.list_(pa.float32()))), "must be a fixed-size list"),
        (lambda t: t.slice(0, 0), "no row of split test"),
        (lambda t: t.set_column(2, "label", pa.nulls(len(t), pa.string())), "without a label"),
        (
            lambda t: t.set_column(
                3, "r", pa.FixedSizeListArray.from_arrays(pa.array([np.nan] * 6 * len(t), pa.float32()), 6)
            ),
            "not finite",
        ),
    ],
)
def test_latents_that_do_not_fit_are_refused(change: Callable[[Any], Any], message: str, tmp_path: Path) -> None:
    path = latents(tmp_path, num_points=20)
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(DataError, match=f"{message}.*{re.escape(str(path))}"):
        figures.latent_map(path, "r", tmp_path / "out.png")


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("other", np.zeros((1, 1, 1, 2, 2)), "lack x, they have other"),
        ("x", np.zeros((1, 1, 2, 2)), r"float64 \[1, 1, 2, 2\]"),
        ("x", np.zeros((1, 1, 2, 4, 4)), r"\[1, 1, 2, 4, 4\]"),
        ("x", np.zeros((0, 1, 1, 4, 4)), r"\[0, 1, 1, 4, 4\]"),
        ("x", np.zeros((1, 1, 1, 4, 4), np.uint8), "uint8"),
        ("x", np.full((1, 1, 1, 4, 4), 1.5), r"0\.\.1, got 1\.5"),
        ("x", np.full((1, 1, 1, 4, 4), np.nan), "got nan"),
        ("x", np.full((1, 1, 1, 4, 4), None), "damaged"),
        ("x", np.zeros((2, 3, 1, 4, 4)), "has 2 rows but 1 row labels"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(key: str, array: Any, message: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **{key: array})
    with pytest.raises(DataError, match=f"{message}.*a.npz"):
        figures.image_grid(tmp_path / "a.npz", "x", tmp_path / "out.png", "title", row_labels=["only"])


def test_a_single_array_is_no_npz(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(DataError, match="no npz.*a.npy"):
        figures.image_grid(tmp_path / "a.npy", "x", tmp_path / "out.png", "title")
