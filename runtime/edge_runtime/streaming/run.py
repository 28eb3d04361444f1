"""`StreamRun`: the threads of one stream. capture -> mailbox -> compute -> one lane and thread per sink."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from edge_runtime.clock import Clock
from edge_runtime.errors import CorruptFrameError
from edge_runtime.result import Result
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.lane import Lane, SinkLane
from edge_runtime.streaming.mailbox import Mailbox
from edge_runtime.streaming.step import Arrived, BranchStep
from edge_runtime.streaming.threads import ThreadGroup

__all__ = ["StreamRun"]


class StreamRun:
    """Owns the threads and hand-offs of one stream; made and driven by `Pipeline`."""

    def __init__(
        self,
        source: FrameSource,
        steps: Mapping[str, BranchStep],
        lanes: Sequence[Lane],
        *,
        clock: Clock,
        queue: int,
    ) -> None:
        self.steps = dict(steps)
        self.lanes = tuple(lanes)
        self.failure: BaseException | None = None
        self.started_ns = clock.now_ns()
        self.ended_ns: int | None = None
        self.stopped = threading.Event()
        self.source = source
        self._clock = clock
        self._box: Mailbox[Arrived] = Mailbox(
            policy="latest" if source.live else "block",
            capacity=1 if source.live else queue,
            clock=clock,
            on_drop=self._not_taken,
        )
        bodies = {"capture": self._capture, "compute": self._compute}
        bodies |= {f"sink {lane.name}": lane.run for lane in lanes if isinstance(lane, SinkLane)}
        self.live = source.live
        self.threads = ThreadGroup(bodies, self._on_error)

    def stop(self) -> None:
        """End soon: no further frame is taken; results that exist are still delivered. Any thread, any time."""
        self.stopped.set()
        self._box.close(discard=True)
        self.threads.end_soon()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads, then settle the accounts. Raises `PipelineError` naming a thread that would not end."""
        try:
            self.threads.join(timeout_s, self._abandon)
        finally:
            self.ended_ns = self._clock.now_ns()
            for step in self.steps.values():
                step.finish()

    def now_ns(self) -> int:
        """Time on the stream's clock."""
        return self._clock.now_ns()

    def _abandon(self) -> None:
        self.stop()
        for lane in self.lanes:
            lane.close(discard=True)

    def _on_error(self, name: str, error: BaseException) -> None:
        self.failure = self.failure or error
        if name != "capture":  # a source that ends in an error still has its good frames processed
            self.stop()

    def _capture(self) -> None:
        number = 0
        try:
            while not self.stopped.is_set():
                try:
                    frame = self.source.read()
                except CorruptFrameError as error:
                    self._corrupt(number, error)
                else:
                    if frame is None:
                        return
                    self._arrive(number)
                    self._box.put(Arrived(number=number, frame=frame, put_ns=self._clock.now_ns()))
                number += 1
        finally:
            self._box.close()

    def _arrive(self, number: int) -> None:
        for step in self.steps.values():
            step.cadence.arrive(number)

    def _corrupt(self, number: int, error: CorruptFrameError) -> None:
        self._arrive(number)
        for step in self.steps.values():
            step.errors.setdefault("corrupt", str(error))
            step.cadence.lose(number, "failed", "corrupt")

    def _not_taken(self, arrived: Arrived, reason: str) -> None:
        reason = "stopped" if reason == "closed" else reason
        for step in self.steps.values():
            step.cadence.lose(arrived.number, "dropped", reason)

    def _compute(self) -> None:
        try:
            while (arrived := self._box.take()) is not None:
                taken_ns = self._clock.now_ns()
                for step in self.steps.values():
                    if (result := step(arrived, taken_ns)) is not None:
                        self._publish(result)
        finally:
            for lane in self.lanes:
                lane.close()
            self.threads.end_soon()

    def _publish(self, result: Result) -> None:
        for lane in self.lanes:
            lane.offer(result)
        result.release()
