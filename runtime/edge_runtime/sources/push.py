"""A source that the embedding application fills."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, SourceError
from edge_runtime.frame import Frame, FrameGeometry
from edge_runtime.sources.base import Source
from edge_runtime.sources.given import GivenGeometry
from edge_runtime.streaming.mailbox import HandOff, Mailbox, MailboxCounts

__all__ = ["PushSource"]


class PushSource(Source):
    """Frames handed in by `push`, from any thread, and read by the pipeline.

    Bounded: `policy` "drop_oldest" (the default) and "latest" never make the caller wait, and count what they lose;
    "block" makes `push` wait for room and loses nothing. Index and `arrival_ns` are given when a frame is pushed, so
    time in the queue is inside every latency. `end` lets what is inside be read, then ends the stream; `close` throws
    it away. After a change of size `geometry` is withdrawn, with the reason; one given to `push` is taken as it is.
    Raises `ConfigError` for a policy, capacity or rate that is not one.
    """

    def __init__(
        self,
        *,
        capacity: int = 4,
        policy: HandOff = "drop_oldest",
        live: bool = True,
        fps: float | None = None,
        geometry: FrameGeometry | None = None,
        name: str = "push",
        clock: Clock | None = None,
    ) -> None:
        if fps is not None and not 0 < fps < float("inf"):
            raise ConfigError(f"fps is {fps}; frames per second must be positive, or None where they are not known")
        note = "" if fps is not None else "frames come when they are pushed; give fps for a nominal rate"
        super().__init__(name=name, live=live, fps=fps, timing_note=note, clock=clock)
        self._geometry = GivenGeometry(FrameGeometry() if geometry is None else geometry)
        self._box: Mailbox[Frame] = Mailbox(policy=policy, capacity=capacity, clock=self._clock)
        self._pushing = threading.Lock()
        self._index = 0

    def push(
        self,
        image: npt.NDArray[np.uint8],
        *,
        device_ns: int | None = None,
        arrival_ns: int | None = None,
        geometry: FrameGeometry | None = None,
        copy: bool = True,
    ) -> bool:
        """Hand in one image, (H, W) or (H, W, 3) RGB uint8; False when the source has ended and it was dropped.

        `arrival_ns` (host monotonic) is by default now; `geometry` is by default the source's. Without `copy` the
        caller must not change the array any more. Raises `ConfigError` for an image of another kind or without a pixel.
        """
        now_ns = self._clock.now_ns() if arrival_ns is None else arrival_ns
        frame = Frame(
            image=np.array(image, order="C") if copy else image,
            index=0,
            arrival_ns=now_ns,
            device_ns=device_ns,
            geometry=FrameGeometry() if geometry is None else geometry,
        )
        with self._pushing:  # so that indices enter the mailbox in their order
            usual = self._geometry.at(frame.shape) if geometry is None else geometry
            frame = replace(frame, index=self._index, geometry=usual)
            self._index += 1
            return self._box.put(frame)

    def end(self) -> None:
        """No more frames: the reader gets what is inside, then the end."""
        self._box.close()

    def counts(self) -> MailboxCounts:
        """Pushed, read, lost by reason, waiting: `put == taken + sum(dropped.values()) + inside`, always."""
        return self._box.counts()

    def _next(self) -> Frame | None:
        frame = self._box.take()
        if frame is None and self._closed:
            raise SourceError(f"source {self.name!r} was closed while it was read")
        return frame

    def interrupt(self) -> None:
        self._box.close(discard=True)

    def _release(self) -> None:
        self._box.close(discard=True)
