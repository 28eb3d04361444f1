"""A source that is opened again when it is lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError, SourceFormatError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources.base import Source
from edge_runtime.sources.given import withdrawn

__all__ = ["ReconnectCounts", "ReconnectEvent", "Reconnecting"]

EVENTS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectEvent:
    """`lost` (a read failed), `retry` (an opening failed), `reconnected`, `gave_up`; `attempt` counts from the loss."""

    kind: Literal["lost", "retry", "reconnected", "gave_up"]
    time_ns: int
    attempt: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectCounts:
    """Losses, openings that were tried after them, and those that succeeded."""

    lost: int = 0
    attempts: int = 0
    reconnected: int = 0


class Reconnecting(Source):
    """Reads what `factory` opens; when that is lost, opens it again after `first_s`, then `factor` times as long ...

    The first opening is in the constructor and not repeated: a wrong address is an error before anything starts. After
    a `SourceError` of a read the source is closed and opened anew, at most `attempts` times (None: for ever) with at
    most `limit_s` between; then the last error is raised. The wait starts anew after a frame was read. Corrupt frames
    and the end of the stream pass through. `Frame.index` goes on counting; `device_ns` is the device's and may start
    anew. What comes back with another size and the geometry of the first frame has it withdrawn: it was given for
    another size. Every step is an event: `events` holds the newest 256, `on_event` is called with each in the reading
    thread.

    Raises what `factory` raises at the first opening; `ConfigError` for a wait or count out of range.
    """

    def __init__(
        self,
        factory: Callable[[], Source],
        *,
        first_s: float = 0.5,
        factor: float = 2.0,
        limit_s: float = 10.0,
        attempts: int | None = None,
        on_event: Callable[[ReconnectEvent], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not (0 <= first_s <= limit_s < float("inf") and 1 <= factor < float("inf")):
            raise ConfigError(
                f"first_s {first_s}, factor {factor}, limit_s {limit_s}: 0 <= first <= limit, factor >= 1"
            )
        if attempts is not None and attempts < 1:
            raise ConfigError(f"attempts is {attempts}; at least 1, or None for ever")
        self._source = source = factory()
        super().__init__(
            name=source.name, live=source.live, fps=source.fps, timing_note=source.timing_note, clock=clock
        )
        self.poses = source.poses
        self._factory = factory
        self._first_ns, self._limit_ns = round(first_s * 1e9), round(limit_s * 1e9)
        self._factor = factor
        self._attempts = attempts
        self._on_event = on_event
        self._events: deque[ReconnectEvent] = deque(maxlen=EVENTS)
        self._counts = ReconnectCounts()
        self._first: tuple[FrameGeometry, tuple[int, int]] | None = None
        self._index = 0
        self._attempt = 0
        self._wait_ns = self._first_ns

    @property
    def events(self) -> tuple[ReconnectEvent, ...]:
        """The newest events, oldest first."""
        return tuple(self._events)

    def counts(self) -> ReconnectCounts:
        """Counters since the start, events that are no longer held included."""
        return self._counts

    def due_ns(self, index: int) -> int | None:
        return self._source.due_ns(index)

    def _next(self) -> Frame | None:
        while True:
            try:
                frame = self._source.read()
            except CorruptFrameError as error:
                index = self._count_one()
                raise CorruptFrameError(f"frame {index} since the start: {error}", index) from error
            except SourceError as error:
                if isinstance(error, SourceFormatError) or self._interrupted.is_set():
                    raise
                self._lose(error)
                self._open_again(error)
                continue
            if frame is None:
                return None
            self._attempt, self._wait_ns = 0, self._first_ns
            return replace(frame, index=self._count_one(), geometry=self._geometry_of(frame))

    def _geometry_of(self, frame: Frame) -> FrameGeometry:
        if self._first is None:
            self._first = frame.geometry, frame.shape
        geometry, size = self._first
        changed = frame.shape != size and frame.geometry == geometry
        return withdrawn(geometry, size, frame.shape) if changed else frame.geometry

    def _lose(self, error: SourceError) -> None:
        self._counts = replace(self._counts, lost=self._counts.lost + 1)
        self._tell("lost", str(error))
        self._source.close()

    def _open_again(self, error: SourceError) -> None:
        """Wait and open until it works; raises the last error when the attempts are used up."""
        while True:
            if self._attempts is not None and self._attempt >= self._attempts:
                self._tell("gave_up", str(error))
                raise SourceError(f"source {self.name!r} is gone after {self._attempt} attempts: {error}") from error
            self._pause()
            self._attempt += 1
            self._counts = replace(self._counts, attempts=self._counts.attempts + 1)
            try:
                self._source = self._factory()
            except SourceError as failure:
                error = failure
                self._tell("retry", str(failure))
                continue
            if self._interrupted.is_set():  # meanwhile: nobody would wake the new source
                raise SourceError(f"source {self.name!r} was stopped while it was opened again")
            self.poses, self.fps, self.timing_note = self._source.poses, self._source.fps, self._source.timing_note
            self._counts = replace(self._counts, reconnected=self._counts.reconnected + 1)
            self._tell("reconnected", "")
            return

    def _pause(self) -> None:
        until = self._clock.now_ns() + self._wait_ns
        self._wait_ns = min(self._limit_ns, round(self._wait_ns * self._factor))
        if not self._slept_until(until):
            raise SourceError(f"source {self.name!r} was stopped while it waited to be opened again")

    def _tell(self, kind: Literal["lost", "retry", "reconnected", "gave_up"], message: str) -> None:
        event = ReconnectEvent(kind=kind, time_ns=self._clock.now_ns(), attempt=self._attempt, message=message)
        self._events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def _count_one(self) -> int:
        index = self._index
        self._index += 1
        return index

    def _rewind(self) -> None:
        self._source.rewind()
        self._index = 0

    def interrupt(self) -> None:
        super().interrupt()
        self._source.interrupt()

    def _release(self) -> None:
        self._interrupted.set()
        self._source.close()
