"""The methods that tables compare, each as changes of the same parts: nothing here is another implementation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ie_model.config import ModelConfig, ObjectiveConfig

Method = Literal[
    "supervised",
    "supervised_augmented",
    "plain",
    "extended",
    "m2",
    "m2_extended",
    "consistency_only",
    "vae",
    "self_included",
    "stochastic_r",
    "v_from_x",
    "fixed_m",
    "network_classifier",
    "exact_sum",
    "kl_warmup",
    "free_bits",
    "he",
    "he_m2",
    "he_v_from_x",
    "he_r_first",
    "he_film",
    "he_moments",
    "he_moments_strong",
]


@dataclass(frozen=True)
class Changes:
    """What a method changes of params.model and params.objective."""

    about: str
    extended: bool
    """Whether the additions of the extended objective are on."""

    model: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)


# Cross-entropy alone, on a dense layer: the baseline must not owe anything to the method.
_SUPERVISED: dict[str, Any] = {"model": {"classifier": "network"}, "objective": {"loss": "cross_entropy"}}
_M2 = {"class_code": "one_hot", "classifier": "network"}
_HE = {"initialisation": "he"}
_R_FIRST = {"kl_start": 5.0, "kl_warmup": 0.5}
_FILM = {"conditioning": "every_layer"}
_MOMENTS = {"class_moments": 10.0}

METHODS: dict[Method, Changes] = {
    "supervised": Changes("supervised, same encoder", False, **_SUPERVISED),
    "supervised_augmented": Changes("supervised, same encoder, augmented", True, **_SUPERVISED),
    "plain": Changes("EquiVAE, plain objective", False),
    "extended": Changes("EquiVAE, extended objective", True),
    "m2": Changes("M2: one-hot class code, same networks", False, model=_M2),
    "m2_extended": Changes("M2 with the additions of the extended objective", True, model=_M2),
    "consistency_only": Changes(
        "the extended objective without bounds: no v, no decoder", True, objective={"loss": "consistency"}
    ),
    "vae": Changes("plain VAE, same networks", False, model={"class_code": "none", "classifier": "none"}),
    "self_included": Changes("ablation: a point is part of its own r", False, objective={"self_included": True}),
    "stochastic_r": Changes("ablation: r is drawn and pays a KL", False, model={"stochastic_r": True}),
    "v_from_x": Changes("ablation: q(v|x) instead of q(v|r,x)", False, model={"posterior": "x"}),
    "fixed_m": Changes("ablation: m = 2 in every step", False, objective={"support_min": 2, "support_max": 2}),
    "network_classifier": Changes("ablation: q(y|x) a dense layer on f_inv", False, model={"classifier": "network"}),
    "exact_sum": Changes("exact class sum", False, objective={"prune": 0.0}),
    "kl_warmup": Changes("KL weight rising over a fifth of the run", False, objective={"kl_warmup": 0.2}),
    "free_bits": Changes("0.1 nats of KL free per unit of v", False, objective={"free_bits": 0.1}),
    # What the class in v costs where v is used: the extended objective from weights that do not leave v off.
    "he": Changes("extended, He's initialisation", True, model=_HE),
    "he_m2": Changes("M2, extended, He's initialisation", True, model=_M2 | _HE),
    "he_v_from_x": Changes("extended, He's initialisation, q(v|x)", True, model=_HE | {"posterior": "x"}),
    "he_r_first": Changes("He, KL weight from 5 to 1 over half of the run", True, _HE, _R_FIRST),
    "he_film": Changes("He, r in every layer of the decoder", True, _HE | _FILM),
    "he_moments": Changes("He, moments of q(v|y) drawn to the prior's", True, _HE, _MOMENTS),
    "he_moments_strong": Changes("He, the same with three times the weight", True, _HE, {"class_moments": 30.0}),
}
assert tuple(METHODS) == get_args(Method)


def apply_method(method: Method, model: ModelConfig, objective: ObjectiveConfig) -> tuple[ModelConfig, ObjectiveConfig]:
    """The configuration of a method, from that of params."""
    changes = METHODS[method]
    extended = objective.extended.model_copy(update={"enabled": changes.extended})
    # What a method does not name is params' own, but for what makes it another method.
    parts = {"class_code": "embedding", "posterior": "r_and_x", "stochastic_r": False}
    if model.class_code != "embedding" or objective.loss == "cross_entropy":
        parts["classifier"] = "distance"
    base = {"loss": "bound", "self_included": False}
    return (
        ModelConfig.model_validate(model.model_dump() | parts | changes.model),
        ObjectiveConfig.model_validate(
            objective.model_dump() | base | changes.objective | {"extended": extended.model_dump()}
        ),
    )


def name_of(model: ModelConfig, objective: ObjectiveConfig) -> str:
    """The method that a configuration is, or `custom`."""
    for method in METHODS:
        if apply_method(method, model, objective) == (model, objective):
            return method
    return "custom"
