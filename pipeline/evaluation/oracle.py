"""The independent classifier that judges class-swaps: the same encoder, all labels, its own seed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import torch

from ie_model.artifact import save_artifact
from pipeline.config.params import Params
from pipeline.training.build_job import make_job
from pipeline.training.job import Job
from pipeline.training.local_session import TrialSession
from pipeline.training.trainer import Trainer
from pipeline.utils.files import atomic_folder
from pipeline.utils.progress import Log, Meter


class _Shown(TrialSession):
    """See `TrialSession`: its steps are shown."""

    def __init__(self, folder: Path, job: Job, meter: Meter) -> None:
        super().__init__(folder, job)
        self._meter = meter

    def progress(self, step: int, total_steps: int, points_per_s: float) -> None:
        self._meter.update(step, f"{points_per_s:.0f} points/s")


def oracle_folder(params: Params, project: Path, log: Log) -> Path:
    """Folder of the oracle's artifact; trains it, in this process, unless the storage folder holds it already."""
    job = make_job(
        params,
        project,
        method="supervised_augmented",
        label_count="all",
        # Far from the seeds of runs: with one of theirs it would start from the same weights.
        seed=params.evaluate.seed + 1_000_003,
        world_size=1,
        steps=params.evaluate.oracle_steps,
    )
    folder = (project / params.storage.url).resolve() / "oracle" / job.fingerprint
    if not folder.is_dir():
        log(f"oracle: {params.evaluate.oracle_steps} steps with all labels")
        folder.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = folder.with_suffix(".checkpoint")
        threads = torch.get_num_threads()
        try:
            with contextlib.closing(Meter("oracle", params.evaluate.oracle_steps, "steps", every_s=5)) as meter:
                trainer = Trainer(job, _Shown(checkpoint, job, meter))
                last = trainer.run()
        finally:
            # The trainer sets its own: what is measured next must not depend on whether an oracle was there.
            torch.set_num_threads(threads)
        with atomic_folder(folder) as part:
            save_artifact(part, trainer.artifact())
        shutil.rmtree(checkpoint, ignore_errors=True)
        log(f"oracle: val error {last['val_error']:.2f} %")
    return folder
