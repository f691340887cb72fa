"""The .ts format, and the series made of it: what is wrong is named with file and line, and test never scales train."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.data.sources import RawFile
from pipeline.data.sources.basic_motions import BASIC_MOTIONS
from pipeline.data.sources.japanese_vowels import JAPANESE_VOWELS
from pipeline.data.sources.ts_format import TsSeries, read_ts
from pipeline.errors import DataError, FetchError
from pipeline.stages.fetch import fetch_source

HEADER = """# A comment
#
@problemName Tiny
@timeStamps false
@missing true
@univariate false
@dimensions 2
@equalLength false
@classLabel true low high
@data
"""
FIRST_CASE = HEADER.count("\n") + 1


def tiny(num_channels: int = 2, length: int = 5) -> TsSeries:
    train, test = RawFile("train.ts", "0" * 64, 1), RawFile("test.ts", "0" * 64, 1)
    return TsSeries("tiny", {"low": "Low", "high": "High"}, train, test, num_channels, length, num_train=2)


def read(folder: Path, text: str, num_channels: int = 2) -> list[npt.NDArray[np.float64]]:
    (folder / "tiny.ts").write_text(text)
    return [case.x for case in read_ts(folder / "tiny.ts", num_channels, ("low", "high"))]


def line_of(case: npt.NDArray[np.float64], label: str) -> str:
    return ":".join([*(",".join("?" if math.isnan(v) else repr(float(v)) for v in row) for row in case), label])


def written(folder: Path, name: str, *lines: str, header: str = HEADER) -> None:
    (folder / name).write_text(header + "\n".join(lines) + "\n")


def test_cases_of_unequal_length_are_read_in_order_with_their_labels_and_lines(tmp_path: Path) -> None:
    written(tmp_path, "tiny.ts", "1,-2.5,3e-1:.5,+6,7.:high", "", "8:9:low")
    cases = read_ts(tmp_path / "tiny.ts", 2, ("low", "high"))
    assert [case.x.tolist() for case in cases] == [[[1, -2.5, 0.3], [0.5, 6, 7]], [[8], [9]]]
    assert [(case.y, case.line) for case in cases] == [(1, FIRST_CASE), (0, FIRST_CASE + 2)]


@given(
    cases=st.integers(1, 3).flatmap(
        lambda channels: st.lists(
            st.integers(1, 4).flatmap(
                lambda length: hnp.arrays(
                    np.float64,
                    (channels, length),
                    elements=st.just(math.nan) | st.floats(width=32, allow_infinity=False),
                )
            ),
            min_size=1,
            max_size=4,
        )
    )
)
def test_what_was_written_is_read(
    cases: list[npt.NDArray[np.float64]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("ts")
    header = HEADER.replace("@dimensions 2", f"@dimensions {len(cases[0])}")
    found = read(folder, header + "".join(line_of(case, "low") + "\n" for case in cases), len(cases[0]))
    assert len(found) == len(cases)
    for one, other in zip(found, cases, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("missing", ["?", "NaN", "nan", " ? "])
def test_a_missing_value_is_nan(tmp_path: Path, missing: str) -> None:
    (x,) = read(tmp_path, f"{HEADER}1,{missing},3:4,5,6:low\n")
    np.testing.assert_array_equal(x, [[1, math.nan, 3], [4, 5, 6]])


def test_lines_may_end_as_on_windows_and_keys_be_written_in_any_case(tmp_path: Path) -> None:
    text = HEADER.replace("@classLabel", "@CLASSLABEL") + "1:2:low\n"
    assert read(tmp_path, text.replace("\n", "\r\n"))[0].tolist() == [[1], [2]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2:low", "1 dimensions, expected 2"),
        ("1,2:3,4:5,6:low", "3 dimensions, expected 2"),
        ("low", "0 dimensions, expected 2"),
        ("1,2:3:low", r"dimensions of unequal lengths, \[1, 2\]"),
        ("1,2:3,4:middle", "label 'middle', expected one of: low, high"),
        ("1,2:3,4:", "label '', expected one of"),
        ("1,2:3,4:Low", "label 'Low', expected one of"),
        ("1,x:3,4:low", "'x' is not a number"),
        ("1,:3,4:low", "'' is not a number"),
        ("1,1_0:3,4:low", "'1_0' is not a number"),
        ("1,0x1:3,4:low", "'0x1' is not a number"),
        ("1,\u0661:3,4:low", "'\u0661' is not a number"),
        ("(0,1),(1,2):3,4:low", r"'\(0' is not a number"),
        ("1,inf:3,4:low", "'inf' is infinite"),
        ("1,-Infinity:3,4:low", "'-Infinity' is infinite"),
        ("1,1e999:3,4:low", "'1e999' is infinite, or too large for float32"),
        ("1,-4e38:3,4:low", "'-4e38' is infinite, or too large for float32"),
    ],
)
def test_a_wrong_case_is_named_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    written(tmp_path, "tiny.ts", "1:2:high", line)
    with pytest.raises(DataError, match=rf"tiny\.ts: line {FIRST_CASE + 1}: {message}") as caught:
        read_ts(tmp_path / "tiny.ts", 2, ("low", "high"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("@timeStamps false", "@timeStamps true", 4, "@timeStamps is 'true'; series with time stamps cannot be read"),
        ("@dimensions 2", "@dimensions 3", 7, "@dimensions is '3', expected 2"),
        ("@classLabel true low high", "@classLabel false", 9, "@classLabel is 'false', expected: true low high"),
        ("@classLabel true low high", "@classLabel true low mid", 9, "@classLabel is 'true low mid', expected: true"),
        ("@classLabel true low high\n", "", 9, "@classLabel has not come before @data"),
        ("@missing true", "@targetLabel true", 5, "@targetlabel is not known"),
        ("@missing true", "@problemName Tiny", 5, "@problemname is there twice"),
        ("@missing true", "@seriesLength many", 5, "@seriesLength is 'many', expected a number"),
        ("@missing true", "1:2:low", 5, "neither a comment nor a line of the header"),
        ("@data\n", "", 10, "neither a comment nor a line of the header"),
        ("@data\n1:2:low\n", "", 10, "the file ends without @data"),
        ("1:2:low\n", "", 11, "the file ends without a case"),
        (HEADER + "1:2:low\n", "", 1, "the file ends without @data"),
        (HEADER, "<html>not found</html>\n", 1, "neither a comment nor a line of the header"),
    ],
)
def test_a_wrong_header_is_named_with_file_and_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    text = HEADER + "1:2:low\n"
    assert old in text
    with pytest.raises(DataError, match=rf"tiny\.ts: line {line}: {message}"):
        read(tmp_path, text.replace(old, new))


def test_a_length_that_the_header_tells_is_held(tmp_path: Path) -> None:
    header = HEADER.replace("@equalLength false", "@equalLength true\n@seriesLength 2")
    assert len(read(tmp_path, header + "1,2:3,4:low\n5,6:7,8:high\n")) == 2
    with pytest.raises(DataError, match=rf"line {FIRST_CASE + 2}: length 1, .*header.* 2"):
        read(tmp_path, header + "1,2:3,4:low\n5:7:high\n")


def test_a_missing_file_and_one_that_is_no_text_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw file is missing: .*absent\.ts; run `ie fetch`"):
        read_ts(tmp_path / "absent.ts", 2, ("low", "high"))
    (tmp_path / "binary.ts").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.ts: not a text"):
        read_ts(tmp_path / "binary.ts", 2, ("low", "high"))


@given(cut=st.integers(0, len(HEADER) + 40))
def test_a_file_cut_anywhere_is_a_data_error_or_has_fewer_cases(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = (HEADER + "1,2:3,4:low\n5,6:7,8:high\n9,10:11,12:low\n")[:cut]
    found, answer = [], ""
    try:
        found = [x.tolist() for x in read(tmp_path_factory.mktemp("ts"), text)]
    except DataError as error:
        answer = str(error)
    whole = [[[1, 2], [3, 4]], [[5, 6], [7, 8]], [[9, 10], [11, 12]]]
    assert "tiny.ts: line " in answer or (found and found == whole[: len(found)])


def test_series_are_not_padded_and_keep_their_missing_values_keys_and_classes(tmp_path: Path) -> None:
    written(tmp_path, "train.ts", "1,?,3:10,20,30:high", "2:0:low")
    written(tmp_path, "test.ts", "1,2:3,4:low")
    source = tiny()
    examples = list(source.examples(tmp_path, "train"))
    assert [(example.key, example.y, example.x.shape) for example in examples] == [
        ("train-000000", 1, (2, 3)),
        ("train-000001", 0, (2, 1)),
    ]
    assert all(example.x.dtype == np.float32 for example in examples)
    np.testing.assert_array_equal(np.isnan(examples[0].x), [[False, True, False], [False, False, False]])
    spec = source.spec(tmp_path)
    assert (spec.kind, spec.shape, spec.dtype, spec.likelihood) == ("series", (2, 5), "float32", "gaussian")
    assert spec.classes == ("Low", "High")
    assert source.preprocessing(tmp_path).vocabulary == ()


def test_each_channel_of_train_has_mean_0_and_deviation_1_over_the_values_that_are_there(tmp_path: Path) -> None:
    written(tmp_path, "train.ts", "1,?,3:10,20,30:high", "200,5,?,8:0,1,2,3:low")
    values = np.concatenate([example.x for example in tiny().examples(tmp_path, "train")], axis=1)
    np.testing.assert_allclose(np.nanmean(values, axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.nanstd(values, axis=1), 1, atol=1e-6)


def test_test_is_scaled_by_train_and_train_is_not_by_test(tmp_path: Path) -> None:
    written(tmp_path, "train.ts", "0,2:5,15:low")  # means 1 and 10, deviations 1 and 5
    before = None
    for test in ("1,4:10,0:high", "1000,-1000:3,3:low"):
        written(tmp_path, "test.ts", test)
        train = [example.x.tolist() for example in tiny().examples(tmp_path, "train")]
        assert train == (before or train)
        before = train
    written(tmp_path, "test.ts", "1,4:10,0:high")
    (example,) = tiny().examples(tmp_path, "test")
    np.testing.assert_allclose(example.x, [[0, 3], [0, -2]], atol=1e-6)


def test_a_channel_that_never_changes_becomes_0_and_not_blown_up_rounding(tmp_path: Path) -> None:
    written(tmp_path, "train.ts", "0.1,0.1,0.1:1,2,3:low", "0.1,?:4,5:high")
    written(tmp_path, "test.ts", "0.6:1:low")
    first, second = tiny().examples(tmp_path, "train")
    np.testing.assert_array_equal(first.x[0], 0)
    np.testing.assert_array_equal(second.x[0], [0, math.nan])
    np.testing.assert_allclose(tiny().examples(tmp_path, "test").read(0)[0], 0.5)


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("1,2:?,?:low", "1:2:low", r"train\.ts: dimension 2 has no value in any case"),
        ("1,2:1e-300,-1e-300:low", "1:2:low", r"train\.ts: dimension 2 varies by less than"),
        ("1:2:low", "1,2,3,4,5,6:1,2,3,4,5,6:low", rf"test\.ts: line {FIRST_CASE}: length 6, tiny's longest is 5"),
        ("0,1e-30:1,2:low", "3e38:1:low", rf"test\.ts: line {FIRST_CASE}: a value is too far from train's"),
    ],
)
def test_series_that_cannot_be_scaled_or_are_too_long_are_data_errors(
    tmp_path: Path, train: str, test: str, message: str
) -> None:
    written(tmp_path, "train.ts", train)
    written(tmp_path, "test.ts", test)
    with pytest.raises(DataError, match=message):
        list(tiny().examples(tmp_path, "test"))


def test_nothing_is_bundled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="tiny comes with no installed package"):
        tiny().write_bundled(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "train", "test", "shortest"),
    [
        (JAPANESE_VOWELS, [30] * 9, [31, 35, 88, 44, 29, 24, 40, 50, 29], 7),
        (BASIC_MOTIONS, [10] * 4, [10] * 4, 100),
    ],
    ids=["japanese-vowels", "basic-motions"],
)
def test_the_real_files_are_fetched_by_pip_and_are_what_the_source_says(
    tmp_path: Path, source: TsSeries, train: list[int], test: list[int], shortest: int
) -> None:
    try:
        raw = fetch_source(source, ("pypi",), "own", tmp_path, lambda line: None)
    except FetchError as error:
        if "pip download aeon" not in str(error) and "pip is not installed" not in str(error):
            raise
        pytest.skip(f"pip cannot bring the wheel here: {error}")
    splits = [list(source.examples(raw, "train")), list(source.examples(raw, "test"))]
    for examples, counts in zip(splits, (train, test), strict=True):
        found = [example.y for example in examples if example.y is not None]
        assert np.bincount(found, minlength=source.num_classes).tolist() == counts
    assert len(splits[0]) == source.num_train
    lengths = [example.x.shape[1] for examples in splits for example in examples]
    assert (min(lengths), max(lengths)) == (shortest, source.length)
    assert not any(np.isnan(example.x).any() for examples in splits for example in examples)
