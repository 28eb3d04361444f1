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


class Mailbox(Generic[T]):
    """A bounded queue of one or more producers and consumers, in order, that counts everything it loses.

    `latest` holds one item and a newer one takes its place; `drop_oldest` holds `capacity` and evicts the oldest;
    `block` makes `put` wait for room and loses nothing while open. Reasons of loss: `replaced` (by a newer item) and
    `closed`. `on_drop(item, reason)` is called for each lost item, in the thread that caused the loss and outside the
    lock.
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
        self._changed = threading.Condition()
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
        with self._changed:
            while self.policy == "block" and len(self._items) >= self.capacity and not self._closed:
                self._clock.wait(self._changed, None)
            lost, reason = self._insert(item)
            self._changed.notify_all()
        if lost is not None:
            self._report(lost, reason)
        return lost is not item

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
        with self._changed:
            while not self._items and not self._closed:
                left = None if until is None else until - self._clock.now_ns()
                if left is not None and left <= 0:
                    return None
                self._clock.wait(self._changed, left)
            if not self._items:
                return None
            self._taken += 1
            self._changed.notify_all()
            return self._items.popleft()

    def close(self, *, discard: bool = False) -> None:
        """Take no more items and wake every waiting thread; what is inside can still be taken, unless `discard`."""
        with self._changed:
            self._closed = True
            lost = list(self._items) if discard else []
            if discard:
                self._items.clear()
                self._dropped["closed"] += len(lost)
            self._changed.notify_all()
        for item in lost:
            self._report(item, "closed")

    def counts(self) -> MailboxCounts:
        """Counters at one instant."""
        with self._changed:
            dropped = {reason: n for reason, n in self._dropped.items() if n}
            return MailboxCounts(put=self._put, taken=self._taken, dropped=dropped, inside=len(self._items))

    def _report(self, item: T, reason: str) -> None:
        if self._on_drop is not None:
            self._on_drop(item, reason)
