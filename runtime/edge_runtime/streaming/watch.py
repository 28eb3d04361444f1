"""`Watch`: a frame's time, divided without a gap among stages and waits."""

from __future__ import annotations

from types import TracebackType

from edge_runtime.clock import Clock

__all__ = ["Watch"]


class Watch:
    """Each `lap` gives the time since the last one a name, so all laps add up to `now_ns - start_ns` exactly.

    `with watch.stage(name)` is a lap that is taken even when the block raises; `failed` then names it.
    """

    def __init__(self, clock: Clock, start_ns: int) -> None:
        self._clock = clock
        self._stage = ""
        self.now_ns = start_ns
        self.stages_ns: dict[str, int] = {}
        self.waits_ns: dict[str, int] = {}
        self.failed: str | None = None
        self.laps: list[tuple[str, int, int, bool]] = []  # name, start, end, whether it was a wait

    @property
    def current(self) -> str:
        """The stage that is (or was last) at work."""
        return self._stage

    def lap(self, name: str, *, at_ns: int | None = None, wait: bool = False) -> None:
        """The time up to now (or to `at_ns`) belongs to `name`."""
        now_ns = self._clock.now_ns() if at_ns is None else at_ns
        spent = self.waits_ns if wait else self.stages_ns
        spent[name] = spent.get(name, 0) + now_ns - self.now_ns
        self.laps.append((name, self.now_ns, now_ns, wait))
        self.now_ns = now_ns

    def stage(self, name: str) -> Watch:
        """For `with`: what the block takes, and the time since the last lap, belongs to stage `name`."""
        self._stage = name
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lap(self._stage)
        self.failed = self._stage if error is not None else None
