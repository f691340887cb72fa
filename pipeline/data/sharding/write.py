"""Examples become tars with an index and a manifest."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ie_model.spec import DataSpec, Preprocessing
from pipeline.data.example import Examples, RawSplit
from pipeline.data.sharding.assignment import Deal, deal
from pipeline.data.sharding.tar_target import TarFolder, TarStore
from pipeline.data.sharding.tar_writer import Faults, Packed, Packing, Tar, pack_tar
from pipeline.data.sharding.work_dir import Unfinished, unfinished
from pipeline.data.shards.index import describe_rows, factor_column
from pipeline.data.shards.manifest import FORMAT, Manifest, Split, SplitName, label_hash, write_manifest
from pipeline.data.shards.sample_codec import Encoding
from pipeline.errors import DataError
from pipeline.storage.object_store import Bucket
from pipeline.utils.files import remove_leftovers, resources
from pipeline.utils.fingerprint import SHARDING, fingerprint
from pipeline.utils.process_pool import Report, num_cpus, run_tasks
from pipeline.utils.progress import Log, Meter

# A process takes about a second to start; in that time one packs this many small examples.
_WORTH_A_PROCESS = 1_000

# The same of the hosts of a cluster, which take about ten seconds.
_WORTH_HOSTS = 5_000

_MESSAGES_SHOWN = 10

_CLASSES_SHOWN = 5


@dataclass(frozen=True, eq=False)
class Content:
    """What is to be packed."""

    source: str
    source_files: dict[str, str]
    """SHA-256 of the raw files, by name."""

    spec: DataSpec
    preprocessing: Preprocessing
    examples: dict[RawSplit, Examples]
    val_keys: frozenset[str] = frozenset()
    """Keys of val, where the data defines it; see `OwnSource.val_keys`."""

    folders: tuple[Path, ...] = ()
    """Of this machine, that the examples are read from."""

    factors: tuple[str, ...] = ()
    """Names of F columns beside the classes."""

    factor_values: dict[RawSplit, npt.NDArray[np.float64]] = field(default_factory=dict)
    """Of each example, `[N, F]`, NaN where a value is missing; where there are factors."""


@dataclass(frozen=True)
class Layout:
    """How it is packed; see `DataParams`."""

    encoding: Encoding
    num_shards: int
    num_val: int
    split_seed: int


class Hosts(Protocol):
    """The hosts of a cluster; as `pipeline.utils.process_pool.run_tasks`."""

    def __call__(
        self, work: Callable[[Packing, Tar, Report], Packed], context: Packing, tasks: Sequence[Tar], progress: Report
    ) -> Generator[Packed, None, None]:
        """The result of each task, in the order in which they are done."""
        ...


def pack(
    content: Content,
    layout: Layout,
    out: Path,
    log: Log,
    *,
    faults: Faults = "fatal",
    writers: int | None = None,
    hosts: Hosts | None = None,
    store: Bucket | None = None,
    check: Callable[[dict[str, int]], None] | None = None,
) -> Manifest:
    """Writes tars, indices and manifest of `content` to `out`; see `shard`.

    The same content and layout give the same bytes, with any number of hosts and processes.

    Memory: one encoded sample and the rows of one tar in each writer; in this process the keys and
    places in tars of all examples, whatever the size of its values, beside what `content` takes.

    Args:
        faults: what an example that cannot be read or is not as the spec says does: `fatal` ends the run, when all of
            them are counted; `skip` leaves it out and counts it in the manifest.
        writers: processes that write; None takes one for each processor, as far as there is work for them.
        hosts: that write in place of processes of this one, as far as there is work for them.
        store: takes the tars, below `shards/<source>/`, and copies of indices and manifest; `out` has the latter alone.
        check: given the labelled examples of train by class, before anything is written; it raises what is wrong.

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
        val_keys=content.val_keys,
    )
    if check is not None:
        check(_train_sizes(content, dealt))
    identity = _identity(content, layout, dealt)
    with unfinished(out, identity) as run:
        target: TarFolder | TarStore = TarFolder(run.shards, run.scratch)
        if store is not None:
            store.check()
            target = TarStore(store, f"shards/{content.source}/{identity}")
            found = target.published(run.shards)
            if found is not None and not (found.skipped and faults == "fatal"):
                run.publish(out)
                sizes = describe_sizes(found.splits)
                where = f"in {target.location} already; manifest and index in {out}"
                log(f"shard: {content.source}: {sizes}; complete {where}")
                return found
        packing = Packing(target, content.spec, layout.encoding, content.examples, content.folders)
        speed = _write_tars(packing, dealt, run, writers, hosts, log, keep_gaps=faults == "skip")
        skipped = _settle_faults(run, dealt, content, faults, log)
        splits = {name: _describe(run, name, tars, content) for name, tars in dealt.tars.items()}
        for c, count in splits["train"].class_counts.items():
            if count < 2 and skipped:
                raise DataError(
                    f"class {c!r} has {count} example(s) in train that can be used; at least 2 are needed; see the "
                    "examples left out"
                )
        if check is not None and skipped:
            check(splits["train"].class_counts)
        manifest = Manifest(
            format=FORMAT,
            source=content.source,
            location=target.location,
            source_files=content.source_files,
            spec=content.spec,
            encoding=layout.encoding,
            preprocessing=content.preprocessing,
            split_seed=layout.split_seed,
            skipped=skipped,
            label_hash=label_hash(splits["train"].samples),
            factors=content.factors,
            splits=splits,
        )
        write_manifest(run.shards, manifest)
        target.publish(run.shards)
        run.publish(out)
    say_missing(splits, log)
    where = f"in {out}" if not target.location else f"in {target.location}; manifest and index in {out}"
    log(f"shard: {content.source}, {content.spec.num_classes} classes: {describe_sizes(splits)}; {speed}; {where}")
    return manifest


