"""Results of a run, made small: a model with random weights, its real gallery, and tables with made-up numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ie_model.artifact import Artifact, save_artifact
from ie_model.inference import Encoded, encode, representations
from ie_model.networks import to_float
from ie_model.spec import DataSpec, Kind, Preprocessing
from pipeline.config.params import Params, parse_params
from pipeline.data.loading.in_memory import SplitData
from pipeline.data.shards.manifest import File, Manifest, Shard, Split, write_manifest
from pipeline.evaluation.gallery import make_gallery
from pipeline.evaluation.latents import file_of, latent_table, metadata, schema
from pipeline.evaluation.metrics import Encodings
from pipeline.results.gallery_file import save_gallery
from pipeline.results.metrics_table import Measure, flat, write_table
from pipeline.results.origin import make_origin, write_origin
from pipeline.results.sweep_table import COLUMNS, Results, write_results
from pipeline.results.tables import FACTOR_COLUMNS, FACTORS, LATENTS
from pipeline.utils.checksums import write_checksums
from pipeline.utils.files import sha256_file, write_json
from tests.helpers.project import small_params
from tests.helpers.tiny import points, seeded, spec_of, tiny_model

HOSTILE = ('<img src=x onerror="window.ran=1">', "</script><script>window.ran=1</script>", "a|b *c* `d` $$x$$")
"""Names of classes that would run, end the page's data or become markup, were they not shown as text."""

FACTOR = "site <img>|`x`"
SOURCES = {"image": "digits", "series": "series", "counts": "texts", "vector": "vectors"}
NUM_TEST = 60


def made_params(kind: Kind = "image", **report: Any) -> Params:
    """Params that fit `make_results`."""
    raw = small_params(data={"source": SOURCES[kind]}, report={"num_points": 30, "num_errors": 6} | report)
    return parse_params(raw)


def make_results(project: Path, kind: Kind = "image", classes: tuple[str, ...] = ("zero", "one", "two")) -> Params:
    """Everything that `report` reads, for one of the kinds of data."""
    params = made_params(kind)
    spec = spec_of(kind).model_copy(update={"classes": classes})
    shards = project / "data/shards" / params.data.source
    train, evaluate, sweep = (project / "results" / stage for stage in ("train", "evaluate", "sweep"))
    for folder in (shards, train / "model", evaluate, sweep):
        folder.mkdir(parents=True)
    (project / "params.yaml").write_text(json.dumps(params.model_dump(mode="json")))
    words = tuple(f"word<{i}>" for i in range(spec.shape[0])) if kind == "counts" else ()
    write_manifest(shards, _manifest(params.data.source, spec, words))
    artifact = made_artifact(spec)
    save_artifact(train / "model", artifact)
    test = made_test_split(spec)
    _write_evaluation(evaluate, artifact, test, words, params, sha256_file(shards / "manifest.json"))
    _write_training(train)
    _write_sweep(sweep, params.data.source)
    write_origin(train, make_origin("train", params, shards, "f" * 16))
    write_origin(sweep, make_origin("sweep", params, shards))
    write_origin(evaluate, make_origin("evaluate", params, shards, "f" * 16))
    for folder in (train, evaluate, sweep):
        write_checksums(folder)
    return params


