"""Which example goes to which tar, and where in it: a function of keys, classes, counts and a seed; no value is read.

It takes about 75 bytes an example while it works and 8 after that, beside the keys and classes themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.example import Examples, RawSplit
from pipeline.data.sharding.tar_writer import Tar
from pipeline.data.shards.manifest import SplitName
from pipeline.errors import DataError
from pipeline.utils.arrays import IntArray


@dataclass(frozen=True, eq=False)
class Deal:
    """The tars of all splits."""

    tars: dict[SplitName, list[Tar]]
    digest: str
    """Of all keys, classes and the order: the same for the same deal."""


def deal(
    examples: dict[RawSplit, Examples],
    classes: Sequence[str],
    *,
    num_shards: int,
    num_val: int,
    seed: int,
    val_keys: frozenset[str] = frozenset(),
) -> Deal:
    """Deals the examples to tars: val is carved from train, each split is mixed and dealt out evenly.

    Args:
        num_shards: tars of train; val and test get as many as keep theirs about as large.
        val_keys: keys of val, where the data defines it; `num_val` is not used then.

    Raises:
        DataError: a key occurs twice, a class is not among the spec's, a split is empty, or a class has too few
            examples; the message names it.
    """
    train, test = examples["train"], examples["test"]
    for split, part in examples.items():
        _check_classes(part, split, len(classes))
    # An order by hash mixes the classes.
    ranks = _ranks(seed, "order", chain(train.keys, test.keys), len(train) + len(test))
    order = np.argsort(ranks, kind="stable")
    _check_keys(ranks, order, examples)
    digest = hashlib.sha256(ranks.view(np.uint8).data)
    del ranks
    for part in examples.values():
        digest.update(np.ascontiguousarray(part.y, dtype=np.int64).data)
    is_val = np.zeros(len(order), dtype=bool)
    if val_keys:
        val = _own_val(train, classes, val_keys)
        digest.update(val.data)
    else:
        val = choose_val(train.keys, train.y, classes, num_val, seed)
    is_val[val] = True
    is_test = order >= len(train)
    is_val = is_val[order]
    rows: dict[SplitName, IntArray] = {
        "train": order[~is_val & ~is_test],
        "val": order[is_val],
        "test": order[is_test] - len(train),
    }
    digest.update(f"{num_shards}/{num_val}/{seed}".encode())
    tars: dict[SplitName, list[Tar]] = {}
    for name, members in rows.items():
        if len(members) == 0:
            raise DataError(f"split {name} has no example")
        num = min(len(members), max(1, round(num_shards * len(members) / len(rows["train"]))))
        # Dealing the order out in turn makes the tars equal to within one sample.
        raw_split: RawSplit = "test" if name == "test" else "train"
        tars[name] = [Tar(f"{name}-{i:06d}", raw_split, members[i::num]) for i in range(num)]
    return Deal(tars, digest.hexdigest())


def choose_val(keys: Sequence[str], y: IntArray, classes: Sequence[str], num_val: int, seed: int) -> IntArray:
    """Positions of the validation split: of each class in proportion, chosen by a hash of (seed, class, key).

    Args:
        y: class index, -1 where the label is not known, `[N]`.

    Raises:
        DataError: a class has no example, or would keep fewer than two training points.
    """
    sizes = np.bincount(y[y >= 0], minlength=len(classes))
    for name, size in zip(classes, sizes, strict=True):
        if size == 0:
            raise DataError(f"class {name!r} has no labelled example in train; leave the class out, or label some")
    parts = _val_parts(sizes, num_val, classes)
    chosen = []
    for c, part in enumerate(parts):
        members = np.flatnonzero(y == c)
        ranks = _ranks(seed, f"val/{c}", (keys[i] for i in members.tolist()), len(members))
        chosen.append(members[np.argsort(ranks, kind="stable")[:part]])
    return np.concatenate(chosen)


def _val_parts(sizes: IntArray, num_val: int, classes: Sequence[str]) -> IntArray:
    """Examples of each class that become val: in proportion, as far as two stay. Raises as `choose_val`."""
    room = np.maximum(sizes - 2, 0)
    exact = sizes * num_val / max(1, sizes.sum())
    parts = np.minimum(np.floor(exact).astype(np.int64), room)
    # What rounding down left goes, one by one, to the classes that lost most.
    while (left := num_val - int(parts.sum())) > 0:
        gain = np.flatnonzero(parts < room)
        if not len(gain):
            c = int(np.argmin(sizes))
            what = f"class {classes[c]!r} has {sizes[c]} examples in train beside test, and two must stay"
            if not room.any():
                raise DataError(f"{what}, and no other class has more: nothing is left for val; add examples")
            raise DataError(f"{what}; with all others {room.sum()} can become val, not {num_val}; lower data.val_size")
        parts[gain[np.argsort(parts[gain] - exact[gain], kind="stable")[:left]]] += 1
    return parts


def _own_val(train: Examples, classes: Sequence[str], val_keys: frozenset[str]) -> IntArray:
    """Positions of the validation split that the data itself has. Raises as `choose_val`."""
    is_val = np.fromiter((key in val_keys for key in train.keys), bool, len(train))
    left = np.bincount(train.y[~is_val & (train.y >= 0)], minlength=len(classes))
    for name, size in zip(classes, left.tolist(), strict=True):
        if size < 2:
            raise DataError(f"class {name!r} has {size} labelled example(s) in train beside val; at least 2 are needed")
    return np.flatnonzero(is_val)


def _check_classes(examples: Examples, split: str, num_classes: int) -> None:
    wrong = np.flatnonzero((examples.y < -1) | (examples.y >= num_classes))
    if len(wrong):
        i = int(wrong[0])
        raise DataError(
            f"example {examples.keys[i]!r} of {split}: class {examples.y[i]}; allowed: 0 to {num_classes - 1}"
        )


def _check_keys(ranks: npt.NDArray[Any], order: IntArray, examples: dict[RawSplit, Examples]) -> None:
    """Equal keys have equal hashes, and stand side by side in the order."""
    in_order = ranks[order]
    twice = np.flatnonzero(in_order[1:] == in_order[:-1])
    if not len(twice):
        return
    num_train = len(examples["train"])
    found = []
    for i in sorted(order[twice[0] : twice[0] + 2].tolist()):
        split: RawSplit = "train" if i < num_train else "test"
        found.append((examples[split].keys[i - (0 if i < num_train else num_train)], split))
    (key, first), (_, second) = found
    where = f"twice in {first}" if first == second else f"in both {first} and {second}"
    raise DataError(f"the key {key!r} is {where}; keys must differ")


def _ranks(seed: int, group: str, keys: Any, num: int) -> npt.NDArray[Any]:
    """A hash of each key as bytes that sort, `[num]`."""
    ranks = np.empty(num, dtype="S32")
    for i, key in enumerate(keys):
        ranks[i] = hashlib.sha256(f"{seed}/{group}/{key}".encode()).digest()
    return ranks
