"""`Ledger`: what became of every frame; it always balances."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from edge_runtime.errors import PipelineError

__all__ = ["Ledger", "LedgerSnapshot", "Outcome"]

Outcome = Literal["fresh", "degraded", "stale", "dropped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerSnapshot:
    """One consistent reading. `misses` counts settled frames without a fresh or degraded result in time."""

    arrived: int
    fresh: int
    degraded: int
    stale: int
    dropped: dict[str, int]
    failed: dict[str, int]
    in_flight: int
    misses: int
    longest_miss_run: int

    @property
    def balances(self) -> bool:
        """Whether arrived = fresh + degraded + stale + dropped + failed + in flight."""
        lost = sum(self.dropped.values()) + sum(self.failed.values())
        return self.arrived == self.fresh + self.degraded + self.stale + lost + self.in_flight

    @property
    def miss_ratio(self) -> float:
        """Misses over settled frames; 0 when none is settled."""
        settled = self.arrived - self.in_flight
        return self.misses / settled if settled else 0.0


class Ledger:
    """Thread-safe account of frames. Each arrival gets a ticket (0, 1, ...) and each ticket is settled once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrived = 0
        self._states: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._open: set[int] = set()
        self._misses = 0
        self._ahead: dict[int, bool] = {}  # settled before an earlier ticket: ticket -> missed
        self._next = 0
        self._run = 0
        self._longest = 0

    def arrive(self) -> int:
        """Open an account for one frame and return its ticket."""
        with self._lock:
            ticket = self._arrived
            self._arrived += 1
            self._open.add(ticket)
            return ticket

    def settle(self, ticket: int, outcome: Outcome, *, reason: str = "", missed: bool | None = None) -> None:
        """Close an account. `missed` is by default whether `outcome` is neither fresh nor degraded.

        Raises `PipelineError` when the ticket was never handed out or is settled already.
        """
        missed = outcome not in ("fresh", "degraded") if missed is None else missed
        with self._lock:
            if ticket not in self._open:
                raise PipelineError(f"ticket {ticket} is not open: of {self._arrived} arrivals it is settled or absent")
            self._open.remove(ticket)
            if outcome == "dropped":
                self._dropped[reason or "unknown"] += 1
            elif outcome == "failed":
                self._failed[reason or "unknown"] += 1
            else:
                self._states[outcome] += 1
            self._misses += missed
            if ticket == self._next:  # in the order of arrival, as nearly always
                self._extend_run(missed)
            else:
                self._ahead[ticket] = missed
            while self._ahead and self._next in self._ahead:
                self._extend_run(self._ahead.pop(self._next))

    def _extend_run(self, missed: bool) -> None:
        """The next ticket in the order of arrival is settled. The lock is held."""
        self._next += 1
        self._run = self._run + 1 if missed else 0
        if self._run > self._longest:
            self._longest = self._run

    def snapshot(self) -> LedgerSnapshot:
        """The account at one instant; later changes do not reach it."""
        with self._lock:
            return LedgerSnapshot(
                arrived=self._arrived,
                fresh=self._states["fresh"],
                degraded=self._states["degraded"],
                stale=self._states["stale"],
                dropped=dict(self._dropped),
                failed=dict(self._failed),
                in_flight=len(self._open),
                misses=self._misses,
                longest_miss_run=self._longest,
            )
