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

    def record(self, duration_ns: int) -> None:
        """Add one duration; the oldest leaves a full window."""
        if len(self._recent) == _WINDOW:
            del self._sorted[bisect_left(self._sorted, self._recent[0])]
        self._recent.append(duration_ns)
        insort(self._sorted, duration_ns)

    def restart(self) -> None:
        """Forget all but the newest duration: the conditions have changed."""
        newest = list(self._recent)[-1:]
        self._recent.clear()
        self._recent.extend(newest)
        self._sorted = newest

    @property
    def p95_ns(self) -> int:
        """Predicted cost, on the safe side."""
        n = len(self._sorted)
        return self._sorted[-(-95 * n // 100) - 1] if n else 0

    @property
    def median_ns(self) -> int:
        """Typical cost."""
        n = len(self._sorted)
        return self._sorted[(n - 1) // 2] if n else 0
