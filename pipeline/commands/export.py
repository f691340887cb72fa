"""A trained model for other programs: ONNX, torch.export, or a folder as the Hugging Face hub has them."""

from __future__ import annotations

import logging
import shutil
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from ie_model.artifact import Artifact
from ie_model.export import Graph, about, export_torch, graphs
from pipeline.errors import DataError, ResourceError
from pipeline.evaluation.load_model import read_model
from pipeline.utils.files import atomic_folder, read_json
from pipeline.utils.progress import Log

Form = Literal["onnx", "torch", "huggingface"]
_TOLERANCE = 1e-4
_TASKS = {
    "image": "image-classification",
    "counts": "text-classification",
    "series": "other",
    "vector": "tabular-classification",
}
_LOADING = """```python
from pathlib import Path
from ie_model import classify, load_artifact

artifact = load_artifact(Path("."))  # this folder
```
"""


def export(model: Path, form: Form, out: Path, log: Log) -> Path:
    """Writes a new folder with the model in another form.

    Args:
        model: folder of a trained model.
        out: must not exist.

    Raises:
        DataError: the model is missing, damaged, or has no such form; `out` exists.
        ResourceError: packages that ONNX needs are not installed.
    """
    artifact = read_model(model, "cpu")
    if out.exists():
        raise DataError(f"{out} exists: remove it, or give another folder with --out")
    try:
        with atomic_folder(out) as part:
            if form == "onnx":
                worst = _export_onnx(artifact, part)
                log(f"export: ONNX Runtime and PyTorch differ by {worst:.1g} at most, in batches of 1 and 3")
            elif form == "torch":
                export_torch(artifact, part)
            else:
                _export_hub(model, artifact, part, log)
    except ValueError as error:
        raise DataError(f"{model}: {error}") from error
    log(f"export: {', '.join(sorted(path.name for path in out.iterdir()))} in {out}")
    return out


def _export_onnx(artifact: Artifact, folder: Path) -> float:
    """NAME.onnx of each graph, checked; the largest difference from PyTorch."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  # what torch's exporter works with
    except ModuleNotFoundError as error:
        raise ResourceError(f"{error.name} is not installed: pip install 'ie-pipeline[export]'") from error
    # The exporter notes at length what it skips and renames.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    worst = 0.0
    for graph in graphs(artifact):
        path = folder / f"{graph.name}.onnx"
        with torch.no_grad(), warnings.catch_warnings(action="ignore"):
            program = torch.onnx.export(
                graph.module, graph.inputs, dynamo=True, verbose=False, dynamic_shapes=graph.dynamic_shapes,
                input_names=list(graph.takes), output_names=list(graph.gives),
            )  # fmt: skip
        assert program is not None
        proto = program.model_proto  # a new one at each access
        onnx.helper.set_model_props(proto, about(artifact))
        onnx.save_model(proto, path)
        worst = max(worst, _difference(graph, onnxruntime.InferenceSession(path)))
    if worst > _TOLERANCE:
        raise ValueError(f"as ONNX its outputs differ from PyTorch's by {worst:.1g}, more than {_TOLERANCE:g}")
    return worst


def _difference(graph: Graph, session: Any) -> float:
    """The largest difference of an output from PyTorch's, as a share of the largest output where that is above 1."""
    worst = 0.0
    for size in (1, 3):
        inputs = tuple(x[:size] for x in graph.inputs)
        with torch.no_grad():
            expected = graph.module(*inputs)
        found = session.run(None, {name: x.numpy() for name, x in zip(graph.takes, inputs, strict=True)})
        for mine, theirs in zip(expected if isinstance(expected, tuple) else (expected,), found, strict=True):
            size_of_values = max(1.0, float(mine.abs().max()))  # the decoder's are in the unit of the data
            worst = max(worst, float(np.abs(mine.numpy() - theirs).max()) / size_of_values)
    return worst


def _export_hub(model: Path, artifact: Artifact, folder: Path, log: Log) -> None:
    """Weights and config as they are, which `load_artifact` reads, and README.md: the hub's metadata and the card."""
    for name in ("weights.safetensors", "config.json"):
        shutil.copyfile(model / name, folder / name)
    results = model.resolve().parent.parent
    spec = artifact.model.spec
    metadata: dict[str, Any] = {
        "library_name": "ie-pipeline",
        "pipeline_tag": _TASKS.get(spec.kind, "other"),
        "tags": ["equivae", "representation-learning", "semi-supervised", "safetensors"],
    }
    metrics = results / "evaluate/metrics.json"
    if metrics.is_file() and (error := read_json(metrics, "metrics").get("test_error_classifier_pct")) is not None:
        metadata["model-index"] = [_index(str(artifact.provenance.get("method", "model")), spec.kind, error)]
    card = results / "report/model_card.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8")
    else:
        log(f"export: {card} is missing, README.md has the metadata alone; `ie report` writes the card")
        text = f"# EquiVAE, {spec.num_classes} classes\n\n{_LOADING}"
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    (folder / "README.md").write_text(f"---\n{front}---\n\n{text}", encoding="utf-8")


def _index(name: str, kind: str, error: float) -> dict[str, Any]:
    """An entry of the hub's model index."""
    task, data = {"type": _TASKS.get(kind, "other")}, {"type": kind, "name": "test split"}
    accuracy = {"type": "accuracy", "value": round(1 - error / 100, 6), "name": "test accuracy"}
    return {"name": name, "results": [{"task": task, "dataset": data, "metrics": [accuracy]}]}
