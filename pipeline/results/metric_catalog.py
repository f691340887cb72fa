"""Every metric of a run: name, unit, direction, control, label and what it means, written once.

`evaluate` takes direction and control from here; the report, the model card, `ie compare`, `ie results`, the sweep's
summary and docs/metrics.md (docs/pages.py) take the words.
"""

from __future__ import annotations

from functools import cache

from pipeline.results.leak_metrics import LEAKAGE
from pipeline.results.metric import BASELINES, SUPERVISED, WITHOUT, Metric
from pipeline.results.swap_metrics import SWAP

GROUPS = {
    "class": ("Class", "Share of examples classified wrong, by three rules."),
    "calibration": ("Calibration", "Whether the confidence of q(y|x) matches its accuracy."),
    "leakage": (
        "Leakage",
        "Classifying from a representation, the model frozen. r should reveal the class, v should not: its probes "
        "should be at chance.",
    ),
    "equivariance": (
        "Equivariance",
        "Whether a rotation by 15 degrees moves v by one linear map, the same for all images: v(gx) from v(x). "
        "The identity, v(x) itself, is the control.",
    ),
    "style": (
        "Style",
        "Reading a known map from the codes of an image before and after it; R², 1 is perfect, 0 the best constant. v "
        "should give it, r should not.",
    ),
    "factors": (
        "Factors",
        "How v is divided among numbers that are known of each example beside the class, and how well each is read, in "
        "factors.csv.",
    ),
    "invariance": (
        "Invariance",
        "How far a rotation moves a representation, in units of the distance to other classes. Raw pixels are the "
        "control.",
    ),
    "swap": (
        "Class swap",
        "v of x decoded with the r of another, random class. Both must hold: the oracle sees the new class, v is kept.",
    ),
    "generation": ("Generation", "Quality of the generative model, and its use of v."),
    "support": ("r from few points", "The same with each r the mean of m labelled points."),
}
"""Title and how to read each group of results/evaluate/measures.csv, in the order of the page."""


_BASELINE = "the supervised baseline"
_RAW = "raw values, the same labels and test examples"
_CONSTANT = ("constant", "r2_{output}_constant")
_FLOOR = "constant predictor"

