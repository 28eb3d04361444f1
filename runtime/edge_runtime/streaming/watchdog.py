"""`Watchdogs`: what is watched while a stream runs; `Monitor`: the thread that does it, with a diagnosis in words."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from edge_runtime.clock import Clock
from edge_runtime.errors import ConfigError
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.records import EventKind
from edge_runtime.streaming.thermal import Cap, CapHook

if TYPE_CHECKING:
    from edge_runtime.streaming.run import StreamRun

__all__ = ["Monitor", "Watchdogs", "resident_bytes"]

Found = tuple[EventKind, str, str]  # kind, which one, diagnosis
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_SLOPE_WINDOW = 8  # checks of the age that a growth must last


class Watchdogs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits; None switches one off. Each finding is one event when it begins and one (`recovered`) when it ends.

    - `silent_s`: a live source has not given a frame for so long.
    - `stuck_s`: a stage, a sink or the reading of a source that is not live has been inside one call for so long.
    - `age_ms`: the age of new results has grown in each of the last 8 checks, by this much in all.
    - `memory_mb`: the process has grown by so many MiB (resident) since the start, and again for each as many more.
    - `every_ms`: how often is looked; caps of heat and power are asked for as often.
    """

    silent_s: float | None = 2.0
    stuck_s: float | None = 5.0
    age_ms: float | None = 100.0
    memory_mb: float | None = 256.0
    every_ms: float = 250.0

    def __post_init__(self) -> None:
        for name in ("silent_s", "stuck_s", "age_ms", "memory_mb", "every_ms"):
            value = getattr(self, name)
            if not (value is None and name != "every_ms") and not 0 < value < float("inf"):
                raise ConfigError(f"{name} is {value}; it must be a number above 0")


def resident_bytes() -> int | None:
    """Resident memory of this process; None where the kernel does not tell it in /proc."""
    try:  # asked for several times a second: a Path would take three times as long
        file = os.open("/proc/self/statm", os.O_RDONLY)
        try:
            return int(os.read(file, 128).split()[1]) * _PAGE_BYTES
        finally:
            os.close(file)
    except (OSError, IndexError, ValueError):
        return None


