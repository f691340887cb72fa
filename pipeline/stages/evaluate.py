"""Stage `evaluate`: a trained model on every split; latents, measures, tables and figures."""

from __future__ import annotations

import atexit
import contextlib
import csv
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ie_model.artifact import Artifact
from ie_model.inference import encode, sample, swap
from ie_model.metrics import measures
from ie_model.networks import to_float
from pipeline.cluster.actor_pool import map_in_actors
from pipeline.cluster.connection import ray_cluster, wait_for_workers
from pipeline.cluster.shard_staging import fetch_manifest, shards_for_workers, writable
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.loading.check import check_shards
from pipeline.data.loading.in_memory import SplitData
from pipeline.data.loading.splits import Split, open_split
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import MANIFEST, Manifest, SplitName
from pipeline.data.shards.reading import Reading
from pipeline.errors import DataError
from pipeline.evaluation.baselines import beside_baselines
from pipeline.evaluation.factors import write_factors
from pipeline.evaluation.gallery import make_gallery
from pipeline.evaluation.latents import metadata
from pipeline.evaluation.load_model import read_model
from pipeline.evaluation.metrics import Encodings, encode_split, measure_model
from pipeline.evaluation.oracle_store import oracle_at_hand
from pipeline.evaluation.parts import Parts
from pipeline.evaluation.sample import TEST_POINTS
from pipeline.evaluation.slices import SPLITS, Slice, SliceEncoder, plan_slices
from pipeline.evaluation.totals import Totals, merged
from pipeline.plots import figures
from pipeline.plots.series_and_words import as_series, curve_grid, word_lists
from pipeline.results.gallery_file import save_gallery
from pipeline.results.metrics_table import flat, reasons, write_table
from pipeline.results.origin import changed_labels, make_origin, read_origin, write_origin
from pipeline.results.tables import FACTORS, LATENTS, read_predictions
from pipeline.results.verdict import verdict
from pipeline.storage.locks import locked
from pipeline.storage.run_storage import open_storage
from pipeline.training.build_job import choose_reading
from pipeline.training.label_subset import choose_labelled
from pipeline.utils.checksums import write_checksums
from pipeline.utils.files import atomic_file, sha256_file, write_json
from pipeline.utils.hardware import hardware
from pipeline.utils.key_sample import lowest
from pipeline.utils.progress import Log, Meter, working
from pipeline.utils.provenance import commit, now

_RAY_PAYS_S = 20.0
"""What actors must save before Ray is started for them: it takes about as long to start."""

_SHOWN = 5
"""Classes in the figure of reconstructions."""


def evaluate(params: Params, project: Path, log: Log) -> Path:
    """Measures the model in results/train/model and writes results/evaluate.

    Raises:
        DataError: model or shards are missing, damaged, or do not belong together, or the model is a baseline without
            r or v.
    """
    folder = shards_folder(params, project)
    dataset = ShardedDataset.open(folder)
    manifest = dataset.manifest
    artifact = read_model(project / "results" / "train" / "model", params.train.device)
    if artifact.model.spec != manifest.spec:
        raise DataError(f"the model was trained on other data than {folder}: run `dvc repro train`")
    if artifact.loss != "bound":
        raise DataError(f"objective.loss is {artifact.loss!r}, without v and decoder to evaluate; allowed: bound")
    if artifact.model.num_codes == 1:
        raise DataError("a plain VAE has no classes to evaluate; `ie sweep` measures it beside the other methods")
    fingerprint = str(artifact.provenance.get("fingerprint", ""))
    trained = read_origin(project / "results" / "train")
    if trained is not None and trained.model == fingerprint and (changed := changed_labels(trained, params)):
        raise DataError(f"the model was trained with other labels ({changed}): run `dvc repro train`")
    reading = choose_reading(params.reader, project, manifest)
    check_shards(dataset, SPLITS, reading)
    out = project / "results" / "evaluate"
    out.mkdir(parents=True, exist_ok=True)
    lock = project / ".cache" / "evaluate.lock"  # results/ is data to DVC
    with locked(lock, f"another `ie evaluate` is writing {out}; wait for it"):
        _evaluate(params, project, artifact, dataset, reading, out, log)
    return out