MEASURED = (
    Metric(
        "test_error_classifier_pct", "class", "lower", "error of argmax q(y|x)", "rule 1, argmax q(y|x)",
        SUPERVISED, tuple((words, f"baseline_{name}_error_pct") for name, words in BASELINES.items()),
        "a single label subset: its choice often matters more than the method; a sweep over seeds gives the deviation",
        "test error",
    ),
    Metric(
        "test_error_generative_pct", "class", "lower",
        "error of the generative rule, argmax of a bound on log p(x|y)",
        "rule 2, argmax of a bound on log p(x|y), `bound_samples` samples", SUPERVISED,
        caution="few samples", short="generative rule",
    ),
    Metric(
        "test_error_prototype_pct", "class", "lower", "error of the nearest r",
        "rule 3, nearest r_y; equal to rule 1 with the distance classifier", SUPERVISED,
        caution="with that classifier it is no second opinion", short="nearest r",
    ),
    Metric(
        "test_examples", "class", "", "test examples", "number of test examples behind every error here",
        caution="few: the interval is wide", decimals=0,
    ),
    Metric(
        "test_error_classifier_{end}_pct", "class", "", "error of argmax q(y|x), {end} of its 95 % interval",
        "ends of the error's 95 % interval (Wilson)", "95 % Wilson interval",
        caution="of this model on new test examples; another label subset or seed moves the error by more",
    ),
    Metric(
        "baseline_labels", "class", "", "labels of 1-NN and logistic regression",
        "labels of the baselines: all of the model's, or with very many those whose keys have the lowest hash, "
        "so that they take seconds",
        caution="a part: a worse baseline", decimals=0,
    ),
    Metric(
        "baseline_constant_error_pct", "class", "", "error of always predicting the most frequent class of test",
        "error of always predicting the most frequent class of test",
    ),
    Metric(
        "baseline_{baseline}_error_pct", "class", "", "error of {baseline} on raw values, same labels",
        "error of 1-NN, or of an L2-regularised logistic regression with a penalty chosen by cross-validation, on raw "
        "values (bytes / 255, log(1 + count), series with 0 past their end) with the same labels",
        _RAW, caution="unlike the model it sees no unlabelled point; few labels make the choice of penalty noisy",
    ),
    Metric(
        "baseline_{baseline}_mcnemar_p", "class", "", "p of McNemar's test that {baseline} errs as often",
        "p of McNemar's exact test that model and baseline err equally often on the same test examples",
        _RAW, caution="a small p of a small difference: much data",
    ),
    Metric(
        "val_error_classifier_pct", "class", "lower", "error of argmax q(y|x) on val", "rule 1 on val, for choosing",
        caution="many choices on it make it too low; only in metrics.json",
    ),
    Metric(
        "labels", "class", "", "labels used", "number of labels used; only in metrics.json",
        caution="not which ones: `labels.seed` chooses", decimals=0,
    ),
    Metric(
        "skipped", "class", "lower", "unreadable examples left out",
        "unreadable examples that were left out; only in metrics.json and with `reader.faults: skip`",
        caution="all other numbers are of the rest", decimals=0,
    ),
    Metric(
        "ece", "calibration", "lower", "expected calibration error",
        "calibration error of q(y|x), `calibration_bins` equal bins", _BASELINE,
        caution="always predicting the class shares", decimals=4,
    ),
    Metric(
        "brier", "calibration", "lower", "Brier score, 0 to 2", "squared error of q(y|x), summed over classes, 0 to 2",
        _BASELINE, decimals=4,
    ),
    Metric(
        "nll_nats", "calibration", "lower", "-log q(y|x) of the true class", "mean -log q(y|x) of the true class",
        _BASELINE, caution="single confident mistakes", decimals=3,
    ),
    Metric(
        "area_under_risk_coverage", "calibration", "lower", "area under the risk-coverage curve",
        "mean error over all shares of points answered, most confident first; the curve is in `risk_coverage.csv`",
        _BASELINE, caution="falls with the error itself", decimals=4,
    ),
    *LEAKAGE,
    Metric(
        "rotation_action_r2", "equivariance", "higher", "v(gx) by one linear map, R²",
        "v(gx) predicted by ONE linear map of v(x), g a rotation by 15 degrees, mean over units that move",
        "identity map", (("identity", "rotation_action_r2_identity"),), "small g: the identity does well",
    ),
    Metric(
        "rotation_action_r2_identity", "equivariance", "", "v(gx) by v(x) itself, R² (the control)",
        "control: v(gx) predicted by v(x) itself",
    ),
    Metric(
        "rotation_action_composition_error", "equivariance", "lower",
        "15 degrees twice against 30 degrees, relative error",
        "the 15-degree map twice against the map fitted for 30 degrees, relative", "0 is a group action, 1 no relation",
        caution="maps that predict nothing agree too: read `rotation_action_r2` beside it",
    ),
    Metric(
        "rotation_action_hit_at_{k}_of_{n}_pct", "equivariance", "higher",
        "v(gx) found by the linear map, among the nearest {k} of {n}",
        "v(gx) found among the v of n points by the predicted one", "identity map",
        (("identity", "rotation_action_hit_at_{k}_of_{n}_identity_pct"),), "the number of candidates decides",
    ),
    Metric(
        "rotation_action_hit_at_{k}_of_{n}_identity_pct", "equivariance", "",
        "v(gx) found by v(x) itself, among the nearest {k} of {n} (the control)",
        "control: v(gx) found by v(x) itself",
    ),
    Metric(
        "rotation_action_mrr_of_{n}", "equivariance", "higher",
        "mean reciprocal rank of v(gx) among {n}, by the linear map",
        "mean reciprocal rank of v(gx) among the v of n points, by the predicted one", "identity map",
        caution="the number of candidates decides",
    ),
    Metric(
        "r2_{output}_from_v_{probe}", "style", "higher", "{output} from v, {probe}", "from [v(x), v(gx)]", _FLOOR,
        (_CONSTANT, ("pixels", "r2_{output}_from_pixels_mlp")),
        "`mlp` on few points overfits and falls below `linear`, and below 0",
    ),
    Metric(
        "r2_{output}_from_v_sampled_mlp", "style", "higher", "{output} from sampled v, MLP probe",
        "from one draw of v for x and one for gx: what v transmits", _FLOOR,
        (_CONSTANT, ("means", "r2_{output}_from_v_mlp")), "lower than from means by the noise of v alone",
    ),
    Metric(
        "r2_{output}_from_v_same_r_mlp", "style", "higher", "{output} from v, gx given the r of x, MLP probe",
        "from [v(x), v(gx)], both conditioned on r of the class predicted for x: what a change of r gives is left out",
        _FLOOR, (_CONSTANT, ("r of gx", "r2_{output}_from_v_mlp")),
    ),
    Metric(
        "r2_{output}_from_pixels_mlp", "style", "", "{output} from 40 components of pixels (the control)",
        "control: from the first 40 principal components of the pixels of x and gx", "no model at all",
        caution="higher than from v: v keeps less of the style than 40 numbers can",
    ),
    Metric(
        "r2_{output}_from_v_unseen_classes_mlp", "style", "higher",
        "{output} from v, on classes that the probe has not seen",
        "fitted on the first four fifths of the classes, scored on the others: one v for all classes", _FLOOR,
        (_CONSTANT, ("all classes", "r2_{output}_from_v_mlp")), "few classes: it depends on which are left out",
    ),
    Metric(
        "r2_{output}_from_f_mlp", "style", "lower", "{output} from r of one example, MLP probe",
        "from a single embedding [f_inv(x), f_inv(gx)]", _FLOOR, (_CONSTANT,),
        "features are standardised: even a negligible trace is read. Read `invariance_ratio_f` beside it",
    ),
    Metric(
        "r2_{output}_from_r_mlp", "style", "lower", "{output} from r of the predicted class, MLP probe",
        "from r as the decoder sees it, r_y of the predicted class", _FLOOR, (_CONSTANT,),
        "near 0 by construction unless g changes the predicted class",
    ),
    Metric(
        "r2_{output}_constant", "style", "", "{output}: the best constant (the control)",
        "control: the best constant, about 0", f"{_FLOOR}: the floor",
    ),
    Metric(
        "factor_disentanglement_v", "factors", "higher", "disentanglement of v",
        "each active unit of v tells of one factor alone (DCI: by the importance of the units in random forests)",
        "0: every unit tells of all alike",
        caution="routing asks for none: v may be turned at will. Few active units make it depend on which they are",
    ),
    Metric(
        "factor_completeness_v", "factors", "higher", "completeness of v",
        "each factor is told by one active unit of v alone (DCI)", "0: every factor is told by all alike",
        caution="as `factor_disentanglement_v`",
    ),
    Metric(
        "invariance_ratio_f", "invariance", "lower", "r of one example: moved by a rotation",
        "squared distance of f_inv(x) to f_inv(gx) over that to other classes, g a rotation", "raw pixels",
        (("pixels", "invariance_ratio_pixels"),), "far classes make any ratio small",
    ),
    Metric(
        "invariance_ratio_{z}", "invariance", "", "{z}: moved by a rotation",
        "the same of v, and of raw pixels, which are the control", "raw pixels",
        (("pixels", "invariance_ratio_pixels"),),
    ),
    Metric(
        "within_between_f", "invariance", "lower", "r: variance within classes over between them",
        "variance within classes over variance between them", "raw pixels", (("pixels", "within_between_pixels"),),
        "few points a class",
    ),
    Metric(
        "within_between_{z}", "invariance", "", "{z}: variance within classes over between them",
        "the same of v, and of raw pixels, which are the control", "raw pixels", (("pixels", "within_between_pixels"),),
    ),
    *SWAP,
    Metric(
        "bound_nats", "generation", "higher", "bound on log p(x)", "mean of U(x), one sample", WITHOUT,
        caution="grey values: compare only with the same treatment", short="test bound",
    ),
    Metric(
        "iw_bound_nats", "generation", "higher", "importance-weighted bound on log p(x)",
        "importance-weighted bound, `iw_samples` samples on `iw_points` points, chosen by a hash of the key", WITHOUT,
        caution="another subset than `bound_nats` when `iw_points` is smaller than the split",
        short="importance-weighted bound",
    ),
    Metric(
        "reconstruction_mse", "generation", "lower", "squared error of the reconstruction, per value",
        "mean squared error per value, r and v of the point itself", WITHOUT,
        (("v = 0", "reconstruction_mse_v_zero"),), "a large V copies x", decimals=4,
    ),
    Metric(
        "reconstruction_mse_v_zero", "generation", "", "the same with v = 0: from r alone (the control)",
        "the same with v = 0: r of the predicted class alone", "the floor of v",
        caution="as low as `reconstruction_mse`: v carries nothing, and no measure of v means anything", decimals=4,
    ),
    Metric(
        "kl_nats", "generation", "", "cost of v: KL to the prior", "cost of v: KL to the prior",
        caution="near 0, v carries nothing, and every measure of v is of noise",
    ),
    Metric(
        "active_units", "generation", "higher", "active units of v", "units of v with mean KL above 0.05 nats",
        caution="the threshold: many units just below it carry information together", decimals=0,
    ),
    Metric(
        "bound_bits_per_dim", "generation", "lower", "bound, bits per dimension",
        "`bound_nats` in bits per dimension; images only", WITHOUT, caution="as `bound_nats`",
    ),
    Metric(
        "iw_bound_bits_per_dim", "generation", "lower", "importance-weighted bound, bits per dimension",
        "`iw_bound_nats` in bits per dimension; images only", WITHOUT, caution="as `iw_bound_nats`",
    ),
    Metric(
        "reconstruction_mse_r_from_{m}", "support", "lower", "squared error of the reconstruction, m = {m}",
        "`reconstruction_mse` with r from m labelled points of the predicted class", "r from all labelled points",
        (("all points", "reconstruction_mse"),),
        "one draw of the m points; a v that carries everything hides a poor r", decimals=4,
    ),
    Metric(
        "test_error_prototype_r_from_{m}_pct", "support", "lower", "error of the nearest r, m = {m}",
        "rule 3 with each r_y the mean of m labelled points only, on `iw_points` test points", "the same",
        (("all points", "test_error_prototype_pct"),), "luck of the draw: one draw",
    ),
)  # fmt: skip
"""What results/evaluate/metrics.json and measures.csv hold."""

