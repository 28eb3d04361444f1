"""`GcPauses`: how long Python's garbage collector held everything up."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from edge_runtime.clock import Clock, MonotonicClock
from edge_runtime.metrics.latency import LatencyHistogram

__all__ = ["GcPause", "GcPauses"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPause:
    """One collection: host monotonic ns, generation 0 to 2, and how many objects it freed."""

    start_ns: int
    end_ns: int
    generation: int
    collected: int


class GcPauses:
    """`with GcPauses() as pauses:` measures every collection of the process inside the block.

    No Python code runs while the collector does, in any thread. `note` is told of each pause; it runs at any point of
    any thread, so it must take no lock (a collection may begin while the same thread holds it). The same goes for a
    `clock` of your own.
    """

    def __init__(self, *, note: Callable[[GcPause], None] | None = None, clock: Clock | None = None) -> None:
        self.histogram = LatencyHistogram()
        self.generations: Counter[int] = Counter()
        self._note = note
        self._clock: Clock = clock or MonotonicClock()
        self._start_ns: int | None = None

    def __enter__(self) -> GcPauses:
        gc.callbacks.append(self._called)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        gc.callbacks.remove(self._called)

    def _called(self, phase: str, info: Mapping[str, int]) -> None:
        if phase == "start":
            self._start_ns = self._clock.now_ns()
            return
        if self._start_ns is None:  # the block was entered during a collection
            return
        pause = GcPause(
            start_ns=self._start_ns,
            end_ns=self._clock.now_ns(),
            generation=info["generation"],
            collected=info["collected"],
        )
        self._start_ns = None
        self.histogram.record(pause.end_ns - pause.start_ns)
        self.generations[pause.generation] += 1
        if self._note is not None:
            self._note(pause)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: pauses, their sum and the longest in ms, and how many of each generation."""
        return {
            "pauses": self.histogram.count,
            "total_ms": self.histogram.sum_ns / 1e6,
            "longest_ms": self.histogram.max_ns / 1e6,
            "generations": {str(generation): n for generation, n in sorted(self.generations.items())},
        }
