"""What goes into the gallery: a model applied to some test examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import interpolate, posterior_mean, sample, swap, traverse
from ie_model.metrics import measures
from ie_model.networks import to_float
from pipeline.config.params import ReportParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.metrics import Encodings
from pipeline.results.gallery_file import FORMAT, SAMPLES, STEPS, WORDS, Arrays, Gallery, GalleryText

_MOST_VALUES = 8_000_000
"""Of all examples with their reconstructions and swaps: the page has about as many bytes. Large ones are fewer."""

_LEAST_POINTS = 10
_MOST_UNITS = 16
_PAIRS = 8
_BATCH = 512
"""Examples that are decoded at once."""


def make_gallery(
    artifact: Artifact,
    test: SplitData,
    encoded: Encodings,
    vocabulary: Sequence[str],
    settings: ReportParams,
    device: str,
) -> Gallery:
    """A stratified sample of test, the most confident errors, and what the model makes of them.

    Args:
        encoded: `encode_split` of test.
        vocabulary: the W words of counts.
    """
    spec, rng = artifact.model.spec, np.random.default_rng(settings.seed)
    predicted, confidence = encoded.probabilities.argmax(1), encoded.probabilities.max(1)
    wrong = np.flatnonzero(predicted != test.y)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][: settings.num_errors]
    num = min(
        settings.num_points, max(2 * spec.num_classes, _MOST_VALUES // (spec.num_values * (2 + spec.num_classes)))
    )
    sampled = stratified(test.y, num, rng)
    rows = np.concatenate([sampled, wrong[~np.isin(wrong, sampled)]])
    place = {int(row): i for i, row in enumerate(rows)}
    kl = encoded.kl.mean(0)
    active = measures.active_units(encoded.kl)
    units = np.argsort(-kl, kind="stable")[: min(int(active.sum()), _MOST_UNITS)]
    pairs = _pairs(test.y[sampled], spec.num_classes)
    chosen = test.take(rows)
    arrays = _decoded(artifact, chosen, units.tolist(), pairs, settings.seed, device)
    words: tuple[str, ...] = ()
    if spec.kind == "counts":
        arrays, words = _telling_words(arrays, chosen.x.numpy(), vocabulary)
    arrays["unit_kl"] = kl.astype(np.float32)
    text = GalleryText(
        format=FORMAT,
        fingerprint=str(artifact.provenance.get("fingerprint", "")),
        spec=spec,
        words=words,
        keys=tuple(chosen.keys),
        num_sampled=len(sampled),
        errors=tuple(place[int(row)] for row in wrong),
        units=tuple(units.tolist()),
        active=int(active.sum()),
        pairs=tuple(pairs),
    )
    return Gallery(text, arrays)


def stratified(y: npt.NDArray[np.int64], num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Up to `num` rows, as many of each class as there are, class by class; where they are too few, of some classes."""
    classes, counts = np.unique(y, return_counts=True)
    left, taken = num, []
    # The rare classes first: what they cannot fill goes to the others.
    for done, index in enumerate(np.argsort(counts, kind="stable")):
        share = min(int(counts[index]), left // (len(classes) - done))
        left -= share
        taken.append(np.sort(rng.permutation(np.flatnonzero(y == classes[index]))[:share]))
    rows = np.concatenate(taken)
    return rows[np.argsort(y[rows], kind="stable")]


def _pairs(y: npt.NDArray[np.int64], num_classes: int) -> list[tuple[int, int]]:
    """Rows of pairs: an example of a class and one of the next class that is there."""
    there = [c for c in range(num_classes) if (y == c).any()]
    first = {c: np.flatnonzero(y == c) for c in there}
    pairs = [(first[c][0], first[d][-1]) for c, d in zip(there, there[1:] + there[:1], strict=True)]
    return [(int(a), int(b)) for a, b in pairs[:_PAIRS]]


def _decoded(
    artifact: Artifact,
    chosen: SplitData,
    units: list[int],
    pairs: list[tuple[int, int]],
    seed: int,
    device: str,
) -> Arrays:
    """Every array but the KL, values as the kind has them: images already as bytes."""
    model, codes = artifact.model, artifact.class_representations
    x = to_float(chosen.x.to(device))

    def kept(values: Tensor) -> npt.NDArray[np.generic]:
        values = values.detach().float().cpu()
        if model.spec.kind == "image":
            return (255 * values.clamp(0, 1)).round().to(torch.uint8).numpy()
        return values.numpy()

    def each(function: Callable[[Tensor], Tensor]) -> npt.NDArray[np.generic]:
        size = max(1, _BATCH // model.spec.num_classes)
        return np.concatenate([kept(function(batch)) for batch in torch.split(x, size)])

    def reconstruct(batch: Tensor) -> Tensor:
        with torch.no_grad():
            r = codes[model.classify(model.embed(batch), codes).argmax(1)]
            return model.reconstruct(r, posterior_mean(artifact, batch), batch)

    values = torch.linspace(-3, 3, STEPS, device=device)
    start, end = x[[a for a, _ in pairs]], x[[b for _, b in pairs]]
    v = torch.zeros(len(codes), model.config.v_dim, device=device)
    moved = [kept(traverse(artifact, codes, v, unit, values)) for unit in units]
    none = np.zeros((0, *kept(traverse(artifact, codes, v, 0, values)).shape), dtype=np.float32)
    arrays = {
        "x": kept(x),
        "reconstruction": each(reconstruct),
        "swap": each(lambda batch: swap(artifact, batch)),
        "traversal": np.stack(moved) if moved else none,
        "samples": kept(sample(artifact, SAMPLES, torch.Generator().manual_seed(seed))),
        "values": values.cpu().numpy(),
    }
    for along in ("r", "v", "both"):
        arrays[f"interpolation_{along}"] = kept(interpolate(artifact, start, end, STEPS, along=along))
    return arrays


def _telling_words(
    arrays: Arrays, counts: npt.NDArray[np.int32], vocabulary: Sequence[str]
) -> tuple[Arrays, tuple[str, ...]]:
    """Texts `[..., W]` as the words `[..., WORDS]` that they have more often than all texts `counts` together."""
    usual = counts.sum(0) + 1e-3
    log_usual = np.log(usual / usual.sum())
    found = {}
    for name, values in arrays.items():
        if values.shape[-1] != len(vocabulary) or name == "values":
            found[name] = values
            continue
        share = values / np.maximum(values.sum(-1, keepdims=True), 1e-9)
        # Weighted by how frequent the word is: a rare word's ratio alone means little.
        score = share * (np.log(share + 1e-8) - log_usual)
        best = np.argsort(-score, axis=-1, kind="stable")[..., :WORDS]
        # A short text may have fewer words than there is room for.
        best[np.take_along_axis(score, best, -1) <= 0] = -1
        room = [(0, 0)] * (best.ndim - 1) + [(0, WORDS - best.shape[-1])]
        found[name] = np.pad(best, room, constant_values=-1).astype(np.int32)
    used = sorted({int(i) for name, best in found.items() if best.dtype == np.int32 for i in np.unique(best)} - {-1})
    renamed = np.full(len(vocabulary) + 1, -1, dtype=np.int32)
    renamed[used] = np.arange(len(used))
    return (
        {name: renamed[best] if best.dtype == np.int32 else best for name, best in found.items()},
        tuple(vocabulary[i] for i in used),
    )
