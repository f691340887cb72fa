"""Stage `shard`: raw files become webdataset tars, split into train, val and test."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.cluster.task_map import run_on_hosts
from pipeline.config.params import Params
from pipeline.config.paths import shards_folder
from pipeline.data.example import RawSplit
from pipeline.data.sharding.external_tar_list import check_listed
from pipeline.data.sharding.external_tars import tars_location, tars_spec, write_foreign_manifest
from pipeline.data.sharding.write import Content, Hosts, Layout, describe_sizes, pack, say_missing
from pipeline.data.shards.manifest import Manifest
from pipeline.data.sources import TARS, OwnSource, Source, make_source
from pipeline.data.sources.walk import read_passed_over
from pipeline.errors import DataError, ParamsError
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import open_storage
from pipeline.training.forecast import describe_data, describe_run
from pipeline.training.label_plan import plan_labels
from pipeline.utils.files import atomic_folder, read_json, remove_leftovers, sha256_file
from pipeline.utils.progress import Log


def shard(params: Params, project: Path, log: Log) -> Path:
    """Writes data/shards/<source>, which appears as a whole; returns it.

    With `storage.url` in an object store the tars are written there, and the folder holds manifest and indices. With
    RAY_ADDRESS the cluster's hosts write them, where these see the raw files. The same raw files and params give the
    same bytes on any number of hosts. What an interrupted run has finished is kept and used when the same inputs are
    given again; a hidden folder beside the result says what that is.

    Raises:
        DataError: a raw file is missing or does not match its checksum, or an example is not valid.
        ResourceError: no space, no permission; or a writer process was killed.
    """
    if params.data.source == TARS:
        return _index_tars(params, project, log)
    source = make_source(params.data, project)
    raw = (project / "data" / "raw" / source.name).resolve()
    checksums = check_raw_files(source, raw)
    out = shards_folder(params, project)
    storage = open_storage(params.storage.url, project, tell=lambda line: log(f"shard: {line}"))
    store = storage if isinstance(storage, Bucket) else None
    spec = source.spec(raw)
    values: dict[RawSplit, npt.NDArray[np.float64]] = {}
    if source.factor_names:
        values = {"train": source.factors(raw, "train"), "test": source.factors(raw, "test")}
    content = Content(
        source=source.name,
        source_files=checksums,
        spec=spec,
        preprocessing=source.preprocessing(raw),
        examples={"train": source.examples(raw, "train"), "test": source.examples(raw, "test")},
        val_keys=source.val_keys(raw) if isinstance(source, OwnSource) else frozenset(),
        folders=folders_read(source, raw),
        factors=source.factor_names,
        factor_values=values,
    )
    layout = Layout(
        encoding=params.data.encoding if spec.kind == "image" else "npy",
        num_shards=params.data.num_shards,
        num_val=params.data.num_val(int((content.examples["train"].y >= 0).sum())),
        split_seed=params.data.split_seed,
    )

    def check(class_sizes: dict[str, int]) -> None:
        plan_labels(params, class_sizes)

    hosts = _hosts(content.folders, store, log)
    manifest = pack(content, layout, out, log, faults=params.data.faults, hosts=hosts, store=store, check=check)
    _say_what_follows(manifest, params, raw, log)
    return out


def folders_read(source: Source, raw: Path) -> tuple[Path, ...]:
    """Folders of this machine that the examples are read from."""
    folder = source.folder if isinstance(source, OwnSource) else raw
    return (folder,) if isinstance(folder, Path) else ()


def _hosts(folders: tuple[Path, ...], store: Bucket | None, log: Log) -> Hosts | None:
    """The cluster that RAY_ADDRESS names, where its hosts see the raw files: run state in a folder is on a file system
    that all of them share, with run state in a store they share no disk."""
    if not os.environ.get("RAY_ADDRESS"):
        return None
    if folders and store is not None:
        log(f"shard: {folders[0]} is on this host alone, which packs it; hosts of the cluster read s3://...")
        return None
    return partial(run_on_hosts, log=lambda line: log(f"shard: {line}"))


def _say_what_follows(manifest: Manifest, params: Params, raw: Path, log: Log) -> None:
    """What was found, and what will be trained."""
    log(f"shard: {describe_data(manifest, read_passed_over(raw))}")
    try:
        for line in describe_run(manifest, params):
            log(f"shard: for training: {line}")
    except (ParamsError, DataError) as error:  # `train` refuses; the index of every tar would be read for nothing
        log(f"shard: {error}")


def _index_tars(params: Params, project: Path, log: Log) -> Path:
    """Tars of others get a manifest and indices, and stay where they are. Raises as `shard`."""
    raw = project / "data" / "raw" / TARS
    listed = read_json(raw / "files.json", "the list of tars (run `ie fetch`)")
    location = tars_location(params.data.folder, project)
    if listed["location"] != location:
        raise DataError(f"{raw} lists the tars of {listed['location']}, not of {location}; run `ie fetch`")
    out = shards_folder(params, project)
    remove_leftovers(out)
    with atomic_folder(out) as part:
        manifest = write_foreign_manifest(
            part, location, tars_spec(params.data.own), params.data.split_seed, params.data.faults, log, params.reader
        )
        check_listed(manifest, listed, raw / "files.json")
    say_missing(manifest.splits, log)
    sizes = describe_sizes(manifest.splits)
    log(f"shard: {manifest.spec.num_classes} classes: {sizes}; they stay in {location}; manifest and index in {out}")
    _say_what_follows(manifest, params, raw, log)
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
