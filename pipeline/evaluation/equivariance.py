"""Equivariance of v and invariance of r, measured by moving images in a known way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from torch import Tensor

from ie_model.artifact import Artifact
from ie_model.augment import affine, affine_matrices
from ie_model.inference import in_batches
from ie_model.metrics import equivariance
from ie_model.metrics.equivariance import LinearAction, Retrieval
from ie_model.metrics.measures import Undefined
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.in_memory import SplitData
from pipeline.evaluation.sample import sampled
from pipeline.results.metrics_table import Array, Measure, as_far_as_defined, measure_each, not_measured
from pipeline.utils.progress import Log, silent

ROTATION = 45.0
"""Degrees either way."""

SHIFT, SCALE, SHEAR = 0.1, 0.2, 0.3
_STEP = 15.0
"""Degrees of the one rotation whose linear action on v is fitted."""

_CANDIDATES = 100
Probe = Literal["linear", "mlp"]
Pair = tuple[list[Array], list[Array]]
_COMPONENTS = 40
_MAPS = ("rotation", "shift", "scale", "shear")


@dataclass(frozen=True)
class Codes:
    """A model's outputs for N images."""

    v: Array
    """Mean of q(v | r_y, x), y the predicted class, `[N, V]`."""

    f: Array
    """f_inv(x), `[N, R]`."""

    r: Array
    """r_y of the predicted class: what the decoder gets, `[N, R]`."""

    v_log_var: Array
    """Logarithm of the variance of that q, `[N, V]`."""

    def draw(self, rng: np.random.Generator) -> Array:
        """One v ~ q(v | r_y, x) of each image, `[N, V]`."""
        noise = rng.standard_normal(self.v.shape, dtype=np.float32)
        return np.asarray(self.v + np.exp(0.5 * self.v_log_var) * noise, dtype=np.float32)


@dataclass(frozen=True)
class Maps:
    """One random map an image, and what is asked of it."""

    matrices: Tensor
    """`[N, 2, 3]`."""

    g: npt.NDArray[np.float64]
    """Parameters `[N, O]`; an angle as its sine and cosine."""

    outputs: tuple[str, ...]


def random_maps(kind: str, num: int, shape: tuple[int, ...], rng: np.random.Generator) -> Maps:
    """Random maps of one kind: rotation, shift, scale or shear."""
    u = rng.uniform(-1, 1, (num, 2))
    zero, shift = np.zeros(num), np.zeros((num, 2))
    angle = np.radians(ROTATION) * u[:, 0] if kind == "rotation" else zero
    scale = 1 + SCALE * u[:, 0] if kind == "scale" else zero + 1
    shear = SHEAR * u[:, 0] if kind == "shear" else zero
    if kind == "shift":
        shift = SHIFT * u
    matrices = _matrices(angle, shift, scale, shear, shape)
    if kind == "rotation":
        return Maps(matrices, np.stack([np.sin(angle), np.cos(angle)], 1), ("rotation_sin", "rotation_cos"))
    if kind == "shift":
        return Maps(matrices, shift, ("shift_x", "shift_y"))
    return Maps(matrices, (scale if kind == "scale" else shear)[:, None], (kind,))


def encode_codes(
    artifact: Artifact,
    x: Tensor,
    batch_size: int,
    device: str,
    matrices: Tensor | None = None,
    given: Array | None = None,
) -> Codes:
    """Codes of stored images `[N, C, H, W]`, moved by `matrices` first where given.

    Args:
        given: r to condition v on `[N, R]` in place of that of the predicted class.
    """
    model, codes = artifact.model, artifact.class_representations
    v, f, r, v_log_var = [], [], [], []
    with torch.no_grad():
        for i, batch in enumerate(in_batches(x, batch_size, device)):
            if matrices is not None:
                batch = affine(batch, matrices[i * batch_size : i * batch_size + len(batch)].to(device))
            embedded = model.embed(batch)
            if given is None:
                own = codes[model.classify(embedded, codes).argmax(1)]
            else:
                own = torch.from_numpy(given[i * batch_size : i * batch_size + len(batch)]).to(device)
            mean, log_var = model.posterior(model.features(batch), own)
            v.append(mean.cpu())
            v_log_var.append(log_var.cpu())
            f.append(embedded.cpu())
            r.append(own.cpu())
    return Codes(*(torch.cat(part).numpy() for part in (v, f, r, v_log_var)))


