"""What is looked at in every frame as it comes in: its times, its size, its colour, its millimetres."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.records import EventKind

__all__ = ["Gate", "Intake", "OnOddity"]

_BAD_IN_A_ROW = 30

OnOddity = Literal["keep", "fail", "raise"]


class Intake(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What becomes of a frame that does not fit the ones before it; each is an event in any case.

    `keep` uses it, `fail` settles it as failed with the name of the field as the reason, `raise` ends the stream with
    `SourceError`.

    - `timestamps`: `device_ns` (on a live source `arrival_ns` too) that does not grow, or a `device_ns` more than
      `max_step_s` after the last one.
    - `absurd_time`: on a live source an arrival more than `max_ahead_ms` in the future, or more than `max_age_s` ago:
      no deadline can be counted from it.
    - `resolution`, `colour` (grey or RGB) and `geometry` (mm per pixel, scan area, trust): other than in the frame
      before. The state of preprocessing starts anew, and an earlier result is not given out again for such a frame.
    - `bad_frame`: `read` raised `ConfigError`, as `Frame` does for an image without a pixel or of another type; such a
      frame cannot be kept, and after 30 of them in a row the stream ends.
    """

    timestamps: OnOddity = "keep"
    absurd_time: OnOddity = "fail"
    resolution: OnOddity = "keep"
    colour: OnOddity = "keep"
    geometry: OnOddity = "keep"
    bad_frame: Literal["fail", "raise"] = "fail"
    max_step_s: float = 10.0
    max_ahead_ms: float = 100.0
    max_age_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("max_step_s", "max_ahead_ms", "max_age_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be a number above 0")


class Gate:
    """Compares each frame with the one before; called from the capture thread alone."""

    def __init__(self, settings: Intake, *, live: bool, clock: Clock, journal: Journal, source: str) -> None:
        self._settings, self._live, self._clock, self._journal, self._source = settings, live, clock, journal, source
        self._max_step_ns = settings.max_step_s * 1e9
        self._max_ahead_ns, self._max_age_ns = settings.max_ahead_ms * 1e6, settings.max_age_s * 1e9
        self._last: Frame | None = None
        self._bad = 0

    def check(self, frame: Frame) -> str:
        """Why the frame fails, or nothing; `SourceError` where the settings say so, and for what is no `Frame`."""
        if not isinstance(frame, Frame):
            raise SourceError(f"source {self._source!r} gave a {type(frame).__name__}; a Frame, or None at the end")
        self._bad = 0
        if self._usual(frame):
            self._last = frame
            return ""
        reason = ""
        for kind, found in self._oddities(frame):
            answer: OnOddity = getattr(self._settings, kind)
            self._journal.tell(kind, f"frame {frame.index}: {found}", frame=frame.index)
            if answer == "raise":
                raise SourceError(f"source {self._source!r}, frame {frame.index}: {found}; {kind} is set to 'raise'")
            if answer == "fail":
                reason = reason or kind
        self._last = frame
        return reason

    def bad(self, number: int, error: ConfigError) -> None:
        """`read` gave what is no frame; raises `SourceError` where the settings say so."""
        self._journal.tell("bad_frame", f"frame number {number}: {error}", frame=number)
        self._bad += 1
        if self._settings.bad_frame == "raise" or self._bad >= _BAD_IN_A_ROW:
            raise SourceError(f"source {self._source!r} gave {self._bad} bad frames in a row: {error}") from error

    def _usual(self, frame: Frame) -> bool:
        """Whether nothing can be odd about the frame: most are so, and this is quick."""
        last = self._last
        if last is None or frame.geometry is not last.geometry or frame.image.shape != last.image.shape:
            return False
        before, device_ns = last.device_ns, frame.device_ns
        if before is not None and device_ns is not None and not 0 < device_ns - before <= self._max_step_ns:
            return False
        if not self._live:
            return True
        arrival_ns = frame.arrival_ns
        now_ns = self._clock.now_ns()
        return last.arrival_ns <= arrival_ns and -self._max_ahead_ns <= now_ns - arrival_ns <= self._max_age_ns

    def _oddities(self, frame: Frame) -> Iterator[tuple[EventKind, str]]:
        last = self._last
        if self._live:
            age_ns = self._clock.now_ns() - frame.arrival_ns
            if age_ns < -self._settings.max_ahead_ms * 1e6:
                yield "absurd_time", f"it arrives {-age_ns / 1e6:.0f} ms in the future"
            elif age_ns > self._settings.max_age_s * 1e9:
                yield "absurd_time", f"it arrived {age_ns / 1e9:.0f} s ago"
        if last is None:
            return
        yield from self._times(frame, last)
        if frame.shape != last.shape:
            yield "resolution", f"{frame.shape[0]} x {frame.shape[1]} pixels after {last.shape[0]} x {last.shape[1]}"
        if frame.image.ndim != last.image.ndim:
            yield "colour", "RGB after grey" if frame.image.ndim == 3 else "grey after RGB"
        if frame.geometry is not last.geometry and frame.geometry != last.geometry:
            yield "geometry", f"{_millimetres(frame)} after {_millimetres(last)}"

    def _times(self, frame: Frame, last: Frame) -> Iterator[tuple[EventKind, str]]:
        if self._live and frame.arrival_ns < last.arrival_ns:
            back_ms = (last.arrival_ns - frame.arrival_ns) / 1e6
            yield "timestamps", f"it arrived {back_ms:.3f} ms before frame {last.index}, which came first"
        if frame.device_ns is None or last.device_ns is None:
            return
        step_ns = frame.device_ns - last.device_ns
        if step_ns <= 0:
            yield (
                "timestamps",
                f"its device time is {-step_ns / 1e6:.3f} ms before that of frame {last.index}, or the same",
            )
        elif step_ns > self._settings.max_step_s * 1e9:
            yield "timestamps", f"its device time is {step_ns / 1e9:.1f} s after that of frame {last.index}"


def _millimetres(frame: Frame) -> str:
    geometry = frame.geometry
    if geometry.row_mm is None or geometry.column_mm is None:
        return "no mm per pixel"
    trust = "" if geometry.trusted else " (not trusted)"
    return f"{geometry.row_mm:.4g} x {geometry.column_mm:.4g} mm per pixel{trust}"
