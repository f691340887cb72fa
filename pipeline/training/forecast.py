"""What shards hold, and what will be trained on them: the lines that `shard` ends with."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.methods import name_of
from pipeline.config.params import Params
from pipeline.data.shards.manifest import Manifest
from pipeline.training.label_plan import describe_labels, plan_labels
from pipeline.training.schedule import run_length, shortness

_SHOWN = 20
"""Classes named with their counts; of more, the smallest."""


def describe_data(manifest: Manifest, passed_over: Mapping[str, int]) -> str:
    """Kind, shape, classes with their counts in train, val and test, and what is in none.

    Args:
        passed_over: files of the user's folder that are no examples, by what they are.
    """
    spec, splits = manifest.spec, manifest.splits
    sizes = {name: [splits[s].class_counts[name] for s in ("train", "val", "test")] for name in spec.classes}
    named = sorted(sizes, key=lambda name: sum(sizes[name]))[:_SHOWN] if len(sizes) > _SHOWN else list(sizes)
    counts = ", ".join(f"{' '.join(name.split())} {'/'.join(map(str, sizes[name]))}" for name in named)
    more = f", the {len(named)} smallest: " if len(named) < len(sizes) else ": "
    unlabelled = splits["train"].samples - sum(splits["train"].class_counts.values())
    skipped = ", ".join(f"{num} {why}" for why, num in sorted(manifest.skipped.items()))
    over = ", ".join(f"{num} {what}" for what, num in sorted(passed_over.items()))
    return (
        f"found {spec.kind} {' x '.join(map(str, spec.shape))}, {len(sizes)} classes (train/val/test){more}{counts}; "
        f"{unlabelled} of train without a label; left out as unreadable: {skipped or 'none'}"
        f"; files passed over: {over or 'none'}"
    )


def describe_run(manifest: Manifest, params: Params) -> list[str]:
    """Labels, batch, steps and method of the run that params describe on these shards, and the number of the sweep's.

    Raises:
        ParamsError: labels that the data cannot give.
    """
    sizes = manifest.splits["train"].class_counts
    plan = plan_labels(params, sizes)
    length = run_length(params.train, params.train.epochs, params.train.min_steps, manifest.splits["train"].samples)
    steps = length.epochs * length.steps_per_epoch
    trials = len(plan.sweep) * len(params.sweep.methods) * len(params.sweep.seeds)
    lines = [
        *describe_labels(plan, sizes),
        f"{name_of(params.model, params.objective)}, {length.epochs} epoch(s) of {length.steps_per_epoch} steps, "
        f"{steps} in all, of {length.batch_size} points each; the sweep trains {trials} models",
    ]
    return [*lines, *filter(None, [shortness(steps)])]