def style(
    artifact: Artifact,
    train: SplitData,
    test: SplitData,
    settings: EvaluateParams,
    device: str,
    tell: Log = silent,
) -> list[Measure]:
    """How well a known map g can be read from the codes of x and gx; how v moves under it, and r does not.

    Fitted on `style_points` of train, scored on as many of test at most. Images only.
    """
    if artifact.model.spec.kind != "image":
        return []
    size, shape = settings.batch_size, artifact.model.spec.shape
    rng = np.random.default_rng(settings.seed + 5)
    splits = [(split.x, split.y) for split in (sampled(s, settings.style_points) for s in (train, test))]
    still = [encode_codes(artifact, x, size, device) for x, _ in splits]
    rows: list[Measure] = []
    has_r = artifact.model.num_codes > 1  # the plain VAE has none
    for i, kind in enumerate(_MAPS, 1):
        tell(f"evaluate: {kind} read from r and v, map {i} of {len(_MAPS)}")
        maps = [random_maps(kind, len(x), shape, rng) for x, _ in splits]
        moved = [encode_codes(artifact, x, size, device, m.matrices) for (x, _), m in zip(splits, maps, strict=True)]
        pairs = {"v": ([c.v for c in still], [c.v for c in moved])}
        if has_r:
            pairs["f"] = [c.f for c in still], [c.f for c in moved]
        if kind == "rotation":
            pairs["v_sampled"] = [c.draw(rng) for c in still], [c.draw(rng) for c in moved]
            pairs["pixels"] = _principal_components([x for x, _ in splits], maps, size, settings.seed)
            if has_r:
                pairs["r"] = [c.r for c in still], [c.r for c in moved]
                same_r = [
                    encode_codes(artifact, x, size, device, m.matrices, c.r).v
                    for (x, _), m, c in zip(splits, maps, still, strict=True)
                ]
                pairs["v_same_r"] = [c.v for c in still], same_r
        rows += _readings(kind, pairs, maps, [y for _, y in splits], settings)
        if kind == "rotation":
            rows += _invariance(splits[1][0], splits[1][1], still[1], moved[1], maps[1].matrices, size, has_r=has_r)
    tell("evaluate: linear action of a rotation on v")
    return rows + _linear_action(artifact, splits, still, settings, device)


def _principal_components(x: list[Tensor], maps: list[Maps], batch_size: int, seed: int) -> Pair:
    """The first components of train's pixels, of each image before and after its map."""
    pixels = [torch.cat(list(in_batches(images, batch_size))) for images in x]
    still = [images.flatten(1).numpy() for images in pixels]
    moved = [affine(images, m.matrices).flatten(1).numpy() for images, m in zip(pixels, maps, strict=True)]
    # One thread: the score must not depend on how many cores the machine has. Of images that are all alike there is no
    # variance to divide by, which is no fault here.
    with threadpool_limits(limits=1), np.errstate(divide="ignore", invalid="ignore"):
        fitted = PCA(min(_COMPONENTS, *still[0].shape), svd_solver="randomized", random_state=seed).fit(still[0])
        return [fitted.transform(part) for part in still], [fitted.transform(part) for part in moved]


def _readings(
    kind: str, pairs: dict[str, Pair], maps: list[Maps], y: list[npt.NDArray[np.int64]], settings: EvaluateParams
) -> list[Measure]:
    """R^2 per output of reading g from [z(x), z(gx)].

    Args:
        pairs: z(x) and z(gx) by name, of train and test each.
    """
    seed, outputs = settings.probe_seeds[0], maps[0].outputs

    def floor() -> list[Measure]:
        values = equivariance.constant_floor(maps[0].g, maps[1].g)
        return [Measure(f"r2_{output}_constant", float(value)) for output, value in zip(outputs, values, strict=True)]

    rows = as_far_as_defined([f"r2_{output}_constant" for output in outputs], floor)

    def read(name: str, pair: Pair, fit: npt.NDArray[np.bool_], score: npt.NDArray[np.bool_]) -> None:
        still, moved = pair
        probes: tuple[Probe, ...] = ("linear", "mlp") if name == "v" else ("mlp",)
        for probe in probes:
            names = [f"r2_{output}_from_{name}_{probe}" for output in outputs]

            def regression(probe: Probe = probe, names: list[str] = names) -> list[Measure]:
                r2 = equivariance.style_regression(
                    still[0][fit],
                    moved[0][fit],
                    maps[0].g[fit],
                    still[1][score],
                    moved[1][score],
                    maps[1].g[score],
                    probe,
                    seed,
                )
                return [Measure(full, float(value)) for full, value in zip(names, r2, strict=True)]

            rows.extend(as_far_as_defined(names, regression))

    everything = [np.ones(len(labels), dtype=bool) for labels in y]
    for name, pair in pairs.items():
        read(name, pair, everything[0], everything[1])
    if kind == "rotation":
        num_classes = int(max(labels.max() for labels in y)) + 1
        seen = max(1, math.ceil(0.8 * num_classes))
        fit, score = y[0] < seen, y[1] >= seen
        if fit.any() and score.any():
            read("v_unseen_classes", pairs["v"], fit, score)
        else:
            reason = (
                f"no fifth of {num_classes} classes can be left out"
                if seen == num_classes
                else f"test has no example of the classes from the {seen + 1}th on, which the probe is not fitted on"
            )
            rows += not_measured([f"r2_{output}_from_v_unseen_classes_mlp" for output in outputs], reason)
    return rows


