"""Files appear whole or not at all, and what a machine lacks is one line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError, ResourceError
from pipeline.utils.files import atomic_file, atomic_folder, read_json, remove_leftovers, sha256_file, write_json
from tests.helpers.disks import mounted


class Interrupted(Exception):
    """Stands for whatever goes wrong while a file is being written."""


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden names too."""
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own with room for 256 KB."""
    with mounted(tmp_path / "small", "size=256k") as folder:
        yield folder


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of its own that cannot be written, not even by root."""
    with mounted(tmp_path / "read-only", "ro") as folder:
        yield folder


def test_a_file_is_not_there_before_it_is_whole(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "half"
    assert names(tmp_path) == ["a.txt"]


def test_folders_above_a_file_are_made(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "b" / "c" / "a.txt") as part:
        part.write_text("new")
    assert (tmp_path / "b" / "c" / "a.txt").read_text() == "new"


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(Interrupted), atomic_file(tmp_path / "a.txt") as part:
        part.write_text("new")
        raise Interrupted
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_new_file_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    with atomic_file(tmp_path / "a.txt") as part:
        part.write_text("new")
    assert (tmp_path / "a.txt").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_takes_the_old_ones_place_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with atomic_folder(tmp_path / "out") as part:
        (part / "new").touch()
        assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path / "out") == ["new"]
    assert names(tmp_path) == ["out"]


def test_a_failed_folder_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(Interrupted), atomic_folder(tmp_path / "out") as part:
        (part / "new").touch()
        raise Interrupted
    assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["out"]


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out") as part:
        part.rename(tmp_path / "elsewhere")
    assert names(tmp_path / "out") == ["old"]
    assert names(tmp_path) == ["elsewhere", "out"]


def test_a_new_folder_is_as_readable_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with atomic_folder(tmp_path / "out") as part:
        (part / "new").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_leftovers_of_a_killed_write_are_removed_and_others_kept(tmp_path: Path) -> None:
    (tmp_path / ".out.abc.part").mkdir()
    (tmp_path / ".out.abc.part" / "half").touch()
    (tmp_path / ".out.def.part").touch()
    (tmp_path / ".other.abc.part").touch()
    (tmp_path / "out").mkdir()
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == [".other.abc.part", "out"]


def test_an_old_folder_left_over_beside_the_new_one_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.abc.old" / "out").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_an_old_folder_whose_successor_was_never_put_in_place_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".out.abc.old" / "out" / "old").mkdir(parents=True)
    remove_leftovers(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old"]


def test_leftovers_of_a_folder_that_never_was_are_none(tmp_path: Path) -> None:
    remove_leftovers(tmp_path / "nowhere" / "out")
    assert names(tmp_path) == []


@pytest.mark.parametrize("inside", ["a.txt", "deeper/a.txt"])
def test_a_file_where_a_folder_is_needed_is_named(tmp_path: Path, inside: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ResourceError, match=r"/file.*: a file stands where a folder is needed"),
        atomic_file(tmp_path / "file" / inside),
    ):
        pass


def test_a_folder_in_a_files_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with (
        pytest.raises(ResourceError, match=r"/folder: a folder stands where a file is needed"),
        atomic_file(tmp_path / "folder"),
    ):
        pass
    assert names(tmp_path) == ["folder"]


def test_a_full_disk_is_told_and_leaves_no_half_file(small_disk: Path) -> None:
    with pytest.raises(ResourceError, match="no space left"), atomic_file(small_disk / "a.bin") as part:
        part.write_bytes(bytes(1 << 20))
    assert names(small_disk) == []


def test_a_full_disk_is_told_and_leaves_no_half_folder(small_disk: Path) -> None:
    with pytest.raises(ResourceError, match="no space left"), atomic_folder(small_disk / "out") as part:
        (part / "a.bin").write_bytes(bytes(1 << 20))
    assert names(small_disk) == []


def test_a_read_only_disk_is_told(read_only_disk: Path) -> None:
    with pytest.raises(ResourceError, match="read-only file system"), atomic_file(read_only_disk / "a.bin"):
        pass


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_of_a_number_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": value})
    assert names(tmp_path) == []


def test_json_does_not_depend_on_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1, "y": [2]})
    write_json(tmp_path / "b.json", {"y": [2], "x": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_json_comes_back_as_it_was(tmp_path: Path) -> None:
    value: dict[str, Any] = {"a": [1, 2.5, None, True], "b": {"c": "ü"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "it") == value


def test_a_missing_json_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"the list is missing: {tmp_path}/a.json"):
        read_json(tmp_path / "a.json", "the list")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"])
def test_a_damaged_json_file_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(DataError, match=f"the list is damaged, not JSON .*: {tmp_path}/a.json"):
        read_json(tmp_path / "a.json", "the list")


def test_a_checksum_is_of_all_bytes(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000  # more than one chunk
    (tmp_path / "a.bin").write_bytes(data)
    assert sha256_file(tmp_path / "a.bin") == hashlib.sha256(data).hexdigest()
