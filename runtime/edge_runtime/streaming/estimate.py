"""Running estimates of what a stage costs."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["CostEstimate"]

_WINDOW = 64


class CostEstimate:
    """Median and p95 of the last 64 durations in ns; 0 before the first.

    p95 is the sample of rank `ceil(0.95 n)`: the largest while n < 20, and with a full window three outliers are let
    pass.
    """

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=_WINDOW)
        self._sorted: list[int] = []
        self.p95_ns = 0  # predicted cost, on the safe side
        self.median_ns = 0  # typical cost

    def record(self, duration_ns: int) -> None:
        """Add one duration; the oldest leaves a full window."""
        if len(self._recent) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(duration_ns)
        insort(self._sorted, duration_ns)
        n = len(self._sorted)
        self.p95_ns = self._sorted[-(-95 * n // 100) - 1]
        self.median_ns = self._sorted[(n - 1) // 2]

    def restart(self) -> None:
        """Forget all but the newest duration: the conditions have changed."""
        newest = list(self._recent)[-1:]
        self._recent.clear()
        self._sorted.clear()
        for duration_ns in newest:
            self.record(duration_ns)
