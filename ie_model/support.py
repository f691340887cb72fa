"""Which points are labelled, and which of them a step takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]


def is_unlabelled(y: npt.NDArray[Any], unlabelled: Any) -> npt.NDArray[np.bool_]:
    """Which labels `[N]` stand for none: `unlabelled`, None and NaN."""
    if y.dtype.kind == "f":
        missing = np.isnan(y)
    elif y.dtype == object:
        missing = np.array([value is None or value != value for value in y])
    else:
        missing = np.zeros(len(y), dtype=bool)
    if unlabelled is None:
        return missing
    # Text and numbers are never equal, and numpy would warn of it.
    same = isinstance(unlabelled, str) == (y.dtype.kind in "US") or y.dtype == object
    return missing | (y == unlabelled) if same else missing


def draw_support(members: list[IntArray], m: int, rng: np.random.Generator) -> IntArray:
    """m different positions of each class (all of them where a class has fewer), class after class.

    Args:
        members: positions of the labelled points of each class.
    """
    return np.concatenate([rng.choice(c, size=min(m, len(c)), replace=False) for c in members])


class LabelledPlan:
    """Batches of labelled points, for when much is labelled: of each class at least two, at every step.

    Each class is read in passes: its members in a random order, each once before any comes again, another order each
    pass, and none twice in a step. Where a class's part of a batch is two or more, its members up to step s are
    floor(s * batch_size * n_c / N + phase): over `steps` steps each labelled point then comes once where batch_size
    divides N, else at most `batch_size - 1` of them do not. A class with a smaller part gives two each step, which
    comes on top of the rest's part, and is passed through more often.
    """

    def __init__(self, members: list[IntArray], batch_size: int, seed: int) -> None:
        """
        Args:
            members: positions of the labelled points of each class.
            batch_size: points of a step over all ranks, on average; at most half of all labelled points are taken,
                so that a step that ends one pass and begins the next has no point twice.

        Raises:
            ValueError: a class has fewer than two points.
        """
        if not members or min(len(c) for c in members) < 2:
            raise ValueError("each class needs two labelled points")
        self.members, self.seed = members, seed
        self.num_points = sum(len(c) for c in members)
        self.batch_size = min(batch_size, self.num_points // 2)
        self._orders: dict[int, dict[int, IntArray]] = {c: {} for c in range(len(members))}

    @property
    def steps(self) -> int:
        """Steps in which about all labelled points are read once."""
        return self.num_points // self.batch_size

    def batch(self, step: int) -> IntArray:
        """Positions of a step, over all ranks, class after class."""
        return np.concatenate([self._part(c, step) for c in range(len(self.members))])

    def _part(self, c: int, step: int) -> IntArray:
        size = len(self.members[c])
        place, end = self._taken(c, step), self._taken(c, step + 1)
        parts = []
        while place < end:
            nth, within = divmod(place, size)
            stop = min(size, within + end - place)
            parts.append(self._order(c, nth)[within:stop])
            place += stop - within
        return np.concatenate(parts)

    def _rate(self, c: int) -> tuple[int, int, int]:
        """Members of class c taken up to step s are (s * by + phase) // over."""
        by, over = self.batch_size * len(self.members[c]), self.num_points
        if by < 2 * over:
            return 2, 1, 0
        # Phases apart from each other: the classes' roundings do not fall into the same step.
        return by, over, c * over // len(self.members)

    def _taken(self, c: int, step: int) -> int:
        by, over, phase = self._rate(c)
        return (step * by + phase) // over

    def _straddling(self, c: int, nth: int) -> tuple[int, int]:
        """Of the step that ends the nth pass and begins the next: how many it takes of the one and of the other."""
        border = (nth + 1) * len(self.members[c])
        by, over, phase = self._rate(c)
        step = -(-((border + 1) * over - phase) // by) - 1  # the last one with at most `border` taken before it
        before = border - self._taken(c, step)
        return (before, self._taken(c, step + 1) - border) if before else (0, 0)

    def _order(self, c: int, nth: int) -> IntArray:
        """The nth pass through a class. What the pass before takes in the same step does not begin it."""
        kept = self._orders[c]
        if nth not in kept:
            order = self._shuffled(c, nth)
            before, after = self._straddling(c, nth - 1) if nth else (0, 0)
            if after:
                tail = self._straddling(c, nth)[0]
                # The tail stays in its place, so that the next pass can know it without knowing this one's beginning.
                movable = order[: len(order) - tail]
                free = ~np.isin(movable, self._shuffled(c, nth - 1)[-before:])
                head = np.flatnonzero(free)[:after]
                others = np.setdiff1d(np.arange(len(movable)), head)
                order = np.concatenate([movable[head], movable[others], order[len(order) - tail :]])
            self._orders[c] = kept = dict(list(kept.items())[-1:]) | {nth: order}
        return kept[nth]

    def _shuffled(self, c: int, nth: int) -> IntArray:
        return np.random.default_rng([self.seed, c, nth]).permutation(self.members[c])
