"""Three ways to read a live source, for a loop with a rhythm of its own.

The contract of lerobot's cameras (huggingface/lerobot, `cameras/camera.py`): wait for the next frame, take the newest
frame not yet seen, or look at whatever is there and how old it is.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType

from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.sources.base import Source

__all__ = ["LatestFrame", "LatestReader", "ReaderCounts"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LatestFrame:
    """The newest frame and its age in ns, counted from its arrival."""

    frame: Frame
    age_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderCounts:
    """`arrived` frames, `unseen` of them replaced or passed over before a read gave them; and `corrupt` ones."""

    arrived: int
    unseen: int
    corrupt: int


class LatestReader:
    """Drains a live source in a thread of its own and keeps the newest frame; a context manager that closes both.

    | call | gives | right for |
    |---|---|---|
    | `read` | the first frame that arrives after the call | one picture, taken now |
    | `async_read` | the newest frame that neither read has given, waiting for one | a loop that wants each frame once |
    | `read_latest` | the newest frame, seen or not, and its age; never waits | a display, a log |

    A read that runs out of time gives None. All raise `SourceError` once the source has ended or failed and, for the
    first two, nothing unseen is left. A frame that cannot be decoded is counted and passed over. Raises `ConfigError`
    for a source that is not live: draining would run through it (`PacedSource` gives it its pace).
    """

    def __init__(self, source: Source, *, clock: Clock | None = None) -> None:
        if not source.live:
            raise ConfigError(f"source {source.name!r} is not live, so it would be read to its end; use PacedSource")
        self.source = source
        self._clock: Clock = MonotonicClock() if clock is None else clock
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._seen = True
        self._arrived = self._unseen = self._corrupt = 0
        self._stop = False
        self._over: BaseException | None = None
        self._thread = threading.Thread(target=self._drain, name="edge-reader", daemon=True)
        self._thread.start()

    def read(self, timeout_ms: float | None = None) -> Frame | None:
        """The first frame that arrives from now on, or None after `timeout_ms` (None: wait for ever)."""
        called_ns = self._clock.now_ns()
        with self._changed:
            self._unseen += not self._seen
            self._seen = True
        left_ms = timeout_ms
        while (frame := self.async_read(left_ms)) is not None and frame.arrival_ns < called_ns:
            with self._changed:  # it arrived before the call, and was being decoded
                self._unseen += 1
            if timeout_ms is not None:
                left_ms = max(0.0, timeout_ms - (self._clock.now_ns() - called_ns) / 1e6)
        return frame

    def async_read(self, timeout_ms: float | None = 200.0) -> Frame | None:
        """The newest frame not yet given, or None when none came within `timeout_ms`."""
        if timeout_ms is not None and not timeout_ms >= 0:
            raise ConfigError(f"timeout_ms is {timeout_ms}; 0 or more, or None to wait for ever")
        until = None if timeout_ms is None else self._clock.now_ns() + round(timeout_ms * 1e6)
        with self._changed:
            while self._seen:
                self._check_running()
                left = None if until is None else until - self._clock.now_ns()
                if left is not None and left <= 0:
                    return None
                self._clock.wait(self._changed, left)
            self._seen = True
            return self._newest

    def read_latest(self, max_age_ms: float | None = None) -> LatestFrame | None:
        """The newest frame with its age; None before the first one, or when it is older than `max_age_ms`."""
        with self._changed:
            if self._newest is None:
                self._check_running()
                return None
            age_ns = self._clock.now_ns() - self._newest.arrival_ns
            if max_age_ms is not None and age_ns > max_age_ms * 1e6:
                self._check_running()
                return None
            return LatestFrame(frame=self._newest, age_ns=age_ns)

    def counts(self) -> ReaderCounts:
        """Counters at one instant."""
        with self._changed:
            return ReaderCounts(arrived=self._arrived, unseen=self._unseen, corrupt=self._corrupt)

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop and close the source; `SourceError` when it is stuck in a read for longer than `timeout_s`."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        self.source.interrupt()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise SourceError(f"source {self.source.name!r} is inside a read that has not returned for {timeout_s:g} s")
        self.source.close()

    def _check_running(self) -> None:
        if self._stop:
            raise SourceError(f"the reader of source {self.source.name!r} is closed")
        if self._over is not None:
            raise SourceError(f"source {self.source.name!r} gives no more frames: {self._over}") from self._over

    def _drain(self) -> None:
        while not self._stop:
            try:
                frame = self.source.read()
                over: BaseException | None = SourceError("it has ended") if frame is None else None
            except CorruptFrameError:
                with self._changed:
                    self._corrupt += 1
                continue
            except BaseException as error:  # handed to every later read
                frame, over = None, error
            with self._changed:
                if frame is not None:
                    self._arrived += 1
                    self._unseen += not self._seen
                    self._newest, self._seen = frame, False
                self._over = over
                self._changed.notify_all()
            if over is not None:
                return

    def __enter__(self) -> LatestReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
