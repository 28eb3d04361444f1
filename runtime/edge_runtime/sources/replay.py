"""A source that plays exactly what it is given: the fake for users' tests."""

from __future__ import annotations

from collections.abc import Sequence

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, EdgeError
from edge_runtime.frame import Frame
from edge_runtime.sources.base import Source

__all__ = ["ReplaySource"]


class ReplaySource(Source):
    """Hands out a script of frames and errors, unchanged.

    Where `ArraySource` makes frames from pixels, this one gives the very `Frame` objects of the script, with
    their own index, times and geometry, and raises the errors that stand between them, so that a test can
    bring about a depth change, a damaged frame, a repeated index or a lost source. With `live=True` a frame
    is handed out when the clock reaches its `arrival_ns`, never earlier.
    """

    def __init__(
        self,
        script: Sequence[Frame | EdgeError],
        *,
        live: bool = False,
        fps: float | None = None,
        name: str = "replay",
        clock: Clock | None = None,
    ) -> None:
        for item in script:
            if not isinstance(item, (Frame, EdgeError)):
                raise ConfigError(f"the script holds a {type(item).__name__}; Frame and EdgeError objects are played")
        note = "" if fps is not None else "a replay has the times of its frames; give fps for a nominal rate"
        super().__init__(name=name, live=live, frame_count=len(script), fps=fps, timing_note=note, clock=clock)
        self._script = list(script)
        self._position = 0

    def _next(self) -> Frame | None:
        if self._position >= len(self._script):
            return None
        item = self._script[self._position]
        self._position += 1
        if isinstance(item, EdgeError):
            raise item
        return item if not self.live or self._slept_until(item.arrival_ns) else None

    def _rewind(self) -> None:
        self._position = 0
