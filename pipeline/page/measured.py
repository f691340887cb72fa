"""The table of measures for a reader: what each means in words, and the value of its control beside it.

docs/metrics.md says more of each, above all what fools it; a test holds that each of its names is known here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ie_model.measures import mean_and_std
from pipeline.page.inputs import Measured, Sweep

GROUPS = {
    "class": ("Class", "How often the class is told wrong, by three rules."),
    "calibration": ("Calibration", "Whether q(y|x) is as sure as it is right."),
    "leakage": (
        "Leakage",
        "Classifying from a representation, the model frozen. r should give the class away, v should not: its probes "
        "should stand at chance.",
    ),
    "equivariance": (
        "Equivariance",
        "Whether turning an image by 15 degrees moves v in one way, the same for all images: v(gx) from v(x) by one "
        "linear map. The identity, v(x) itself, is the control.",
    ),
    "style": (
        "Style",
        "Reading a known map from the codes of an image before and after it; R², 1 is perfect, 0 the best constant. v "
        "should give it, r should not.",
    ),
    "invariance": (
        "Invariance",
        "How far a rotation moves a representation, in units of the distance to other classes. Raw pixels are the "
        "control.",
    ),
    "swap": (
        "Class swap",
        "v of x decoded with the r of another, random class. Both must hold: the new class is seen, and v is kept.",
    ),
    "generation": ("Generation", "What the generative model is worth, and how much of v it uses."),
    "support": ("r from few points", "The same with each r the mean of only so many labelled points."),
}
"""Title and how to read each group, in the order of the page; any other group follows."""

_PROBES = {"linear": "linear probe", "mlp": "MLP probe"}
_OUTPUTS = {
    "rotation_sin": "rotation, sine",
    "rotation_cos": "rotation, cosine",
    "shift_x": "shift along x",
    "shift_y": "shift along y",
    "scale": "scale",
    "shear": "shear",
}

# Pattern of a name -> words, and the names of measures of the same model to read it against. {0}, {1}: its groups.
_KNOWN: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    (r"test_error_classifier_pct", "error of argmax q(y|x)", ()),
    (r"test_error_generative_pct", "error of the generative rule, argmax of a bound on log p(x|y)", ()),
    (r"test_error_prototype_pct", "error of the nearest r", ()),
    (
        r"test_error_prototype_r_from_(\d+)_pct",
        "error of the nearest r, m = {0}",
        (("all points", "test_error_prototype_pct"),),
    ),
    (r"ece", "expected calibration error", ()),
    (r"brier", "Brier score, 0 to 2", ()),
    (r"nll_nats", "-log q(y|x) of the true class", ()),
    (r"area_under_risk_coverage", "area under the risk-coverage curve", ()),
    (r"bound_nats", "bound on log p(x)", ()),
    (r"iw_bound_nats", "importance-weighted bound on log p(x)", ()),
    (r"bound_bits_per_dim", "bound, bits per dimension", ()),
    (r"iw_bound_bits_per_dim", "importance-weighted bound, bits per dimension", ()),
    (r"reconstruction_mse", "squared error of the reconstruction, per value", ()),
    (
        r"reconstruction_mse_r_from_(\d+)",
        "squared error of the reconstruction, m = {0}",
        (("all points", "reconstruction_mse"),),
    ),
    (r"kl_nats", "what v costs: KL to the prior", ()),
    (r"active_units", "active units of v", ()),
    (r"probe_class_from_r_(linear|mlp)_pct", "class from r of one example, {0}", ()),
    (
        r"probe_class_from_v_sampled_(linear|mlp)_pct",
        "class from sampled v, {0}",
        (("v shuffled", "probe_class_from_v_shuffled_linear_pct"),),
    ),
    (
        r"probe_class_from_v_active_means_(linear|mlp)_pct",
        "class from the means of active units of v, {0}",
        (("v shuffled", "probe_class_from_v_shuffled_linear_pct"),),
    ),
    (
        r"probe_class_from_v_active_means_wrong_r_(linear|mlp)_pct",
        "the same, v conditioned on a wrong class, {0}",
        (("the predicted class", "probe_class_from_v_active_means_{0}_pct"),),
    ),
    (r"probe_class_from_v_shuffled_linear_pct", "class from v of another example (the control)", ()),
    (r"r2_(\w+)_constant", "{0}: the best constant (the control)", ()),
    (r"r2_(\w+)_from_v_(linear|mlp)", "{0} from v, {1}", (("constant", "r2_{0}_constant"),)),
    (
        r"r2_(\w+)_from_v_unseen_classes_mlp",
        "{0} from v, on classes that the probe has not seen",
        (("constant", "r2_{0}_constant"), ("all classes", "r2_{0}_from_v_mlp")),
    ),
    (r"r2_(\w+)_from_f_mlp", "{0} from r of one example, MLP probe", (("constant", "r2_{0}_constant"),)),
    (r"r2_(\w+)_from_r_mlp", "{0} from r of the predicted class, MLP probe", (("constant", "r2_{0}_constant"),)),
    (r"invariance_ratio_f", "r of one example: moved by a rotation", (("pixels", "invariance_ratio_pixels"),)),
    (r"invariance_ratio_v", "v: moved by a rotation", (("pixels", "invariance_ratio_pixels"),)),
    (r"invariance_ratio_pixels", "pixels: moved by a rotation (the control)", ()),
    (r"within_between_f", "r: variance within classes over between them", (("pixels", "within_between_pixels"),)),
    (r"within_between_v", "v: variance within classes over between them", (("pixels", "within_between_pixels"),)),
    (r"within_between_pixels", "pixels: variance within classes over between them (the control)", ()),
    (r"rotation_action_r2", "v(gx) by one linear map, R²", (("identity", "rotation_action_r2_identity"),)),
    (r"rotation_action_r2_identity", "v(gx) by v(x) itself, R² (the control)", ()),
    (r"rotation_action_composition_error", "15 degrees twice against 30 degrees, relative error", ()),
    (
        r"rotation_action_hit_at_(\d+)_of_(\d+)_pct",
        "v(gx) found by the linear map, among the nearest {0} of {1}",
        (("identity", "rotation_action_hit_at_{0}_of_{1}_identity_pct"),),
    ),
    (
        r"rotation_action_hit_at_(\d+)_of_(\d+)_identity_pct",
        "v(gx) found by v(x) itself, among the nearest {0} of {1} (the control)",
        (),
    ),
    (r"rotation_action_mrr_of_(\d+)", "mean reciprocal rank of v(gx) among {0}, by the linear map", ()),
    (r"swap_oracle_pct", "an independent classifier sees the new class", (("v = 0", "swap_oracle_v_zero_pct"),)),
    (r"swap_oracle_v_zero_pct", "the same with v = 0 (the control)", ()),
    (
        r"swap_v_hit_at_(\d+)_of_(\d+)_pct",
        "v of the swapped image finds v(x), nearest {0} of {1}",
        (("v = 0", "swap_v_hit_at_{0}_of_{1}_v_zero_pct"),),
    ),
    (r"swap_v_hit_at_(\d+)_of_(\d+)_v_zero_pct", "the same with v = 0 (the control)", ()),
)


@dataclass(frozen=True)
class Row:
    """A line of the page's table."""

    name: str
    words: str
    """What it is; its name again where it is not known."""

    value: str
    better: str
    controls: list[tuple[str, str]]
    """What each is, and its value."""

    against: str
    """What it is to be read against, in the words of measures.csv."""


