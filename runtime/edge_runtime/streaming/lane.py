"""`Lane`: the way of results from the compute thread to one taker, with its own mailbox and ledger."""

from __future__ import annotations

from edge_runtime.clock import Clock
from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.ledger import Ledger, Outcome
from edge_runtime.streaming.mailbox import Mailbox
from edge_runtime.streaming.records import SinkRecord

__all__ = ["Lane", "SinkLane"]


class Lane:
    """Results wait here for one taker. `age` is the time from a frame's arrival to the end of its delivery."""

    def __init__(
        self,
        name: str,
        *,
        clock: Clock,
        live: bool,
        capacity: int,
        branch: str | None = None,
    ) -> None:
        self.name = name
        self.journal: Journal | None = None  # given by the run that the lane is in
        self.branch = branch
        self.ledger = Ledger()
        self.age = LatencyHistogram()
        self.error: BaseException | None = None
        self.capacity = capacity
        self._clock = clock
        self._box: Mailbox[tuple[int, Result]] = Mailbox(
            policy="drop_oldest" if live else "block", capacity=capacity, clock=clock, on_drop=self._dropped
        )

    def offer(self, result: Result) -> None:
        """Hand over a result (the lane holds it from here); on a live stream this never waits."""
        if self.branch is None or result.branch == self.branch:
            result.retain()
            self._box.put((self.ledger.arrive(), result))

    @property
    def over(self) -> bool:
        """Whether it is closed and empty."""
        return self._box.closed and self.waiting == 0

    @property
    def waiting(self) -> int:
        """Results that have not been taken yet."""
        return self._box.counts().inside

    def take(self, timeout_ns: int | None = None) -> tuple[int, Result] | None:
        """The next result and its ticket; None when the lane is closed and empty, or after `timeout_ns`. Pass both to
        `settle`."""
        return self._box.take(timeout_ns)

    def settle(
        self,
        ticket: int,
        result: Result,
        outcome: Outcome | None = None,
        reason: str = "",
        *,
        start_ns: int | None = None,
    ) -> None:
        """The taker is done with the result, on which it worked since `start_ns`: account for it and let it go."""
        delivered = outcome is None
        now_ns = self._clock.now_ns()
        if delivered:
            self.age.record(now_ns - result.frame.arrival_ns)
        if self.journal is not None and self.journal.observed:
            self.journal.note(
                SinkRecord(
                    sink=self.name,
                    branch=result.branch,
                    frame=result.frame.index,
                    start_ns=now_ns if start_ns is None else start_ns,
                    end_ns=now_ns,
                    outcome=outcome or result.state,
                    reason=reason or result.reason,
                )
            )
        self.ledger.settle(
            ticket, outcome or result.state, reason=reason or result.reason, missed=result.missed or not delivered
        )
        result.release()

    def close(self, *, discard: bool = False) -> None:
        """No more results; `discard` also drops those that wait."""
        self._box.close(discard=discard)

    def _dropped(self, item: tuple[int, Result], reason: str) -> None:
        ticket, result = item
        self.settle(ticket, result, "dropped", "slow" if reason == "replaced" else reason)


class SinkLane(Lane):
    """A lane whose taker is a sink in a thread of its own."""

    def __init__(self, name: str, sink: Sink, *, clock: Clock, live: bool) -> None:
        super().__init__(name, clock=clock, live=live, capacity=sink.capacity, branch=sink.branch)
        self._sink = sink
        self.writing: tuple[int, int] | None = None  # index of the frame and since when

    def run(self) -> None:
        """Body of the sink's thread: deliver until the lane is closed and empty, then close the sink."""
        while (item := self.take()) is not None:
            self._deliver(*item)
        if self.error is None:
            self._close()

    def _deliver(self, ticket: int, result: Result) -> None:
        if self.error is not None:
            self.settle(ticket, result, "dropped", "disabled")
            return
        start_ns = self._clock.now_ns()
        self.writing = (result.frame.index, start_ns)
        try:
            self._sink.write(result)
        except Exception as error:  # whatever a sink raises must not reach the stream; the report carries it
            self.error = error
            self._tell(f"write raised {type(error).__name__}: {error}; the sink is left out from here", result)
            self.settle(ticket, result, "failed", f"sink: {type(error).__name__}", start_ns=start_ns)
            self._close()
        else:
            self.settle(ticket, result, start_ns=start_ns)
        finally:
            self.writing = None

    def _tell(self, message: str, result: Result | None = None) -> None:
        if self.journal is not None:
            frame = None if result is None else result.frame.index
            self.journal.tell("sink_failed", f"sink {self.name}: {message}", frame=frame)

    def _close(self) -> None:
        try:
            self._sink.close()
        except Exception as error:
            self._tell(f"close raised {type(error).__name__}: {error}")
            self.error = self.error or error
