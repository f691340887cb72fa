"""Stage `evaluate`: a trained model on every split; latents, metrics, tables and figures."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ie_model import measures
from ie_model.artifact import Artifact, load_artifact
from ie_model.inference import (
    class_bounds,
    encode,
    importance_weighted_bound,
    in_batches,
    nearest_prototype,
    sample,
    swap,
)
from ie_model.networks import to_float
from pipeline import figures
from pipeline.errors import DataError, ResourceError
from pipeline.files import atomic_file, sha256_file, write_json
from pipeline.jobs import shards_folder
from pipeline.labels import choose_labelled
from pipeline.latents import latent_writer
from pipeline.params import Params
from pipeline.progress import Log, Meter
from pipeline.reader import SplitData, load_split
from pipeline.shards import Manifest, SplitName, read_manifest, verify_shards

Array = npt.NDArray[np.float32]


@dataclass
class Encodings:
    """What is kept in memory of a split for the metrics."""

    y: npt.NDArray[np.int64]
    probabilities: Array
    f: Array
    v_mean: Array
    v_log_var: Array
    kl: Array
    bound: Array
    squared_error: Array


def evaluate(params: Params, project: Path, log: Log) -> Path:
    """Measures the model in results/train/model and writes results/evaluate.

    Raises:
        DataError: model or shards are missing, damaged, or do not belong together.
    """
    folder = shards_folder(params, project)
    manifest = read_manifest(folder)
    artifact = read_model(project / "results" / "train" / "model", params.train.device)
    if artifact.model.spec != manifest.spec:
        raise DataError(f"the model was trained on other data than {folder}: run `dvc repro train`")
    if artifact.provenance.get("method") == "supervised":
        raise DataError("a supervised model has no v and no decoder to evaluate; set objective.method to equivae")
    verify_shards(folder, manifest)
    out = project / "results" / "evaluate"
    out.mkdir(parents=True, exist_ok=True)
    names: tuple[SplitName, ...] = ("train", "val", "test")
    splits = {name: load_split(folder, manifest, name) for name in names}
    encoded = _encode_splits(
        artifact, splits, manifest, params, out / "latents.parquet", sha256_file(folder / "manifest.json")
    )
    metrics = _metrics(artifact, splits, encoded, params, log)
    write_json(out / "metrics.json", metrics)
    _write_tables(out, manifest, encoded["test"], params)
    _write_images(out / "images.npz", artifact, splits["test"], params)
    _draw(out, manifest.spec.classes)
    log(f"evaluate: test error {metrics['test_error_classifier_pct']:.2f} %; tables and figures in {out}")
    return out


def read_model(folder: Path, device: str) -> Artifact:
    """The artifact in a folder.

    Raises:
        DataError: it is missing or damaged.
        ResourceError: `device` is cuda and there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device is cuda, and this machine has no GPU that PyTorch can use; set it to cpu")
    try:
        return load_artifact(folder, device)
    except ValueError as error:
        raise DataError(str(error)) from error


def _encode_splits(
    artifact: Artifact,
    splits: dict[SplitName, SplitData],
    manifest: Manifest,
    params: Params,
    path: Path,
    data_hash: str,
) -> dict[SplitName, Encodings]:
    train = splits["train"]
    labelled = choose_labelled(train.keys, train.y, manifest.spec.classes, params.labels.count, params.labels.seed)
    size = params.evaluate.batch_size
    prune = float(artifact.provenance["prune"])
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    meter = Meter("evaluate", sum(len(split) for split in splits.values()), "examples")
    done = 0
    result: dict[SplitName, Encodings] = {}
    with latent_writer(path, artifact, data_hash) as writer:
        for name, split in splits.items():
            used = np.zeros(len(split), dtype=bool)
            if name == "train":
                used[labelled] = True
            parts: list[Encodings] = []
            for start, batch in zip(
                range(0, len(split), size), in_batches(split.x, size, params.train.device), strict=True
            ):
                rows = slice(start, start + len(batch))
                e = encode(artifact, batch, prune, generator)
                writer.write(split.keys[rows], name, split.y[rows], used[rows], batch, e)
                error = (batch - e.reconstruction).square().flatten(1).mean(1)
                kept = (e.log_q.exp(), e.f, e.v_mean, e.v_log_var, e.kl, e.bound, error)
                parts.append(Encodings(split.y[rows], *(t.cpu().numpy() for t in kept)))
                done += len(batch)
                meter.update(done)
            result[name] = Encodings(*(np.concatenate(column) for column in zip(*map(_columns, parts), strict=True)))
    meter.close()
    return result


