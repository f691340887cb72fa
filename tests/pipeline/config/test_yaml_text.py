"""Files of users are YAML 1.2, as DVC reads them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml as dvc_reads

from pipeline.config.overrides import apply_overlay, check_overlay, read_overlay
from pipeline.config.params import load_params
from pipeline.config.yaml_text import edit_yaml, parse_yaml, to_yaml
from pipeline.errors import ParamsError
from tests.helpers.project import REPOSITORY

WRITTEN: dict[str, Any] = {
    "1e-05": 1e-5, "2e-3": 2e-3, "1E5": 1e5, "on": "on", "off": "off", "yes": "yes", "no": "no", "y": "y", "010": 10,
    "0o10": 8, "0x1F": 31, "1:30": "1:30", "12:30:45": "12:30:45", "'1e-5'": "1e-5", "~": None, "true": True,
}  # fmt: skip


@pytest.mark.parametrize(("text", "value"), WRITTEN.items())
def test_parse_yaml_scalar_means_what_dvc_reads(text: str, value: Any) -> None:
    found = parse_yaml(f"key: {text}\n", "params.yaml")
    assert found == {"key": value} == dvc_reads(f"key: {text}\n", "params.yaml")
    assert type(found["key"]) is type(value)


@pytest.mark.parametrize("value", [*WRITTEN.values(), [1, "no", None], {"a": {"b": 1e-5}}, "a: b", "x\ny", "ü"])
@pytest.mark.parametrize("flow", [False, True])
def test_to_yaml_value_is_read_back_by_dvc(value: Any, flow: bool) -> None:
    text = to_yaml({"key": value}, flow=flow)
    assert parse_yaml(text, "x") == {"key": value} == dvc_reads(text, "x")
    if flow:
        assert len(to_yaml(value, flow=True).splitlines()) == 1


@pytest.mark.parametrize("read", [parse_yaml, edit_yaml])
def test_parse_yaml_duplicate_key_is_refused_by_name_and_line(read: Any) -> None:
    with pytest.raises(ParamsError, match=r"mine\.yaml, line 3: .*epochs"):
        read("train:\n  epochs: 3\n  epochs: 30\n", "mine.yaml")


@pytest.mark.parametrize("text", ["train: [", "\ttrain: 1", "a: b: c", "a: !!python/object:os.system {}"])
def test_parse_yaml_damage_is_one_line_with_its_place(text: str) -> None:
    with pytest.raises(ParamsError, match=r"mine\.yaml is not YAML: line 1") as caught:
        parse_yaml(text, "mine.yaml")
    assert "\n" not in str(caught.value)


def test_preset_with_a_small_rate_is_applied_as_a_number(tmp_path: Path) -> None:
    params = Path(shutil.copy(REPOSITORY / "params.yaml", tmp_path))
    overlay = tmp_path / "rate.yaml"
    overlay.write_text("train:\n  learning_rate: 0.00001\n")
    changes = read_overlay(str(overlay), tmp_path)
    check_overlay(changes, params, "rate")
    apply_overlay(changes, params)
    assert "learning_rate: 1e-05" in params.read_text()
    assert load_params(params).train.learning_rate == 1e-5
