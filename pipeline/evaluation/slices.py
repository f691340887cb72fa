"""Latents and sums of a slice of a split at a time, in any process: the same bytes wherever a slice is encoded.

A slice is a run of examples in the order of the shards; its noise has a seed of its own.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from ie_model.artifact import Artifact
from ie_model.inference import encode
from ie_model.networks import to_float
from pipeline.config.params import EvaluateParams
from pipeline.data.loading.points import InShards
from pipeline.data.shards.dataset import ShardedDataset
from pipeline.data.shards.manifest import Manifest, SplitName
from pipeline.data.shards.reading import Reading
from pipeline.errors import DataError
from pipeline.evaluation.latents import file_of, latent_table, schema
from pipeline.evaluation.totals import Totals, count, count_wrong, merged
from pipeline.utils.fingerprint import MEASURING, fingerprint

_ROWS = 8192
"""Examples of a slice, about: some MB of latents."""

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")


@dataclass(frozen=True)
class Slice:
    """Rows start..stop of a split, in the order of its index."""

    split: SplitName
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Of its part of the latents, without a suffix; in the order of the plan within a split."""
        return f"{self.split}-{self.number:06d}"


def plan_slices(manifest: Manifest, batch_size: int) -> list[Slice]:
    """All examples, split by split; a slice is whole batches, but for the last."""
    rows = batch_size * max(1, _ROWS // batch_size)
    return [
        Slice(split, number, start, min(start + rows, manifest.splits[split].samples))
        for split in SPLITS
        for number, start in enumerate(range(0, manifest.splits[split].samples, rows))
    ]


@dataclass
class SliceEncoder:
    """Encodes slices; holds a batch in memory, and the latents of a slice."""

    artifact: Artifact
    dataset: ShardedDataset
    reading: Reading
    settings: EvaluateParams
    used: npt.NDArray[np.bool_]
    """Which examples of train, in the order of its index, the run used the class of."""

    metadata: dict[str, str]
    """See `pipeline.evaluation.latents.metadata`."""

    device: str
    threads: int
    """Of torch: a sum's last digits depend on them."""

    _points: dict[SplitName, InShards] = field(default_factory=dict)

    def moved(self, device: str) -> SliceEncoder:
        """The same on another device, with a model of its own."""
        model = copy.deepcopy(self.artifact.model).to(device)
        codes, counts = (t.to(device) for t in (self.artifact.class_representations, self.artifact.class_counts))
        artifact = replace(self.artifact, model=model, class_representations=codes, class_counts=counts)
        return replace(self, artifact=artifact, device=device, _points={})

    def fingerprint(self) -> str:
        """Of what the bytes of the parts depend on, besides the slices' names."""
        weights = [value.cpu().numpy().tobytes() for _, value in sorted(self.artifact.tensors().items())]
        return fingerprint(
            {
                "weights": hashlib.sha256(b"".join(weights)).hexdigest(),
                "metadata": self.metadata,
                "prune": self.artifact.prune,
                "used": hashlib.sha256(np.packbits(self.used).tobytes()).hexdigest(),
                "settings": self.settings.model_dump(mode="json"),
                "faults": self.reading.faults,
                "device": self.device,
                "threads": self.threads,
            },
            MEASURING,
        )

    def __call__(self, part: Slice) -> tuple[bytes, Totals]:
        """A Parquet file of the slice's latents, and its sums.

        Raises:
            DataError: an example is unreadable and none is to be skipped, or a value of the model is not finite.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return self._encode(part)
        finally:
            # What is measured next must not depend on whether it was set.
            torch.set_num_threads(threads)

    def _encode(self, part: Slice) -> tuple[bytes, Totals]:
        columns = schema(self.artifact, self.metadata, self.dataset.manifest.factors)
        tables, sums = [columns.empty_table()], list[Totals]()
        seed = np.random.SeedSequence([self.settings.seed, SPLITS.index(part.split), part.number])
        generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0] >> np.uint64(1)))
        for start in range(part.start, part.stop, self.settings.batch_size):
            positions, keys, x, y = self._read(
                part.split, np.arange(start, min(start + self.settings.batch_size, part.stop))
            )
            skipped = min(self.settings.batch_size, part.stop - start) - len(keys)
            sums.append({"skipped": np.asarray(skipped, dtype=np.float64)})
            if not keys:
                continue
            floats = to_float(x.to(self.device))
            encoded = encode(self.artifact, floats, self.artifact.prune, generator)
            used = self.used[positions] if part.split == "train" else None
            factors = self.dataset.index(part.split).factors.take(positions) if self.dataset.manifest.factors else None
            tables.append(latent_table(columns, keys, part.split, y, used, encoded, factors))
            if part.split == "test":
                sums.append(count(self.artifact, floats, y, encoded, self.settings, generator))
            else:
                sums.append(count_wrong(encoded, y))
        return file_of(pa.concat_tables(tables)), merged(sums)

    def _read(
        self, split: SplitName, positions: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], Sequence[str], torch.Tensor, npt.NDArray[np.int64]]:
        """The readable ones of these positions, their keys, values and classes."""
        if split not in self._points:
            self._points.clear()
            self._points[split] = InShards(self.dataset, split, self.reading, torch.device("cpu"))
        points = self._points[split]
        x, faults = points.look(positions)
        if faults and self.reading.faults == "fatal":
            raise DataError(str(faults[min(faults)]))
        good = ~np.isin(positions, list(faults))
        if faults:
            x, positions = x[torch.from_numpy(good)], positions[good]
        return positions, list(points.index.keys.take(positions)), x, points.index.y[positions]
