"""Stage `shard`: raw files become webdataset tars, split into train, val and test."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ie_model.spec import DataSpec
from pipeline import sources
from pipeline.deal import Deal, deal
from pipeline.errors import DataError
from pipeline.files import atomic_folder, read_json, remove_leftovers, resources, sha256_file, write_json
from pipeline.fingerprint import fingerprint
from pipeline.foreign import tars_location, tars_spec, write_foreign_manifest
from pipeline.index import describe_rows
from pipeline.jobs import shards_folder
from pipeline.packing import Faults, Packing, Tar, pack_tar
from pipeline.params import Params
from pipeline.progress import Log, Meter
from pipeline.samples import Encoding
from pipeline.shards import FORMAT, MANIFEST, Manifest, Split, SplitName
from pipeline.sources import TARS, OwnSource, Source, make_source
from pipeline.sources.base import Examples, RawSplit
from pipeline.store import StoreSettings
from pipeline.unfinished import Unfinished, unfinished
from pipeline.workers import num_cpus, run_tasks

# A process takes about a second to start; in that time one packs this many small examples.
_WORTH_A_PROCESS = 1_000
_MESSAGES_SHOWN = 10
# What the bytes of a tar are a function of, besides the source's code.
_CODE = ("ie_model.spec", "pipeline.deal", "pipeline.packing", "pipeline.samples", "pipeline.unfinished")


@dataclass(frozen=True, eq=False)
class Content:
    """What is to be packed."""

    source: str
    source_files: dict[str, str]
    """SHA-256 of the raw files, by name."""

    spec: DataSpec
    vocabulary: tuple[str, ...]
    examples: dict[RawSplit, Examples]


@dataclass(frozen=True)
class Layout:
    """How it is packed; see `DataParams`."""

    encoding: Encoding
    num_shards: int
    num_val: int
    split_seed: int


def shard(params: Params, project: Path, log: Log) -> Path:
    """Writes data/shards/<source>, which appears as a whole; returns it.

    The same raw files and params give the same bytes, however many processes write them. What an interrupted run has
    finished is kept, in a hidden folder beside the result, and used when the same inputs are given again.

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
    spec = source.spec(raw)
    content = Content(
        source=source.name,
        source_files=checksums,
        spec=spec,
        vocabulary=source.vocabulary(raw) if spec.kind == "counts" else (),
        examples={"train": source.examples(raw, "train"), "test": source.examples(raw, "test")},
    )
    layout = Layout(
        encoding=params.data.encoding if spec.kind == "image" else "npy",
        num_shards=params.data.num_shards,
        num_val=params.data.num_val(int((content.examples["train"].y >= 0).sum())),
        split_seed=params.data.split_seed,
    )
    pack(content, layout, out, log, faults=params.data.faults)
    return out


def _index_tars(params: Params, project: Path, log: Log) -> Path:
    """Tars of others get a manifest and indices, and stay where they are. Raises as `shard`."""
    raw = project / "data" / "raw" / TARS
    listed = read_json(raw / "files.json", "the list of tars (run `ie fetch`)")
    location = tars_location(params.data.folder, project)
    if listed["location"] != location:
        raise DataError(f"{raw} lists the tars of {listed['location']}, not of {location}; run `ie fetch`")
    out = shards_folder(params, project)
    remove_leftovers(out)
    settings = StoreSettings(Path(), 0, params.reader.retries)
    with atomic_folder(out) as part:
        manifest = write_foreign_manifest(
            part, location, tars_spec(params.data.own), params.data.split_seed, params.data.faults, log, settings
        )
    sizes = _sizes(manifest.splits)
    log(f"shard: {manifest.spec.num_classes} classes: {sizes}; they stay in {location}; manifest and index in {out}")
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


