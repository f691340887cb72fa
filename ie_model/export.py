"""A trained model without its Python code: three graphs of tensors, for torch.export and for ONNX.

`classifier`: x -> q(y|x). `encoder`: x -> f_inv(x), and the mean of q(v | r, x) with r of the predicted class.
`decoder`: r, v -> E[x | r, v]. They take and give raw values, preprocessing is inside: images are uint8 (the decoder
gives floats in [0, 1]), series and vectors float32 in their own unit, NaN where a series is unknown, counts int32
(shares of words).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ie_model.artifact import Artifact
from ie_model.networks import to_float

_DTYPES = {"uint8": torch.uint8, "float32": torch.float32, "int32": torch.int32}


class _Raw(nn.Module):
    """Between stored values and the model's."""

    mean: Tensor
    deviation: Tensor
    r: Tensor

    def __init__(self, artifact: Artifact) -> None:
        super().__init__()
        self.model = artifact.model
        self.register_buffer("r", artifact.class_representations)
        channels, shape = len(artifact.preprocessing.means), artifact.model.spec.shape
        self.scaled = channels > 0
        ones = [1] * (len(shape) - 1)
        self.register_buffer("mean", torch.tensor(artifact.preprocessing.means).view(channels, *ones))
        self.register_buffer("deviation", torch.tensor(artifact.preprocessing.deviations).view(channels, *ones))

    def values(self, x: Tensor) -> Tensor:
        x = to_float(x)
        return (x - self.mean) / self.deviation if self.scaled else x


class _Classifier(_Raw):
    def forward(self, x: Tensor) -> Tensor:
        return self.model.classify(self.model.embed(self.values(x)), self.r).exp()


class _Encoder(_Raw):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = self.values(x)
        f = self.model.embed(values)
        mean, _ = self.model.posterior(self.model.features(values), self.r[self.model.classify(f, self.r).argmax(1)])
        return f, mean


class _Decoder(_Raw):
    def forward(self, r: Tensor, v: Tensor) -> Tensor:
        x = self.model.reconstruct(r, v)
        return x * self.deviation + self.mean if self.scaled else x


def example_inputs(artifact: Artifact, num: int, generator: torch.Generator) -> Tensor:
    """Random values as they are stored, `[num, *shape]`."""
    spec = artifact.model.spec
    shape = (num, *spec.shape)
    if spec.dtype == "float32":
        return torch.randn(shape, generator=generator)
    return torch.randint(0, 256 if spec.dtype == "uint8" else 3, shape, generator=generator).to(_DTYPES[spec.dtype])


@dataclass(frozen=True)
class Graph:
    """A module to export."""

    name: str
    module: nn.Module
    inputs: tuple[Tensor, ...]
    """An example of each input, a batch of three."""

    takes: tuple[str, ...]
    gives: tuple[str, ...]

    @property
    def dynamic_shapes(self) -> tuple[dict[int, torch.export.Dim], ...]:
        """The batch's size is free in all inputs."""
        batch = torch.export.Dim("batch", min=1)
        return tuple({0: batch} for _ in self.inputs)


def graphs(artifact: Artifact) -> Iterator[Graph]:
    """Classifier, encoder and decoder; of a supervised model, whose v is not trained, the classifier alone.

    Raises:
        ValueError: a plain VAE, which knows no classes.
    """
    if artifact.model.config.class_code == "none":
        raise ValueError("a plain VAE has no classifier and no r to export")
    x = example_inputs(artifact, 3, torch.Generator().manual_seed(0))
    yield Graph("classifier", _Classifier(artifact).eval(), (x,), ("x",), ("q",))
    if artifact.loss != "bound":
        return
    encoder = _Encoder(artifact).eval()
    yield Graph("encoder", encoder, (x,), ("x",), ("r", "v"))
    with torch.no_grad():
        _, v = encoder(x)
    r = artifact.class_representations[torch.arange(3) % len(artifact.class_representations)]
    yield Graph("decoder", _Decoder(artifact).eval(), (r, v), ("r", "v"), ("x",))


def about(artifact: Artifact) -> dict[str, str]:
    """What is written into each graph: class names, class representations, what x is. Values are JSON."""
    spec = artifact.model.spec
    facts = {
        "classes": list(spec.classes),
        "class_representations": artifact.class_representations.tolist(),
        "kind": spec.kind,
        "shape": list(spec.shape),
        "dtype": spec.dtype,
        "vocabulary": list(artifact.preprocessing.vocabulary),
    }
    return {name: json.dumps(value) for name, value in facts.items()}


def export_torch(artifact: Artifact, folder: Path) -> list[Path]:
    """Writes NAME.pt2 of each graph, for `torch.export.load`, into an existing folder.

    What `about` gives is the extra file `about.json` in each.

    Raises:
        ValueError: as `graphs`.
    """
    written = []
    with torch.no_grad():
        for graph in graphs(artifact):
            path = folder / f"{graph.name}.pt2"
            program = torch.export.export(graph.module, graph.inputs, dynamic_shapes=graph.dynamic_shapes)
            torch.export.save(program, path, extra_files={"about.json": json.dumps(about(artifact))})
            written.append(path)
    return written