def _train_sizes(content: Content, dealt: Deal) -> dict[str, int]:
    """Labelled examples of train by class."""
    y = np.concatenate([content.examples["train"].y[tar.rows] for tar in dealt.tars["train"]])
    counts = np.bincount(y[y >= 0], minlength=content.spec.num_classes).tolist()
    return dict(zip(content.spec.classes, counts, strict=True))


def describe_sizes(splits: dict[SplitName, Split]) -> str:
    return ", ".join(f"{name} {split.samples} examples in {len(split.shards)} tar(s)" for name, split in splits.items())


def _identity(content: Content, layout: Layout, dealt: Deal) -> str:
    """What finished tars must have been made of to be used again."""
    inputs = {
        "source": content.source,
        "files": content.source_files,
        "spec": content.spec.model_dump(mode="json"),
        "encoding": layout.encoding,
        "deal": dealt.digest,
        "pillow": version("pillow"),
    }
    # The files that `source_files` names do not tell which of their columns are factors.
    return fingerprint(inputs | ({"factors": content.factors} if content.factors else {}), SHARDING)


def _write_tars(
    packing: Packing,
    dealt: Deal,
    run: Unfinished,
    writers: int | None,
    hosts: Hosts | None,
    log: Log,
    *,
    keep_gaps: bool,
) -> str:
    """Writes the tars that are not finished, and those with gaps unless they are kept; logs the rate."""
    tars = [tar for part in dealt.tars.values() for tar in part]
    total = sum(len(tar.rows) for tar in tars)
    todo = [tar for tar in tars if not run.has(tar.name, packing.target, allow_skipped=keep_gaps)]
    num_todo = sum(len(tar.rows) for tar in todo)
    if kept := len(tars) - len(todo):
        log(f"shard: {kept} of {len(tars)} tars are kept from an interrupted run")
    if writers is None:
        writers = min(num_cpus(), max(1, num_todo // _WORTH_A_PROCESS))
    writers = max(1, min(writers, len(todo)))
    by = f"{writers} writer(s)"
    meter = Meter("shard", total, "examples")
    meter.update(total - num_todo)
    started = time.monotonic()
    try:
        progress = _updates(meter, total - num_todo, started)
        if hosts is not None and num_todo >= _WORTH_HOSTS and len(todo) > 1:
            by = "the cluster's hosts"
            results = hosts(pack_tar, packing, todo, progress)
        else:
            results = run_tasks(pack_tar, packing, todo, writers, progress)
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
    return f"{num_todo} examples in {seconds:.1f} s, {num_todo / max(seconds, 1e-9):,.0f}/s, {by}"


def _updates(meter: Meter, before: int, started: float) -> Callable[[int], None]:
    """Passes progress to the meter, with the rate so far."""

    def update(done: int) -> None:
        rate = done / max(time.monotonic() - started, 1e-9)
        meter.update(before + done, f"{rate:,.0f} examples/s")

    return update


def _describe(run: Unfinished, name: SplitName, tars: list[Tar], content: Content) -> Split:
    """A split of finished tars; those of which every example was left out are none."""
    found = [(tar, shard) for tar in tars if (shard := run.shard(tar.name)) is not None]
    if not found:
        raise DataError(f"split {name} has no example that can be used; see the examples left out")
    rows = (_with_factors(run.rows(tar.name), tar, content) for tar, _ in found)
    return describe_rows(run.shards, name, [shard for _, shard in found], rows, content.spec, content.factors)


def _with_factors(rows: pa.Table, tar: Tar, content: Content) -> pa.Table:
    """The rows of a tar with a column for each factor."""
    if not content.factors:
        return rows
    values = content.factor_values[tar.raw_split][tar.rows]
    if len(rows) < len(values):  # some were left out
        kept = set(rows["key"].to_pylist())
        values = values[[content.examples[tar.raw_split].keys[i] in kept for i in tar.rows.tolist()]]
    for name, column in zip(content.factors, values.T, strict=True):
        rows = rows.append_column(factor_column(name), pa.array(column, mask=np.isnan(column)))
    return rows


def _settle_faults(run: Unfinished, dealt: Deal, content: Content, faults: Faults, log: Log) -> dict[str, int]:
    """Examples left out, by reason; names the first of them, and counts them by class.

    Raises:
        DataError: there are some, and faults are fatal.
    """
    reasons: Counter[str] = Counter()
    messages: list[str] = []
    lost, total = (np.zeros(content.spec.num_classes + 1, dtype=np.int64) for _ in range(2))
    for tar in (tar for part in dealt.tars.values() for tar in part):
        about = run.about(tar.name)
        reasons.update(about["skipped"])
        messages += about["messages"]
        # The last place is of those without a label, whose class is -1.
        counts = np.bincount(content.examples[tar.raw_split].y[tar.rows] % len(total), minlength=len(total))
        total += counts
        if about["skipped"]:
            lost += counts - np.bincount(run.rows(tar.name)["y"].to_numpy() % len(total), minlength=len(total))
    if not reasons:
        return {}
    names = [*(f"class {name!r}" for name in content.spec.classes), "without a label"]
    worst = [c for c in np.argsort(-lost, kind="stable")[:_CLASSES_SHOWN].tolist() if lost[c]]
    text = (
        f"{reasons.total()} of {total.sum()} examples cannot be used: "
        f"{', '.join(f'{n} {why}' for why, n in sorted(reasons.items()))} "
        f"({', '.join(f'{names[c]}: {lost[c]} of {total[c]}' for c in worst)}); the others are fine"
    )
    for message in messages[:_MESSAGES_SHOWN]:
        log(f"shard: cannot be used: {message}")
    if faults == "fatal":
        enough = all(total[c] - lost[c] >= 2 for c in range(content.spec.num_classes) if lost[c])
        skip = ", or set `data.faults: skip` to leave them out" if enough else "; without them a class has too few"
        raise DataError(f"{messages[0]}; {text}; correct them{skip}")
    log(f"shard: {text}, these are left out")
    return dict(sorted(reasons.items()))


def say_missing(splits: dict[SplitName, Split], log: Log) -> None:
    """Warns of classes without an example in val or test."""
    for name in ("val", "test"):
        counts = splits[name].class_counts
        missing = [c for c, count in counts.items() if not count and splits["train"].class_counts[c]]
        if missing:
            some = ", ".join(map(repr, missing[:_CLASSES_SHOWN])) + (", ..." if len(missing) > _CLASSES_SHOWN else "")
            log(
                f"shard: WARNING: {name} has no example of {len(missing)} of {len(counts)} classes ({some}); measures "
                f"on {name} leave them out"
            )