def pack(
    content: Content, layout: Layout, out: Path, log: Log, *, faults: Faults = "fatal", writers: int | None = None
) -> Manifest:
    """Writes tars, indices and manifest of `content` to `out`; see `shard`.

    Memory: one encoded sample and the rows of one tar in each writer; in this process at most about 175 bytes an
    example (when the index is written), whatever the size of its values, beside what `content` takes.

    Args:
        faults: what an example that cannot be read or is not as the spec says does: `fatal` ends the run, `skip`
            leaves it out and counts it in the manifest.
        writers: processes that write; None takes one for each processor, as far as there is work for them.

    Raises:
        DataError: see `shard`; also when nothing of a class or of a split is left.
        ResourceError: see `shard`.
    """
    remove_leftovers(out)
    dealt = deal(
        content.examples,
        content.spec.classes,
        num_shards=layout.num_shards,
        num_val=layout.num_val,
        seed=layout.split_seed,
    )
    with unfinished(out, _identity(content, layout, dealt)) as run:
        packing = Packing(run.shards, run.scratch, content.spec, layout.encoding, content.examples, faults)
        speed = _write_tars(packing, dealt, run, writers, log)
        skipped = _skipped(run, dealt, log)
        splits = {name: _describe(run, name, tars, content.spec) for name, tars in dealt.tars.items()}
        for c, count in splits["train"].class_counts.items():
            if count == 0:
                raise DataError(f"class {c!r} has no example in train that can be used; see the examples left out")
        manifest = Manifest(
            format=FORMAT,
            source=content.source,
            source_files=content.source_files,
            spec=content.spec,
            encoding=layout.encoding,
            vocabulary=content.vocabulary,
            split_seed=layout.split_seed,
            skipped=skipped,
            splits=splits,
        )
        write_json(run.shards / MANIFEST, manifest.model_dump(mode="json"))
        run.publish(out)
    log(f"shard: {content.source}, {content.spec.num_classes} classes: {_sizes(splits)}; {speed}; in {out}")
    return manifest


def _sizes(splits: dict[SplitName, Split]) -> str:
    return ", ".join(f"{name} {split.samples} examples in {len(split.shards)} tar(s)" for name, split in splits.items())


def _identity(content: Content, layout: Layout, dealt: Deal) -> str:
    """What finished tars must have been made of to be used again."""
    modules = sorted(f"{sources.__name__}.{path.stem}" for path in Path(sources.__path__[0]).glob("[a-z]*.py"))
    inputs = {
        "source": content.source,
        "files": content.source_files,
        "spec": content.spec.model_dump(mode="json"),
        "encoding": layout.encoding,
        "deal": dealt.digest,
        "pillow": version("pillow"),
    }
    return fingerprint(inputs, (*_CODE, *modules))


def _write_tars(packing: Packing, dealt: Deal, run: Unfinished, writers: int | None, log: Log) -> str:
    """Writes the tars that are not finished; says how fast it went."""
    tars = [tar for part in dealt.tars.values() for tar in part]
    total = sum(len(tar.rows) for tar in tars)
    todo = [tar for tar in tars if not run.has(tar.name, allow_skipped=packing.faults == "skip")]
    num_todo = sum(len(tar.rows) for tar in todo)
    if kept := len(tars) - len(todo):
        log(f"shard: {kept} of {len(tars)} tars are kept from an interrupted run")
    if writers is None:
        writers = min(num_cpus(), max(1, num_todo // _WORTH_A_PROCESS))
    writers = max(1, min(writers, len(todo)))
    meter = Meter("shard", total, "examples")
    meter.update(total - num_todo)
    started = time.monotonic()
    try:
        results = run_tasks(pack_tar, packing, todo, writers, _updates(meter, total - num_todo, started))
        with resources(), contextlib.closing(results):
            for packed in results:
                run.keep(packed)
    except BaseException:
        if finished := run.finished():
            log(f"shard: {finished} of {len(tars)} tars are finished and kept for the next run, in {run.folder}")
        raise
    finally:
        meter.close()
    seconds = time.monotonic() - started
    return f"{num_todo} examples in {seconds:.1f} s, {num_todo / max(seconds, 1e-9):,.0f}/s, {writers} writer(s)"


def _updates(meter: Meter, before: int, started: float) -> Callable[[int], None]:
    """Passes progress to the meter, with the rate so far."""

    def update(done: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        meter.update(before + done, f"{rate:,.0f} examples/s")

    return update


def _describe(run: Unfinished, name: SplitName, tars: list[Tar], spec: DataSpec) -> Split:
    """A split of finished tars; those of which every example was left out are none."""
    found = [(tar.name, shard) for tar in tars if (shard := run.shard(tar.name)) is not None]
    if not found:
        raise DataError(f"split {name} has no example that can be used; see the examples left out")
    rows = (run.rows(tar, i) for i, (tar, _) in enumerate(found))
    return describe_rows(run.shards, name, [shard for _, shard in found], rows, spec)


def _skipped(run: Unfinished, dealt: Deal, log: Log) -> dict[str, int]:
    """Examples left out, by reason; names the first of them."""
    counts: Counter[str] = Counter()
    messages: list[str] = []
    for tar in (tar for part in dealt.tars.values() for tar in part):
        about = run.about(tar.name)
        counts.update(about["skipped"])
        messages += about["messages"]
    if counts:
        for message in messages[:_MESSAGES_SHOWN]:
            log(f"shard: left out: {message}")
        log(
            f"shard: {counts.total()} examples left out: {', '.join(f'{n} {why}' for why, n in sorted(counts.items()))}"
        )
    return dict(sorted(counts.items()))
