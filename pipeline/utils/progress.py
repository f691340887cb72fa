"""How far a run is: a bar with rate and time left on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm

Log = Callable[[str], None]


def say(text: str) -> None:
    """One plain line on standard output, at once, beside any bar that is drawn."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()


def duration(seconds: float) -> str:
    """`45 s`, `2 min 5 s` or `1 h 2 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


# A rate measured over less is noise.
_LEAST_S = 2.0


class Meter:
    """Progress of one piece of work in units that are counted (steps, examples, trials), with the time left."""

    def __init__(self, what: str, total: int, unit: str, every_s: float = 15.0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._every_s, self._last = every_s, time.monotonic()
        self._first: tuple[float, int] | None = None
        self._done = 0
        # One estimate of the time left, ours: tqdm's own would stand beside it with another number.
        form = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}{postfix}]"
        self._bar: Any = tqdm(total=total, desc=what, unit=unit, leave=False, disable=None, bar_format=form)

    def left(self, done: int) -> float | None:
        """Seconds left after `done` units, by their mean rate since the first look; None while it is not known."""
        now = time.monotonic()
        # A resumed run starts beyond 0, and one that lost a worker starts again from before.
        if self._first is None or done < self._done:
            self._first = now, done
        self._done = done
        since, gained = now - self._first[0], done - self._first[1]
        return since / gained * (self.total - done) if gained > 0 and since >= _LEAST_S else None

    def update(self, done: int, note: str = "", seconds_left: float | None = None) -> None:
        """`done` units of the total; `note` comes last.

        Args:
            seconds_left: a better guess than the units' mean rate gives, where units are of unequal size.
        """
        left = self.left(done)
        left = left if seconds_left is None else seconds_left
        text = ", ".join(filter(None, ("" if left is None else f"{duration(left)} left", note)))
        if not self._bar.disable:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(done - self._bar.n)
        elif text and time.monotonic() - self._last >= self._every_s:
            self._last = time.monotonic()
            say(f"{self.what}: {done}/{self.total} {self.unit}, {text}")

    def close(self) -> None:
        """Takes the bar away."""
        self._bar.close()


@contextlib.contextmanager
def working(tell: Log, every_s: float = 5.0) -> Iterator[Log]:
    """Logs, whenever `every_s` have passed, what is being done and for how long, until the block ends.

    For work whose parts cannot be counted. The function that it gives takes the name of the part that begins.
    """
    part, began, done = "", time.monotonic(), threading.Event()

    def begin(what: str) -> None:
        nonlocal part, began
        part, began = what, time.monotonic()

    def repeat() -> None:
        while not done.wait(every_s):
            if part:
                tell(f"{part}, {time.monotonic() - began:.0f} s so far")

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield begin
    finally:
        done.set()
        thread.join()


def silent(line: str) -> None:
    """No log."""


@contextlib.contextmanager
def listening(queue: Any, handle: Callable[[Any], None]) -> Iterator[None]:
    """Passes what workers put into a Ray queue to `handle`, in a thread, until the block ends."""
    done = threading.Event()

    def listen() -> None:
        last_look = False
        while not last_look:
            # Set first: what was put before the block ended is still shown.
            last_look = done.wait(1.0)
            items: list[Any] = []
            with contextlib.suppress(Exception):  # a cluster that is going away
                items = queue.get_nowait_batch(queue.qsize())
            for item in items:
                handle(item)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(timeout=5)
