"""Stage `shard`: raw files become webdataset tars, split into train, val and test."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import atomic_folder, remove_leftovers, sha256_file, write_json
from pipeline.index import describe_split
from pipeline.jobs import shards_folder
from pipeline.params import Params
from pipeline.progress import Log, Meter
from pipeline.samples import Encoding, check_example, encode_example
from pipeline.shards import FORMAT, MANIFEST, Manifest, Split, SplitName, write_shard
from pipeline.sources import Example, OwnSource, Source, make_source


def shard(params: Params, project: Path, log: Log) -> Path:
    """Writes data/shards/<source>, which appears as a whole; returns it.

    The same raw files and params give the same bytes.

    Raises:
        DataError: a raw file is missing or does not match its checksum, or an example is not valid.
        ResourceError: no space, no permission.
    """
    source = make_source(params.data, project)
    raw = (project / "data" / "raw" / source.name).resolve()
    checksums = check_raw_files(source, raw)
    out = shards_folder(params, project)
    remove_leftovers(out)
    spec = source.spec(raw)
    encoding: Encoding = params.data.encoding if spec.kind == "image" else "npy"
    examples = source.examples(raw, "train")
    meter = Meter("shard", len(examples), "train examples")
    train = _encode(examples, spec, encoding, meter)
    meter.close()
    labels = {key: y for key, (_, y) in train.items()}
    num_val = params.data.num_val(sum(y is not None for y in labels.values()))
    val_keys = choose_val(labels, spec.num_classes, num_val, params.data.split_seed)
    parts: dict[SplitName, dict[str, tuple[dict[str, Any], int | None]]] = {
        "train": {key: value for key, value in train.items() if key not in val_keys},
        "val": {key: value for key, value in train.items() if key in val_keys},
        "test": _encode(source.examples(raw, "test"), spec, encoding),
    }
    if twice := parts["test"].keys() & train.keys():
        raise DataError(f"{source.name}: the key {min(twice)!r} is in both train and test")
    with atomic_folder(out) as part:
        splits: dict[SplitName, Split] = {}
        for name, samples in parts.items():
            num_shards = max(1, round(params.data.num_shards * len(samples) / len(parts["train"])))
            splits[name] = _write_split(part, name, samples, num_shards, spec, encoding, params.data.split_seed)
        manifest = Manifest(
            format=FORMAT,
            source=source.name,
            source_files=checksums,
            spec=spec,
            encoding=encoding,
            vocabulary=source.vocabulary(raw) if spec.kind == "counts" else (),
            split_seed=params.data.split_seed,
            splits=splits,
        )
        write_json(part / MANIFEST, manifest.model_dump(mode="json"))
    sizes = ", ".join(f"{name} {split.samples} in {len(split.shards)}" for name, split in splits.items())
    log(f"shard: {source.name}, {spec.num_classes} classes; examples in tars: {sizes}; {out}")
    return out


def check_raw_files(source: Source, raw: Path) -> dict[str, str]:
    """SHA-256 of each raw file, by name.

    Raises:
        DataError: one is missing or is not what fetch checked.
    """
    if isinstance(source, OwnSource):
        return source.checksums(raw)
    checksums = {}
    for file in source.files:
        path = raw / file.name
        if not path.is_file():
            raise DataError(f"raw file is missing: {path}; run `ie fetch`")
        checksums[file.name] = sha256_file(path)
        if checksums[file.name] != file.sha256:
            raise DataError(f"{path}: damaged, SHA-256 {checksums[file.name]}, expected {file.sha256}; run `ie fetch`")
    return checksums


def choose_val(labels: dict[str, int | None], num_classes: int, val_size: int, seed: int) -> set[str]:
    """Keys of the validation split: of each class in proportion, chosen by a hash of (seed, class, key).

    Raises:
        DataError: a class would keep fewer than two training points.
    """
    by_class: dict[int, list[str]] = {c: [] for c in range(num_classes)}
    for key, y in labels.items():
        if y is not None:
            by_class[y].append(key)
    sizes = np.array([len(keys) for keys in by_class.values()])
    exact = sizes * val_size / max(1, sizes.sum())
    parts = np.floor(exact).astype(int)
    # What rounding down left goes to the classes that lost the largest fractions.
    parts[np.argsort(parts - exact, kind="stable")[: val_size - parts.sum()]] += 1
    chosen: set[str] = set()
    for c, keys in by_class.items():
        if len(keys) - parts[c] < 2:
            raise DataError(
                f"class {c} has {len(keys)} examples and would keep {len(keys) - parts[c]}; lower data.val_size"
            )
        chosen.update(sorted(keys, key=lambda key: _rank(seed, f"val/{c}", key))[: parts[c]])
    return chosen


def _encode(
    examples: Iterable[Example], spec: DataSpec, encoding: Encoding, meter: Meter | None = None
) -> dict[str, tuple[dict[str, Any], int | None]]:
    """Encoded samples and classes, by key."""
    result: dict[str, tuple[dict[str, Any], int | None]] = {}
    for example in examples:
        if example.key in result:
            raise DataError(f"the key {example.key!r} occurs twice")
        try:
            check_example(example.x, spec)
        except ValueError as error:
            raise DataError(f"example {example.key!r}: {error}") from error
        if example.y is not None and not 0 <= example.y < spec.num_classes:
            raise DataError(f"example {example.key!r}: class {example.y}; allowed: 0 to {spec.num_classes - 1}")
        result[example.key] = encode_example(example, encoding), example.y
        if meter is not None and len(result) % 500 == 0:
            meter.update(len(result))
    return result


def _write_split(
    folder: Path,
    name: SplitName,
    samples: dict[str, tuple[dict[str, Any], int | None]],
    num_shards: int,
    spec: DataSpec,
    encoding: Encoding,
    seed: int,
) -> Split:
    # An order by hash mixes the classes; dealing it out in turn makes shards equal to within one sample.
    order = sorted(samples, key=lambda key: _rank(seed, "order", key))
    shards = []
    for i in range(num_shards):
        keys = order[i::num_shards]
        if keys:
            shards.append(write_shard(folder / f"{name}-{i:06d}.tar", [samples[key][0] for key in keys]))
    return describe_split(folder, name, shards, spec, encoding)


def _rank(seed: int, group: str, key: str) -> str:
    return hashlib.sha256(f"{seed}/{group}/{key}".encode()).hexdigest()
