"""Threads that end together, within a bounded time, or are named."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edge_runtime.errors import PipelineError

__all__ = ["ThreadGroup"]

_NUDGE_AFTER_S = 0.1


class ThreadGroup:
    """Starts named daemon threads and waits for them. Real time, whatever clock the pipeline has."""

    def __init__(self, bodies: dict[str, Callable[[], None]], on_error: Callable[[str, BaseException], None]) -> None:
        self._on_error = on_error
        self._ending = threading.Event()
        self._threads = [
            threading.Thread(target=self._guarded, args=(name, body), name=f"edge-{name}", daemon=True)
            for name, body in bodies.items()
        ]
        self.names = tuple(bodies)

    def start(self) -> None:
        """Start all of them."""
        for thread in self._threads:
            thread.start()

    def end_soon(self) -> None:
        """From now on `join` waits no longer than its time-out."""
        self._ending.set()

    def wait(self) -> None:
        """Return when `end_soon` has been called, by whomever."""
        self._ending.wait()

    @property
    def alive(self) -> tuple[str, ...]:
        """Names of those that have not ended."""
        return tuple(thread.name.removeprefix("edge-") for thread in self._threads if thread.is_alive())

    def join(self, timeout_s: float, last_resort: Callable[[], None], nudge: Callable[[], None] = lambda: None) -> None:
        """Wait for all threads to end; soon call `nudge`, after `timeout_s` `last_resort`, and wait one second more.

        Raises `PipelineError` with the names of those that are alive even then; they are daemons.
        """
        until_s = time.monotonic() + timeout_s
        if self._join_until(min(until_s, time.monotonic() + _NUDGE_AFTER_S)):
            return
        nudge()
        if self._join_until(until_s):
            return
        last_resort()
        if not self._join_until(time.monotonic() + 1.0):
            alive = ", ".join(self.alive)
            raise PipelineError(
                f"thread {alive} did not stop within {timeout_s:g} s: it is inside a call that does not "
                "return. Look at that source, runner or sink, or give a longer join_timeout_s."
            )

    def _join_until(self, until_s: float) -> bool:
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _guarded(self, name: str, body: Callable[[], None]) -> None:
        try:
            body()
        except BaseException as error:  # a thread must not die in silence: the caller gets this error
            self._on_error(name, error)
