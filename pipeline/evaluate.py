"""Stage `evaluate`: a trained model on every split; latents, measures, tables and figures."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ie_model import measures
from ie_model.artifact import Artifact
from ie_model.inference import Encoded, encode, sample, swap
from ie_model.networks import to_float
from pipeline import figures
from pipeline.curves import curve_grid, word_lists
from pipeline.errors import DataError
from pipeline.exhibits import make_gallery
from pipeline.files import atomic_file, sha256_file, write_json
from pipeline.gallery import save_gallery
from pipeline.jobs import choose_reading, shards_folder
from pipeline.judge import oracle_at_hand
from pipeline.labels import choose_labelled
from pipeline.latents import latent_writer
from pipeline.measure import flat, write_table
from pipeline.models import read_model
from pipeline.params import Params
from pipeline.progress import Log, Meter
from pipeline.provenance import commit, hardware
from pipeline.reader import SplitData
from pipeline.scoring import Encodings, encode_batches, measure_model
from pipeline.shards import Manifest, SplitName, read_manifest
from pipeline.splits import Split, open_split
from pipeline.storage import open_storage
from pipeline.training_data import check_shards, read_split


def evaluate(params: Params, project: Path, log: Log) -> Path:
    """Measures the model in results/train/model and writes results/evaluate.

    Raises:
        DataError: model or shards are missing, damaged, or do not belong together, or the model is a baseline without
            r or v.
    """
    started = time.monotonic()
    folder = shards_folder(params, project)
    manifest = read_manifest(folder)
    artifact = read_model(project / "results" / "train" / "model", params.train.device)
    if artifact.model.spec != manifest.spec:
        raise DataError(f"the model was trained on other data than {folder}: run `dvc repro train`")
    if artifact.provenance.get("loss") != "bound":
        raise DataError("a supervised model has no v and no decoder to evaluate; set objective.loss to bound")
    if artifact.model.num_codes == 1:
        raise DataError("a plain VAE has no classes to evaluate; `ie sweep` measures it beside the other methods")
    reading = choose_reading(params.reader, project, manifest)
    names: tuple[SplitName, ...] = ("train", "val", "test")
    check_shards(folder, manifest, names, reading)
    out = project / "results" / "evaluate"
    out.mkdir(parents=True, exist_ok=True)
    train, val = (open_split(folder, manifest, name, reading) for name in ("train", "val"))
    test = read_split(folder, manifest, "test", reading)
    splits: dict[SplitName, Split] = {"train": train, "val": val, "test": test}
    labelled = choose_labelled(train.keys, train.y, manifest.spec.classes, params.labels.count, params.labels.seed)
    encoded, val_error = export(
        artifact, splits, labelled, params, out / "latents.parquet", sha256_file(folder / "manifest.json")
    )
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"evaluate: {line}"))
    with oracle_at_hand(params, project, storage, log) as (_, oracle_folder):
        oracle = read_model(oracle_folder, params.train.device)
    log("evaluate: probes, maps of the style and swaps, each beside its control")
    rows = measure_model(
        artifact,
        train,
        labelled,
        test,
        oracle,
        params.evaluate,
        params.train.device,
        encoded,
    )
    chosen_by = {"val_error_classifier_pct": round(val_error, 6), "labels": int(artifact.class_counts.sum())}
    if reading.faults == "skip":
        chosen_by["skipped"] = sum(split.skipped for split in splits.values())
    write_json(out / "metrics.json", flat(rows) | chosen_by)
    write_table(out / "measures.csv", rows)
    _write_tables(out, manifest, encoded, params)
    _write_images(out / "images.npz", artifact, test, params)
    gallery = make_gallery(artifact, test, encoded, manifest.vocabulary, params.report, params.train.device)
    save_gallery(out / "gallery.safetensors", gallery)
    _draw(out, manifest)
    write_json(
        out / "timing.json",
        {"seconds": round(time.monotonic() - started, 1), "commit": commit(project), "hardware": hardware()},
    )
    log(f"evaluate: test error {flat(rows)['test_error_classifier_pct']:.2f} %; metrics, latents and figures in {out}")
    return out


def export(
    artifact: Artifact,
    splits: dict[SplitName, Split],
    labelled: npt.NDArray[np.int64],
    params: Params,
    path: Path,
    data_hash: str,
) -> tuple[Encodings, float]:
    """Writes the latents of every split.

    Memory: that of test, whose encodings are returned with the classifier's error on val in percent, and of a batch.

    Args:
        labelled: rows of train that the run was told the class of.
        data_hash: see `latent_writer`.
    """
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    meter = Meter("evaluate", sum(len(split) for split in splits.values()), "examples")
    done = wrong = num_val = 0
    kept: list[tuple[npt.NDArray[np.int64], Encoded]] = []
    with latent_writer(path, artifact, data_hash) as writer:
        for name, split in splits.items():
            used = np.zeros(len(split), dtype=bool)
            if name == "train":
                used[labelled] = True
            for rows, batch, encoded in encode_batches(
                artifact, split, params.evaluate, params.train.device, generator
            ):
                writer.write(batch.keys, name, batch.y, used[rows], encoded)
                if name == "val":
                    wrong += int((encoded.log_q.argmax(1).cpu().numpy() != batch.y).sum())
                    num_val += len(batch)
                elif name == "test":
                    kept.append((batch.y, replace(encoded, reconstruction=encoded.reconstruction[:0])))
                done += len(batch)
                meter.update(done)
    meter.close()
    return Encodings.of(kept), 100 * wrong / num_val


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
    coverage, risk = measures.risk_coverage(test.probabilities, test.y)
    # A thousand points of the curve are as good as one for each test point.
    kept = np.unique(np.linspace(0, len(risk) - 1, min(1000, len(risk))).round().astype(int))
    points = zip(coverage[kept].round(6).tolist(), risk[kept].round(6).tolist(), strict=True)
    _write_csv(out / "risk_coverage.csv", ("coverage", "risk"), points)


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with atomic_file(path) as part, part.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _write_images(path: Path, artifact: Artifact, test: SplitData, params: Params) -> None:
    """Grids `[rows, columns, *shape]` of examples, for figures: reconstructions, swaps, samples."""
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


def _draw(out: Path, manifest: Manifest) -> None:
    """Every figure, from the tables just written."""
    latents, drawn = out / "latents.parquet", out / "figures"
    _draw_examples(out / "images.npz", drawn, manifest)
    figures.latent_map(latents, "r", drawn / "map_r.png")
    figures.latent_map(latents, "v_mean", drawn / "map_v.png")
    figures.confusion_matrix(out / "confusion.csv", drawn / "confusion.png")
    figures.calibration(out / "calibration.csv", drawn / "calibration.png")


def _draw_examples(npz: Path, drawn: Path, manifest: Manifest) -> None:
    """Reconstructions, swaps and samples: images, curves, or the words that stand out."""
    kind, classes = manifest.spec.kind, manifest.spec.classes
    if kind == "counts":
        word_lists(npz, manifest.vocabulary, drawn / "words.png", list(classes))
        return
    grid = figures.image_grid if kind == "image" else curve_grid
    pairs = [label for name in classes[:5] for label in (name, "decoded")]
    grid(npz, "reconstructions", drawn / "reconstructions.png", "Test examples and their reconstructions", pairs)
    grid(
        npz,
        "swap",
        drawn / "swap.png",
        "Class swap: v of the first column, r of each class",
        list(classes),
        ["x", *(f"r of {name}" for name in classes)],
    )
    grid(npz, "samples", drawn / "samples.png", "Samples: one v per column, r of each class", list(classes))