def _invariance(
    x: Tensor,
    y: npt.NDArray[np.int64],
    still: Codes,
    moved: Codes,
    matrices: Tensor,
    batch_size: int,
    *,
    has_r: bool,
) -> list[Measure]:
    """How far a rotation moves f_inv(x) against how far another class is, beside raw pixels."""
    pixels = torch.cat(list(in_batches(x, batch_size)))
    flat, flat_moved = pixels.flatten(1).numpy(), affine(pixels, matrices).flatten(1).numpy()
    rows = []
    codes = [("v", still.v, moved.v), ("pixels", flat, flat_moved)]
    if has_r:
        codes.append(("f", still.f, moved.f))
    for name, z, z_moved in codes:
        # A code that has collapsed has no distance between classes, and so no ratio.
        rows += measure_each(
            {
                f"invariance_ratio_{name}": partial(equivariance.invariance_ratio, z, z_moved, y),
                f"within_between_{name}": partial(equivariance.within_between_ratio, z, y),
            }
        )
    return rows


def _linear_action(
    artifact: Artifact,
    splits: list[tuple[Tensor, npt.NDArray[np.int64]]],
    still: list[Codes],
    settings: EvaluateParams,
    device: str,
) -> list[Measure]:
    """One linear map A_g of v for one rotation g: how well it predicts v(gx), and whether A_g A_g is A_gg."""
    shape, size = artifact.model.spec.shape, settings.batch_size
    turned: list[list[Array]] = []
    for degrees in (_STEP, 2 * _STEP):
        turned.append([])
        for x, _ in splits:
            angle = np.full(len(x), math.radians(degrees))
            matrices = _matrices(angle, np.zeros((len(x), 2)), np.ones(len(x)), np.zeros(len(x)), shape)
            turned[-1].append(encode_codes(artifact, x, size, device, matrices).v)
    # Units that carry nothing do not move: nothing can be said of them.
    active = np.flatnonzero(still[0].v.std(0) > 0.2)
    num = min(_CANDIDATES, len(splits[1][0]))
    fit, score = (codes.v[:, active] for codes in still)
    once, twice = ([v[:, active] for v in part] for part in turned)

    @cache
    def actions() -> tuple[LinearAction, LinearAction]:
        if len(active) == 0:
            raise Undefined("no unit of v varies by more than 0.2")
        return equivariance.fit_linear_action(fit, once[0]), equivariance.fit_linear_action(fit, twice[0])

    @cache
    def found() -> Retrieval:
        return equivariance.retrieval(actions()[0].apply(score), once[1], num, settings.seed)

    def identity(measure: Callable[[], float]) -> float:
        actions()
        return measure()

    name = "rotation_action"
    return measure_each(
        {
            f"{name}_r2": lambda: float(equivariance.action_r2(actions()[0], score, once[1]).mean()),
            f"{name}_r2_identity": lambda: identity(lambda: float(equivariance.identity_r2(score, once[1]).mean())),
            f"{name}_composition_error": lambda: equivariance.composition_error(
                actions()[0], actions()[0], actions()[1], score
            ),
            f"{name}_hit_at_1_of_{num}_pct": lambda: 100 * found().hit_at_1,
            f"{name}_hit_at_5_of_{num}_pct": lambda: 100 * found().hit_at_5,
            f"{name}_mrr_of_{num}": lambda: found().mrr,
            f"{name}_hit_at_1_of_{num}_identity_pct": lambda: identity(
                lambda: 100 * equivariance.retrieval(score, once[1], num, settings.seed).hit_at_1
            ),
        }
    )


def _matrices(
    angle: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
    shear: npt.NDArray[np.float64],
    shape: tuple[int, ...],
) -> Tensor:
    a, b, c, d = (torch.from_numpy(part.astype(np.float32)) for part in (angle, shift, scale, shear))
    return affine_matrices(a, b, c, d, height=shape[1], width=shape[2])
