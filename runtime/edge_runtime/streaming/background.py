"""`Background`: a stream that runs while the program goes on, and hands out its results when asked."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack

from edge_runtime.result import Result
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.lane import Lane

__all__ = ["Background"]


class Background:
    """Enters `streaming` and leaves it in `close`; made by `Pipeline.start`. One thread polls and closes."""

    def __init__(self, streaming: AbstractContextManager[object], source: FrameSource, lane: Lane) -> None:
        self.source = source
        self._lane = lane
        self._held: tuple[int, Result] | None = None
        self._stack = ExitStack()
        self._stack.enter_context(streaming)

    def poll(self, timeout_ms: float | None) -> Result | None:
        """The next result, valid until the next call; None after `timeout_ms` (None: wait) or at the end."""
        self._let_go()
        self._held = self._lane.take(None if timeout_ms is None else round(timeout_ms * 1e6))
        return None if self._held is None else self._held[1]

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._lane.over

    def close(self) -> None:
        """Let go of the results that nobody polled and wait for the threads."""
        self._let_go()
        self._lane.close(discard=True)
        self._stack.close()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._lane.settle(*held)