TRAINED = (
    Metric(
        "loss_nats", "training", "", "loss", "-J / N over the epoch's steps; lower is better within one objective",
        caution="comparable only where all of `objective` is the same",
    ),
    Metric(
        "val_error_pct", "training", "lower", "val error", "rule 1 on val",
        caution="val is small: one point is a visible step",
    ),
    Metric(
        "val_bound_nats", "training", "higher", "val bound", "mean of U(x) on val, one sample",
        caution="with grey values: compare only with the same treatment",
    ),
    Metric(
        "val_nll_nats", "training", "lower", "-log q(y|x) on val", "mean -log q(y|x) of the true class on val",
        caution="single confident mistakes",
    ),
    Metric(
        "val_prune_error_nats", "training", "", "exact less pruned class sum",
        "exact less pruned class sum, on one batch of val; should be near 0", caution="one batch",
    ),
    Metric(
        "kl_nats", "training", "", "KL of v",
        "KL of v to the prior over the epoch's steps; 0 is a v that carries nothing",
        caution="of weight 1, also during `kl_warmup`",
    ),
    Metric(
        "prune_gap_nats", "training", "", "bound on the pruned part",
        "upper bound on the exact less the pruned class sum; should be near 0",
        caution="mostly far above the true difference",
    ),
    Metric(
        "classes_alive", "training", "", "classes in the class sum",
        "classes in the class sum of an unlabelled point, of K",
        caution="near 1 from the start: confident, rightly or not",
    ),
    Metric(
        "class_divergence", "training", "", "KL of q(v|y) to the prior",
        "mean over classes of KL(q(v|y) || p(v)) in a step, by means and variances; with `class_moments`",
        caution="a step has few points a class: too high",
    ),
    Metric(
        "skipped", "training", "lower", "unreadable examples left out",
        "unreadable examples left out in the last epoch; only with `reader.faults: skip`", decimals=0,
    ),
    Metric("epochs", "training", "", "epochs", "epochs of the run", decimals=0),
    Metric("steps", "training", "", "steps", "optimizer steps of the run", decimals=0),
    Metric("labels", "training", "", "labels used", "number of labels used", decimals=0),
    Metric("unlabelled", "training", "", "unlabelled points", "points of train used without their class", decimals=0),
    Metric("parameters", "training", "", "parameters", "parameters of the model", decimals=0),
)  # fmt: skip
"""What results/train/metrics.json holds."""


@cache
def find(name: str) -> Metric | None:
    """The metric of that name, evaluation's first; None where it is not known."""
    return next((found for metric in (*MEASURED, *TRAINED) if (found := metric.matching(name))), None)


def about(name: str) -> Metric:
    """As `find`; a metric of another version is labelled by its name."""
    return find(name) or Metric(name, "", "", name, "")
