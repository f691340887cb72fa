"""How far a sweep is: each trial's result when it ends, and how long the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.tuning.trials import Trial, TrialResult
from pipeline.utils.progress import Log, Meter, duration
from pipeline.utils.rounding import percent

# A trial's first steps say little of its rate.
_LEAST_SHARE = 0.03


@dataclass
class _Course:
    """How one trial goes."""

    method: str
    share: float = 0.0
    started_at: float | None = None
    started_with: float = 0.0
    """What an earlier run of the sweep had done of it."""

    seconds: float | None = None
    """Of the whole trial, as far as is known."""


@dataclass
class Eta:
    """Time left of trials that run side by side, from the rates of those that have started.

    A supervised trial takes seconds where others take minutes, so a trial that has not started is expected to take what
    trials of its method take; the mean of all stands for a method that none has shown yet.
    """

    methods: Mapping[str, str]
    """Method of each trial, by fingerprint."""

    concurrent: int
    now: Callable[[], float] = time.monotonic
    _courses: dict[str, _Course] = field(init=False)

    def __post_init__(self) -> None:
        self._courses = {name: _Course(method) for name, method in self.methods.items()}

    @property
    def running(self) -> int:
        """Trials that have started and are not done."""
        return sum(course.started_at is not None and course.share < 1 for course in self._courses.values())

    def taken(self, name: str) -> float:
        """Seconds since trial `name` started in this run of the sweep."""
        started = self._courses[name].started_at
        return 0.0 if started is None else self.now() - started

    def update(self, name: str, share: float) -> None:
        """Trial `name` has done `share` of its work, 0..1."""
        course, now = self._courses[name], self.now()
        if course.started_at is None:
            course.started_at, course.started_with = now, share
        # Read after the fact: what measuring takes is part of a trial too, once one of its method has ended.
        gained = share - course.started_with
        if gained >= _LEAST_SHARE:
            course.seconds = (now - course.started_at) / gained
        course.share = max(course.share, share)

    def seconds(self) -> float | None:
        """Seconds left; None while unknown."""
        known: dict[str, list[float]] = {}
        for course in self._courses.values():
            if course.seconds is not None:
                known.setdefault(course.method, []).append(course.seconds)
        if not known:
            return None
        means = {method: sum(values) / len(values) for method, values in known.items()}
        typical = sum(means.values()) / len(means)
        left = [(1 - course.share) * means.get(course.method, typical) for course in self._courses.values()]
        # As many at a time as there is room for, but no trial ends before its own time is up.
        return max(sum(left) / self.concurrent, max(left))


class Watcher:
    """Shows what trials tell of themselves."""

    def __init__(self, trials: dict[str, Trial], concurrent: int, log: Log) -> None:
        self._trials, self._log = trials, log
        self._finished = 0
        self._eta = Eta({name: trial.method for name, trial in trials.items()}, concurrent)
        self._meter = Meter("sweep", len(trials), "trials", every_s=30.0)

    def __call__(self, item: dict[str, Any]) -> None:
        if "waiting" in item:
            self._log(f"sweep: {item['waiting']}")
        elif "finished" in item:
            result = TrialResult.model_validate(item["finished"])
            self._end(result.fingerprint, _outcome(result))
        elif "failed" in item:
            self._end(item["failed"], f"FAILED, {item['error']}")
        elif "again" in item:
            self._log(f"sweep: {_name(self._trials[item['again']])}: {item['error']}; trying again")
        elif "resumed" in item:
            trial = self._trials[item["resumed"]]
            self._log(f"sweep: {_name(trial)}: resuming from epoch {item['epoch']} of {trial.job.epochs}")
        else:
            self._eta.update(item["fingerprint"], item["share"])
            self._show()

    def close(self) -> None:
        """Takes the bar away."""
        self._meter.close()

    def _show(self) -> None:
        self._meter.update(self._finished, f"{self._eta.running} running", self._eta.seconds())

    def _end(self, name: str, outcome: str) -> None:
        self._finished += 1
        self._eta.update(name, 1.0)
        number, seconds = f"{self._finished}/{len(self._trials)}", self._eta.seconds()
        left = f"; {duration(seconds)} left" if seconds else ""
        self._log(f"sweep: {number} {_name(self._trials[name])}: {outcome} in {duration(self._eta.taken(name))}{left}")
        self._show()


def _name(trial: Trial) -> str:
    return f"{trial.method}, {trial.labels} labels, seed {trial.seed}"


def _outcome(result: TrialResult) -> str:
    if result.test_error_pct is None:
        return f"val bound {result.val_bound_nats:.1f} nats"
    return f"test error {percent(result.test_error_pct)}"
