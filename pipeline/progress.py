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


def time_left(seconds: float) -> str:
    """Minutes and seconds, `2:05`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Meter:
    """Progress of one piece of work in units that are counted (steps, examples, trials)."""

    def __init__(self, what: str, total: int, unit: str, every_s: float = 15.0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._terminal = sys.stderr.isatty()
        self._every_s = every_s
        self._started = self._last = time.monotonic()
        self._first: float | None = None
        self._bar: Any = tqdm(total=total, desc=what, unit=f" {unit}", leave=False) if self._terminal else None

    def update(self, done: float, note: str = "", seconds_left: float | None = None) -> None:
        """`done` units of the total; `note` goes after the rate.

        Args:
            seconds_left: a better guess than the units' mean rate gives, where units are of unequal size.
        """
        if self._bar is not None:
            if seconds_left is not None:
                self._bar.bar_format = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
                note = f"{time_left(seconds_left)} left, {note}"
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
            return
        if self._first is None:
            # A resumed run starts beyond 0; what was done before says nothing of the rate now.
            self._first = done
        now = time.monotonic()
        if now - self._last < self._every_s or done <= self._first:
            return
        self._last = now
        rate = (done - self._first) / (now - self._started)
        if seconds_left is None and rate > 0:
            seconds_left = (self.total - done) / rate
        left = "?" if seconds_left is None else time_left(seconds_left)
        say(f"{self.what}: {done:.7g}/{self.total} {self.unit}, {left} left{', ' + note if note else ''}")

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()


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
