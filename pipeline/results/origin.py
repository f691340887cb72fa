"""Origin of results: data, model and params of each stage's folder, in origin.json.

A folder of results stays until its stage runs again. Commands that show several show those of one run, and name
what it leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from pipeline.config.overrides import dotted
from pipeline.config.params import Params
from pipeline.data.shards.manifest import MANIFEST
from pipeline.data.sources import SOURCES
from pipeline.errors import DataError
from pipeline.utils.checksums import parse_sealed, write_sealed
from pipeline.utils.files import sha256_file

ORIGIN = "origin.json"
_FORMAT = 1

Stage = Literal["train", "sweep", "evaluate"]
STAGES: tuple[Stage, ...] = ("train", "sweep", "evaluate")

# Sections or keys whose values a stage's numbers depend on.
_PARAMS: dict[Stage, tuple[str, ...]] = {
    "train": ("labels", "model", "objective", "train"),
    "sweep": (
        "labels.count", "model", "objective", "sweep", "train.batch_size", "train.device", "train.learning_rate",
        "train.precision", "train.warmup",
    ),
    "evaluate": ("labels", "evaluate"),
}  # fmt: skip
_WITHOUT_EFFECT = (
    "train.checkpoint_every_s", "train.checkpoints_to_keep", "train.loggers", "train.max_failures", "train.profile",
    "train.timeout_s", "sweep.max_concurrent", "sweep.retries",
)  # fmt: skip
# A trial's labels are in its row, and its method sets the others.
_SET_BY_TRIAL = (
    "labels.count", "model.class_code", "model.classifier", "model.posterior", "model.stochastic_r",
    "objective.extended.enabled", "objective.loss", "objective.self_included",
)  # fmt: skip
_SHOWN = 4


class Origin(BaseModel):
    """What a folder of results was made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Stage
    source: str
    """data.source."""

    folder: str
    """Name of the folder of own data; empty for a data set with a name of its own."""

    manifest_sha256: str
    model: str
    """Fingerprint of the trained model; empty for a sweep, whose rows have one each."""

    params: dict[str, Any]
    """Those that the numbers depend on, by dotted path."""

    @property
    def data(self) -> str:
        """The data in words."""
        return _words(self.source, self.folder)


@dataclass(frozen=True)
class Belonging:
    """Results of one run among those of a project."""

    origins: dict[Stage, Origin]
    """Of the stages whose results belong to the run."""

    left_out: tuple[str, ...]
    """What does not belong, and why; a line each."""

    notes: tuple[str, ...]
    """What differs from params.yaml as it is now; a line each."""


def data_of(params: Params) -> str:
    """The data that params ask for, in words."""
    return _words(params.data.source, _folder(params))


def make_origin(stage: Stage, params: Params, shards: Path, model: str = "") -> Origin:
    """The origin of results that are about to be written; `shards` is the folder of the manifest."""
    return Origin(
        stage=stage,
        source=params.data.source,
        folder=_folder(params),
        manifest_sha256=sha256_file(shards / MANIFEST),
        model=model,
        params=_params_of(stage, params),
    )


def write_origin(folder: Path, origin: Origin) -> None:
    """Writes origin.json."""
    write_sealed(folder / ORIGIN, {"format": _FORMAT} | origin.model_dump(mode="json"))


def read_origin(folder: Path) -> Origin | None:
    """What a folder of results is of; None where it does not say.

    Raises:
        DataError: origin.json is damaged or of another version.
    """
    path = folder / ORIGIN
    return parse_origin(path.read_bytes(), str(path)) if path.is_file() else None


def parse_origin(data: bytes, where: str) -> Origin:
    """As `read_origin`, of a file that is in memory. Raises DataError."""
    record = parse_sealed(data, "the results' origin", where)
    if record.pop("format", None) != _FORMAT:
        raise DataError(f"{where}: of another version; run its stage again")
    try:
        return Origin.model_validate(record)
    except ValueError as error:
        raise DataError(f"{where}: of another version or damaged; run its stage again") from error


def belonging(params: Params, project: Path) -> Belonging:
    """Which results are of the data of params, of one model, and of params that agree.

    Raises:
        DataError: an origin.json is damaged or of another version.
    """
    manifest = project / "data" / "shards" / params.data.source / MANIFEST
    present = sha256_file(manifest) if manifest.is_file() else None
    asked = data_of(params)
    origins: dict[Stage, Origin] = {}
    left_out: list[str] = []
    for stage in STAGES:
        folder = project / "results" / stage
        origin = read_origin(folder)
        if origin is None:
            if (folder / "metrics.json").is_file():
                left_out.append(f"results/{stage} has no record of its origin (another version wrote it)")
        elif origin.data != asked:
            left_out.append(f"results/{stage} is of {origin.data}, params.yaml asks for {asked}")
        elif present is not None and origin.manifest_sha256 != present:
            left_out.append(f"results/{stage} is of {origin.data} as it was before data/shards was made again")
        else:
            origins[stage] = origin
    left_out += chain_faults(origins)
    notes = [
        f"params.yaml has changed since {stage} ran: {text}"
        for stage, origin in origins.items()
        if (text := _differences(origin.params, _params_of(stage, params)))
    ]
    return Belonging(origins, tuple(left_out), tuple(notes))


def chain_faults(origins: dict[Stage, Origin]) -> list[str]:
    """Takes out what is not of the trained model, or of other data or params than it; returns what and why."""
    faults = []
    train, sweep, evaluate = (origins.get(stage) for stage in STAGES)
    if evaluate is not None and (train is None or evaluate.model != train.model):
        here = "which is not in results/train" if train is None else f"results/train has {train.model}"
        faults.append(f"results/evaluate is of model {evaluate.model}, {here}")
        del origins["evaluate"]
    if sweep is not None and train is not None:
        if (sweep.source, sweep.folder, sweep.manifest_sha256) != (train.source, train.folder, train.manifest_sha256):
            faults.append(f"results/sweep is of other data than results/train ({sweep.data}, {train.data})")
            del origins["sweep"]
        elif text := _differences(sweep.params, train.params, without=_SET_BY_TRIAL):
            faults.append(f"results/sweep is of other params than results/train: {text}")
            del origins["sweep"]
    return faults


def changed_labels(origin: Origin, params: Params) -> str:
    """How the labels of params differ from those that results were made with; empty where they are the same."""
    labels = {key: value for key, value in origin.params.items() if key.startswith("labels.")}
    return _differences(labels, _params_of("train", params))


def _differences(before: dict[str, Any], now: dict[str, Any], without: tuple[str, ...] = ()) -> str:
    """Keys of both whose values differ, with both values."""
    changed = [key for key in before if key in now and before[key] != now[key] and key not in without]
    shown = ", ".join(f"{key} {before[key]} -> {now[key]}" for key in changed[:_SHOWN])
    return shown + (f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else "")


def _words(source: str, folder: str) -> str:
    return f"{source} in {folder}" if folder else source


def _folder(params: Params) -> str:
    return "" if params.data.source in SOURCES else Path(params.data.folder).name


def _params_of(stage: Stage, params: Params) -> dict[str, Any]:
    return {
        key: value
        for key, value in _flat(params)
        if key not in _WITHOUT_EFFECT and any(key == name or key.startswith(f"{name}.") for name in _PARAMS[stage])
    }


def _flat(params: Params) -> Iterator[tuple[str, Any]]:
    return dotted(params.model_dump(mode="json"))
