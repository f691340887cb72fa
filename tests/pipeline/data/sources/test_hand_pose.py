"""Hand poses: neighbouring rows never straddle train and test, and what is wrong is named with file and line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.data.sources.hand_pose import COLUMNS, FEATURES, GAP, HAND_POSE
from pipeline.errors import DataError, FetchError
from pipeline.stages.fetch import fetch_source

HEADER = ",".join(COLUMNS)


def row(label: str, hand: str, value: float) -> str:
    return ",".join([label, hand, "14.5", *[repr(value)] * len(FEATURES)])


def written(folder: Path, *rows: str, header: str = HEADER) -> None:
    (folder / HAND_POSE.files[0].name).write_text("\r\n".join([header, *rows, ""]))


def test_hand_pose_splits_each_recording_by_blocks_with_a_gap(tmp_path: Path) -> None:
    # Recordings of 100 rows (one interrupted by the other) and 50; the value is the row's number in its own.
    first, second = ([row(*which, i) for i in range(n)] for which, n in ((("Ok", "right"), 100), (("0", "left"), 50)))
    written(tmp_path, *first[:70], *second, *first[70:])
    train, test = (HAND_POSE.examples(tmp_path, split) for split in ("train", "test"))
    scales = HAND_POSE.preprocessing(tmp_path)
    ok = HAND_POSE.classes.index("Ok")
    for examples, of_ok, of_0 in ((train, range(80 - GAP), range(40 - GAP)), (test, range(80, 100), range(40, 50))):
        values = [examples.read(i)[5] * scales.deviations[5] + scales.means[5] for i in range(len(examples))]
        for y, expected in ((ok, of_ok), (0, of_0)):
            found = [value for value, label in zip(values, examples.y, strict=True) if label == y]
            np.testing.assert_allclose(found, expected, atol=1e-4)
    assert {key.split("-")[0] for key, y in zip(test.keys, test.y, strict=True) if y == ok} == {"right"}
    assert len({*train.keys, *test.keys}) == len(train) + len(test)
    # Scaled by train alone.
    np.testing.assert_allclose(np.mean([train.read(i) for i in range(len(train))], axis=0), 0, atol=1e-5)
    assert scales.features == FEATURES


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([HEADER, row("Ok", "left", 1), row("Wave", "left", 1)], r"HandPose_Dataset\.csv: line 3: "),
        ([HEADER, row("Ok", "both", 1)], "line 2: "),
        ([HEADER, row("Ok", "left", 1)[:-8]], "line 2: "),
        ([HEADER, row("Ok", "left", 1)[:-3] + "x"], "line 2: "),
        ([HEADER, row("Ok", "left", float("nan"))], "line 2: .*finite"),
        ([HEADER, "Ok,left\0"], "line 2: "),
        ([HEADER], r"HandPose_Dataset\.csv"),
        ([HEADER, row("Ok", "left", 1)], r"HandPose_Dataset\.csv"),
        ([HEADER.replace("x0", "z0"), row("Ok", "left", 1)], "columns"),
        ([], "columns"),
    ],
    ids=["gesture", "hand", "short", "text", "nan", "nul", "no-row", "no-train", "header", "empty"],
)
def test_hand_pose_of_another_form_is_a_data_error(tmp_path: Path, lines: list[str], message: str) -> None:
    written(tmp_path, *lines[1:], header=lines[0] if lines else "")
    with pytest.raises(DataError, match=message):
        HAND_POSE.examples(tmp_path, "train")


def test_hand_pose_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"HandPose_Dataset\.csv; run `ie fetch`"):
        HAND_POSE.preprocessing(tmp_path)


@pytest.mark.slow
def test_hand_pose_real_file_is_fetched_by_pip_and_has_every_gesture_of_both_hands(tmp_path: Path) -> None:
    try:
        raw = fetch_source(HAND_POSE, ("pypi",), "own", tmp_path, lambda line: None)
    except FetchError as error:
        if "pip download pose-classification-kit" not in str(error) and "pip is not installed" not in str(error):
            raise
        pytest.skip(f"pip cannot bring the wheel here: {error}")
    train, test = (HAND_POSE.examples(raw, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (HAND_POSE.num_train, 2_218)
    for examples, fewest in ((train, 140), (test, 40)):
        left = [key.startswith("left") for key in examples.keys]
        counts = np.bincount(2 * examples.y + left, minlength=2 * HAND_POSE.num_classes)
        assert len(counts) == 54
        assert counts.min() >= fewest
