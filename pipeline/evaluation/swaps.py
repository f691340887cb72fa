"""The class-swap: what an independent classifier sees in it, what is left of v, and which shape its strokes have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.inference import classify, in_batches
from ie_model.metrics import equivariance, measures
from ie_model.metrics.grouped import share_interval, within_group_correlation
from ie_model.metrics.measures import Undefined
from ie_model.metrics.morphometry import morphometry
from ie_model.networks import to_float
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.sample import sampled
from pipeline.results.metrics_table import Measure, as_far_as_defined, measure_each
from pipeline.utils.arrays import IntArray

FEATURES = ("slant", "thickness", "width", "height")

SLANT_TOLERANCE = 10.0
"""Degrees by which the slant of a swap may differ from the original's and agree with it."""

_CANDIDATES = 100
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Strokes:
    """N decoded images beside the N originals."""

    name: str
    """End of the names of their measures; empty for swaps."""

    shape: npt.NDArray[np.float64]
    """`FEATURES` of the decoded images, `[N, 4]`."""

    right: Bools
    """Whether the oracle sees the class that was decoded, `[N]`."""

    rows: Bools
    """Which of the N count, `[N]`."""


def swap_measures(
    artifact: Artifact, test: SplitData, oracle: Artifact, settings: EvaluateParams, device: str
) -> list[Measure]:
    """decode(r_y', v(x)) for a random other class y': does an independent classifier see y', and is v still there?

    Either alone can be gamed: a decoder that ignores v gets the class right, one that ignores r keeps v. The old class
    is the predicted one, whose r v was read with. Of images of one channel the shape of the strokes is compared with
    that of x, which asks no model.
    """
    model, codes, size = artifact.model, artifact.class_representations, settings.batch_size
    test = sampled(test, settings.swap_points)
    num = len(test)
    rng = np.random.default_rng(settings.seed + 6)
    offset = torch.from_numpy(rng.integers(1, len(codes), num)).to(device)

    def judged(x: Tensor) -> Tensor:
        return classify(oracle, x).argmax(1)

    def encoded(x: Tensor) -> tuple[Tensor, Tensor]:
        predicted = classify(artifact, x).argmax(1)
        return predicted, model.posterior(model.features(x), codes[predicted])[0]

    def decoded(y: Tensor, v: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """Images of the classes y `[N]` with v of the examples `rows` `[N]`."""
        for start in range(0, num, size):
            some = rows[start : start + size]
            x = to_float(test.x[some].to(device))
            yield model.reconstruct(codes[y[start : start + size]], v[some.to(device)], x)

    has_strokes = model.spec.kind == "image" and model.spec.shape[0] == 1
    shape = _shape if has_strokes else _no_shape
    own = torch.arange(num)
    with torch.no_grad():
        originals = in_batches(test.x, size, device)
        seen_x, old, v, shape_x = _over(originals, lambda x: (judged(x), *encoded(x), shape(x)))
        new = (old + offset) % len(codes)
        seen, v_again, shape_swap = _over(decoded(new, v, own), lambda x: (judged(x), encoded(x)[1], shape(x)))
        plain = decoded(new, torch.zeros_like(v), own)
        seen_plain, v_plain = _over(plain, lambda x: (judged(x), encoded(x)[1]))
    source, target, seen_class = (y.cpu().numpy() for y in (old, new, seen))
    pair = source * len(codes) + target
    candidates = min(_CANDIDATES, num)

    def hit(again: Tensor) -> float:
        return 100 * equivariance.retrieval(again.cpu().numpy(), v.cpu().numpy(), candidates, settings.seed).hit_at_1

    hits = f"swap_v_hit_at_1_of_{candidates}"
    right = 100 * (1 - measures.error_rate(seen_class, target))
    right_plain = 100 * (1 - measures.error_rate(seen_plain.cpu().numpy(), target))
    rows = [
        Measure("swap_oracle_pct", right),
        Measure("swap_oracle_v_zero_pct", right_plain),
        *measure_each({f"{hits}_pct": lambda: hit(v_again), f"{hits}_v_zero_pct": lambda: hit(v_plain)}),
        *_shares(source, target, seen_class, pair, settings.seed),
        Measure("oracle_error_pct", 100 * measures.error_rate(seen_x.cpu().numpy(), test.y)),
    ]
    if not has_strokes:
        return rows
    other = _others(source, rng)
    with torch.no_grad():
        seen_own, shape_own = _over(decoded(old, v, own), lambda x: (judged(x), shape(x)))
        seen_other, shape_other = _over(decoded(new, v, torch.from_numpy(other)), lambda x: (judged(x), shape(x)))
    every = np.ones(num, dtype=bool)
    compared = (
        _Strokes("", shape_swap.numpy(), seen_class == target, every),
        _Strokes("_reconstruction", shape_own.numpy(), seen_own.cpu().numpy() == source, every),
        _Strokes("_other", shape_other.numpy(), seen_other.cpu().numpy() == target, other != np.arange(num)),
    )
    return rows + _strokes(compared, shape_x.numpy(), pair)


def _over(images: Iterable[Tensor], measured: Callable[[Tensor], tuple[Tensor, ...]]) -> list[Tensor]:
    """What is measured of each batch, of all of them."""
    return [torch.cat(parts) for parts in zip(*map(measured, images), strict=True)]


def _shape(x: Tensor) -> Tensor:
    """`FEATURES` of images `[B, 1, H, W]`, `[B, 4]`; some likelihoods have means outside 0..1."""
    found = morphometry(x[:, 0].clamp(0, 1).cpu().numpy())
    return torch.from_numpy(np.stack([getattr(found, feature) for feature in FEATURES], axis=1))


def _no_shape(x: Tensor) -> Tensor:
    return torch.empty(len(x), 0)


def _others(y: IntArray, rng: np.random.Generator) -> IntArray:
    """The row of a random other example of the same class, `[N]`, each taken once; its own where there is none."""
    other = np.arange(len(y))
    for c in np.unique(y):
        members = rng.permutation(np.flatnonzero(y == c))
        other[members] = np.roll(members, 1)
    return other


def _shares(old: IntArray, new: IntArray, seen: IntArray, pair: IntArray, seed: int) -> list[Measure]:
    """How often the oracle sees the old class or neither, and the intervals over class pairs."""
    rows = []
    for name, hit in {"": seen == new, "old_": seen == old, "neither_": (seen != old) & (seen != new)}.items():
        if name:
            rows.append(Measure(f"swap_oracle_{name}pct", 100 * float(hit.mean())))
        ends = [f"swap_oracle_{name}{end}_pct" for end in ("low", "high")]

        def interval(hit: Bools = hit, ends: list[str] = ends) -> list[Measure]:
            found = share_interval(hit, pair, seed)
            return [Measure(end, 100 * value) for end, value in zip(ends, found, strict=True)]

        rows += as_far_as_defined(ends, interval)
    return rows


def _strokes(compared: Iterable[_Strokes], shape_x: npt.NDArray[np.float64], pair: IntArray) -> list[Measure]:
    """Correlation with the originals within class pairs, and how often class and slant are right in the same image."""

    def correlation(strokes: _Strokes, i: int) -> float:
        rows = strokes.rows
        return within_group_correlation(strokes.shape[rows, i], shape_x[rows, i], pair[rows])

    def both(strokes: _Strokes) -> float:
        if not strokes.rows.any():
            raise Undefined("no class has two examples")
        # NaN, no stroke, agrees with nothing.
        agrees = np.abs(strokes.shape[:, 0] - shape_x[:, 0]) <= SLANT_TOLERANCE
        return 100 * float((strokes.right & agrees)[strokes.rows].mean())

    values: dict[str, Callable[[], float]] = {}
    for strokes in compared:
        for i, feature in enumerate(FEATURES):
            values[f"swap_{feature}_correlation{strokes.name}"] = partial(correlation, strokes, i)
        values[f"swap_oracle_and_slant{strokes.name}_pct"] = partial(both, strokes)
    return measure_each(values)