def _manifest(source: str, spec: DataSpec, words: tuple[str, ...]) -> Manifest:
    def split(name: str, samples: int) -> Split:
        counts = {c: samples // spec.num_classes for c in spec.classes}
        tar = Shard(path=f"{name}-000000.tar", bytes=1, sha256="0" * 64, samples=samples)
        return Split(
            samples=samples,
            class_counts=counts,
            shards=(tar,),
            index=File(path=f"index-{name}.npy", bytes=1, sha256="1" * 64),
            keys=File(path=f"keys-{name}.parquet", bytes=1, sha256="1" * 64),
        )

    return Manifest(
        format=4,
        source=source,
        source_files={"raw <file>.bin": "2" * 64},
        spec=spec,
        encoding="png" if spec.kind == "image" else "npy",
        preprocessing=Preprocessing(vocabulary=words),
        split_seed=0,
        factors=(FACTOR,),
        splits={"train": split("train", 90), "val": split("val", 30), "test": split("test", NUM_TEST)},
    )


def made_artifact(spec: DataSpec) -> Artifact:
    """A model with random weights."""
    model = tiny_model(spec, spread=2.0)
    x = _stored(4 * spec.num_classes, spec, seed=1)
    r, counts = representations(model, x, torch.arange(spec.num_classes).repeat(4), batch_size=5)
    provenance = {
        "fingerprint": "f" * 16, "method": "plain", "num_unlabelled": 78,
        "labels_per_class": dict.fromkeys(spec.classes, 4), "precision": "float32",
    }  # fmt: skip
    return Artifact(model, r, counts, provenance, prune=0.01)


def _stored(num: int, spec: DataSpec, seed: int) -> torch.Tensor:
    """Examples as shards have them."""
    x = points(num, spec, seed)
    return {"image": (255 * x).to(torch.uint8), "counts": x.to(torch.int32)}.get(spec.kind, x)


def made_test_split(spec: DataSpec) -> SplitData:
    """Random examples."""
    y = np.arange(NUM_TEST) % spec.num_classes
    return SplitData(spec, [f"test-{i:03d}" for i in range(NUM_TEST)], _stored(NUM_TEST, spec, seed=2), y)


def _write_evaluation(
    out: Path, artifact: Artifact, test: SplitData, words: tuple[str, ...], params: Params, manifest_sha256: str
) -> None:
    classes = artifact.model.spec.classes
    columns = schema(artifact, metadata(artifact, manifest_sha256))
    e = encode(artifact, to_float(test.x), artifact.prune, seeded())
    (out / LATENTS).mkdir()
    for i, chosen in enumerate(np.array_split(np.arange(len(test)), 2)):
        part = test.take(chosen)
        mine = Encoded(*(value[torch.from_numpy(chosen)] for value in vars(e).values()))
        table = latent_table(columns, part.keys, "test", part.y, None, mine)
        (out / LATENTS / f"test-{i:06d}.parquet").write_bytes(file_of(table))
    encoded = Encodings.of([(test.y, e)])
    save_gallery(out / "gallery.safetensors", make_gallery(artifact, test, encoded, words, params.report, "cpu"))
    predicted = encoded.probabilities.argmax(1)
    _write_csv(
        out / "confusion.csv",
        ("actual", "predicted"),
        ((classes[a], classes[p]) for a, p in zip(test.y, predicted, strict=True)),
    )
    _write_csv(
        out / "calibration.csv", ("confidence", "accuracy", "count"), [("", "", 0), (0.6, 0.5, 20), (0.9, 0.9, 40)]
    )
    _write_csv(out / "risk_coverage.csv", ("coverage", "risk"), [(0.25, 0.0), (0.5, 0.1), (1.0, 0.25)])
    rows = [
        Measure("test_error_classifier_pct", 25.0),
        Measure("ece", 0.0123),
        Measure("bound_nats", -107.5),
        Measure("active_units", 2),
        Measure("probe_class_from_v_redrawn_mlp_pct", 41.0),
        Measure("probe_class_from_v_sampled_mlp_pct", 40.0),
        Measure("probe_class_from_v_sampled_mlp_std", 1.5),
        Measure("probe_class_from_v_active_means_mlp_pct", 50.0),
        Measure("probe_class_from_v_shuffled_linear_pct", 33.0),
        Measure("swap_oracle_pct", 90.0),
        Measure("swap_oracle_v_zero_pct", 100.0),
    ]
    write_table(out / "measures.csv", rows)
    with (out / "measures.csv").open("a") as file:
        file.write("another group,something_new,1.0,,,\n")  # of another version
    write_json(out / "metrics.json", flat(rows) | {"something_new": 1.0, "labels": 12})
    _write_csv(
        out / FACTORS,
        FACTOR_COLUMNS,
        [
            (FACTOR, "r2", "test", "v_sampled", 0.876, "", 0.5, 0.25, 90, 60, ""),
            (FACTOR, "r2", "test", "r", "", "", "", "", 2, 60, "few"),
        ],
    )
    write_json(out / "timing.json", {"seconds": 61.4, "commit": "0123456789ab", "hardware": "2 cores"})


def _write_training(out: Path) -> None:
    header = ("epoch", "loss", "val_error", "bound_labelled", "bound_unlabelled", "val_bound", "kl")
    _write_csv(out / "history.csv", header, [(e, 9.0 / e, 30 - e, -9 / e, "", -8 / e, 1 + e) for e in (1, 2, 3)])
    write_json(out / "metrics.json", {"epochs": 3, "steps": 30, "parameters": 1234})
    write_json(out / "timing.json", {"seconds": 3700.0, "commit": "0123456789ab", "hardware": "2 cores"})


def _write_sweep(out: Path, source: str) -> None:
    errors = {("supervised", 12): 40.0, ("supervised", 24): 30.0, ("plain", 12): 28.0, ("plain", 24): 3.0}
    rows = [
        dict.fromkeys(COLUMNS)
        | {"method": method, "labels": labels, "label_count": str(labels), "seed": seed, "status": "finished"}
        | {"error": "", "test_error_classifier_pct": error + seed, "epochs": 4, "steps": 40, "seconds": 10.0}
        | {"hardware": "2 cores", "commit": "0123456789ab", "fingerprint": "f"}
        for (method, labels), error in errors.items()
        for seed in (0, 1)
    ]
    write_results(out / "results.parquet", Results(rows, source, "supervised"))
    write_json(out / "timing.json", {"trial_seconds": 80.0})


def _write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
