"""`Mailbox`: the only hand-off between two threads of a pipeline."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError

__all__ = ["HandOff", "Mailbox", "MailboxCounts"]

T = TypeVar("T")
HandOff = Literal["latest", "drop_oldest", "block"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxCounts:
    """One consistent reading: `put == taken + sum(dropped.values()) + inside`, always."""

    put: int
    taken: int
    dropped: dict[str, int]
    inside: int


class _Bell:
    """Wakes one waiting thread; rung before anybody waits, it wakes the next at once. A `threading.Condition` costs
    three times as much a hand-off, most of it because who is woken must wait for the lock that the waker holds."""

    __slots__ = ("_silent",)

    def __init__(self) -> None:
        self._silent = threading.Lock()
        self._silent.acquire()

    def ring(self) -> None:
        try:
            self._silent.release()
        except RuntimeError:  # it has been rung, and nobody has heard it yet
            return

    def wait(self, timeout: float | None = None) -> bool:
        return self._silent.acquire(timeout=-1 if timeout is None else timeout)


class Mailbox(Generic[T]):
    """A bounded queue of one or more producers and consumers, in order, that counts everything it loses.

    `latest` holds one item and a newer one takes its place; `drop_oldest` holds `capacity` and evicts the oldest;
    `block` makes `put` wait for room and loses nothing while open. Reasons of loss: `replaced` (by a newer item) and
    `closed`. `on_drop(item, reason)` is called for each lost item, in the thread that caused the loss and outside the
    lock.

    Bells are rung after the lock is let go, only when somebody waits. A ring wakes one thread: who leaves something
    for another that waits (an item, room, the end) rings again.
    """

    def __init__(
        self,
        *,
        policy: HandOff,
        clock: Clock,
        capacity: int = 1,
        on_drop: Callable[[T, str], None] | None = None,
    ) -> None:
        if policy not in ("latest", "drop_oldest", "block"):
            raise ConfigError(f"mailbox policy is {policy!r}; choose latest, drop_oldest or block")
        if capacity < 1 or (policy == "latest" and capacity != 1):
            raise ConfigError(f"mailbox capacity is {capacity}; at least 1 is needed, and exactly 1 with 'latest'")
        self.policy = policy
        self.capacity = capacity
        self._clock = clock
        self._on_drop = on_drop
        self._lock = threading.Lock()
        self._news, self._room = _Bell(), _Bell()  # takers wait for news, putters for room
        self._takers = self._putters = 0  # threads that wait
        self._items: deque[T] = deque()
        self._put = 0
        self._taken = 0
        self._dropped: Counter[str] = Counter()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `close` was called; items may still be inside."""
        return self._closed

    def put(self, item: T) -> bool:
        """Hand `item` over; False when the mailbox is closed and the item was dropped instead.

        With `block` it waits until there is room or the mailbox is closed.
        """
        waited = False
        while True:
            with self._lock:
                if waited:
                    self._putters -= 1
                waited = self.policy == "block" and not self._has_room()
                if not waited:
                    lost, reason = self._insert(item)
                    news, room = self._calls()
                    break
                self._putters += 1
            self._clock.wait(self._room, None)
        self._ring(news, room)
        if lost is not None:
            self._report(lost, reason)
        return lost is not item

    def _has_room(self) -> bool:
        """Whether a putter need not wait. The lock is held."""
        return self._closed or len(self._items) < self.capacity

    def _calls(self) -> tuple[bool, bool]:
        """Whether there is something for a waiting taker, and for a waiting putter. The lock is held."""
        news = self._takers and (self._closed or self._items)
        return bool(news), bool(self._putters and self._has_room())

    def _ring(self, news: bool, room: bool) -> None:
        if news:
            self._news.ring()
        if room:
            self._room.ring()

    def _insert(self, item: T) -> tuple[T | None, str]:
        """Count and store `item`; the item lost by it (perhaps itself) and why. The lock is held."""
        self._put += 1
        if self._closed:
            self._dropped["closed"] += 1
            return item, "closed"
        lost = self._items.popleft() if len(self._items) >= self.capacity else None
        if lost is not None:
            self._dropped["replaced"] += 1
        self._items.append(item)
        return lost, "replaced"

    def take(self, timeout_ns: int | None = None) -> T | None:
        """The oldest item; waits for one.

        None when `timeout_ns` passed, or when the mailbox is closed and empty (the only reason without a time-out).
        """
        until = None if timeout_ns is None else self._clock.now_ns() + timeout_ns
        item: T | None = None
        waited = False
        while True:
            left = None if until is None else until - self._clock.now_ns()
            with self._lock:
                self._takers -= waited
                waited = not self._items and not self._closed and (left is None or left > 0)
                self._takers += waited
                if not waited:
                    if self._items:
                        item = self._items.popleft()
                        self._taken += 1
                    news, room = self._calls()
                    break
            self._clock.wait(self._news, left)
        self._ring(news, room)
        return item

    def close(self, *, discard: bool = False) -> None:
        """Take no more items and wake every waiting thread; what is inside can still be taken, unless `discard`."""
        with self._lock:
            self._closed = True
            lost = list(self._items) if discard else []
            if discard:
                self._items.clear()
                self._dropped["closed"] += len(lost)
            news, room = self._calls()
        self._ring(news, room)
        for item in lost:
            self._report(item, "closed")

    def counts(self) -> MailboxCounts:
        """Counters at one instant."""
        with self._lock:
            dropped = {reason: n for reason, n in self._dropped.items() if n}
            return MailboxCounts(put=self._put, taken=self._taken, dropped=dropped, inside=len(self._items))

    def _report(self, item: T, reason: str) -> None:
        if self._on_drop is not None:
            self._on_drop(item, reason)