def _columns(e: Encodings) -> tuple[npt.NDArray[Any], ...]:
    return (e.y, e.probabilities, e.f, e.v_mean, e.v_log_var, e.kl, e.bound, e.squared_error)


def _metrics(
    artifact: Artifact,
    splits: dict[SplitName, SplitData],
    encoded: dict[SplitName, Encodings],
    params: Params,
    log: Log,
) -> dict[str, float]:
    """Flat, finite numbers; docs/metrics.md says what each means and what fools it."""
    test, settings = encoded["test"], params.evaluate
    num_values = artifact.model.spec.num_values
    predicted = test.probabilities.argmax(1)
    metrics: dict[str, float] = {
        "test_error_classifier_pct": 100 * measures.error_rate(predicted, test.y),
        "test_error_generative_pct": 100 * measures.error_rate(_generative(artifact, splits["test"], params), test.y),
        "test_error_prototype_pct": 100 * measures.error_rate(_prototype(artifact, test.f), test.y),
        "val_error_classifier_pct": 100 * measures.error_rate(encoded["val"].probabilities.argmax(1), encoded["val"].y),
        "bound_nats": float(test.bound.mean(dtype=np.float64)),
        "reconstruction_mse": float(test.squared_error.mean(dtype=np.float64)),
        "ece": measures.expected_calibration_error(test.probabilities, test.y, settings.calibration_bins),
        "brier": measures.brier_score(test.probabilities, test.y),
        "kl_nats": float(test.kl.sum(1).mean(dtype=np.float64)),
        "active_units": int(measures.active_units(test.kl).sum()),
        "labels": int(artifact.class_counts.sum()),
    }
    weighted = _importance_weighted(artifact, splits["test"], params)
    metrics["bound_bits_per_dim"] = measures.bits_per_dim(metrics["bound_nats"], num_values)
    metrics["iw_bound_nats"] = weighted
    metrics["iw_bound_bits_per_dim"] = measures.bits_per_dim(weighted, num_values)
    log("evaluate: class probes")
    metrics |= _probes(encoded["train"], test, settings.probe_points, settings.seed)
    return {name: round(value, 6) for name, value in metrics.items()}


def _prototype(artifact: Artifact, f: Array) -> npt.NDArray[np.int64]:
    device = artifact.class_representations.device
    return nearest_prototype(artifact, torch.from_numpy(f).to(device)).cpu().numpy()


def _generative(artifact: Artifact, test: SplitData, params: Params) -> npt.NDArray[np.int64]:
    generator = torch.Generator().manual_seed(params.evaluate.seed + 1)
    meter = Meter("evaluate: generative rule", len(test), "examples")
    predicted: list[npt.NDArray[np.int64]] = []
    for batch in in_batches(test.x, params.evaluate.batch_size, params.train.device):
        scores = class_bounds(artifact, batch, params.evaluate.bound_samples, generator)
        predicted.append(scores.argmax(1).cpu().numpy())
        meter.update(sum(map(len, predicted)))
    meter.close()
    return np.concatenate(predicted)


def _importance_weighted(artifact: Artifact, test: SplitData, params: Params) -> float:
    """Mean over the first iw_points test points, in nats."""
    generator = torch.Generator().manual_seed(params.evaluate.seed + 2)
    x = test.x[: params.evaluate.iw_points]
    prune = float(artifact.provenance["prune"])
    bounds = [
        importance_weighted_bound(artifact, batch, params.evaluate.iw_samples, prune, generator).cpu()
        for batch in in_batches(x, params.evaluate.batch_size, params.train.device)
    ]
    return float(torch.cat(bounds).double().mean())


