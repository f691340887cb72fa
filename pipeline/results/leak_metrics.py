"""The metrics of classifying from a representation, a part of the catalogue."""

from __future__ import annotations

from pipeline.results.metric import SUPERVISED, WITHOUT, Metric

_SHUFFLED = f"v shuffled; {WITHOUT}"
_V_SHUFFLED = (("v shuffled", "probe_class_from_v_shuffled_linear_pct"),)

LEAKAGE = (
    Metric(
        "probe_class_from_r_{probe}_pct", "leakage", "higher", "class from r of one example, {probe}",
        "from f_inv(x) of ONE example", SUPERVISED,
        caution="probes see the labels of `probe_points` train points, far more than training did",
    ),
    Metric(
        "probe_class_from_v_sampled_{probe}_pct", "leakage", "lower", "class from sampled v, {probe}",
        "from v ~ q(v|r,x): what v transmits; 1/K is chance", _SHUFFLED, _V_SHUFFLED,
        "collapsed v scores 1/K: read `active_units` beside it",
    ),
    Metric(
        "probe_class_from_v_redrawn_mlp_pct", "leakage", "lower", "class from v drawn anew, MLP probe",
        "from v ~ q(v|r,x) as above, by a probe that sees up to `leak_points` train points, each v drawn anew in each "
        "epoch until it finds no more; 1/K is chance",
        _SHUFFLED, _V_SHUFFLED, "collapsed v scores 1/K: read `active_units` beside it", "class from v",
    ),
    Metric(
        "probe_class_from_v_redrawn_of_{n}_mlp_pct", "leakage", "", "the same, from {n} train points",
        "the same from fewer points: a value that still rises with n is below what v transmits", "from all points",
        (("all points", "probe_class_from_v_redrawn_mlp_pct"),),
    ),
    Metric(
        "mi_v_class_nats", "leakage", "lower", "mutual information of v and the class, lower bound",
        "lower bound on I(v; y) by the cross-entropy of the probe with v drawn anew (Barber and Agakov); log K is all",
        WITHOUT, caution="a bound: the probe may miss what is there", decimals=3,
    ),
    Metric(
        "probe_class_from_v_sampled_quadratic_pct", "leakage", "lower", "class from sampled v, a Gaussian a class",
        "from one draw of v by a Gaussian for each class (QDA): sees classes whose spread differs, not their mean",
        _SHUFFLED, _V_SHUFFLED, "a class of several clusters",
    ),
    Metric(
        "kl_v_class_mean_nats", "leakage", "lower", "KL of q(v|y) to the prior, mean over classes",
        "KL(q(v|y) || p(v)) by the moments of q(v|y), mean over classes of test: 0 where each class fills the prior, "
        "as a swap assumes", WITHOUT, caution="moments alone: a lower bound", decimals=3,
    ),
    Metric(
        "kl_v_class_max_nats", "leakage", "lower", "the same, the class farthest from the prior",
        "the same of the class where it is largest", WITHOUT, caution="moments alone: a lower bound", decimals=3,
    ),
    Metric(
        "probe_class_from_v_active_means_{probe}_pct", "leakage", "lower",
        "class from the means of active units of v, {probe}", "from posterior means of active units; 1/K is chance",
        _SHUFFLED, _V_SHUFFLED, "means carry traces that v's noise hides",
    ),
    Metric(
        "probe_class_from_v_active_means_wrong_r_{probe}_pct", "leakage", "",
        "the same, v conditioned on a wrong class, {probe}",
        "the same with v conditioned on a random wrong class: class information from x, not from r",
        "v given the predicted class", (("the predicted class", "probe_class_from_v_active_means_{probe}_pct"),),
        "as high as with the predicted class: the class in v is due to style, not to r",
    ),
    Metric(
        "probe_class_from_v_shuffled_linear_pct", "leakage", "", "class from v of another example (the control)",
        "control: v of another point", "chance", caution="far from 1/K, the split is unbalanced or too small",
    ),
    *(
        Metric(
            f"probe_class_from_{z}_mlp_std", "leakage", "", f"deviation of {words} over probe seeds",
            "standard deviation of the same name's `_pct` over `probe_seeds`", "over probe seeds", decimals=2,
        )
        for z, words in (
            ("r", "class from r"), ("v_sampled", "class from sampled v"),
            ("v_active_means", "class from the means of active units of v"),
            ("v_active_means_wrong_r", "the same, v conditioned on a wrong class,"),
        )
    ),
)  # fmt: skip
