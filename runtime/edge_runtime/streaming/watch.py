"""`Watch`: a frame's time, divided without a gap among stages and waits."""

from __future__ import annotations

from edge_runtime.clock import Clock

__all__ = ["Watch"]


class Watch:
    """Each `lap` gives the time since the last one a name, so all laps add up to `now_ns - start_ns` exactly.

    A stage sets `current` to its name and laps under it when it is through; what is `current` when an error comes up is
    what failed: `fail` laps under it and says so.
    """

    __slots__ = ("_clock", "current", "laps", "now_ns", "stages_ns", "waits_ns")

    def __init__(self, clock: Clock, start_ns: int) -> None:
        self._clock = clock
        self.current = ""  # the stage that is at work
        self.now_ns = start_ns
        self.stages_ns: dict[str, int] = {}
        self.waits_ns: dict[str, int] = {}
        self.laps: list[tuple[str, int, int, bool]] = []  # name, start, end, whether it was a wait

    def lap(self, name: str, *, at_ns: int | None = None, wait: bool = False) -> None:
        """The time up to now (or to `at_ns`) belongs to `name`."""
        now_ns = self._clock.now_ns() if at_ns is None else at_ns
        spent = self.waits_ns if wait else self.stages_ns
        spent[name] = spent.get(name, 0) + now_ns - self.now_ns
        self.laps.append((name, self.now_ns, now_ns, wait))
        self.now_ns = now_ns
        self.current = ""

    def fail(self) -> str:
        """An error has come up: the stage that failed, or nothing when none was at work."""
        failed = self.current
        if failed:
            self.lap(failed)
        return failed
