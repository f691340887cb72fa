"""Finished parts of the latents while `evaluate` is under way: an interrupted run resumes after them.

A part has its sums and its SHA-256 in a sealed file, which is written last.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np

from pipeline.errors import DataError
from pipeline.evaluation.totals import Totals
from pipeline.utils.checksums import read_sealed, write_sealed
from pipeline.utils.files import atomic_file, put_in_place, remove_leftovers, resources, sha256_file

_PREFIX = ".latents-"


class Parts:
    """Parts of one evaluation, in `results/evaluate/.latents-<fingerprint>`."""

    def __init__(self, out: Path, fingerprint: str) -> None:
        """Removes what evaluations of other models, data or code left in `out`."""
        self.folder = out / f"{_PREFIX}{fingerprint}"
        self._latents, self._sums = self.folder / "latents", self.folder / "sums"
        with resources():
            for other in out.glob(f"{_PREFIX}*"):
                if other != self.folder:
                    shutil.rmtree(other)
            for folder in (self._latents, self._sums):
                folder.mkdir(parents=True, exist_ok=True)

    def totals(self, name: str) -> Totals | None:
        """Sums of a finished part; None where it is not finished.

        Raises:
            DataError: the part is damaged; the message names it.
        """
        path, record = self._path(name), self._sums / f"{name}.json"
        if not record.is_file():
            remove_leftovers(path)
            return None
        found = read_sealed(record, "the sums of a part of the latents")
        if not path.is_file() or sha256_file(path) != found["part_sha256"]:
            raise DataError(
                f"part of the latents is damaged, its SHA-256 is not that of {record.name}: {path}; remove "
                f"{self.folder} and run `ie evaluate` again"
            )
        return {key: np.asarray(value, dtype=np.float64) for key, value in found["sums"].items()}

    def keep(self, name: str, data: bytes, totals: Totals) -> None:
        """Writes a finished part."""
        with atomic_file(self._path(name)) as part:
            part.write_bytes(data)
        sums = {key: value.tolist() for key, value in totals.items()}
        write_sealed(self._sums / f"{name}.json", {"part_sha256": hashlib.sha256(data).hexdigest(), "sums": sums})

    def publish(self, path: Path) -> None:
        """The finished parts take the place of the folder `path`."""
        with resources():
            remove_leftovers(path)
            # Sums without their part would be of a damaged one.
            shutil.rmtree(self._sums)
            put_in_place(self._latents, path)
            shutil.rmtree(self.folder)

    def _path(self, name: str) -> Path:
        return self._latents / f"{name}.parquet"