def _evaluate(
    params: Params, project: Path, artifact: Artifact, dataset: ShardedDataset, reading: Reading, out: Path, log: Log
) -> None:
    """Writes every file of results/evaluate; this process is the only one that does."""
    started = time.monotonic()
    manifest, fingerprint = dataset.manifest, str(artifact.provenance.get("fingerprint", ""))
    # Memory does not grow with the data; where faults are skipped, what training could read is decided as it was there.
    streamed = reading if reading.faults == "skip" else reading.model_copy(update={"mode": "stream"})
    train, whole_test = (open_split(dataset, name, streamed) for name in ("train", "test"))
    count, seed = params.labels.count, params.labels.seed
    labelled = choose_labelled(train.keys, train.y, manifest.spec.classes, count, seed, manifest.label_hash)
    parts, totals = export(artifact, dataset, reading, _used(dataset, train, labelled), params, project, out, log)
    test = whole_test.take(lowest(whole_test.keys, TEST_POINTS))
    generator = torch.Generator().manual_seed(params.evaluate.seed)
    encoded = encode_split(artifact, test, params.evaluate, params.train.device, generator)
    with working(log) as part:
        part("evaluate: 1-NN and logistic regression on raw values, with the same labels")
        beside = beside_baselines(train, labelled, test, encoded.probabilities.argmax(1), totals["test"])
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"evaluate: {line}"))
    with oracle_at_hand(params, project, storage, log) as (_, oracle_folder):
        oracle = read_model(oracle_folder, params.train.device)
    log("evaluate: probes, maps of the style and swaps, each beside its control")
    with working(log) as part:
        measured = measure_model(
            artifact,
            train,
            labelled,
            test,
            oracle,
            params.evaluate,
            params.train.device,
            (totals["test"], encoded),
            part,
        )
    parts.publish(out / LATENTS)
    with working(log) as part:
        of_factors = write_factors(out / FACTORS, out / LATENTS, manifest.factors, params.evaluate, part)
    rows = [*beside, *measured, *of_factors]
    for line in reasons(rows):
        log(f"evaluate: {line}")
    val_error = float(100 * totals["val"]["wrong"] / totals["val"]["examples"])
    chosen_by = {"val_error_classifier_pct": round(val_error, 6), "labels": int(artifact.class_counts.sum())}
    if reading.faults == "skip":
        chosen_by["skipped"] = sum(int(sums["skipped"]) for sums in totals.values())
    metrics = flat(rows) | chosen_by
    write_json(out / "metrics.json", metrics)
    write_table(out / "measures.csv", rows)
    _write_tables(out, encoded, totals["test"])
    with working(log) as part:
        part("evaluate: examples, reconstructions and swaps")
        _write_images(out / "images.npz", artifact, test, params)
        words = manifest.preprocessing.vocabulary
        gallery = make_gallery(artifact, test, encoded, words, params.report, params.train.device)
        save_gallery(out / "gallery.safetensors", gallery)
        part("evaluate: figures")
        _draw(out, manifest, _there(test))
    write_json(
        out / "timing.json",
        {"seconds": round(time.monotonic() - started, 1), "commit": commit(project), "hardware": hardware()}
        | {"finished": now()},
    )
    write_origin(out, make_origin("evaluate", params, dataset.folder, fingerprint))
    write_checksums(out)
    say_verdict(metrics, out, log)


def say_verdict(metrics: Mapping[str, float], out: Path, log: Log) -> None:
    """The run's verdict as the last line, and before anything else where simple classifiers are better."""
    found = verdict(metrics)
    if found.level == "worse":
        log(f"evaluate: WARNING: {found.text}")
        log(f"evaluate: metrics, latents and figures in {out}")
        return
    log(f"evaluate: metrics, latents and figures in {out}")
    log(f"evaluate: {found.text}")


