"""Latents as Parquet: one row an example, vectors as fixed-size lists, hashes of model and data in the schema."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ie_model.artifact import Artifact
from ie_model.inference import Encoded
from pipeline.files import atomic_file


def schema(artifact: Artifact, metadata: dict[str, str]) -> pa.Schema:
    """Columns of a latents file.

    key; split; label (class name, null where not known); label_used (the run was trained with it); prediction;
    probabilities `[K]`; r = f_inv(x) `[R]`, the single-example embedding; v_mean and v_log_var `[V]` of q(v | r_y, x)
    given the predicted class; bound_nats, U(x); squared_error, the mean over values of (x - reconstruction)^2.
    """
    spec, config = artifact.model.spec, artifact.model.config
    fields = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("label_used", pa.bool_(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("probabilities", pa.list_(pa.float32(), spec.num_classes), nullable=False),
        pa.field("r", pa.list_(pa.float32(), config.r_dim), nullable=False),
        pa.field("v_mean", pa.list_(pa.float32(), config.v_dim), nullable=False),
        pa.field("v_log_var", pa.list_(pa.float32(), config.v_dim), nullable=False),
        pa.field("bound_nats", pa.float32(), nullable=False),
        pa.field("squared_error", pa.float32(), nullable=False),
    ]
    return pa.schema(fields, metadata=metadata)


class LatentWriter:
    """Appends batches; holds one in memory at a time."""

    def __init__(self, writer: pq.ParquetWriter, artifact: Artifact) -> None:
        self._writer, self._classes = writer, artifact.model.spec.classes
        self._schema = writer.schema

    def write(
        self,
        keys: Sequence[str],
        split: str,
        y: npt.NDArray[np.int64] | None,
        label_used: npt.NDArray[np.bool_] | None,
        encoded: Encoded,
    ) -> None:
        """One batch of examples, and what the model says of them."""
        names = np.array(self._classes, dtype=object)
        prediction = encoded.log_q.argmax(1).cpu().numpy()
        labels = [None] * len(keys) if y is None else [self._classes[c] if c >= 0 else None for c in y]
        columns: dict[str, Any] = {
            "key": list(keys),
            "split": [split] * len(keys),
            "label": labels,
            "label_used": np.zeros(len(keys), dtype=bool) if label_used is None else label_used,
            "prediction": names[prediction].tolist(),
            "probabilities": _vectors(encoded.log_q.exp()),
            "r": _vectors(encoded.f),
            "v_mean": _vectors(encoded.v_mean),
            "v_log_var": _vectors(encoded.v_log_var),
            "bound_nats": encoded.bound.cpu().numpy(),
            "squared_error": encoded.squared_error.cpu().numpy(),
        }
        arrays = [pa.array(columns[field.name], type=field.type) if not isinstance(columns[field.name], pa.Array)
                  else columns[field.name] for field in self._schema]  # fmt: skip
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


@contextlib.contextmanager
def latent_writer(path: Path, artifact: Artifact, data_hash: str) -> Iterator[LatentWriter]:
    """A Parquet file that appears at `path` when the block ends without an error.

    Args:
        data_hash: SHA-256 of what was encoded (a manifest), or a name for it.
    """
    metadata = {
        "model_fingerprint": str(artifact.provenance.get("fingerprint", "")),
        "data_sha256": data_hash,
        "classes": json.dumps(artifact.model.spec.classes),
        "v_condition": "predicted class",
    }
    with (
        atomic_file(path) as part,
        pq.ParquetWriter(part, schema(artifact, metadata), compression="zstd") as writer,
    ):
        yield LatentWriter(writer, artifact)


def _vectors(x: torch.Tensor) -> pa.FixedSizeListArray:
    values = x.cpu().numpy().astype(np.float32)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
