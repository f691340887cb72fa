"""Presets and other overlays: what they change, how they are printed for DVC and written into params.yaml."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.config.overrides import (
    apply_overlay,
    check_overlay,
    dotted,
    merged,
    nested,
    preset_names,
    read_overlay,
    set_params,
)
from pipeline.config.params import load_params, parse_params
from pipeline.errors import DataError, ParamsError
from tests.helpers.project import REPOSITORY, run, shipped_params

PRESETS = preset_names(REPOSITORY)
SHIPPED = shipped_params()


@pytest.fixture
def params_file(tmp_path: Path) -> Path:
    """The shipped params.yaml and presets, in a folder of their own."""
    shutil.copytree(REPOSITORY / "presets", tmp_path / "presets")
    return Path(shutil.copy(REPOSITORY / "params.yaml", tmp_path))


def test_the_presets_are_there_and_each_says_what_it_is_for() -> None:
    assert set(PRESETS) >= {"quick", "plain", "extended", "paper-scale", "gpu"}
    assert all(len(about) > 20 for about in PRESETS.values())


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_allowed_and_no_copy_of_params(name: str) -> None:
    changes = read_overlay(name, REPOSITORY)
    check_overlay(changes, REPOSITORY / "params.yaml", name)
    assert len(list(dotted(changes))) < len(list(dotted(SHIPPED))) / 2


@pytest.mark.parametrize("name", PRESETS)
def test_an_applied_preset_changes_its_values_and_leaves_comments_and_order(name: str, params_file: Path) -> None:
    changes = read_overlay(name, params_file.parent)
    before = params_file.read_text()
    apply_overlay(changes, params_file)
    text = params_file.read_text()
    assert load_params(params_file) == parse_params(merged(SHIPPED, changes))
    assert text.count("#") == before.count("#")
    changed = [(a, b) for a, b in zip(before.splitlines(), text.splitlines(), strict=True) if a != b]
    assert len(changed) <= len(list(dotted(changes)))
    apply_overlay(changes, params_file)
    assert params_file.read_text() == text


def test_applying_nothing_leaves_every_byte(params_file: Path) -> None:
    before = params_file.read_bytes()
    apply_overlay({}, params_file)
    assert params_file.read_bytes() == before


@pytest.mark.parametrize("name", PRESETS)
def test_printed_arguments_survive_the_shell_and_are_what_hydra_reads(name: str) -> None:
    """DVC hands them to Hydra; its own grammar says whether it reads what was meant."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    done = run(REPOSITORY, "sh", "-c", f"printf '%s\\n' $(python -m pipeline preset {name})")
    words = done.stdout.split("\n")[:-1]
    assert words[::2] == ["-S"] * (len(words) // 2), done.stderr
    parsed = OverridesParser.create().parse_overrides(words[1::2])
    values = {override.key_or_group: override.value() for override in parsed}
    assert nested(values) == read_overlay(name, REPOSITORY)


def test_values_that_a_shell_would_split_are_quoted() -> None:
    changes = {"data": {"folder": "my files"}, "train": {"epochs": 3}, "sweep": {"baseline": None}}
    assert set_params(changes) == "-S 'data.folder=my files' -S train.epochs=3 -S sweep.baseline=null"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  epoch: 3\n", r"train\.epoch: unknown key \(allowed: device, precision"),
        ("trian:\n  epochs: 3\n", r"trian: unknown key \(allowed: data, labels"),
        ("train:\n  epochs: 0\n", r"train\.epochs is 0; allowed: greater than or equal to 1"),
        ("train: 3\n", r"train is a section; found 3"),
        ("- 1\n", r"must hold sections of params\.yaml, found list"),
        ("train: [\n", r"is not YAML"),
    ],
)
def test_a_wrong_overlay_is_one_line_and_changes_nothing(params_file: Path, text: str, message: str) -> None:
    before = params_file.read_bytes()
    (params_file.parent / "presets" / "mine.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        check_overlay(read_overlay("mine", params_file.parent), params_file, "mine")
    done = run(REPOSITORY, "ie", "preset", "mine", "--apply", "--params", str(params_file))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    assert params_file.read_bytes() == before


def test_an_unknown_preset_lists_those_that_there_are() -> None:
    with pytest.raises(DataError, match=r"no preset 'fast' .*presets: extended, gpu, paper-scale, plain, quick, style"):
        read_overlay("fast", REPOSITORY)


def test_a_file_is_an_overlay_too(params_file: Path) -> None:
    found = params_file.parent / "best.yaml"
    found.write_text("# found\ntrain:\n  learning_rate: 0.0012345\n")
    done = run(REPOSITORY, "ie", "preset", str(found), "--params", str(params_file))
    assert done.stdout == "-S train.learning_rate=0.0012345\n"
    run(REPOSITORY, "ie", "preset", str(found), "--apply", "--params", str(params_file))
    assert load_params(params_file).train.learning_rate == 0.0012345
