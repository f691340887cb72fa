"""What a model makes of some test examples, saved for the report: reconstructions, class swaps, traversals, samples.

One safetensors file, with one metadata entry of JSON. Images are bytes 0..255, series floats (NaN past an end), vectors
floats, texts the indices of their most telling words. `pipeline.evaluation.gallery` makes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.results.tables import reading
from pipeline.utils.files import atomic_file

Arrays = dict[str, npt.NDArray[Any]]

FORMAT = 1
_ENTRY = "gallery"
STEPS = 9
"""Of a traversal or an interpolation."""

SAMPLES = 10
"""Of each class."""

WORDS = 10
"""Of a text, that are kept."""


class GalleryText(BaseModel):
    """What is not an array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int
    fingerprint: str
    """Of the model."""

    spec: DataSpec
    words: tuple[str, ...]
    """Of texts: those that occur in the arrays, in the order of their indices there."""

    keys: tuple[str, ...]
    """Of the N test examples."""

    num_sampled: int
    """The first so many are drawn from test, class by class; the others are errors that were not drawn."""

    errors: tuple[int, ...]
    """Rows of the wrong predictions, the most confident first."""

    units: tuple[int, ...]
    """U units of v that are traversed, the one with the largest KL first."""

    active: int
    """Units with a mean KL above 0.05 nats."""

    pairs: tuple[tuple[int, int], ...]
    """Rows of the P pairs of examples that are interpolated."""


@dataclass(frozen=True)
class Gallery:
    """The file in memory. Below, `shape` is the spec's, but `[WORDS]` for texts (index of a word, -1 for none)."""

    text: GalleryText
    arrays: Arrays
    """x `[N, *shape]`; reconstruction `[N, *shape]`, r of the predicted class and the posterior mean of v; swap
    `[N, K, *shape]`; traversal `[U, K, T, *shape]`, one unit of v = 0 set to each of `values` `[T]`; interpolation_r,
    _v, _both `[P, T, *shape]`; samples `[K, S, *shape]`; unit_kl `[V]`, mean over test in nats."""


def save_gallery(path: Path, gallery: Gallery) -> None:
    """Writes the file, atomically; the same gallery gives the same bytes."""
    text = json.dumps(gallery.text.model_dump(mode="json"), sort_keys=True)
    with atomic_file(path) as part:
        # One entry: several would be written in any order.
        save_file({k: np.ascontiguousarray(a) for k, a in gallery.arrays.items()}, part, metadata={_ENTRY: text})


def read_gallery(path: Path) -> Gallery:
    """The gallery in a file.

    Raises:
        DataError: it is missing, damaged, of another version, or its arrays do not fit each other; names the file.
    """
    with reading(path, "gallery (run `ie evaluate`)"):
        if not path.exists():
            raise FileNotFoundError(path)
        try:
            with safe_open(path, framework="np") as file:
                entry = (file.metadata() or {}).get(_ENTRY)
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    try:
        text = GalleryText.model_validate_json(entry or "")
    except ValidationError as error:
        raise DataError(f"gallery is damaged, or of another version (run `ie evaluate`): {path}") from error
    if text.format != FORMAT:
        raise DataError(f"gallery has format {text.format}, this version reads {FORMAT} (run `ie evaluate`): {path}")
    for name, problem in _misfits(text, arrays):
        raise DataError(f"gallery is damaged, array {name} {problem}: {path}")
    return Gallery(text=text, arrays=arrays)


def _misfits(text: GalleryText, arrays: Arrays) -> Iterator[tuple[str, str]]:
    """Arrays that do not match the text, with what is wrong."""
    n, k, u, p = len(text.keys), text.spec.num_classes, len(text.units), len(text.pairs)
    shape = (WORDS,) if text.spec.kind == "counts" else text.spec.shape
    dtype = {"image": np.uint8, "series": np.float32, "counts": np.int32, "vector": np.float32}[text.spec.kind]
    leading = {
        "x": (n,), "reconstruction": (n,), "swap": (n, k), "traversal": (u, k, STEPS), "samples": (k, SAMPLES),
        "interpolation_r": (p, STEPS), "interpolation_v": (p, STEPS), "interpolation_both": (p, STEPS),
    }  # fmt: skip
    for name, axes in leading.items():
        if name not in arrays:
            yield name, "is missing"
            continue
        array = arrays[name]
        if array.shape != (*axes, *shape) or (array.dtype != dtype and array.size):
            yield name, f"is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} {[*axes, *shape]}"
        elif text.spec.kind == "counts" and array.size and not -1 <= array.min() <= array.max() < len(text.words):
            yield name, f"names words beyond the {len(text.words)} that are there"
    for name in ("values", "unit_kl"):
        if name not in arrays or arrays[name].ndim != 1:
            yield name, "is missing or has another shape"
    rows = [*text.errors, *(row for pair in text.pairs for row in pair)]
    if rows and not 0 <= min(rows) <= max(rows) < n:
        yield "x", f"has {n} rows, and errors or pairs name others"
