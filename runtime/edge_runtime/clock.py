"""Host monotonic time, injectable so that tests run on a clock they control."""

from __future__ import annotations

import threading
import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "MonotonicClock", "Waitable"]


class Waitable(Protocol):
    """What a clock can wait on: a held `threading.Condition`, or anything else that has its `wait`."""

    def wait(self, timeout: float | None = None) -> bool:
        """Return when woken (True), or after `timeout` seconds (False)."""


class Clock(Protocol):
    """What every waiting part of the runtime uses instead of `time`."""

    def now_ns(self) -> int:
        """Monotonic time in nanoseconds."""

    def wait(self, condition: Waitable, timeout_ns: int | None) -> None:
        """Wait on `condition` until woken or `timeout_ns` of this clock's time have passed."""

    def sleep_until_ns(self, time_ns: int) -> None:
        """Return once `now_ns() >= time_ns`."""


class MonotonicClock:
    """The system's monotonic clock."""

    now_ns = staticmethod(time.monotonic_ns)

    def wait(self, condition: Waitable, timeout_ns: int | None) -> None:
        condition.wait(None if timeout_ns is None else max(0, timeout_ns) / 1e9)

    def sleep_until_ns(self, time_ns: int) -> None:
        while (left := time_ns - self.now_ns()) > 0:
            time.sleep(left / 1e9)


class ManualClock:
    """A clock that moves only when told to; waits poll it, so a test never sleeps for real time.

    `sleep_until_ns` moves the clock itself, which makes a single-threaded simulation run at once.
    """

    def __init__(self, start_ns: int = 0) -> None:
        self._now = start_ns
        self._lock = threading.Lock()

    def now_ns(self) -> int:
        with self._lock:
            return self._now

    def advance_ns(self, by_ns: int) -> None:
        """Move time forward by `by_ns` nanoseconds."""
        if by_ns < 0:
            raise ValueError(f"a monotonic clock cannot go back: {by_ns} ns")
        with self._lock:
            self._now += by_ns

    def wait(self, condition: Waitable, timeout_ns: int | None) -> None:
        # one short real wait: the caller re-reads its predicate and this clock, and waits again
        condition.wait(0.001)

    def sleep_until_ns(self, time_ns: int) -> None:
        with self._lock:
            self._now = max(self._now, time_ns)
