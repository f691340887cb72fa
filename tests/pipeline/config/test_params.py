"""params.yaml: every class of mistake is refused in one line that names path, value and what is allowed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ie_model.config import ModelConfig, ObjectiveConfig
from pipeline.config.params import Params, load_params, parse_params
from pipeline.errors import ParamsError
from tests.helpers.project import shipped_params, small_params

REPOSITORY = Path(__file__).parents[3]
MISSING = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The shipped params with one key changed, added or (MISSING) taken out."""
    raw = shipped_params()
    *parents, last = path.split(".")
    section = raw
    for name in parents:
        section = section[name]
    if value is MISSING:
        del section[last]
    else:
        section[last] = value
    return raw


def test_the_shipped_params_are_valid_and_frozen() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    with pytest.raises(Exception, match="frozen"):
        params.train.epochs = 3


def test_the_shipped_model_and_objective_are_the_librarys_defaults() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert params.model == ModelConfig()
    assert params.objective == ObjectiveConfig()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("train.epoch", 3, r"train\.epoch: unknown key; did you mean epochs\? \(allowed: device, precision, compile,"),
        ("objective.extended.augment.rotatoin", 3, r"augment\.rotatoin: unknown key; did you mean rotation"),
        ("extra", {}, r"extra: unknown key"),
        ("train.seed", MISSING, r"train\.seed: missing"),
        ("evaluate", MISSING, r"evaluate: missing"),
        # What the library has a default for is named all the same.
        ("model.r_dim", MISSING, r"^params\.yaml: model\.r_dim: missing$"),
        ("objective.extended", MISSING, r"^params\.yaml: objective\.extended: missing$"),
        ("objective.extended.augment.noise", MISSING, r"^params\.yaml: objective\.extended\.augment\.noise: missing$"),
        ("train.epochs", "ten", r'train\.epochs is "ten"; allowed: .*integer'),
        ("train.epochs", 1.5, r"train\.epochs is 1\.5; allowed: .*integer"),
        ("train.epochs", True, r"train\.epochs is true; allowed: .*integer"),
        ("train.epochs", 0, r"train\.epochs is 0; allowed: greater than or equal to 1"),
        ("train.learning_rate", -1.0, r"train\.learning_rate is -1\.0; allowed: greater than 0"),
        ("train.learning_rate", float("nan"), r"train\.learning_rate is NaN; allowed: a finite number"),
        ("train.seed", 2**31, r"train\.seed is 2147483648; allowed: less than or equal to 2147483647"),
        ("evaluate.probe_seeds", [2**63], r"evaluate\.probe_seeds\[0\] is 9223372036854775808; allowed: less than"),
        ("train.device", "tpu", r"train\.device is \"tpu\"; allowed: 'cpu' or 'cuda'"),
        ("model.channels", 16, r"model\.channels is 16; allowed: .*(array|tuple)"),
        ("model.channels", [16, "x"], r'model\.channels\[1\] is "x"; allowed: .*integer'),
        ("model.channels", [0], r"channels must all be at least 1, got \[0\]"),
        ("labels.count", "some", r"labels\.count is \"some\"; allowed: .*'all'"),
        ("labels.count", 1.0, r"labels\.count is 1\.0; allowed: .*less than 1"),
        ("labels.count", 19, r"labels\.count is 19; each of mnist's 10 classes needs two .* at least 20"),
        ("labels.count", 60_000, r"labels\.count is 60000, more labels than points; allowed: at most 55000"),
        ("sweep.label_counts", [100, 70_000], r"sweep\.label_counts\[1\] is 70000, more labels than points"),
        ("sweep.methods", ["plain", "best"], r"sweep\.methods\[1\] is \"best\"; allowed: 'supervised', .*'plain'"),
        ("sweep.seeds", [0, 0], r"sweep: seeds holds a value twice: \[0, 0\]"),
        ("data.source", "cifar", r"data: source is 'cifar'; allowed: basic-motions, .*, table, tars, texts"),
        ("data.folder", None, r"data\.folder is null; allowed: .*string"),
        ("data.folder", "", r'data\.folder is ""; allowed: .*at least 1 char'),
        ("data.own.hieght", 3, r"data\.own\.hieght: unknown key; did you mean height\?"),
        ("data.own.channels", 2, r"data\.own\.channels is 2; allowed: 'auto', 1 or 3"),
        ("data.own.factors", ["site"], r"data: own\.factors is \['site'\]; allowed with source table or vectors"),
        ("data.own.factors", ["site", "Site"], r"data\.own.*'site'; allowed: names of columns, each once"),
        ("data.own.factors", ["a\nb"], r"data\.own.*'a\\nb'; allowed: names of columns, each once"),
        ("data.own.factors", ["Label"], r"'Label' is no factor; allowed: columns other than path, label"),
        ("data.own.factors", "site", r"data\.own\.factors is \"site\"; allowed: .*(array|tuple)"),
        ("data.own.test_size", 1.0, r"data\.own\.test_size is 1\.0; allowed: less than 1"),
        ("data.ways", ["ftp"], r"data\.ways\[0\] is \"ftp\"; allowed: 'disk', .*'deb', 'pypi' or 'folder'"),
        ("data.val_size", 60_000, r"val_size is 60000; mnist has 60000 train examples"),
        ("train.num_workers", [2, 1], r"train: num_workers is \[2, 1\]; allowed: the smaller number first"),
        ("train", shipped_params()["train"] | {"num_workers": [1, 3], "batch_size": 256},
         r"batch_size \(256\) must be a multiple of num_workers \(each of 1 to 3\)"),
        ("train.warmup_steps", 100, r"train\.warmup_steps: unknown key; did you mean warmup\?"),
        ("train.warmup", 1.0, r"train\.warmup is 1\.0; allowed: less than or equal to 0\.5"),
        ("train.batch_size", "many", r"train\.batch_size is \"many\"; allowed: 'auto' or .*integer"),
        ("objective.alpha", 50.0, r"objective\.alpha is 50\.0; allowed: less than or equal to 10"),
        ("objective.extended.consistency", 50.0, r"consistency is 50\.0; allowed: less than or equal to 10"),
        ("train.num_workers", [0, 2], r"train.num_workers\[0\] is 0; allowed: greater than or equal to 1"),
        ("train", shipped_params()["train"] | {"num_workers": 2, "batch_size": 255},
         r"train: batch_size \(255\) must be a multiple of num_workers \(2\)"),
        ("objective.support_min", 12, r"support_max \(10\) must be at least support_min \(12\)"),
        ("objective.prune", 1.0, r"objective\.prune is 1\.0; allowed: less than 1"),
        ("storage.url", "gs://bucket/x", r"storage: url is 'gs://bucket/x'; allowed: a folder .*, or s3://bucket/prefix"),
        ("storage.url", "s3://", r"storage: url is 's3://'; allowed: a folder .*, or s3://bucket/prefix"),
        ("storage.url", "s3://bucket//x", r"storage: url is 's3://bucket//x'; allowed: a folder"),
        ("storage.url", "s3://bucket/../x", r"storage: url is 's3://bucket/../x'; allowed: a folder"),
        ("storage.url", "s3://k:word@b/x", r"url holds more than a bucket .* with credentials in the env"),
        ("train", [1], r"train is \[1\]; allowed: .*(object|dictionary)"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_path_value_and_what_is_allowed(path: str, value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message) as caught:
        parse_params(changed(path, value))
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    raw = changed("train.epochs", 0)
    raw["model"]["r_dim"] = "big"
    with pytest.raises(ParamsError, match=r"model\.r_dim .*; train\.epochs "):
        parse_params(raw)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: [", "params.yaml is not YAML"),
        ("", "must hold sections .* found NoneType"),
        ("- 1", "found list"),
        ("data: 2026-01-01", "neither text, number, list nor section"),
        ("data: !!python/object:os.system {}", "is not YAML"),
    ],
)
def test_a_file_that_is_not_params_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=message):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=f"no params.yaml in {tmp_path}"):
        load_params(tmp_path / "params.yaml")


def test_params_survive_a_round_trip() -> None:
    params = load_params(REPOSITORY / "params.yaml")
    assert parse_params(params.model_dump(mode="json")) == params
    assert isinstance(params, Params)


def test_parse_params_a_method_that_the_objective_does_not_allow_is_named() -> None:
    raw = small_params(sweep={"methods": ["supervised", "consistency_only"]})
    raw["objective"]["extended"]["consistency"] = 0.0
    with pytest.raises(ParamsError, match=r"sweep\.methods\[1\] is 'consistency_only'.*extended\.consistency above 0"):
        parse_params(raw)


def test_params_in_a_pipe_or_of_absurd_size_are_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ParamsError, match=r"pipe\.yaml cannot be read: not a file"):
        load_params(tmp_path / "pipe.yaml")
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(1 << 40)  # sparse
    with pytest.raises(ParamsError, match=r"huge\.yaml cannot be read: 1,099,512 MB"):
        load_params(tmp_path / "huge.yaml")
