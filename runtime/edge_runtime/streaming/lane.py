"""`Lane`: the way of results from the compute thread to one taker, with its own mailbox and ledger."""

from __future__ import annotations

from edge_runtime.clock import Clock
from edge_runtime.metrics.latency import LatencyHistogram
from edge_runtime.result import Result
from edge_runtime.sinks.base import Sink
from edge_runtime.streaming.ledger import Ledger, Outcome
from edge_runtime.streaming.mailbox import Mailbox

__all__ = ["Lane", "SinkLane"]


class Lane:
    """Results wait here for one taker. `age` is the time from a frame's arrival to the end of its delivery."""

    def __init__(self, name: str, *, clock: Clock, live: bool, capacity: int, branch: str | None = None) -> None:
        self.name = name
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

    def take(self) -> tuple[int, Result] | None:
        """The next result and its ticket; None when the lane is closed and empty. Pass both to `settle`."""
        return self._box.take()

    def settle(self, ticket: int, result: Result, outcome: Outcome | None = None, reason: str = "") -> None:
        """The taker is done with the result: account for it and let it go."""
        delivered = outcome is None
        if delivered:
            self.age.record(self._clock.now_ns() - result.frame.arrival_ns)
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
        try:
            self._sink.write(result)
        except Exception as error:  # whatever a sink raises must not reach the stream; the report carries it
            self.error = error
            self.settle(ticket, result, "failed", f"sink: {type(error).__name__}")
            self._close()
        else:
            self.settle(ticket, result)

    def _close(self) -> None:
        try:
            self._sink.close()
        except Exception as error:
            self.error = self.error or error
