"""The contract that every frame source keeps."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

from edge_runtime.buffers import PoseBuffer
from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.errors import SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources.given import GivenGeometry

__all__ = ["GeometrySource", "Source", "with_geometry"]

SourceT = TypeVar("SourceT", bound="Source")
SLICE_NS = 50_000_000  # of a sleep, so that `interrupt` is noticed


class Source(ABC):
    """Frames in order, one at a time; a context manager and an iterator.

    A source opens in its constructor, so that a wrong path or format is an error before anything starts.
    `read` blocks until the next frame is there. It is called from one thread; `close` may be called from the
    same thread, or from another after reading has stopped.

    Attributes:
        name: short label for logs and results; never text taken from inside a medical file.
        live: true when frames come at their own pace, so that a slow consumer must skip to the newest one;
            false when every frame is wanted however long it takes.
        frame_count: number of frames, or None when it is not known before the end. A video container may
            announce an estimate.
        fps: nominal frames per second, or None when the source carries no timing.
        timing_note: what is to be known about the timing: why `fps` is None, or what it stands on.
        poses: where the images lie, for a tracked recording, else None. A recording that is not paced keeps its own
            time: ask with `poses.at(frame.device_ns, ...)`; paced, it has host time: `poses.at(frame.arrival_ns, ...)`.
    """

    poses: PoseBuffer | None = None

    def __init__(
        self,
        *,
        name: str,
        live: bool = False,
        frame_count: int | None = None,
        fps: float | None = None,
        timing_note: str = "",
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.live = live
        self.frame_count = frame_count
        self.fps = fps
        self.timing_note = timing_note
        self._clock: Clock = MonotonicClock() if clock is None else clock
        self._closed = False
        self._interrupted = threading.Event()

    def read(self) -> Frame | None:
        """The next frame, or None at the end; blocks until it is there.

        `Frame.image` is owned by the receiver: a later `read` never changes it. Raises `CorruptFrameError`
        with the frame's `index` when that one frame cannot be decoded; reading on gives the frames after it.
        Raises `SourceError` when the source is closed or lost.
        """
        if self._closed:
            raise SourceError(f"source {self.name!r} is closed; open it again to read on")
        return self._next()

    def rewind(self) -> None:
        """Go back to frame 0. Raises `SourceError` where the source is closed or cannot go back."""
        if self._closed:
            raise SourceError(f"source {self.name!r} is closed; open it again to read on")
        self._rewind()

    def due_ns(self, index: int) -> int | None:
        """When frame `index` is due, in ns after the first, by the source's own timing; None without timing.

        Known before the frame is decoded, for indices past the end too (by the nominal interval).
        """
        return None if self.fps is None else round(index * 1e9 / self.fps)

    def close(self) -> None:
        """Release files and devices; closing again does nothing."""
        if not self._closed:
            self._closed = True
            self._release()

    def interrupt(self) -> None:
        """Make a `read` that waits in another thread end soon, where it would not by itself; safe from any thread.

        Nothing is read afterwards; `close` follows when the reading thread has stopped.
        """
        self._interrupted.set()

    def _slept_until(self, time_ns: int) -> bool:
        """Sleep; false when `interrupt` came first."""
        while not self._interrupted.is_set():
            now_ns = self._clock.now_ns()
            if now_ns >= time_ns:
                return True
            self._clock.sleep_until_ns(min(time_ns, now_ns + SLICE_NS))
        return False

    @abstractmethod
    def _next(self) -> Frame | None:
        """`read` of an open source."""

    def _rewind(self) -> None:
        raise SourceError(f"source {self.name!r} cannot go back to its first frame; open it again")

    def _release(self) -> None:  # noqa: B027 - most sources hold nothing
        """Free what the constructor opened; called once."""

    def __enter__(self: SourceT) -> SourceT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Frame]:
        while (frame := self.read()) is not None:
            yield frame


class GeometrySource(Source):
    """Frames of `source` with the geometry that `geometry_of` says; `restart` is called when it begins anew."""

    def __init__(
        self, source: Source, geometry_of: Callable[[Frame], FrameGeometry], restart: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(
            name=source.name,
            live=source.live,
            frame_count=source.frame_count,
            fps=source.fps,
            timing_note=source.timing_note,
        )
        self._source = source
        self._geometry_of, self._start_anew = geometry_of, restart
        self.poses = source.poses

    def due_ns(self, index: int) -> int | None:
        return self._source.due_ns(index)

    def _next(self) -> Frame | None:
        frame = self._source.read()
        return None if frame is None else replace(frame, geometry=self._geometry_of(frame))

    def _rewind(self) -> None:
        self._source.rewind()
        self._start_anew()

    def interrupt(self) -> None:
        super().interrupt()
        self._source.interrupt()

    def _release(self) -> None:
        self._source.close()


def with_geometry(source: Source, geometry: FrameGeometry) -> Source:
    """`source` with `geometry` on every frame, in place of what the file says (or does not say).

    For millimetres known from elsewhere: `FrameGeometry(row_mm=0.2, column_mm=0.2, origin="user",
    trusted=True, reason="")`. It holds for the size of the first frame: after a change of size it is withdrawn, with
    the reason. Closing the result closes `source`.
    """
    given = GivenGeometry(geometry)
    return GeometrySource(source, lambda frame: given.at(frame.shape), given.restart)