def export(
    artifact: Artifact,
    dataset: ShardedDataset,
    reading: Reading,
    used: npt.NDArray[np.bool_],
    params: Params,
    project: Path,
    out: Path,
    log: Log,
) -> tuple[Parts, dict[SplitName, Totals]]:
    """Encodes every split, a slice at a time; finished slices of an interrupted run are kept.

    Args:
        used: see `SliceEncoder`.
        out: where the parts are, hidden, until they are published.

    Returns:
        the parts of the latents, and the sums of each split.

    Raises:
        DataError: an example is unreadable, or a finished part is damaged; the message names it.
    """
    data_hash = sha256_file(dataset.folder / MANIFEST)
    encoder = SliceEncoder(
        artifact, dataset, reading, params.evaluate, used, metadata(artifact, data_hash), params.train.device,
        params.train.threads_per_worker,
    )  # fmt: skip
    plan = plan_slices(dataset.manifest, params.evaluate.batch_size)
    parts = Parts(out, encoder.fingerprint())
    sums = {part: parts.totals(part.name) for part in plan}
    left = [part for part, found in sums.items() if found is None]
    total = sum(part.stop - part.start for part in plan)
    done = total - sum(part.stop - part.start for part in left)
    if done:
        log(f"evaluate: resumes, {len(plan) - len(left)} of {len(plan)} parts of the latents are finished")
    with contextlib.closing(Meter("evaluate", total, "examples", every_s=5)) as meter:
        for part, data, counted in _encoded(encoder, left, params, project, log):
            parts.keep(part.name, data, counted)
            sums[part] = counted
            done += part.stop - part.start
            meter.update(done)
    return parts, {
        split: merged(counted for part, counted in sums.items() if part.split == split and counted is not None)
        for split in SPLITS
    }


def _encoded(
    encoder: SliceEncoder, left: Sequence[Slice], params: Params, project: Path, log: Log
) -> Iterator[tuple[Slice, bytes, Totals]]:
    """Slices with what was encoded of them, as they finish: in this process, in actors from where those pay."""
    hosts, cuda = bool(os.environ.get("RAY_ADDRESS")), encoder.device == "cuda"
    here = torch.cuda.device_count() if cuda else (os.cpu_count() or 1) // encoder.threads
    for i, part in enumerate(left, 1):
        began = time.monotonic()
        data, totals = encoder(part)
        seconds = (time.monotonic() - began) * (len(left) - i)
        yield part, data, totals
        if seconds * (1 if hosts else 1 - 1 / max(1, here)) > _RAY_PAYS_S:
            yield from _encoded_in_actors(encoder, left[i:], params, project, log)
            return


