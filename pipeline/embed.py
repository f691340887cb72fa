"""Applying a trained model to new files: images, arrays or shards in, latents out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ie_model.inference import encode
from ie_model.networks import to_float
from ie_model.spec import DataSpec
from pipeline.errors import DataError
from pipeline.files import sha256_file
from pipeline.latents import latent_writer
from pipeline.models import read_model
from pipeline.pictures import SUFFIXES, decode_picture, picture_size
from pipeline.progress import Log, Meter
from pipeline.reader import padded
from pipeline.samples import check_example
from pipeline.shards import read_manifest
from pipeline.sources.base import Example, Values
from pipeline.tars import iter_shard


def embed(model: Path, source: Path, out: Path, log: Log, *, resize: bool, batch_size: int, device: str) -> int:
    """Writes a latents file (see `pipeline.latents`) of new examples; returns how many.

    Args:
        source: an image, a folder of images (searched deeply), a `.npy` array `[N, *shape]` of uint8,
            or a folder of shards with its manifest.
        resize: scale images of another size until they cover the model's, and take their middle; without it they are
            refused.

    Raises:
        DataError: the model or an input is missing, damaged or does not fit; the message names the file.
    """
    artifact = read_model(model, device)
    spec = artifact.model.spec
    total, examples = open_examples(source, spec, resize)
    generator = torch.Generator().manual_seed(0)
    meter, done = Meter("embed", total, "examples"), 0
    data_hash = sha256_file(source) if source.is_file() else str(source)
    with latent_writer(out, artifact, data_hash) as writer:
        while group := list(islice(examples, batch_size)):
            x = to_float(torch.from_numpy(np.stack([padded(e.x, spec) for e in group])).to(device))
            y = np.array([-1 if e.y is None else e.y for e in group], dtype=np.int64)
            encoded = encode(artifact, x, float(artifact.provenance["prune"]), generator)
            writer.write([e.key for e in group], "new", y, None, encoded)
            done += len(group)
            meter.update(done)
    meter.close()
    log(f"embed: {done} examples -> {out}")
    return done


def open_examples(source: Path, spec: DataSpec, resize: bool) -> tuple[int, Iterator[Example]]:
    """How many examples there are, and the examples. Raises as `embed`."""
    if not source.exists():
        raise DataError(f"no such file or folder: {source}")
    if source.is_dir() and (source / "manifest.json").is_file():
        return _from_shards(source, spec)
    if spec.kind == "image" and (source.is_dir() or source.suffix.lower() in SUFFIXES):
        files = [source] if source.is_file() else _images_in(source)
        return len(files), (
            Example(f.stem if source.is_file() else _key(f, source), _image(f, spec, resize), None) for f in files
        )
    if source.suffix == ".npy":
        return _from_array(source, spec)
    images = f"an image ({', '.join(SUFFIXES)}), a folder of images, " if spec.kind == "image" else ""
    raise DataError(
        f"{source}: not something that can be embedded by a model of {spec.kind}; allowed: {images}a .npy array, "
        "a folder of shards with its manifest.json"
    )


def _images_in(folder: Path) -> list[Path]:
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
    if not files:
        raise DataError(f"{folder}: no image in it (looked for {', '.join(SUFFIXES)})")
    return files


def _key(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


def _image(file: Path, spec: DataSpec, resize: bool) -> Values:
    """As `shard` makes them of a folder of images, so that a model sees what it was trained on."""
    channels, height, width = spec.shape
    data = file.read_bytes()
    if not resize:
        found = picture_size(data, str(file))
        if found != (height, width):
            raise DataError(
                f"{file}: {found[1]}x{found[0]} pixels, the model takes {width}x{height}; add --resize to scale and "
                "crop it"
            )
    return decode_picture(data, str(file), height, width, channels)


def _from_array(source: Path, spec: DataSpec) -> tuple[int, Iterator[Example]]:
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{source}: not a .npy array that can be read ({error})") from error
    if array.ndim == len(spec.shape) and spec.shape[0] == 1 and array.shape[1:] == spec.shape[1:]:
        array = array[:, None]
    if array.shape[1:] != spec.shape or array.dtype != np.dtype(spec.dtype):
        raise DataError(
            f"{source}: {array.dtype} of shape {list(array.shape)}; the model takes {spec.dtype} of N x "
            f"{list(spec.shape)}"
        )
    for i, row in enumerate(array):
        try:
            check_example(row, spec)
        except ValueError as error:
            raise DataError(f"{source}, row {i}: {error}") from error
    return len(array), (Example(f"{i:08d}", np.array(row), None) for i, row in enumerate(array))


def _from_shards(source: Path, spec: DataSpec) -> tuple[int, Iterator[Example]]:
    manifest = read_manifest(source)
    if (manifest.spec.kind, manifest.spec.shape) != (spec.kind, spec.shape):
        raise DataError(
            f"{source}: {manifest.spec.kind} of shape {list(manifest.spec.shape)}, the model takes {spec.kind} of "
            f"{list(spec.shape)}"
        )
    same_classes = manifest.spec.classes == spec.classes
    shards = [shard for split in manifest.splits.values() for shard in split.shards]

    def examples() -> Iterator[Example]:
        for shard in shards:
            for example in iter_shard(source / shard.path, manifest.spec, manifest.encoding):
                # A class index means the same only where the classes are the same.
                yield example if same_classes else Example(example.key, example.x, None)

    return sum(shard.samples for shard in shards), examples()
