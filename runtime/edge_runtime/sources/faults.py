"""A source with faults, scripted and seeded: for tests of what a program does when its source misbehaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import msgspec
import numpy as np

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError, SourceError
from edge_runtime.frame import Frame
from edge_runtime.sources.base import Source

__all__ = ["Fault", "FaultKind", "FaultSource", "Injected"]

FaultKind = Literal[
    "stall", "burst", "corrupt", "duplicate", "late_stamp", "resolution", "colour", "depth", "lost", "dead"
]


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One fault: on frame `at`, or (without `at`) on each frame with `probability`.

    | kind | what happens |
    |---|---|
    | `stall` | nothing for `ms`, then this frame and those after it, which arrive when they are handed out |
    | `burst` | this frame and the next `count - 1` are held until the last is there, then come at once |
    | `corrupt` | `CorruptFrameError` in place of the frame, `count` times |
    | `duplicate` | the frame comes `count` times more, with the same index and times |
    | `late_stamp` | `device_ns` (where there is none: `arrival_ns`) lies `ms` before what it was |
    | `resolution` | every second row and column only, geometry following, for `count` frames |
    | `colour` | grey becomes RGB and RGB becomes grey, for `count` frames |
    | `depth` | the mm per pixel are those of half the depth, at the same size, for `count` frames |
    | `lost` | `SourceError` from here on |
    | `dead` | `SourceError` at the opening; `at` and `probability` do not matter |

    Raises `ConfigError` for a value out of range.
    """

    kind: FaultKind
    at: int | None = None
    probability: float = 0.0
    ms: float = 500.0
    count: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind):
            raise ConfigError(f"fault {self.kind!r} is unknown; {', '.join(get_args(FaultKind))} are known")
        if not 0 <= self.probability <= 1 or not 0 <= self.ms < 1e9 or self.count < 1:
            raise ConfigError(
                f"probability {self.probability}, ms {self.ms}, count {self.count}: 0 to 1, 0 to 1e9 and at least 1"
            )
        if self.at is not None and (self.at < 0 or self.probability > 0):
            raise ConfigError(f"at is {self.at} with probability {self.probability}; one of the two, and at from 0")


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was brought about, and the frame of the wrapped source on which it was."""

    at: int
    kind: FaultKind


class FaultSource(Source):
    """`source` with `faults`; the same `seed` brings about the same ones. Closing it closes `source`.

    `injected` lists what was done so far. Frames are counted as the wrapped source gives them, its own corrupt frames
    too. Raises `SourceError` at once (and closes `source`) when one of the faults is `dead`.
    """

    def __init__(self, source: Source, faults: Sequence[Fault], *, seed: int = 0, clock: Clock | None = None) -> None:
        super().__init__(
            name=source.name,
            live=source.live,
            frame_count=source.frame_count,
            fps=source.fps,
            timing_note=source.timing_note,
            clock=clock,
        )
        self._source = source
        self._faults = tuple(faults)
        self._seed = seed
        self.poses = source.poses
        self.injected: list[Injected] = []
        self._restart()
        if any(fault.kind == "dead" for fault in self._faults):
            self.injected.append(Injected(0, "dead"))
            source.close()
            raise SourceError(f"source {source.name!r} died at the opening (a fault that was asked for)")

    def _restart(self) -> None:
        self._rng = np.random.default_rng(self._seed)
        self._read = 0
        self._waiting: deque[Frame | SourceError | None] = deque()
        self._not_before_ns: int | None = None
        self._left = dict.fromkeys(("resolution", "colour", "depth", "corrupt"), 0)
        self._is_lost = False

    def due_ns(self, index: int) -> int | None:
        return self._source.due_ns(index)

    def _next(self) -> Frame | None:
        if not self._waiting:
            self._waiting.extend(self._step(in_burst=False))
        item = self._waiting.popleft()
        if isinstance(item, SourceError):
            raise item
        return item

    def _step(self, *, in_burst: bool) -> list[Frame | SourceError | None]:
        """What the next frame of the wrapped source becomes."""
        if self._is_lost:
            return [self._loss()]
        due = self._due_faults()
        burst = 1 if in_burst else max((fault.count for fault in due if fault.kind == "burst"), default=1)
        for fault in due:
            if fault.kind in self._left:
                self._left[fault.kind] = fault.count
            if fault.kind == "lost":
                self._is_lost = True
                return [self._loss()]
            if fault.kind == "stall":
                if not self._slept_until(self._clock.now_ns() + round(fault.ms * 1e6)):
                    return [None]
                self._not_before_ns = self._clock.now_ns()
        back_ns = sum(round(fault.ms * 1e6) for fault in due if fault.kind == "late_stamp")
        copies = 1 + sum(fault.count for fault in due if fault.kind == "duplicate")
        found = [self._changed(self._take(), back_ns)] * copies
        for _ in range(burst - 1):
            found += self._step(in_burst=True)
        if burst > 1:
            self._not_before_ns = self._clock.now_ns()
        return [self._held(item) for item in found]

    def _due_faults(self) -> list[Fault]:
        """The faults on this frame; each one with a probability draws once a frame, so that they stay apart."""
        due = []
        for fault in self._faults:
            hit = self._rng.random() < fault.probability if fault.at is None else fault.at == self._read
            if hit:
                due.append(fault)
                self.injected.append(Injected(self._read, fault.kind))
        self._read += 1
        return due

    def _take(self) -> Frame | SourceError | None:
        try:
            return self._source.read()
        except CorruptFrameError as error:
            return error

    def _changed(self, item: Frame | SourceError | None, back_ns: int) -> Frame | SourceError | None:
        active = {kind for kind, left in self._left.items() if left > 0}
        self._left = {kind: max(0, left - 1) for kind, left in self._left.items()}
        if not isinstance(item, Frame):
            return item
        if "corrupt" in active:
            return CorruptFrameError(f"frame {item.index} is damaged (a fault that was asked for)", item.index)
        if "resolution" in active:
            small = np.ascontiguousarray(item.image[::2, ::2])
            item = replace(item, image=small, geometry=item.geometry.moved(0, 0, 0.5, 0.5))
        if "colour" in active:
            grey = item.image.ndim == 2
            image = np.repeat(item.image[..., None], 3, axis=2) if grey else np.ascontiguousarray(item.image[..., 0])
            item = replace(item, image=image)
        if "depth" in active and item.geometry.row_mm is not None and item.geometry.column_mm is not None:
            half = replace(item.geometry, row_mm=item.geometry.row_mm / 2, column_mm=item.geometry.column_mm / 2)
            item = replace(item, geometry=half)
        if back_ns and item.device_ns is not None:
            return replace(item, device_ns=item.device_ns - back_ns)
        return replace(item, arrival_ns=item.arrival_ns - back_ns)

    def _held(self, item: Frame | SourceError | None) -> Frame | SourceError | None:
        """What a stall or burst held back arrives when it is handed out, not when it was due."""
        if not isinstance(item, Frame) or self._not_before_ns is None or item.arrival_ns >= self._not_before_ns:
            return item
        return replace(item, arrival_ns=self._not_before_ns)

    def _loss(self) -> SourceError:
        return SourceError(f"source {self.name!r} was lost after {self._read - 1} frames (a fault that was asked for)")

    def _rewind(self) -> None:
        self._source.rewind()
        self._restart()

    def interrupt(self) -> None:
        super().interrupt()
        self._source.interrupt()

    def _release(self) -> None:
        self._source.close()
