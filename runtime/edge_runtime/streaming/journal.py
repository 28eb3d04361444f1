"""`Journal`: the events of one stream, counted and kept, and the hooks that are told."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable

from edge_runtime.clock import Clock
from edge_runtime.streaming.mailbox import Mailbox
from edge_runtime.streaming.records import EventKind, Observer, StreamEvent, StreamRecord

__all__ = ["Journal"]

_KEPT = 256
_WAITING = 64


class Journal:
    """Thread-safe. `counts` counts all events by kind, `events` keeps the newest 256.

    `observe` is called at once, in the thread where the record arises, and must be quick; `on_event` is called in a
    thread of its own (`run`), so that it may take its time: at most 64 events wait for it, the oldest is dropped and
    counted in `untold`. A hook that raises is not called again; that is an event too.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        observe: Observer | None = None,
        on_event: Callable[[StreamEvent], None] | None = None,
    ) -> None:
        self.counts: Counter[EventKind] = Counter()
        self.events: deque[StreamEvent] = deque(maxlen=_KEPT)
        self._clock = clock
        self._lock = threading.Lock()
        self._observe = observe
        self._on_event = on_event
        self._box: Mailbox[StreamEvent] = Mailbox(policy="drop_oldest", capacity=_WAITING, clock=clock)

    @property
    def untold(self) -> int:
        """Events that `on_event` was too slow for."""
        return sum(self._box.counts().dropped.values()) if self._on_event is not None else 0

    def tell(self, kind: EventKind, message: str, *, branch: str = "", frame: int | None = None) -> None:
        """Something happened now."""
        event = StreamEvent(kind=kind, time_ns=self._clock.now_ns(), message=message, branch=branch, frame=frame)
        with self._lock:
            self.counts[kind] += 1
            self.events.append(event)
        if self._on_event is not None:
            self._box.put(event)
        self.note(event)

    @property
    def has_listener(self) -> bool:
        """Whether there is an `on_event` to be called by `run`."""
        return self._on_event is not None

    @property
    def observed(self) -> bool:
        """Whether `note` reaches anybody."""
        return self._observe is not None

    def note(self, record: StreamRecord) -> None:
        """Hand a record to the observer."""
        observe = self._observe
        if observe is None:
            return
        try:
            observe(record)
        except Exception as error:  # an observer must not reach the stream; the event carries it
            self._observe = None
            self.tell("callback_failed", f"the observer raised {_named(error)} and is not called again")

    def run(self) -> None:
        """Body of the thread that calls `on_event`, until `close` and nothing waits."""
        while (event := self._box.take()) is not None:
            on_event = self._on_event
            if on_event is None:
                continue
            try:
                on_event(event)
            except Exception as error:
                self._on_event = None
                self.tell("callback_failed", f"on_event raised {_named(error)} and is not called again")

    def close(self, *, discard: bool = False) -> None:
        """No more events; `discard` also throws away those that wait."""
        self._box.close(discard=discard)


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
