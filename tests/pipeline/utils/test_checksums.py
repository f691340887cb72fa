"""Checksums of results: whatever is not as it was written is named, and line endings do not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ie_model.checksums import seal, unseal
from pipeline.errors import DataError
from pipeline.utils.checksums import CHECKSUMS, check_results, read_sealed, write_checksums, write_sealed
from pipeline.utils.files import write_json

NAMES = ("metrics.json", "history.csv", "latents.parquet", "figures/swap.png")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "figures").mkdir()
    (tmp_path / "model").mkdir()
    write_json(tmp_path / "metrics.json", {"a": 1.5, "b": 2})
    (tmp_path / "history.csv").write_text("epoch,loss\n1,2.5\n")
    (tmp_path / "latents.parquet").write_bytes(b"PAR1\r\n\n\x00PAR1")
    (tmp_path / "figures/swap.png").write_bytes(b"\x89PNG")
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "summary.md").write_text("# summary\n")
    write_checksums(tmp_path)
    return tmp_path


def test_checksums_cover_what_is_read_and_not_a_model_nor_text_for_people(results: Path) -> None:
    check_results(results, NAMES, "ie evaluate")
    assert json.loads((results / CHECKSUMS).read_text())["files"].keys() == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_checksums_of_a_changed_file_name_it_and_the_command(results: Path, name: str) -> None:
    path = results / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match=rf"ie evaluate.*{name}$"):
        check_results(results, [name], "ie evaluate")


def test_checksums_after_git_changed_line_endings_are_the_same(results: Path) -> None:
    for name in ("metrics.json", "history.csv", CHECKSUMS):
        path = results / name
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    check_results(results, NAMES, "ie evaluate")


def test_checksums_of_a_binary_file_take_line_endings_as_bytes(results: Path) -> None:
    path = results / "latents.parquet"
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n"))
    with pytest.raises(DataError, match="latents.parquet"):
        check_results(results, ["latents.parquet"], "ie evaluate")


@pytest.mark.parametrize("name", ["metrics.json", CHECKSUMS])
def test_checksums_of_a_missing_file_name_it(results: Path, name: str) -> None:
    (results / name).unlink()
    with pytest.raises(DataError, match=f"missing.*{name}$"):
        check_results(results, ["metrics.json"], "ie evaluate")


def test_a_file_without_a_checksum_is_named(results: Path) -> None:
    write_json(results / "more.json", {})
    with pytest.raises(DataError, match=r"no checksum of more\.json"):
        check_results(results, ["more.json"], "ie evaluate")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"files": {}}', "1" * 5000, "[" * 100_000, "NaN"])
def test_damaged_checksums_are_named(results: Path, content: str) -> None:
    (results / CHECKSUMS).write_text(content)
    with pytest.raises(DataError, match=CHECKSUMS):
        check_results(results, ["metrics.json"], "ie evaluate")


def test_a_sealed_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = {"b": [1, 2.5, None], "a": {"x": "\N{GREEK SMALL LETTER ALPHA}"}}
    write_sealed(tmp_path / "record.json", record)
    assert read_sealed(tmp_path / "record.json", "record") == record
    assert unseal(json.loads(json.dumps(seal(record), indent=7))) == record


@pytest.mark.parametrize("value", [1.0, 2, True, "1", None, [1]])
def test_a_sealed_record_of_another_value_or_type_is_refused(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "record.json"
    write_sealed(path, {"a": 1})
    write_json(path, json.loads(path.read_text()) | {"a": value})
    with pytest.raises(DataError, match=r"record\.json"):
        read_sealed(path, "record")
