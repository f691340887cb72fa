"""What a run's metrics say of its classifier: better or worse than simple ones that saw the same labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.results.metric import BASELINES
from pipeline.utils.rounding import percent

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Verdict:
    """A run in one or two sentences."""

    text: str
    level: Literal["good", "close", "worse"]
    """`good`: better than every baseline, by more than chance. `worse`: than one of them, by more than chance, or no
    better than naming one class always. `close`: anything between, or not compared."""


def verdict(metrics: Mapping[str, float]) -> Verdict:
    """The classifier beside 1-NN, logistic regression and a constant, from results/evaluate/metrics.json.

    A difference counts where McNemar's test on the same test examples gives p < 0.05. Metrics that lack the error or
    the baselines give `close` and say so.
    """
    if (error := metrics.get("test_error_classifier_pct")) is None:
        return Verdict("No test error was measured.", "close")
    own = f"test error {_percent(error)}{_interval(metrics)}"
    errors = {
        name: metrics[f"baseline_{name}_error_pct"] for name in BASELINES if f"baseline_{name}_error_pct" in metrics
    }
    if not errors:
        return Verdict(f"{_sentence(own)}; not compared with 1-NN and logistic regression on the same labels.", "close")
    beside = _beside(metrics)
    apart = {name: metrics.get(f"baseline_{name}_mcnemar_p", 1.0) < _SIGNIFICANT for name in errors}
    better = sorted((name for name in errors if errors[name] < error and apart[name]), key=lambda name: errors[name])
    if better:
        worse_than = _listed([f"{BASELINES[name]} ({_percent(errors[name])})" for name in better])
        rest = [f"{BASELINES[name]} {_percent(errors[name])}" for name in errors if name not in better]
        also = f"; {_listed(rest)}" if rest else ""
        return Verdict(f"Worse than {worse_than} {beside}: {own}{also}.", "worse")
    compared = _listed([f"{BASELINES[name]} ({_percent(value)})" for name, value in errors.items()])
    constant = metrics.get("baseline_constant_error_pct")
    if constant is not None and error >= constant:
        guess = f"No better than always predicting the most frequent class of test ({_percent(constant)} wrong)"
        return Verdict(f"{guess}: {own}. Beside it: {compared} {beside}.", "worse")
    if all(errors[name] > error and apart[name] for name in errors):
        return Verdict(f"{_sentence(own)}: better than {compared} {beside}.", "good")
    ahead = [name for name in errors if errors[name] > error and apart[name]]
    near = [name for name in errors if name not in ahead]
    equal = _listed([f"{BASELINES[name]} ({_percent(errors[name])})" for name in near])
    also = _listed([f"{BASELINES[name]} ({_percent(errors[name])})" for name in ahead])
    words = "No better than"
    if all(errors[name] > error for name in near):
        words = "Not clearly better than"
    elif all(errors[name] == error for name in near):
        words = "As good as"
    return Verdict(f"{words} {equal} {beside}, within chance: {own}{f'; better than {also}' if also else ''}.", "close")


def _percent(value: float) -> str:
    return percent(value, 2 if value < 10 else 1)


def _interval(metrics: Mapping[str, float]) -> str:
    names = ("test_error_classifier_low_pct", "test_error_classifier_high_pct", "test_examples")
    if not all(name in metrics for name in names):
        return ""
    low, high, examples = (metrics[name] for name in names)
    digits = 2 if high < 10 else 1
    return f" (95 % interval {percent(low, digits, '')} to {percent(high, digits, '')}, {examples:,.0f} test examples)"


def _beside(metrics: Mapping[str, float]) -> str:
    """`on the same 100 labels`; with very many labels the baselines get a part of them."""
    labels, used = metrics.get("labels"), metrics.get("baseline_labels")
    if labels is None or used is None:
        return "on the same labels"
    return f"on the same {labels:,.0f} labels" if used >= labels else f"on {used:,.0f} of the {labels:,.0f} labels"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _listed(names: list[str]) -> str:
    return " and ".join(names)
