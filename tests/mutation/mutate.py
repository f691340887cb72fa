"""Damage of many kinds, by a seed: each file gets every kind that its format knows."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open
from safetensors.torch import load, save

_OTHERS: tuple[Any, ...] = ({}, [], None, "text")

Mutation = tuple[str, bytes | None]
"""What was done, and the file's new bytes; None where it is gone."""


def mutations(path: Path, others: list[Path], seed: int) -> Iterator[Mutation]:
    """Every kind of damage to a file.

    Args:
        others: files whose bytes take its place.
    """
    data = path.read_bytes()
    rng = random.Random(f"{seed}/{path.name}/{len(data)}")
    yield "deleted", None
    yield "empty", b""
    for _ in range(2):
        yield "truncated", data[: rng.randrange(len(data))]
    yield "last byte gone", data[:-1]
    yield "appended", data + b"\0" * 7
    for _ in range(4):
        yield "bit flipped", _flipped(data, rng)
    start = rng.randrange(len(data))
    yield "zeroed", data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :]
    half = len(data) // 2
    yield "halves exchanged", data[half:] + data[:half]
    yield "twice", data + data
    yield "html", b"<html>not found</html>"
    for other in others:
        yield f"swapped with {other.parent.name}/{other.name}", other.read_bytes()
    by_suffix: dict[str, Callable[[bytes, random.Random], Iterator[Mutation]]] = {
        ".json": _json, ".csv": _csv, ".safetensors": _safetensors, ".parquet": _parquet,
    }  # fmt: skip
    if path.suffix in by_suffix:
        yield from by_suffix[path.suffix](data, rng)


def _flipped(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _json(data: bytes, rng: random.Random) -> Iterator[Mutation]:
    text = data.decode()
    numbers = list(re.finditer(r"(?<=[\s\[:,])-?\d+(\.\d+)?([eE][-+]?\d+)?(?=[\s,\]}])", text))
    for new in ("NaN", "1e999", "-1", "9" * 5000, "true", "null", '"7"', "[" * 100_000):
        if numbers:
            where = rng.choice(numbers)
            yield f"number {new[:6]}", (text[: where.start()] + new + text[where.end() :]).encode()
    for _ in range(2):
        if numbers:
            where = rng.choice(numbers)
            more = str(float(where[0]) * 1.01 + 0.001)
            yield "number edited", (text[: where.start()] + more + text[where.end() :]).encode()
    names = list(re.finditer(r'"(\w+)"', text))
    where = rng.choice(names)
    yield "name edited", (text[: where.start(1)] + "x" + text[where.start(1) + 1 :]).encode()
    content: Any = json.loads(text)
    places = [place for place in _places(content) if place[1] is not None]
    parent, key = rng.choice(places)
    del parent[key]
    yield "entry gone", json.dumps(content).encode()
    for value in _OTHERS:
        yield f"all is {value!r}", json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def _csv(data: bytes, rng: random.Random) -> Iterator[Mutation]:
    lines = data.decode().splitlines()
    numbers = list(re.finditer(r"(?<![\w.])-?\d+(\.\d+)?(?![\w.])", "\n".join(lines[1:])))
    body = "\n".join(lines[1:])
    for new in ("7.25", "nan", "inf", "-1", "", "9" * 5000) if numbers else ():
        where = rng.choice(numbers)
        yield f"number {new[:6]}", (lines[0] + "\n" + body[: where.start()] + new + body[where.end() :] + "\n").encode()
    row = rng.randrange(1, len(lines))
    yield "row gone", ("\n".join(lines[:row] + lines[row + 1 :]) + "\n").encode()
    yield "row twice", ("\n".join([*lines[: row + 1], *lines[row:]]) + "\n").encode()
    yield "rows turned", ("\n".join([lines[0], *reversed(lines[1:])]) + "\n").encode()
    yield "column renamed", ("\n".join(["x" + lines[0][1:], *lines[1:]]) + "\n").encode()


def _safetensors(data: bytes, rng: random.Random) -> Iterator[Mutation]:
    import torch

    metadata = _metadata(data)

    def changed(what: str, change: Callable[[dict[str, Any], str], None]) -> Mutation:
        tensors = {name: value.clone() for name, value in load(data).items()}
        floats = [name for name, value in tensors.items() if value.is_floating_point() and value.numel()]
        change(tensors, rng.choice(floats or list(tensors)))
        return what, save(tensors, metadata)

    def put(value: float) -> Callable[[dict[str, Any], str], None]:
        def change(tensors: dict[str, Any], name: str) -> None:
            tensors[name].view(-1)[rng.randrange(tensors[name].numel())] = value

        return change

    yield changed("value NaN", put(float("nan")))
    yield changed("value infinite", put(float("inf")))
    yield changed("value edited", put(0.123))
    yield changed("scaled", lambda tensors, name: tensors[name].mul_(1.01))
    for dtype in (torch.float64, torch.float16, torch.int32):
        yield changed(str(dtype), lambda tensors, name, to=dtype: tensors.update({name: tensors[name].to(to)}))  # type: ignore[misc]
    yield changed("tensor gone", lambda tensors, name: tensors.pop(name))
    yield changed("tensor more", lambda tensors, name: tensors.update(more=tensors[name].clone()))
    yield changed("tensor renamed", lambda tensors, name: tensors.update({f"{name}x": tensors.pop(name)}))
    yield changed("turned", lambda tensors, name: tensors.update({name: tensors[name].flip(0).contiguous()}))


def _metadata(data: bytes) -> dict[str, str] | None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
        file.write(data)
        file.flush()
        with safe_open(file.name, framework="np") as opened:
            metadata: dict[str, str] | None = opened.metadata()
    return metadata


def _parquet(data: bytes, rng: random.Random) -> Iterator[Mutation]:
    table = pq.read_table(io.BytesIO(data))

    def written(changed: pa.Table) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(changed, buffer, compression="zstd")
        return buffer.getvalue()

    yield "row gone", written(table.slice(1))
    yield "rows turned", written(table.take(pa.array(np.arange(len(table))[::-1])))
    yield "no metadata", written(table.replace_schema_metadata(None))
    numeric = [i for i, field in enumerate(table.schema) if pa.types.is_floating(field.type)] or [
        i for i, field in enumerate(table.schema) if pa.types.is_integer(field.type)
    ]
    for value in (float("nan"), 0.5, 1.0) if numeric else ():
        column = rng.choice(numeric)
        field = table.schema.field(column)
        values = table[column].to_pylist()
        values[rng.randrange(len(values))] = value if pa.types.is_floating(field.type) else int(value == 1.0) + 3
        yield f"value {value}", written(table.set_column(column, field, pa.array(values, field.type)))
    yield "column gone", written(table.remove_column(rng.randrange(table.num_columns)))
