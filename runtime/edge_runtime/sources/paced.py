"""A live source made out of a recording."""

from __future__ import annotations

from dataclasses import replace

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.sources.base import Source

__all__ = ["PacedSource"]


class PacedSource(Source):
    """Plays `source` at its own rate, or at `fps`, as a scanner would send it.

    Frame i is due at start + i / fps, or at the times the recording carries. `read` sleeps until the frame is
    due, then decodes it, and stamps `arrival_ns` with the time it was DUE. So decoding, and any lateness of
    the consumer, is inside every latency that is counted from arrival; stamping after the decode would hide
    both (coordinated omission: Tene, "How NOT to Measure Latency", 2015).

    A consumer that is late gets the frames it is owed one after the other without sleeping, none left out:
    their `arrival_ns` shows how late they are. Dropping is the work of the mailbox behind this source, which
    counts what it drops.

    Args:
        source: a recording (not live); closed together with this one.
        fps: frames per second; without it the recording's own times.
        loop: start again at the end, for ever.
        loop_s: start again at the end until frames of so many seconds have been played.
        clock: what the pace is kept by.

    `Frame.index` and `device_ns` go on growing over the loops. The `poses` of a tracked recording move with the pass
    that is being played, so `poses.at(frame.arrival_ns, ...)` is the pose of that frame; with an `fps` that was asked
    for, the recording's times no longer are the host's: ask with `device_ns`. Raises `ConfigError` for an `fps`
    or `loop_s` that is not positive and for a live `source`; `SourceError` when neither `fps` nor the file
    gives a rate.
    """

    def __init__(
        self,
        source: Source,
        *,
        fps: float | None = None,
        loop: bool = False,
        loop_s: float | None = None,
        clock: Clock | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is {fps}; a positive number of frames per second is needed")
        if loop_s is not None and not 0 < loop_s < float("inf"):
            raise ConfigError(f"loop_s is {loop_s}; a positive number of seconds is needed")
        if source.live:
            raise ConfigError(f"source {source.name!r} is live already; only a recording can be paced")
        if fps is None and source.due_ns(1) is None:
            raise SourceError(f"source {source.name!r} has no rate to play at ({source.timing_note}); give fps")
        looped = loop or loop_s is not None
        super().__init__(
            name=source.name,
            live=True,
            frame_count=None if looped else source.frame_count,
            fps=source.fps if fps is None else float(fps),
            timing_note=source.timing_note if fps is None else f"played at {fps:g} frames per second as asked",
            clock=clock,
        )
        self._source = source
        self._asked_fps = fps
        self._loop = looped
        self._end_ns = None if loop_s is None else round(loop_s * 1e9)
        self._start_ns: int | None = None
        self.poses = source.poses
        self._restart()

    def due_ns(self, index: int) -> int | None:
        if self._asked_fps is not None:
            return round(index * 1e9 / self._asked_fps)
        return self._source.due_ns(index)

    def _restart(self) -> None:
        self._index = 0
        self._in_pass = 0
        self._pass_ns = 0

    def _next(self) -> Frame | None:
        if self._start_ns is None:
            self._start_ns = self._clock.now_ns()
            self._move_poses()
        offset_ns = self._pass_ns + (self.due_ns(self._in_pass) or 0)
        if self._end_ns is not None and offset_ns >= self._end_ns:
            return None
        arrival_ns = self._start_ns + offset_ns
        if not self._slept_until(arrival_ns):
            return None
        try:
            frame = self._take(offset_ns)
        except CorruptFrameError as error:
            index = self._count_one()
            raise CorruptFrameError(f"frame {index} of the played source: {error}", index) from error
        if frame is None:
            return None
        device_ns = None if frame.device_ns is None else self._pass_ns + frame.device_ns
        return replace(frame, index=self._count_one(), arrival_ns=arrival_ns, device_ns=device_ns)

    def _take(self, offset_ns: int) -> Frame | None:
        """The recording's next frame; at its end the first one again, `offset_ns` after the start."""
        frame = self._source.read()
        if frame is not None or not self._loop:
            return frame
        if self._in_pass == 0:
            raise SourceError(f"source {self.name!r} has no frame; there is nothing to loop over")
        self._source.rewind()
        self._in_pass, self._pass_ns = 0, offset_ns
        self._move_poses()
        return self._source.read()

    def _move_poses(self) -> None:
        if self.poses is not None:
            self.poses.offset_ns = self._pass_ns + (0 if self._asked_fps is not None else self._start_ns or 0)

    def _count_one(self) -> int:
        index = self._index
        self._index += 1
        self._in_pass += 1
        return index

    def _rewind(self) -> None:
        self._source.rewind()
        self._start_ns = None
        self._restart()

    def interrupt(self) -> None:
        super().interrupt()
        self._source.interrupt()

    def _release(self) -> None:
        self._source.close()
