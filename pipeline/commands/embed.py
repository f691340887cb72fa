"""Applying a trained model to new files: images, arrays, series, texts or shards in, latents out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.compute as pc
import torch

from ie_model.artifact import Artifact
from ie_model.inference import encode
from ie_model.networks import to_float
from pipeline.commands.embed_inputs import Inputs, open_inputs
from pipeline.commands.embed_remote import on_this_host
from pipeline.data.example import Example
from pipeline.data.sources.vector_files import TABLES
from pipeline.errors import DataError, FaultError
from pipeline.evaluation.latents import latent_table, metadata, new_writer, read_first, schema
from pipeline.evaluation.load_model import read_model
from pipeline.utils.files import sha256_file
from pipeline.utils.progress import Log, Meter

_NAMED = 10
_FORMS = (".parquet", ".csv")


def embed(
    model: Path,
    source: str | Path,
    out: Path,
    log: Log,
    *,
    resize: bool,
    batch_size: int,
    device: str,
    faults: Literal["skip", "fatal"] = "skip",
) -> int:
    """Writes a latents file (see docs/latents.md) of new examples; returns how many.

    Args:
        out: Parquet, with everything; or `.csv`, without vectors.
        source: an image, a text or a folder of them (searched deeply); a table with paths of images; tars of images;
            a `.npy` array `[N, *shape]` of uint8 images, int32 counts or raw float series; a `.ts` file of raw series;
            a table of vectors; or a folder of shards with its manifest, whose words or standardisation must be the
            model's own. Or `s3://bucket/name` of any of these.
        resize: scale images of another size until they cover the model's, and take their middle; without it they are
            refused.
        faults: `skip` leaves a damaged example out, names it and counts it; `fatal` ends.

    Raises:
        DataError: the model or an input is missing, damaged or does not fit; the message names the file.
    """
    if out.suffix.lower() not in _FORMS:
        raise DataError(f"--out is {out}; allowed: a name that ends in {' or '.join(_FORMS)}")
    artifact = read_model(model, device)
    is_table = artifact.model.spec.kind == "image" and Path(source).suffix.lower() in TABLES
    with on_this_host(str(source), log, with_folder=is_table) as (here, log):
        data_hash = sha256_file(here) if here.is_file() else str(source)
        inputs = open_inputs(here, artifact, resize)
        return _encode(artifact, source, inputs, data_hash, out, log, batch_size, device, faults)


def _encode(
    artifact: Artifact,
    source: str | Path,
    inputs: Inputs,
    data_hash: str,
    out: Path,
    log: Log,
    batch_size: int,
    device: str,
    faults: Literal["skip", "fatal"],
) -> int:
    """Writes the latents of the inputs; returns how many."""
    if not inputs.total:
        raise DataError(f"{source}: no example in it")
    if inputs.about:
        log(f"embed: {inputs.about}")
    if artifact.loss != "bound":
        log(f"embed: loss {artifact.loss!r}: v, bound and squared_error are of networks that were not trained")
    val_bounds = artifact.val_bounds if artifact.loss == "bound" else ()
    generator = torch.Generator().manual_seed(0)
    meter, done = Meter("embed", inputs.total, "examples"), 0
    left_out: list[str] = []
    examples = _sound(inputs, faults, left_out, log)
    columns = schema(artifact, metadata(artifact, data_hash))
    unusual = 0
    with new_writer(out, columns) as write:
        while group := list(islice(examples, batch_size)):
            x = to_float(torch.from_numpy(np.stack([e.x for e in group])).to(device))
            y = np.array([-1 if e.y is None else e.y for e in group], dtype=np.int64)
            encoded = encode(artifact, x, artifact.prune, generator)
            rows = latent_table(columns, [e.key for e in group], "new", y, None, encoded)
            first = read_first(rows, val_bounds)
            unusual += pc.sum(pc.equal(first["val_below_pct"], 0)).as_py() or 0
            write(rows, first)
            done += len(group)
            meter.update(done + len(left_out))
        meter.close()
        if not done:
            raise DataError(f"{source}: none of {inputs.total} examples can be used; the first: {left_out[0]}")
    log(f"embed: {done} examples -> {out}" + (f"; {len(left_out)} left out" if left_out else ""))
    if unusual:
        log(f"embed: the bound of {unusual} is below that of every example of val: unlike anything that was seen")
    return done


def _sound(inputs: Inputs, faults: Literal["skip", "fatal"], left_out: list[str], log: Log) -> Iterator[Example]:
    """The examples that can be used; the others are named, and appended to `left_out`."""
    for item in inputs.items:
        if not isinstance(item, FaultError):
            yield item
            continue
        if faults == "fatal":
            raise item
        left_out.append(str(item))
        if len(left_out) <= _NAMED:
            log(f"embed: left out: {item}")
