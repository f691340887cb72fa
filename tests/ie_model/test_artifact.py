"""A model with its classes: on disk, without the pipeline and without a pickle, damage named; and with new classes."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ie_model.artifact import Artifact, load_artifact, save_artifact
from ie_model.inference import add_classes, class_bounds, classify, encode, representations, sample, swap
from ie_model.spec import Kind, Preprocessing
from tests.helpers.sealed import edit_sealed
from tests.helpers.tiny import KINDS, M2, VAE, each_class, points, seeded, spec_of, tiny_artifact, tiny_model, tiny_spec

REPOSITORY = Path(__file__).parents[2]


def artifact_of(kind: Kind = "image", **changes: Any) -> Artifact:
    """A random model of any kind of data with the codes of random points."""
    model = tiny_model(spec_of(kind), **changes)
    r, counts = representations(model, points(12, model.spec), each_class(3, 4), batch_size=5)
    return Artifact(model, r, counts, {"method": "plain"})


def saved(folder: Path, artifact: Artifact | None = None) -> Path:
    folder.mkdir(parents=True)
    save_artifact(folder, artifact or tiny_artifact())
    return folder


def edit_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit_sealed(folder / "config.json", change)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = folder / "weights.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    edit_config(folder, lambda config: config.update(weights_sha256=checksum))


@pytest.mark.parametrize("classifier", ["distance", "network"])
def test_a_loaded_model_gives_the_same_outputs(tmp_path: Path, classifier: str) -> None:
    artifact = tiny_artifact(tiny_model(tiny_spec((3, 7, 6), 4), classifier=classifier))
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    x = points(5, artifact.model.spec)
    assert torch.equal(classify(loaded, x), classify(artifact, x))
    first, second = encode(loaded, x, 0.0, seeded()), encode(artifact, x, 0.0, seeded())
    assert torch.equal(first.bound, second.bound)
    assert torch.equal(first.reconstruction, second.reconstruction)


@pytest.mark.parametrize("changes", [{}, M2, VAE, {"stochastic_r": True}], ids=["equivae", "m2", "vae", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_of_every_kind_of_data_is_loaded_as_it_was(
    tmp_path: Path, kind: Kind, changes: dict[str, Any]
) -> None:
    artifact = artifact_of(kind, **changes)
    with torch.no_grad():
        for parameter in artifact.model.likelihood.parameters():
            parameter.fill_(-0.7)  # a scale that was learned
    artifact.model.log_prior = (torch.arange(artifact.model.num_codes) + 1.0).log_softmax(0)
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    x, spec = points(5, artifact.model.spec), artifact.model.spec
    assert not any(value.is_meta for value in loaded.model.state_dict().values())
    assert torch.equal(loaded.model.log_prior, artifact.model.log_prior)
    first, second = encode(loaded, x, 0.0, seeded()), encode(artifact, x, 0.0, seeded())
    for name, value in vars(first).items():
        torch.testing.assert_close(value, getattr(second, name), rtol=0, atol=0, equal_nan=True, msg=name)
    assert torch.equal(sample(loaded, 2, seeded()), sample(artifact, 2, seeded()))
    assert torch.equal(class_bounds(loaded, x, 2, seeded()), class_bounds(artifact, x, 2, seeded()))
    again = representations(loaded.model, points(12, spec), each_class(3, 4), batch_size=5)
    assert torch.equal(again[0], artifact.class_representations) and again[1].tolist() == [4, 4, 4]


@pytest.mark.parametrize("likelihood", ["discretized_logistic", "gaussian"])
@pytest.mark.parametrize("decoder", ["dense", "convolutional"])
def test_image_models_of_other_parts_are_loaded_as_they_were(tmp_path: Path, likelihood: str, decoder: str) -> None:
    spec = tiny_spec((3, 9, 6)).model_copy(update={"likelihood": likelihood})
    artifact = tiny_artifact(tiny_model(spec, encoder="wide_residual", decoder=decoder, channels=(4, 8)))
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    assert loaded.model.spec == spec
    assert torch.equal(
        encode(loaded, points(3, spec), 0.0, seeded()).bound, encode(artifact, points(3, spec), 0.0, seeded()).bound
    )


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


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (0, "format 0, of an older version.*reads 5: train the model again"),
        (4, "format 4, of an older version.*reads 5: train the model again"),
        (6, "format 6, of a newer version.*reads 5: install"),
        ("4", "damaged, its format is '4'"),
        (True, "damaged"),
        (None, "damaged"),
    ],
)
def test_another_format_is_an_error_that_states_both_and_what_to_do(tmp_path: Path, version: object, said: str) -> None:
    folder = saved(tmp_path / "model")
    edit_config(folder, lambda config: config.update(format=version))
    with pytest.raises(ValueError, match=rf"config\.json: {said}"):
        load_artifact(folder)


def test_an_artifact_of_the_version_before_is_an_error_that_names_what_to_do(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    config = {"format": 3, "spec": {}, "model": {}, "provenance": {"prune": 0.01}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config\.json: format 3, .*train the model again"):
        load_artifact(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
@pytest.mark.parametrize("name", ["model.log_prior", "class_representations", "class_counts"])
def test_weights_of_another_type_are_an_error_that_names_tensor_and_types(
    tmp_path: Path, name: str, dtype: torch.dtype
) -> None:
    folder = saved(tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(ValueError, match=rf"weights\.safetensors .*{name} is {found} .*expected float32"):
        load_artifact(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_when_they_are_read_and_written(tmp_path: Path, value: float) -> None:
    folder = saved(tmp_path / "model")
    edit_weights(folder, lambda tensors: tensors["class_representations"].fill_(value))
    with pytest.raises(ValueError, match=r"weights\.safetensors .*class_representations .*not finite"):
        load_artifact(folder)
    artifact = tiny_artifact()
    artifact.class_representations[0, 0] = value
    (tmp_path / "new").mkdir()
    with pytest.raises(ValueError, match="class_representations .*not finite"):
        save_artifact(tmp_path / "new", artifact)
    assert not list((tmp_path / "new").iterdir())


def test_weights_changed_after_saving_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    path = folder / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.safetensors .*SHA-256"):
        load_artifact(folder)


def test_a_config_edited_by_hand_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"class-1"', '"class-9"'))
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        load_artifact(folder)


def test_what_inference_needs_is_loaded_as_it_was_and_not_from_provenance(tmp_path: Path) -> None:
    meaning = Preprocessing(vocabulary=tuple("abcdef"))
    artifact = replace(artifact_of("counts"), provenance={}, preprocessing=meaning, prune=0.25, loss="cross_entropy")
    loaded = load_artifact(saved(tmp_path / "model", artifact))
    assert (loaded.prune, loaded.loss, loaded.preprocessing) == (0.25, "cross_entropy", meaning)


@pytest.mark.parametrize(
    "wrong", [Preprocessing(vocabulary=("a",)), Preprocessing(means=(0.0,), deviations=(1.0,))], ids=["words", "scales"]
)
def test_preprocessing_of_other_data_is_refused(tmp_path: Path, wrong: Preprocessing) -> None:
    with pytest.raises(ValueError, match="preprocessing"):
        saved(tmp_path / "model", replace(artifact_of("counts"), preprocessing=wrong))


def test_parts_that_do_not_fit_the_data_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", artifact_of("series"))
    edit_config(folder, lambda config: config["model"].update(decoder="convolutional"))
    with pytest.raises(
        ValueError, match=r"config\.json: model\.decoder is 'convolutional', .* allowed for series: dense"
    ):
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


@pytest.mark.parametrize("name", ["class_representations", "class_counts", "model.log_inverse_temperature"])
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


# New classes from a few examples.


def far_away(num: int) -> torch.Tensor:
    """Images unlike those that the classes of an artifact were made of."""
    return 20 + points(num, seed=5)


@pytest.mark.parametrize("changes", [{}, {"stochastic_r": True}], ids=["equivae", "stochastic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_class_is_the_mean_embedding_of_its_examples(kind: Kind, changes: dict[str, Any]) -> None:
    old = artifact_of(kind, **changes)
    x, y = points(5, old.model.spec, seed=1), torch.tensor([1, 0, 1, 1, 0])
    new = add_classes(old, ["four", "five"], x, y)
    f = old.model.embed(x).detach()
    expected = torch.stack([f[[1, 4]].mean(0), f[[0, 2, 3]].mean(0)])
    torch.testing.assert_close(new.class_representations, torch.cat([old.class_representations, expected]))
    assert new.class_counts.tolist() == [4, 4, 4, 2, 3]
    assert new.model.num_codes == 5
    assert new.model.spec.classes == ("class-0", "class-1", "class-2", "four", "five")
    torch.testing.assert_close(new.model.log_prior, torch.full((5,), -math.log(5)))
    assert class_bounds(new, x, 2, seeded()).shape == (5, 5)
    assert swap(new, x).shape[:2] == (5, 5) and sample(new, 2, seeded()).shape[:2] == (5, 2)
    assert encode(new, x, 0.0, seeded(), torch.full((5,), 4)).log_q.shape == (5, 5)


def test_adding_a_class_leaves_the_given_artifact_as_it_was_and_shares_its_weights() -> None:
    old, x = tiny_artifact(), points(6)
    before = copy.deepcopy(old)
    new = add_classes(old, ["four"], far_away(3), torch.zeros(3, dtype=torch.long))
    assert old.model is not new.model
    assert (old.model.spec, old.model.num_codes) == (before.model.spec, 3)
    assert torch.equal(old.class_representations, before.class_representations)
    assert torch.equal(old.class_counts, before.class_counts)
    for name, value in before.model.state_dict().items():
        assert torch.equal(old.model.state_dict()[name], value), name
    assert torch.equal(classify(old, x), classify(before, x))
    assert torch.equal(class_bounds(old, x, 2, seeded()), class_bounds(before, x, 2, seeded()))
    shared = dict(new.model.named_parameters())
    assert all(parameter is shared[name] for name, parameter in old.model.named_parameters())


def test_a_new_class_far_from_the_others_is_predicted_for_its_own_examples_and_for_no_others() -> None:
    old = artifact_of()
    x = points(30, seed=2)
    new = add_classes(old, ["four"], far_away(4), torch.zeros(4, dtype=torch.long))
    assert classify(new, far_away(9)).argmax(1).tolist() == [3] * 9
    assert classify(old, far_away(9)).argmax(1).max() < 3
    assert torch.equal(classify(new, x).argmax(1), classify(old, x).argmax(1))
    # Among the old classes nothing changes but their common share.
    torch.testing.assert_close(classify(new, x)[:, :3].log_softmax(1), classify(old, x))


def test_classes_are_added_one_after_the_other_as_all_at_once() -> None:
    artifact, x, y = tiny_artifact(), far_away(6), torch.tensor([0, 0, 1, 1, 1, 0])
    once = add_classes(artifact, ["four", "five"], x, y)
    twice = add_classes(artifact, ["four"], x[y == 0], torch.zeros(3, dtype=torch.long))
    twice = add_classes(twice, ["five"], x[y == 1], torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(twice.class_representations, once.class_representations)
    torch.testing.assert_close(class_bounds(twice, x, 2, seeded()), class_bounds(once, x, 2, seeded()))


@pytest.mark.parametrize("kind", KINDS)
def test_an_artifact_with_new_classes_is_saved_and_loaded(tmp_path: Path, kind: Kind) -> None:
    old = artifact_of(kind)
    x, y = points(5, old.model.spec, seed=1), torch.tensor([1, 0, 1, 1, 0])
    new = add_classes(old, ["four", "five"], x, y)
    loaded = load_artifact(saved(tmp_path / "new", new))
    assert loaded.model.spec == new.model.spec and loaded.model.num_codes == 5
    assert loaded.class_counts.tolist() == [4, 4, 4, 2, 3]
    assert torch.equal(class_bounds(loaded, x, 2, seeded()), class_bounds(new, x, 2, seeded()))
    assert torch.equal(encode(loaded, x, 0.0, seeded()).bound, encode(new, x, 0.0, seeded()).bound)
    # The old one is still saved with the classes that it had.
    first = load_artifact(saved(tmp_path / "old", old))
    assert first.model.spec == old.model.spec and torch.equal(classify(first, x), classify(old, x))


@pytest.mark.parametrize(
    ("names", "y", "said"),
    [
        (["class-1"], [0, 0], r"class names must differ .*'class-1'"),
        (["four", "four"], [0, 1], r"class names must differ .*'four', 'four'"),
        (["four", "five"], [0, 0], r"no labelled point of class \[1\]"),
        (["four"], [0, 1], "y must name one of 1 new classes for each of 2 examples"),
        (["four"], [0, -1], "y must name one of 1 new classes"),
        (["four"], [0], "for each of 2 examples"),
        ([], [], "y must name one of 0 new classes"),
    ],
)
def test_names_twice_and_classes_without_examples_are_refused(names: list[str], y: list[int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        add_classes(tiny_artifact(), names, points(2), torch.tensor(y, dtype=torch.long))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (M2, "a new class needs class_code 'embedding'; this model has 'one_hot'"),
        (VAE, "a new class needs class_code 'embedding'; this model has 'none'"),
        ({"classifier": "network"}, "a new class needs the distance classifier"),
    ],
    ids=["m2", "vae", "network"],
)
def test_models_that_know_their_own_classes_only_are_given_no_new_ones(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        add_classes(artifact_of(**changes), ["four"], points(2), torch.zeros(2, dtype=torch.long))
