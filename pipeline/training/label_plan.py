"""Which label counts a run and its sweep will use, known from the sizes of train's classes before any work starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.params import Params
from pipeline.errors import ParamsError
from pipeline.training.label_subset import labels_per_class, resolve_count

Count = int | float | str

_MORE = 10
"""The sweep's second count is so many times the first."""

_WORTH_A_COLUMN = 1.5
"""How many times as many labels `all` must give to be a count of its own."""


@dataclass(frozen=True)
class LabelPlan:
    """Labels of a run and of its sweep."""

    main: dict[str, int]
    """Of each class, by name."""

    sweep: tuple[Count, ...]


def plan_labels(params: Params, class_sizes: Mapping[str, int]) -> LabelPlan:
    """The counts that labels and sweep of params come to.

    Args:
        class_sizes: labelled points of train by class.

    Raises:
        ParamsError: a count that the data cannot give; the message names its key.
        DataError: a class has fewer than two points.
    """
    main = labels_per_class(params.labels.count, class_sizes, params.labels.seed)
    counts = sweep_counts(params, list(class_sizes.values()))
    for i, count in enumerate(counts):
        for seed in params.sweep.seeds:
            try:
                labels_per_class(count, class_sizes, seed)
            except ParamsError as error:
                raise ParamsError(str(error).replace("labels.count", f"sweep.label_counts[{i}]", 1)) from error
    return LabelPlan(main, counts)


def sweep_counts(params: Params, sizes: Sequence[int]) -> tuple[Count, ...]:
    """sweep.label_counts, with `auto` as the counts that it stands for.

    They are that of labels.count and a larger one: ten times as many labels where the smallest class has enough, else
    `all` where that is at least half as many again.
    """
    if params.sweep.label_counts != "auto":
        return params.sweep.label_counts
    first = resolve_count(params.labels.count, sizes)
    if first == "all":
        return (first,)
    by_class = {str(c): size for c, size in enumerate(sizes)}
    labels = sum(labels_per_class(params.labels.count, by_class, params.labels.seed).values())
    more = _MORE * labels
    if -(-more // len(sizes)) <= min(sizes):
        return (first, more)
    return (first, "all") if sum(sizes) >= _WORTH_A_COLUMN * labels else (first,)


def describe_labels(plan: LabelPlan, class_sizes: Mapping[str, int]) -> list[str]:
    """Lines that say how many labels training will see, and which classes have fewer than their equal part."""
    parts, total = plan.main, sum(plan.main.values())
    low, high = min(parts.values()), max(parts.values())
    each = f"{low} a class" if low == high else f"{low} to {high} a class"
    counts = ", ".join(str(total if count == "auto" else count) for count in plan.sweep)
    lines = [f"{total} labels of {sum(class_sizes.values())}, {each}; the sweep takes {counts}"]
    short = sorted((name for name in parts if parts[name] == class_sizes[name] < high - 1), key=parts.__getitem__)
    if short and total < sum(class_sizes.values()):
        named = ", ".join(f"{name} ({parts[name]})" for name in short[:5])
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        lines.append(f"{len(short)} class(es) give all of their labels, fewer than an equal part: {named}{more}")
    return lines
