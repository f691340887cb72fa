"""The independent classifier that judges class-swaps: the same encoder, all labels, its own seed."""

from __future__ import annotations

from pathlib import Path

from ie_model.artifact import save_artifact
from pipeline.files import atomic_folder
from pipeline.jobs import make_job
from pipeline.loop import Trainer
from pipeline.params import Params
from pipeline.progress import Log
from pipeline.sessions import TrialSession


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
        trainer = Trainer(job, TrialSession(folder.with_suffix(".checkpoint"), job))
        last = trainer.run()
        with atomic_folder(folder) as part:
            save_artifact(part, trainer.artifact())
        log(f"oracle: val error {last['val_error']:.2f} %")
    return folder
