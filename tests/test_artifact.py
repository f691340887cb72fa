"""A model on disk: what is saved is loaded, without the pipeline and without a pickle, and damage is named."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ie_model.artifact import Artifact, load_artifact, save_artifact
from ie_model.inference import classify, encode
from tests.tiny import points, seeded, tiny_artifact, tiny_model, tiny_spec

REPOSITORY = Path(__file__).parent.parent


def saved(folder: Path, artifact: Artifact | None = None) -> Path:
    folder.mkdir(parents=True)
    save_artifact(folder, artifact or tiny_artifact())
    return folder


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "weights.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_a_loaded_model_gives_the_same_outputs(tmp_path: Path, classifier: str) -> None:
    artifact = tiny_artifact(tiny_model(tiny_spec((3, 7, 6), 4), classifier=classifier))
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    x = points(5, artifact.model.spec)
    assert torch.equal(classify(loaded, x), classify(artifact, x))
    first, second = encode(loaded, x, 0.0, seeded()), encode(artifact, x, 0.0, seeded())
    assert torch.equal(first.bound, second.bound)
    assert torch.equal(first.reconstruction, second.reconstruction)


def test_a_loaded_artifact_has_the_same_representations_counts_and_provenance(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    assert torch.equal(loaded.class_representations, artifact.class_representations)
    assert torch.equal(loaded.class_counts, artifact.class_counts)
    assert loaded.provenance == artifact.provenance


def test_a_loaded_model_has_the_same_spec_and_config_and_is_in_evaluation_mode(tmp_path: Path) -> None:
    artifact = tiny_artifact()
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    assert loaded.model.spec == artifact.model.spec
    assert loaded.model.config == artifact.model.config
    assert not loaded.model.training


def test_an_artifact_is_json_and_safetensors_and_holds_no_pickle(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "weights.safetensors"]
    json.loads((folder / "config.json").read_text())
    header = int.from_bytes((folder / "weights.safetensors").read_bytes()[:8], "little")
    names = json.loads((folder / "weights.safetensors").read_bytes()[8 : 8 + header])
    assert "class_representations" in names


def test_the_same_artifact_is_the_same_bytes(tmp_path: Path) -> None:
    first, second = saved(tmp_path / "a"), saved(tmp_path / "b")
    for name in ("config.json", "weights.safetensors"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_a_model_loads_where_the_pipelines_packages_cannot_be_imported(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    script = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {{"ray", "dvc", "webdataset", "pipeline", "pyarrow", "fsspec"}}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
try:
    import pipeline
except ImportError:
    pass
else:
    raise SystemExit("the block does not work")
from pathlib import Path
import torch
from ie_model.artifact import load_artifact
from ie_model.inference import classify, sample
artifact = load_artifact(Path({str(folder)!r}))
x = torch.rand(5, 1, 6, 5, generator=torch.Generator().manual_seed(0))
print(classify(artifact, x).argmax(1).tolist(), tuple(sample(artifact, 2, torch.Generator()).shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = classify(tiny_artifact(), points(5)).argmax(1).tolist()
    assert done.stdout.strip() == f"{expected} (3, 2, 1, 6, 5)"


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors"])
def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"no model in .*model: {name} is missing"):
        load_artifact(folder)


def test_a_missing_folder_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model in .*nowhere"):
        load_artifact(tmp_path / "nowhere")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_weights_are_an_error_that_names_the_file(tmp_path: Path, share: float) -> None:
    folder = saved(tmp_path / "model")
    data = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load_artifact(folder)


def test_weights_that_are_something_else_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (folder / "weights.safetensors").write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged"):
        load_artifact(folder)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"7", b"null", b'"text"', b"\xff\xfe\x00", b"\x80\x04pickle"]
)
def test_a_damaged_config_is_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    folder = saved(tmp_path / "model")
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_artifact(folder)


@pytest.mark.parametrize("key", ["spec", "model", "provenance"])
def test_a_config_without_a_part_is_an_error_that_names_file_and_part(tmp_path: Path, key: str) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config.pop(key))
    with pytest.raises(ValueError, match=rf"config\.json is damaged: .*{key}"):
        load_artifact(folder)


def test_an_unknown_key_in_the_config_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config["model"].update(dropout=0.5))
    with pytest.raises(ValueError, match=r"config\.json is damaged: .*dropout"):
        load_artifact(folder)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_another_format_is_an_error_that_states_both(tmp_path: Path, version: object) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config.update(format=version))
    with pytest.raises(ValueError, match=rf"config\.json: format {version!r}, this version reads 1"):
        load_artifact(folder)


def test_weights_of_another_size_than_the_config_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config["model"].update(r_dim=7))
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or does not fit its config"):
        load_artifact(folder)


def test_weights_of_another_number_of_classes_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config["spec"].update(classes=["a", "b"]))
    with pytest.raises(ValueError, match=r"weights\.safetensors is damaged or does not fit its config"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["class_representations", "class_counts", "model.log_scale"])
def test_a_missing_tensor_is_an_error_that_names_file_and_tensor(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match=rf"weights\.safetensors .*{name.removeprefix('model.')}"):
        load_artifact(folder)


def test_a_tensor_too_many_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors.update({"model.extra": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"weights\.safetensors .*extra"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ["class_representations", "class_counts"])
def test_representations_of_another_shape_are_an_error_that_names_the_file(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors.update({name: tensors[name][:2].clone()}))
    with pytest.raises(ValueError, match=rf"weights\.safetensors .*{name}"):
        load_artifact(folder)
