"""A model in other forms: the same outputs, its own preprocessing, what is refused."""

from __future__ import annotations

import io
import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from ie_model.artifact import Artifact, load_artifact, save_artifact
from ie_model.export import example_inputs
from ie_model.inference import classify, posterior_mean
from ie_model.networks import to_float
from ie_model.spec import Kind, Preprocessing
from pipeline.commands.export import export
from pipeline.errors import DataError, ResourceError
from tests.helpers.pages import blocks
from tests.helpers.tiny import KINDS, M2, VAE, seeded, spec_of, tiny_model
from tests.helpers.waiting import silent, wait_for

SCALES = Preprocessing(means=(300.0, -2.0), deviations=(40.0, 0.5))


def saved(folder: Path, kind: Kind = "image", loss: Any = "bound", **changes: Any) -> Path:
    """A model with random weights, on disk; series have scales of their own."""
    model = tiny_model(spec_of(kind), **changes)
    codes = torch.randn(3, 3, generator=seeded()) if model.config.class_code == "embedding" else model.fixed_codes()
    preprocessing = SCALES if kind == "series" else Preprocessing()
    out = folder / "results/train/model"
    out.mkdir(parents=True)
    save_artifact(out, Artifact(model, codes, torch.ones(3), {}, preprocessing, loss=loss))
    return out


def raw(artifact: Artifact) -> torch.Tensor:
    """Five examples as they are stored; series in the unit of their files, one that ends early."""
    x = example_inputs(artifact, 5, seeded(1))
    if artifact.model.spec.kind == "series":
        x = x * torch.tensor(SCALES.deviations).view(2, 1) + torch.tensor(SCALES.means).view(2, 1)
        x[0, :, 4:] = torch.nan
    return x


def as_model(artifact: Artifact, x: torch.Tensor) -> torch.Tensor:
    if artifact.model.spec.kind != "series":
        return to_float(x)
    return (x - torch.tensor(SCALES.means).view(2, 1)) / torch.tensor(SCALES.deviations).view(2, 1)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_graphs_give_the_models_outputs_from_raw_values(tmp_path: Path, kind: Kind) -> None:
    folder = saved(tmp_path, kind)
    artifact = load_artifact(folder)
    x = raw(artifact)
    values = as_model(artifact, x)
    q, v = classify(artifact, values).exp().numpy(), posterior_mean(artifact, values)
    back = artifact.model.reconstruct(artifact.class_representations[[0] * 5], v).detach()
    if kind == "series":
        back = back * torch.tensor(SCALES.deviations).view(2, 1) + torch.tensor(SCALES.means).view(2, 1)

    out = export(folder, "onnx", tmp_path / "onnx", silent)
    sessions = {path.stem: onnxruntime.InferenceSession(path) for path in out.iterdir()}
    about = sessions["classifier"].get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(artifact.model.spec.classes)
    assert np.abs(sessions["classifier"].run(None, {"x": x.numpy()})[0] - q).max() < 1e-4
    assert np.abs(sessions["encoder"].run(["v"], {"x": x.numpy()})[0] - v.numpy()).max() < 1e-4
    inputs = {"r": artifact.class_representations[[0] * 5].numpy(), "v": v.numpy()}
    assert np.allclose(sessions["decoder"].run(None, inputs)[0], back.numpy(), rtol=1e-4, atol=1e-4)

    out = export(folder, "torch", tmp_path / "torch", silent)
    assert sorted(path.name for path in out.iterdir()) == ["classifier.pt2", "decoder.pt2", "encoder.pt2"]
    extra = {"about.json": ""}
    loaded = torch.export.load(out / "classifier.pt2", extra_files=extra).module()
    assert np.abs(loaded(x).detach().numpy() - q).max() < 1e-4
    assert json.loads(extra["about.json"]) == about


@pytest.mark.slow
def test_convolutions_are_exported_at_any_size(tmp_path: Path) -> None:
    folder = saved(tmp_path, decoder="convolutional", encoder="wide_residual")
    assert len(list(export(folder, "onnx", tmp_path / "out", silent).iterdir())) == 3


@pytest.mark.parametrize(("changes", "loss", "expected"), [(M2, "bound", 3), (M2, "cross_entropy", 1)])
def test_what_is_not_trained_is_not_exported(tmp_path: Path, changes: dict[str, Any], loss: str, expected: int) -> None:
    folder = saved(tmp_path, loss=loss, **changes)
    assert len(list(export(folder, "torch", tmp_path / "out", silent).iterdir())) == expected


def test_hub_folder_loads_back_and_its_card_has_the_hubs_metadata(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    results = tmp_path / "results"
    (results / "report").mkdir()
    (results / "evaluate").mkdir()
    (results / "report/model_card.md").write_text("# Model card: x\n")
    (results / "evaluate/metrics.json").write_text('{"test_error_classifier_pct": 2.5}')
    out = export(folder, "huggingface", tmp_path / "hub", silent)
    assert torch.equal(load_artifact(out).class_representations, load_artifact(folder).class_representations)
    _, front, text = (out / "README.md").read_text().split("---\n")
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    assert metadata["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.975
    assert text == "\n# Model card: x\n"


def test_hub_folder_without_a_card_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    out = export(saved(tmp_path), "huggingface", tmp_path / "hub", lines.append)
    assert "model_card.md is missing" in lines[0] and "load_artifact" in (out / "README.md").read_text()


def test_export_refuses_what_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vae = saved(tmp_path / "vae", **VAE)
    with pytest.raises(DataError, match="plain VAE"):
        export(vae, "onnx", tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()
    model = saved(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/there exists"):
        export(model, "torch", tmp_path / "there", silent)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ResourceError, match=r"onnxruntime is not installed: .*\[export\]"):
        export(model, "onnx", tmp_path / "out", silent)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_server_of_the_page_classifies_a_picture(tmp_path: Path) -> None:
    artifact = load_artifact(saved(tmp_path))
    export(tmp_path / "results/train/model", "onnx", tmp_path / "exported", silent)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (code,) = blocks("docs/export.md", "python")
    assert len([line for line in code.splitlines() if line]) <= 20 and "8000" in code
    server = subprocess.Popen(
        [sys.executable, "-c", code.replace("8000", str(port))], cwd=tmp_path, stderr=subprocess.PIPE
    )
    _, height, width = artifact.model.spec.shape
    pixels = np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")

    def answer() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", data=buffer.getvalue(), timeout=10) as found:
            return dict(json.load(found))

    def listens() -> bool:
        with socket.socket() as attempt:
            return attempt.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens, seconds=60)
        found = answer()
    finally:
        server.kill()
        _, errors = server.communicate()
    assert not re.search("Traceback", errors.decode())
    expected = classify(artifact, to_float(torch.from_numpy(pixels)[None, None])).exp()[0]
    assert list(found) == list(artifact.model.spec.classes)
    assert np.allclose(list(found.values()), expected.numpy(), atol=1e-4)
