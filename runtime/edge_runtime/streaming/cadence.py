"""`Cadence`: which frames a branch is due on, and what its ledger is told about the others."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from edge_runtime.errors import ConfigError
from edge_runtime.streaming.ledger import Ledger, Outcome

__all__ = ["Cadence"]


@dataclass(slots=True)
class _Turn:
    """One group of `every` frames that nothing has served yet."""

    ticket: int
    left: int
    outcome: Outcome = "dropped"
    reason: str = "ended"


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
        self._turns: dict[int, _Turn] = {}
        self.lost = 0

    def arrive(self, number: int) -> None:
        """Frame `number` has come from the source."""
        group, first = divmod(number, self.every)
        if first == 0:
            turn = _Turn(self._ledger.arrive(), self.every)
            with self._lock:
                self._turns[group] = turn

    def lose(self, number: int, outcome: Outcome, reason: str) -> None:
        """Frame `number` will not be seen by the branch; `lost` counts the turns that this cost."""
        with self._lock:
            turn = self._turns.get(number // self.every)
            if turn is None:
                return
            turn.left -= 1
            turn.outcome, turn.reason = outcome, reason
            if turn.left:
                return
            self.lost += 1
            del self._turns[number // self.every]
        self._ledger.settle(turn.ticket, outcome, reason=reason)

    def serve(self, number: int) -> int | None:
        """The ticket to settle when the branch is due on frame `number`, else None."""
        with self._lock:
            turn = self._turns.pop(number // self.every, None)
            return None if turn is None else turn.ticket

    def finish(self) -> None:
        """The stream is over: settle the turns whose frames did not all arrive, by the last loss."""
        with self._lock:
            turns, self._turns = list(self._turns.values()), {}
        for turn in turns:
            self._ledger.settle(turn.ticket, turn.outcome, reason=turn.reason)