def _probes(train: Encodings, test: Encodings, num_points: int, seed: int) -> dict[str, float]:
    """Accuracy of classifying from r and from v, in percent: fitted on train, scored on test, model frozen."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(train.y))[:num_points]
    active = measures.active_units(test.kl)
    inputs = {
        "r": (train.f[rows], test.f),
        "v_sampled": tuple(_sampled(e, rng) for e in (_take(train, rows), test)),
        # The means of units that carry nothing still hold traces of the class; only what v transmits is asked.
        "v_active_means": (train.v_mean[rows][:, active], test.v_mean[:, active]),
    }
    result = {}
    for name, (fit, score) in inputs.items():
        for kind in ("linear", "mlp"):
            accuracy = (
                measures.probe_accuracy(fit, train.y[rows], score, test.y, kind, seed)
                if fit.shape[1]
                else float(np.bincount(test.y).max() / len(test.y))  # no active unit: nothing but a guess
            )
            result[f"probe_class_from_{name}_{kind}_pct"] = 100 * accuracy
    return result


def _take(e: Encodings, rows: npt.NDArray[np.int64]) -> Encodings:
    return Encodings(*(column[rows] for column in _columns(e)))


def _sampled(e: Encodings, rng: np.random.Generator) -> Array:
    noise = rng.standard_normal(e.v_mean.shape, dtype=np.float32)
    sampled: Array = e.v_mean + np.exp(0.5 * e.v_log_var) * noise
    return sampled


def _write_tables(out: Path, manifest: Manifest, test: Encodings, params: Params) -> None:
    classes = manifest.spec.classes
    predicted = test.probabilities.argmax(1)
    pairs = ((classes[a], classes[p]) for a, p in zip(test.y, predicted, strict=True))
    _write_csv(out / "confusion.csv", ("actual", "predicted"), pairs)
    curve = measures.calibration_curve(test.probabilities, test.y, params.evaluate.calibration_bins)
    bins = zip(curve.confidence.tolist(), curve.accuracy.tolist(), curve.count.tolist(), strict=True)
    # An empty bin has neither confidence nor accuracy.
    rows = ((confidence, accuracy, count) if count else ("", "", 0) for confidence, accuracy, count in bins)
    _write_csv(out / "calibration.csv", ("confidence", "accuracy", "count"), rows)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _write_images(path: Path, artifact: Artifact, test: SplitData, params: Params) -> None:
    """Grids `[rows, columns, C, H, W]` in [0, 1], for figures: reconstructions, swaps, samples."""
    generator = torch.Generator().manual_seed(params.evaluate.seed + 3)
    num_classes = artifact.model.spec.num_classes
    first = [np.flatnonzero(test.y == c)[:10] for c in range(num_classes)]
    one_each = to_float(test.x[torch.tensor([int(rows[0]) for rows in first])].to(params.train.device))
    by_class = [to_float(test.x[torch.from_numpy(rows)].to(params.train.device)) for rows in first]
    prune = float(artifact.provenance["prune"])
    lines = []
    for x in by_class[: min(num_classes, 5)]:
        lines += [x, encode(artifact, x, prune, generator).reconstruction]
    width = min(len(line) for line in lines)
    grids = {
        "reconstructions": torch.stack([line[:width] for line in lines]),
        "swap": torch.cat([one_each.unsqueeze(1), swap(artifact, one_each)], dim=1),
        "samples": sample(artifact, 10, generator),
    }
    with atomic_file(path) as part, part.open("wb") as file:
        arrays: dict[str, Any] = {name: grid.cpu().numpy().astype(np.float32) for name, grid in grids.items()}
        np.savez_compressed(file, **arrays)


def _draw(out: Path, classes: tuple[str, ...]) -> None:
    """Every figure, from the tables just written."""
    images, latents = out / "images.npz", out / "latents.parquet"
    drawn = out / "figures"
    pairs = [label for name in classes[:5] for label in (name, "decoded")]
    figures.image_grid(
        images, "reconstructions", drawn / "reconstructions.png", "Test images and their reconstructions", pairs
    )
    figures.image_grid(
        images,
        "swap",
        drawn / "swap.png",
        "Class swap: v of the first column, r of each class",
        list(classes),
        ["x", *(f"r of {name}" for name in classes)],
    )
    figures.image_grid(
        images, "samples", drawn / "samples.png", "Samples: one v per column, r of each class", list(classes)
    )
    figures.latent_map(latents, "r", drawn / "map_r.png")
    figures.latent_map(latents, "v_mean", drawn / "map_v.png")
    figures.confusion_matrix(out / "confusion.csv", drawn / "confusion.png")
    figures.calibration(out / "calibration.csv", drawn / "calibration.png")
