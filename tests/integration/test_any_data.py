"""Whatever fetch and shard accept, evaluate and report finish: what cannot be measured says why."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.results.verdict import verdict
from tests.helpers.project import REPOSITORY
from tests.helpers.whole import run_stages, tiny_params

pytestmark = pytest.mark.slow


def pictures(folder: Path, sizes: dict[str, int], side: int = 8, channels: int = 1, noise: float = 20) -> None:
    """Noisy pictures, so many of each class."""
    for c, (name, num) in enumerate(sizes.items()):
        shape = (side, side, channels) if channels > 1 else (side, side)
        base = np.random.default_rng(c).integers(0, 255, shape)
        (folder / name).mkdir(parents=True)
        for i in range(num):
            values = base + np.random.default_rng([c, i]).normal(0, noise, shape)
            Image.fromarray(values.clip(0, 255).astype("uint8")).save(folder / name / f"{i}.png")


def same_for_each(num_classes: int, num: int, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: pictures(folder, {f"kind{c:02d}": num for c in range(num_classes)}, **changes)


def class_missing_in_test(folder: Path) -> None:
    pictures(folder / "train", {"a": 20, "b": 20, "rare": 20})
    pictures(folder / "test", {"a": 8, "b": 8})


def one_test_example(folder: Path) -> None:
    pictures(folder / "train", {"a": 12, "b": 12})
    pictures(folder / "test", {"a": 1})


def one_test_example_of_a_class(folder: Path) -> None:
    pictures(folder / "train", {"a": 12, "b": 12, "c": 12})
    pictures(folder / "test", {"a": 6, "b": 6, "c": 1})


def val_without_a_class(folder: Path) -> None:
    pictures(folder / "train", {"a": 12, "b": 12})
    pictures(folder / "val", {"a": 4})
    pictures(folder / "test", {"a": 6, "b": 6})


def long_tail(folder: Path) -> None:
    pictures(folder, dict(zip("abcde", (100, 50, 25, 10, 5), strict=True)))


def flat_pictures(folder: Path) -> None:
    """All of one colour: nothing varies within a class."""
    pictures(folder, {"a": 12, "b": 12}, noise=0)


def all_alike(folder: Path) -> None:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (8, 8), 0).save(folder / name / f"{i}.png")


def series(length: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        rng = np.random.default_rng(0)
        for part, num in (("TRAIN", 24), ("TEST", 10)):
            lines = [
                f"{','.join(f'{value:.3f}' for value in rng.normal(2 * (i % 2), 1, 1 + i // 2 % length))}:{'ab'[i % 2]}"
                for i in range(num)
            ]
            header = "@problemName Tiny\n@univariate true\n@classLabel true a b\n@data\n"
            (folder / f"Tiny_{part}.ts").write_text(header + "\n".join(lines) + "\n")

    return write


def few_words(folder: Path) -> None:
    for name, words in (("a", "alpha beta"), ("b", "gamma")):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            (folder / name / f"{i}.txt").write_text(f"{words} {words if i % 2 else 'beta'}")


def vectors(num_features: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        folder.mkdir()
        x = np.random.default_rng(0).normal(size=(40, num_features)) + np.arange(40)[:, None] % 2
        np.savez(folder / "mine.npz", x=x, y=[i % 2 if i < 30 else -1 for i in range(40)], allow_pickle=False)

    return write


def factors(folder: Path) -> None:
    """One that can be read, and ones that are constant, the class itself, or hardly ever known."""
    vectors(5)(folder)
    with np.load(folder / "mine.npz") as file:
        arrays = dict(file)
    rows = np.arange(40)
    arrays |= {"angle": arrays["x"][:, 0], "fixed": np.ones(40), "twin": rows % 2 + 0.5}
    arrays |= {"rare": np.where(rows % 9, np.nan, rows + 0.5), "none": np.full(40, np.nan)}
    np.savez(folder / "mine.npz", **arrays, allow_pickle=False)


IMAGE = {"height": 8, "width": 8, "channels": 1}
CASES: dict[str, tuple[str, Callable[[Path], None], dict[str, Any], list[str]]] = {
    # name: source, data, data.own, measures that cannot be (a part of their names)
    "class missing in test": ("images", class_missing_in_test, IMAGE, ["unseen_classes"]),
    "one test example": ("images", one_test_example, IMAGE, ["r2_scale", "within_between", "hit_at_1", "unseen"]),
    "one test example of a class": ("images", one_test_example_of_a_class, IMAGE, ["unseen_classes"]),
    "val without a class": ("images", val_without_a_class, IMAGE, ["unseen_classes"]),
    "many classes of few points": ("images", same_for_each(60, 6), IMAGE, []),
    "few points": ("images", same_for_each(3, 12), IMAGE, ["unseen_classes"]),
    "fewest points": ("images", same_for_each(2, 5), IMAGE, ["mlp"]),
    "long tail": ("images", long_tail, IMAGE, []),
    "no variation within classes": ("images", flat_pictures, IMAGE, ["unseen_classes"]),
    "all examples alike": ("images", all_alike, IMAGE, ["within_between_pixels"]),
    "tiny colour pictures": ("images", same_for_each(5, 8, side=2, channels=3),
                             IMAGE | {"height": 2, "width": 2, "channels": 3}, []),
    "series of one value": ("series", series(1), {}, []),
    "series of up to three values": ("series", series(3), {}, []),
    "vectors of one feature": ("vectors", vectors(1), {}, []),
    "vectors of some features, and rows without a label": ("vectors", vectors(5), {}, []),
    "factors of all kinds": ("vectors", factors, {"factors": ["angle", "fixed", "twin", "rare", "none"]}, []),
    "texts of few words": ("texts", few_words, {"num_words": 50}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_stages_on_any_data_that_shard_accepts_finish_and_say_what_is_not_measured(case: str, tmp_path: Path) -> None:
    source, write, own, missing = CASES[case]
    write(tmp_path / "mine")
    lines: list[str] = []
    params = tiny_params(
        data={"source": source, "folder": str(tmp_path / "mine"), "own": dict(tiny_params().data.own) | own},
        labels={"count": "all"},
        sweep={"label_counts": ["all"]},
    )
    results = run_stages(params, tmp_path, lines)
    with (results / "evaluate" / "measures.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((results / "evaluate" / "metrics.json").read_text())
    assert all(math.isfinite(value) for value in metrics.values())
    left_out = {row["name"]: row["reason"] for row in rows if not row["value"]}
    assert all(left_out.values())
    assert not left_out.keys() & metrics.keys()
    told = [line for line in lines if "not measured" in line]
    assert all(any(name in line and reason in line for line in told) for name, reason in left_out.items())
    for part in missing:
        assert any(part in name for name in left_out), (part, left_out)
    # Anything else there would be a change of the next stage's dependency, in a clone or after the next run.
    named = re.findall(r"results/evaluate/([^\s,\]/]+)", (REPOSITORY / "dvc.yaml").read_text())
    assert {path.name for path in (results / "evaluate").iterdir()} <= set(named)
    with (results / "evaluate" / "factors.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert list(dict.fromkeys(row["factor"] for row in read)) == own.get("factors", [])
    assert all(row["linear"] or row["reason"] for row in read)
    card = (results / "report" / "model_card.md").read_text()
    assert ("not measured: " in card) == bool(left_out)
    assert "nan" not in card.split("## Numbers")[1].split("## Loading")[0].lower().split()
    said = verdict(metrics)
    assert lines[-1] == f"report: {said.text}"
    ending = [line for line in lines if line.startswith("evaluate: ")][-2:]
    assert any(said.text in line for line in ending)
    assert ending[0].startswith("evaluate: WARNING: ") == (said.level == "worse")
