"""The contract of a sink: where results go."""

from __future__ import annotations

from edge_runtime.result import Result

__all__ = ["Sink"]


class Sink:
    """Takes results, one at a time and in order, in a thread of its own.

    `open` is called in the caller's thread before the stream starts, and what it raises stops the start; `write` and
    `close` are called in the sink's thread. A sink that raises there is closed and left out of the rest of the
    stream, and the report says so. `write` must not change the result; it is released when `write` returns, so a
    sink that keeps one calls `retain()` and `release()`, or takes a `copy()`. `branch` limits the sink to one
    branch; `capacity` is how many results may wait for it: on a live stream the oldest is then dropped and counted,
    on a file the pipeline waits.
    """

    def __init__(self, *, branch: str | None = None, capacity: int = 2) -> None:
        self.branch = branch
        self.capacity = capacity

    def open(self) -> None:
        """Check what can be checked and make ready; by default nothing."""

    def write(self, result: Result) -> None:
        """Deal with one result, valid until this returns."""
        raise NotImplementedError

    def close(self) -> None:
        """Finish; called once, also after an error. By default nothing."""
