"""`StreamRun`: the threads of one stream. capture -> mailbox -> compute -> one lane and thread per sink."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError, CorruptFrameError
from edge_runtime.frame import Frame
from edge_runtime.result import Result
from edge_runtime.streaming.beside import Beside
from edge_runtime.streaming.contracts import FrameSource
from edge_runtime.streaming.intake import Gate, Intake
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.lane import Lane, SinkLane
from edge_runtime.streaming.mailbox import Mailbox
from edge_runtime.streaming.records import LossRecord
from edge_runtime.streaming.scheduling import Grant, Scheduling, apply_scheduling
from edge_runtime.streaming.step import Arrived, BranchStep
from edge_runtime.streaming.thermal import CapHook
from edge_runtime.streaming.threads import ThreadGroup
from edge_runtime.streaming.watchdog import Monitor, Watchdogs

__all__ = ["RunSettings", "StreamRun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """What a `Pipeline` was set to that one stream needs."""

    queue: int
    intake: Intake
    watchdogs: Watchdogs
    scheduling: Scheduling
    caps: tuple[CapHook, ...]


class StreamRun:
    """Owns the threads and hand-offs of one stream; made and driven by `Pipeline`."""

    def __init__(
        self,
        source: FrameSource,
        steps: Mapping[str, BranchStep],
        lanes: Sequence[Lane],
        *,
        clock: Clock,
        journal: Journal,
        settings: RunSettings,
        beside: Beside | None,
    ) -> None:
        self.steps = dict(steps)
        self.lanes = tuple(lanes)
        self.journal = journal
        self.failure: BaseException | None = None
        self.started_ns = clock.now_ns()
        self.ended_ns: int | None = None
        self.stopped = threading.Event()
        self.source = source
        self.live = source.live
        self.taken = 0  # frames that the source gave
        self.reading_since_ns: int | None = None
        self.grants: list[Grant] = []
        self._clock = clock
        self._settings = settings
        self._beside = beside
        self._gate = Gate(settings.intake, live=source.live, clock=clock, journal=journal, source=source.name)
        self._box: Mailbox[Arrived] = Mailbox(
            policy="latest" if source.live else "block",
            capacity=1 if source.live else settings.queue,
            clock=clock,
            on_drop=self._not_taken,
        )
        for lane in lanes:
            lane.journal = journal
        self._monitor = Monitor(self, settings.watchdogs, caps=settings.caps, clock=clock, journal=journal)
        bodies: dict[str, Callable[[], None]] = {"capture": self._capture, "compute": self._compute}
        bodies |= {f"sink {lane.name}": lane.run for lane in lanes if isinstance(lane, SinkLane)}
        self.threads = ThreadGroup(bodies, self._on_error)
        watching: dict[str, Callable[[], None]] = {"watch": self._monitor.loop}
        if journal.has_listener:
            watching["events"] = journal.run
        self.watching = ThreadGroup(watching, self._on_error)

    def start(self) -> None:
        """Start all threads."""
        self.watching.start()
        self.threads.start()

    def stop(self) -> None:
        """End soon: no further frame is taken; results that exist are still delivered. Any thread, any time."""
        self.stopped.set()
        self._box.close(discard=True)
        self.threads.end_soon()

    def join(self, timeout_s: float) -> None:
        """Wait for the threads, then settle the accounts. Raises `PipelineError` naming a thread that would not end."""
        try:
            self.threads.join(timeout_s, self._abandon, self._interrupt)
        finally:
            self.ended_ns = self._clock.now_ns()
            for step in self.steps.values():
                step.finish()
            self._monitor.close()
            self.journal.close()
            self.watching.join(timeout_s, lambda: self.journal.close(discard=True))

    def now_ns(self) -> int:
        """Time on the stream's clock."""
        return self._clock.now_ns()

    def calls(self) -> dict[str, tuple[str, int]]:
        """What is inside a call now: name of a branch or sink -> what, and since when (ns)."""
        found = {}
        for name, step in self.steps.items():
            watch = step.watch
            if watch is not None:
                found[name] = (f"{watch.current or 'its step'} of a frame", watch.now_ns)
        for lane in self.lanes:
            writing = lane.writing if isinstance(lane, SinkLane) else None
            if writing is not None:
                found[f"sink {lane.name}"] = (f"write of frame {writing[0]}", writing[1])
        return found

    def _abandon(self) -> None:
        self.stop()
        for lane in self.lanes:
            lane.close(discard=True)

    def _interrupt(self) -> None:
        """Wake a source that waits in `read` (a camera, a queue), where it offers that."""
        interrupt = getattr(self.source, "interrupt", None)
        if "capture" in self.threads.alive and self.stopped.is_set() and interrupt is not None:
            interrupt()

    def _on_error(self, name: str, error: BaseException) -> None:
        if name == "capture" and self.stopped.is_set():  # an interrupted read may raise; the stream ends anyway
            text = f"source {self.source.name!r}, while stopping: {type(error).__name__}: {error}"
            self.journal.tell("source_lost", text)
            return
        self.failure = self.failure or error
        if name == "capture":  # a source that ends in an error still has its good frames processed
            self.journal.tell("source_lost", f"source {self.source.name!r}: {type(error).__name__}: {error}")
        else:
            self.stop()

    def _schedule(self, thread: str) -> None:
        for grant in apply_scheduling(self._settings.scheduling, thread):
            self.grants.append(grant)
            if not grant.granted:
                self.journal.tell("scheduling", f"{thread}: {grant.what} was not granted: {grant.detail}")

    def _capture(self) -> None:
        self._schedule("capture")
        number = 0
        try:
            while not self.stopped.is_set():
                self.reading_since_ns = self._clock.now_ns()
                try:
                    frame = self.source.read()
                except CorruptFrameError as error:
                    self.journal.tell("corrupt_frame", str(error), frame=error.index)
                    self._refuse(number, "corrupt", str(error))
                except ConfigError as error:
                    self._gate.bad(number, error)
                    self._refuse(number, "bad_frame", str(error))
                else:
                    if frame is None:
                        return
                    self._take(number, frame)
                number += 1
        finally:
            self.reading_since_ns = None
            self._box.close()

    def _take(self, number: int, frame: Frame) -> None:
        self.reading_since_ns = None
        self.taken += 1
        if reason := self._gate.check(frame):
            self._refuse(number, reason, f"frame {frame.index}: {reason}, see the events")
            return
        self._arrive(number)
        self._box.put(Arrived(number=number, frame=frame, put_ns=self._clock.now_ns()))

    def _arrive(self, number: int) -> None:
        for step in self.steps.values():
            step.cadence.arrive(number)

    def _refuse(self, number: int, reason: str, message: str) -> None:
        """A frame that came but cannot be used."""
        self._arrive(number)
        for step in self.steps.values():
            step.errors.setdefault(reason, message)
            step.cadence.lose(number, "failed", reason)
        self._note_loss(LossRecord(number=number, time_ns=self.now_ns(), outcome="failed", reason=reason))

    def _not_taken(self, arrived: Arrived, reason: str) -> None:
        reason = "stopped" if reason == "closed" else reason
        for step in self.steps.values():
            step.cadence.lose(arrived.number, "dropped", reason)
        self._note_loss(LossRecord(number=arrived.number, time_ns=self.now_ns(), outcome="dropped", reason=reason))

    def _note_loss(self, record: LossRecord) -> None:
        if self.journal.observed:
            self.journal.note(record)

    def _compute(self) -> None:
        self._schedule("compute")
        try:
            while (arrived := self._box.take()) is not None:
                taken_ns = self._clock.now_ns()
                for step in self.steps.values():
                    step(arrived, taken_ns, self._publish)
        finally:
            for lane in self.lanes:
                lane.close()
            self.threads.end_soon()

    def _publish(self, result: Result) -> None:
        if self._beside is not None:
            before = self.steps[result.branch].newest
            self._beside.attach(result, live=self.live, since=None if before is None else before.frame)
        for lane in self.lanes:
            lane.offer(result)
