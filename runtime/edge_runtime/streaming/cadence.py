"""`Cadence`: which frames a branch is due on, and what its ledger is told about the others."""

from __future__ import annotations

import threading

from edge_runtime.errors import ConfigError
from edge_runtime.streaming.ledger import Ledger, Outcome

__all__ = ["Cadence"]


class Cadence:
    """One arrival for every `every` frames of the source, served by the first of them that gets through.

    So a branch that runs on every tenth frame is not starved when the queue happens to drop just those frames, and
    loses its turn (dropped or failed, with the reason) only when all ten are lost. Frames are numbered
    0, 1, ... in the order of the source.
    """

    def __init__(self, every: int, ledger: Ledger) -> None:
        if every < 1:
            raise ConfigError(f"cadence is {every}; 1 means every frame, n every n-th")
        self.every = every
        self._ledger = ledger
        self._lock = threading.Lock()
        self._turns: dict[int, int] = {}  # groups of `every` frames that nothing has served yet, and their tickets
        self._lost: dict[int, tuple[int, Outcome, str]] = {}  # of these: frames lost so far, and how the last was
        self.lost = 0

    def arrive(self, number: int) -> None:
        """Frame `number` has come from the source."""
        group, first = divmod(number, self.every)
        if first == 0:
            ticket = self._ledger.arrive()
            with self._lock:
                self._turns[group] = ticket

    def lose(self, number: int, outcome: Outcome, reason: str) -> None:
        """Frame `number` will not be seen by the branch; `lost` counts the turns that this cost."""
        group = number // self.every
        with self._lock:
            if group not in self._turns:
                return
            count = self._lost.get(group, (0,))[0] + 1
            if count < self.every:
                self._lost[group] = count, outcome, reason
                return
            self.lost += 1
            self._lost.pop(group, None)
            ticket = self._turns.pop(group)
        self._ledger.settle(ticket, outcome, reason=reason)

    def serve(self, number: int) -> int | None:
        """The ticket to settle when the branch is due on frame `number`, else None."""
        group = number // self.every
        with self._lock:
            if self._lost:
                self._lost.pop(group, None)
            return self._turns.pop(group, None)

    def finish(self) -> None:
        """The stream is over: settle the turns whose frames did not all arrive, by the last loss."""
        with self._lock:
            turns, self._turns = self._turns, {}
            lost, self._lost = self._lost, {}
        for group, ticket in turns.items():
            _, outcome, reason = lost.get(group, (0, "dropped", "ended"))
            self._ledger.settle(ticket, outcome, reason=reason)