def _encoded_in_actors(
    encoder: SliceEncoder, left: Sequence[Slice], params: Params, project: Path, log: Log
) -> Iterator[tuple[Slice, bytes, Totals]]:
    def tell(line: str) -> None:
        log(f"evaluate: {line}")

    shards = shards_for_workers(encoder.dataset.folder, open_storage(params.storage.url, project, tell=tell), tell)
    gpus = int(encoder.device == "cuda")
    with ray_cluster(tell):
        resources = wait_for_workers(1, encoder.threads, encoder.device, tell)
        actors = min(int(resources["GPU"] if gpus else resources["CPU"] // encoder.threads), len(left))
        tell(f"{len(left)} parts of the latents in {actors} actor(s)")
        make = OnWorker(encoder.moved("cpu"), encoder.device, shards)
        for part, row in map_in_actors(make, left, len(left), cpus=encoder.threads, gpus=gpus):
            totals = {name: np.asarray(value) for name, value in json.loads(row["totals"]).items()}
            yield part, row["data"], totals


@dataclass
class OnWorker:
    """Makes an actor's function: the model on its device, the shards where its host reads them."""

    encoder: SliceEncoder
    device: str
    shards: str
    """See `shards_for_workers`."""

    def __call__(self) -> Callable[[Slice], dict[str, Any]]:
        encoder = self.encoder.moved(self.device)
        if self.shards:
            # As long as the actor.
            folder = Path(tempfile.mkdtemp())
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            fetch_manifest(self.shards, folder)
            reading = encoder.reading.model_copy(update={"cache": str(writable(Path(encoder.reading.cache)))})
            encoder = replace(encoder, dataset=ShardedDataset.open(folder), reading=reading)

        def run(part: Slice) -> dict[str, Any]:
            data, totals = encoder(part)
            return {"data": data, "totals": json.dumps({name: value.tolist() for name, value in totals.items()})}

        return run


def _used(dataset: ShardedDataset, train: Split, labelled: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each example of train, in the order of its index, is one of the labelled rows of `train`."""
    if len(labelled) == dataset.manifest.splits["train"].samples:
        return np.ones(len(labelled), dtype=bool)
    chosen = {train.keys[row] for row in labelled.tolist()}
    return np.array([key in chosen for key in dataset.index("train").keys], dtype=bool)


def _write_tables(out: Path, test: Encodings, totals: Totals) -> None:
    """Tables of the figures; `test` is a sample of what `totals` are of."""
    _write_csv(out / "confusion.csv", ("actual", "predicted"), read_predictions(out / LATENTS))
    sums = zip(*(totals[f"bin_{name}"].tolist() for name in ("confidence", "right", "count")), strict=True)
    # An empty bin has neither confidence nor accuracy.
    rows = ((conf / num, right / num, int(num)) if num else ("", "", 0) for conf, right, num in sums)
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
    by_class = [
        to_float(test.x[torch.from_numpy(np.flatnonzero(test.y == c)[:10])].to(params.train.device))
        for c in _there(test)
    ]
    one_each = torch.stack([x[0] for x in by_class])
    prune = artifact.prune
    lines = []
    for x in by_class[:_SHOWN]:
        lines += [x, encode(artifact, x, prune, generator).reconstruction]
    width = min(len(line) for line in lines)
    grids = {
        "reconstructions": torch.stack([line[:width] for line in lines]),
        "swap": torch.cat([one_each.unsqueeze(1), swap(artifact, one_each)], dim=1),
        "samples": sample(artifact, 10, generator),
    }
    with atomic_file(path) as part, part.open("wb") as file:
        spec = artifact.model.spec
        arrays: dict[str, Any] = {
            name: as_series(grid.cpu().numpy().astype(np.float32), spec) for name, grid in grids.items()
        }
        np.savez_compressed(file, **arrays)


def _there(test: SplitData) -> list[int]:
    """Classes that have a test example."""
    return [int(c) for c in np.unique(test.y)]


def _draw(out: Path, manifest: Manifest, there: Sequence[int]) -> None:
    """Every figure, from the tables just written; `there` are the classes that have a test example."""
    latents, drawn = out / LATENTS, out / "figures"
    _draw_examples(out / "images.npz", drawn, manifest, there)
    figures.latent_map(latents, "r", drawn / "map_r.png")
    figures.latent_map(latents, "v_mean", drawn / "map_v.png")
    figures.confusion_matrix(out / "confusion.csv", drawn / "confusion.png")
    figures.calibration(out / "calibration.csv", drawn / "calibration.png")


def _draw_examples(npz: Path, drawn: Path, manifest: Manifest, there: Sequence[int]) -> None:
    """Reconstructions, swaps and samples: images, curves, or the words that stand out."""
    kind, classes = manifest.spec.kind, manifest.spec.classes
    if kind == "counts":
        word_lists(npz, manifest.preprocessing.vocabulary, drawn / "words.png", list(classes))
        return
    grid = figures.image_grid if kind == "image" else curve_grid
    named = [classes[c] for c in there]
    pairs = [label for name in named[:_SHOWN] for label in (name, "decoded")]
    grid(npz, "reconstructions", drawn / "reconstructions.png", "Test examples and their reconstructions", pairs)
    grid(
        npz,
        "swap",
        drawn / "swap.png",
        "Class swap: v of the first column, r of each class",
        named,
        ["x", *(f"r of {name}" for name in classes)],
    )
    grid(npz, "samples", drawn / "samples.png", "Samples: one v per column, r of each class", list(classes))