class Monitor:
    """Looks at a run every `every_ms`; `check` is one look."""

    def __init__(
        self, run: StreamRun, settings: Watchdogs, *, caps: Sequence[CapHook], clock: Clock, journal: Journal
    ) -> None:
        self._run, self._settings, self._clock, self._journal = run, settings, clock, journal
        self._caps = list(caps)
        self._held: dict[CapHook, Cap | None] = dict.fromkeys(self._caps)
        self._hook_errors: dict[str, str] = {}
        self._active: dict[tuple[EventKind, str], str] = {}
        self._ages: dict[str, deque[tuple[int, int]]] = {}  # branch -> (number of results, age in ns)
        self._start_bytes = self._next_bytes = resident_bytes()
        self._changed = threading.Condition()
        self._closed = False

    def loop(self) -> None:
        """Body of the thread; ends soon after `close`."""
        due_ns = self._clock.now_ns()
        while True:
            self.check()
            due_ns = max(due_ns + round(self._settings.every_ms * 1e6), self._clock.now_ns())
            with self._changed:
                while not self._closed and (left_ns := due_ns - self._clock.now_ns()) > 0:
                    self._clock.wait(self._changed, left_ns)
                if self._closed:
                    return

    def close(self) -> None:
        """No more looks."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def check(self) -> None:
        """Look once: tell what has begun and what is over."""
        self._ask_caps()
        found = {(kind, which): text for kind, which, text in self._findings()}
        for key, text in found.items():
            if key not in self._active:
                self._journal.tell(key[0], text, branch=key[1] if key[1] in self._run.steps else "")
        for kind, which in self._active.keys() - found.keys():
            branch = which if which in self._run.steps else ""
            self._journal.tell(
                "recovered", f"no longer {kind.replace('_', ' ')}: {which or 'the source'}", branch=branch
            )
        self._active = found
        self._memory()

    def _findings(self) -> Iterator[Found]:
        now_ns = self._clock.now_ns()
        reading_since = self._run.reading_since_ns
        if reading_since is not None:
            yield from self._reading(now_ns, now_ns - reading_since)
        limit_ns = _ns(self._settings.stuck_s)
        for name, (what, since_ns) in self._run.calls().items():
            if limit_ns is not None and now_ns - since_ns >= limit_ns:
                seconds = (now_ns - since_ns) / 1e9
                yield "stuck", name, f"{name} has been inside {what} for {seconds:.1f} s: it does not return"
        yield from self._growing_ages()
        for name, text in self._hook_errors.items():
            yield "hook_failed", name, text

    def _reading(self, now_ns: int, waited_ns: int) -> Iterator[Found]:
        run, source = self._run, self._run.source
        limit_ns = _ns(self._settings.silent_s if run.live else self._settings.stuck_s)
        if limit_ns is None or waited_ns < limit_ns:
            return
        seconds = waited_ns / 1e9
        if not run.live:
            text = f"source {source.name!r} has not returned from read() for {seconds:.1f} s after {run.taken} frames"
            yield "stuck", "", f"{text}: look at the disk or network it lies on"
            return
        before = "none since the start" if run.taken == 0 else f"{run.taken} before"
        rate = "" if source.fps is None else f", {source.fps:.4g} a second were announced"
        hint = "is it switched on and sending?" if run.taken == 0 else "frozen image, cable, or a sender that stopped?"
        events: Any = getattr(source, "events", ())  # of a `Reconnecting` source
        lost = bool(events) and events[-1].kind in ("lost", "retry")
        state = f"not connected ({events[-1].message}), " if lost else "connected but "
        text = f"{state}no frame for {seconds:.1f} s: source {source.name!r} gave {before}{rate}; {hint}"
        yield "silent_source", "", text

    def _growing_ages(self) -> Iterator[Found]:
        limit_ns = None if self._settings.age_ms is None else self._settings.age_ms * 1e6
        if limit_ns is None or not self._run.live:
            return
        for name, step in self._run.steps.items():
            newest = step.newest
            ages = self._ages.setdefault(name, deque(maxlen=_SLOPE_WINDOW))
            if newest is not None and (not ages or ages[-1][0] != newest.frame.index):
                ages.append((newest.frame.index, newest.latency_ns))
            grown = [after[1] - before[1] for before, after in zip(ages, list(ages)[1:], strict=False)]
            if len(ages) == _SLOPE_WINDOW and min(grown) > 0 and sum(grown) >= limit_ns and newest is not None:
                parts = {**newest.stages_ns, **newest.waits_ns}
                where = max(parts, key=parts.__getitem__)
                text = (
                    f"results of branch {name!r} are {newest.latency_ns / 1e6:.0f} ms old, {sum(grown) / 1e6:.0f} ms "
                )
                text += (
                    f"older than {_SLOPE_WINDOW - 1} looks ago; most of it is {where} ({parts[where] / 1e6:.0f} ms): "
                )
                yield "growing_age", name, text + _advice(where)

    def _memory(self) -> None:
        now, start, following = resident_bytes(), self._start_bytes, self._next_bytes
        limit = self._settings.memory_mb
        if limit is None or now is None or start is None or following is None:
            return
        if now - following < limit * 2**20:
            return
        self._next_bytes = now
        held = ", ".join(f"{name} {step.pool.leased} of {step.pool.slots}" for name, step in self._run.steps.items())
        waiting = ", ".join(f"{lane.name} {lane.waiting}" for lane in self._run.lanes) or "no sink"
        self._journal.tell(
            "growing_memory",
            f"the process has grown by {(now - start) / 2**20:.0f} MiB to {now / 2**20:.0f} MiB "
            f"after {self._run.taken} frames; results held: {held}; waiting: {waiting}. What the stream holds is "
            "bounded: look at what the program keeps of frames and results",
        )

    def _ask_caps(self) -> None:
        self._hook_errors.clear()
        for hook in self._caps:
            try:
                self._held[hook] = hook()
            except Exception as error:  # the cap that was last known holds
                name = getattr(hook, "__qualname__", type(hook).__name__)
                held = self._held[hook]
                kept = "no cap was known" if held is None else f"its last cap holds (rung {held.rung}, {held.reason})"
                self._hook_errors[name] = f"cap hook {name} raised {type(error).__name__}: {error}; {kept}"
        known = [cap for cap in self._held.values() if cap is not None]
        strictest = max(known, key=lambda cap: cap.rung, default=None)
        for name, step in self._run.steps.items():
            if step.controller.set_cap(strictest):
                text = (
                    "the ladder is free again"
                    if strictest is None
                    else f"at best rung {strictest.rung}: {strictest.reason}"
                )
                self._journal.tell("cap", text, branch=name)


def _advice(part: str) -> str:
    if part == "capture":
        return "the source stamps frames earlier than they can be read; its decoder is too slow for its rate"
    if part in ("queue", "turn"):
        return "frames wait for the compute thread"
    return "the stage itself is getting slower; look at heat and clocks"


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)
