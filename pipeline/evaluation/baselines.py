"""The classifier's error with its interval, beside simple classifiers that saw the same labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ie_model.metrics import baselines
from ie_model.spec import DataSpec
from pipeline.data.loading.in_memory import SplitData
from pipeline.data.loading.splits import Split
from pipeline.evaluation.totals import Totals
from pipeline.results.metrics_table import Measure

_WORK = 1e8
"""Labels x values x classes of the logistic regression, and a thousandth of labels x values x test examples of 1-NN."""


def beside_baselines(
    train: Split,
    labelled: npt.NDArray[np.int64],
    test: SplitData,
    predicted: npt.NDArray[np.int64],
    totals: Totals,
) -> list[Measure]:
    """Interval of the classifier's error, and 1-NN, logistic regression and a constant on the same test examples.

    Args:
        labelled: rows of train that the run was trained with the class of.
        test: a sample of test, M examples; predicted: the classifier's classes of it, `[M]`.
        totals: of the whole test split.
    """
    spec, y = test.spec, test.y
    right = predicted == y
    num = int(totals["examples"])
    low, high = baselines.wilson_interval(int(totals["wrong"]), num)
    used = few(labelled, train.keys, train.y, most_labels(spec, len(y)))
    chosen = train.take(used)
    x, test_x = (baselines.raw_values(part.x.numpy(), spec.kind) for part in (chosen, test))
    rows = [
        Measure("test_examples", num),
        Measure("test_error_classifier_low_pct", 100 * low),
        Measure("test_error_classifier_high_pct", 100 * high),
        Measure("baseline_labels", len(chosen)),
        Measure("baseline_constant_error_pct", 100 * float(1 - totals["classes"].max() / num)),
    ]
    for name, classify in (("1nn", baselines.nearest_neighbour), ("logistic", baselines.logistic_regression)):
        other = classify(x, chosen.y, test_x) == y
        rows += [
            Measure(f"baseline_{name}_error_pct", 100 * float((~other).mean())),
            Measure(f"baseline_{name}_mcnemar_p", baselines.mcnemar_p(right, other)),
        ]
    return rows


def most_labels(spec: DataSpec, num_test: int) -> int:
    """Labels that the baselines get at most, so that they take seconds: about 12,000 on MNIST."""
    return int(min(_WORK / (spec.num_values * spec.num_classes), 1000 * _WORK / (spec.num_values * num_test)))


def few(rows: npt.NDArray[np.int64], keys: Sequence[str], y: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Of `rows` the `most` whose keys have the lowest hash, and the first two of each class; ascending."""
    if len(rows) <= most:
        return rows
    order = rows[np.argsort([hashlib.sha256(keys[row].encode()).hexdigest() for row in rows.tolist()], kind="stable")]
    each = [order[y[order] == c][:2] for c in np.unique(y[order])]
    return np.unique(np.concatenate([order[:most], *each]))