def describe(name: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """Words for a measure, and label and name of each of its controls; None where it is not known."""
    for pattern, words, controls in _KNOWN:
        # Of r2_*, the last alternative would also take what an earlier one means: names must match as a whole.
        if found := re.fullmatch(pattern, name):
            parts = found.groups()
            shown = [_PROBES.get(part, _OUTPUTS.get(part, part)) for part in parts]
            return words.format(*shown), tuple((label, control.format(*parts)) for label, control in controls)
    return None


def grouped(
    measures: Sequence[Measured], num_classes: int, sweep: Sweep | None, labels: int
) -> list[tuple[str, str, list[Row]]]:
    """Title, how to read it and rows of each group; deviations stand beside their means.

    Args:
        labels: of the run, over all classes; a sweep's trials with as many are controls.
    """
    values = {row.name: row.value for row in measures}
    others = sweep_controls(sweep, labels)
    by_group: dict[str, list[Row]] = {name: [] for name in GROUPS}
    for row in measures:
        if row.name.endswith("_std") and f"{row.name.removesuffix('_std')}_pct" in values:
            continue
        words, own = describe(row.name) or (row.name, ())
        controls = [(label, number(name, values[name])) for label, name in own if name in values]
        if row.name.startswith("probe_class_from_v") and row.name.endswith("_pct"):
            controls.append(("chance", f"{100 / num_classes:.3g} %"))
        controls += [(label, text) for label, text in others.get(row.name, [])]
        std = values.get(f"{row.name.removesuffix('_pct')}_std")
        by_group.setdefault(row.group, []).append(
            # In words only where no number stands for it.
            Row(
                row.name, words, number(row.name, row.value, std), row.better, controls, "" if controls else row.control
            )
        )
    return [(*GROUPS.get(name, (name, "")), rows) for name, rows in by_group.items() if rows]


def sweep_controls(sweep: Sweep | None, labels: int) -> dict[str, list[tuple[str, str]]]:
    """By measure, method and value of the sweep's baselines that had as many labels."""
    found: dict[str, list[tuple[str, str]]] = {}
    for (method, count), measured in (sweep.measures if sweep else {}).items():
        if count == labels and method in ("supervised", "m2", "vae"):
            for name, column in measured.items():
                mean, std, n = mean_and_std(column)
                text = number(name, mean, std if n > 1 else None)
                found.setdefault(name, []).append((f"{METHOD[method]}, n = {n}", text))
    return found


METHOD = {"supervised": "supervised", "m2": "M2", "vae": "plain VAE"}


def number(name: str, value: float, std: float | None = None) -> str:
    """A value with its unit, which its name tells."""
    if name == "active_units":
        return f"{value:.0f}" if std is None else f"{value:.1f} ± {std:.1f}"
    digits, unit = 3, ""
    if name.endswith("_pct"):
        digits, unit = 2, " %"
    elif name.endswith("_nats"):
        digits, unit = (3 if name == "nll_nats" else 2), " nats"
    elif name.endswith("bits_per_dim") or name in ("brier", "ece") or "mse" in name or name.startswith("area"):
        digits = 4
    spread = "" if std is None else f" ± {std:.{digits}f}"
    text = f"{value:.{digits}f}"
    # -0.000 is 0.
    text = text.removeprefix("-") if float(text) == 0 else text
    return f"{text}{spread}{unit}".replace("-", "\N{MINUS SIGN}")
