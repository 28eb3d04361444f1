"""Sinks that hand results to the program itself."""

from __future__ import annotations

from collections.abc import Callable

from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink

__all__ = ["CallbackSink", "CollectSink"]


class CallbackSink(Sink):
    """Calls a function with each result, in the sink's thread; the result is valid until the function returns."""

    def __init__(self, function: Callable[[Result], None], *, branch: str | None = None, capacity: int = 2) -> None:
        super().__init__(branch=branch, capacity=capacity)
        self._function = function

    def write(self, result: Result) -> None:
        self._function(result)


class CollectSink(Sink):
    """Keeps a copy of every result in `results`; for tests and short recordings, since memory grows with each."""

    def __init__(self, *, branch: str | None = None, capacity: int = 64) -> None:
        super().__init__(branch=branch, capacity=capacity)
        self.results: list[Result] = []

    def write(self, result: Result) -> None:
        self.results.append(result.copy())
