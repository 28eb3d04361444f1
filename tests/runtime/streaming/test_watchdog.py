"""What the watchdogs say, and that it is said once: looks at a run without threads, then one real stream."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edge_runtime.clock import ManualClock
from edge_runtime.errors import ConfigError
from edge_runtime.frame import Frame
from edge_runtime.result import Result
from edge_runtime.runners.fake import FakeRunner
from edge_runtime.sinks import CallbackSink
from edge_runtime.sources import ArraySource, PushSource
from edge_runtime.streaming import Branch, Pipeline, StreamEvent, Watchdogs
from edge_runtime.streaming import watchdog as module
from edge_runtime.streaming.journal import Journal
from edge_runtime.streaming.watchdog import Monitor, resident_bytes

MakeBranch = Callable[..., Branch]
SECOND = 1_000_000_000


class Stage:
    """A run as a monitor sees it, set by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, live: bool = True, **settings: Any) -> None:
        self.clock = ManualClock(SECOND)
        self.journal = Journal(clock=self.clock)
        self.bytes = 100 * 2**20
        monkeypatch.setattr(module, "resident_bytes", lambda: self.bytes)
        self.step = SimpleNamespace(
            newest=None, pool=SimpleNamespace(leased=3, slots=8), controller=SimpleNamespace(set_cap=lambda cap: False)
        )
        self.calls: dict[str, tuple[str, int]] = {}
        self.run: Any = SimpleNamespace(
            steps={"seg": self.step},
            lanes=[SimpleNamespace(name="disk", waiting=2)],
            live=live,
            taken=0,
            reading_since_ns=None,
            source=SimpleNamespace(name="probe", fps=30.0),
            calls=lambda: self.calls,
        )
        self.monitor = Monitor(self.run, Watchdogs(**settings), caps=(), clock=self.clock, journal=self.journal)

    def look(self, after_s: float = 0.25) -> list[str]:
        """Kinds of the events of one look."""
        seen = len(self.journal.events)
        self.clock.advance_ns(round(after_s * SECOND))
        self.monitor.check()
        return [event.kind for event in list(self.journal.events)[seen:]]

    @property
    def last(self) -> str:
        return self.journal.events[-1].message


def test_a_silent_source_is_told_once_with_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.run.reading_since_ns = stage.clock.now_ns()
    assert stage.look(1.9) == []
    assert stage.look(0.1) == ["silent_source"]
    assert stage.last == (
        "connected but no frame for 2.0 s: source 'probe' gave none since the start, 30 a second were announced; "
        "is it switched on and sending?"
    )
    assert stage.look(5) == []
    stage.run.reading_since_ns = None
    assert stage.look() == ["recovered"]
    stage.run.taken, stage.run.reading_since_ns = 120, stage.clock.now_ns()
    assert stage.look(2) == ["silent_source"]
    assert "gave 120 before" in stage.last
    stage.run.source.events = [SimpleNamespace(kind="retry", message="no route to the probe")]
    stage.run.reading_since_ns = None
    stage.look()
    stage.run.reading_since_ns = stage.clock.now_ns()
    assert stage.look(3) == ["silent_source"]
    assert stage.last.startswith("not connected (no route to the probe), no frame for 3.0 s: source 'probe'")
    off = Stage(monkeypatch, silent_s=None)
    off.run.reading_since_ns = 0
    assert off.look(100) == []


def test_a_file_that_does_not_return_is_stuck_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, live=False, stuck_s=3.0)
    stage.run.reading_since_ns = stage.clock.now_ns()
    assert stage.look(2.9) == []
    assert stage.look(0.1) == ["stuck"]
    assert "has not returned from read() for 3.0 s" in stage.last


def test_a_stuck_stage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    stage.calls = {"seg": ("infer of a frame", stage.clock.now_ns()), "sink disk": ("write of frame 7", 2 * SECOND)}
    assert stage.look(4.9) == []
    assert stage.look(0.1) == ["stuck"]
    assert stage.last == "seg has been inside infer of a frame for 5.0 s: it does not return"
    assert stage.look(1.0) == ["stuck"]
    assert "sink disk has been inside write of frame 7" in stage.last
    stage.calls = {}
    assert stage.look() == ["recovered", "recovered"]


def result(index: int, capture_ms: float) -> Result:
    frame = Frame(image=np.zeros((2, 2), np.uint8), index=index, arrival_ns=0)
    spent = {"capture": round(capture_ms * 1e6), "infer": 5_000_000}
    return Result(frame=frame, branch="seg", state="fresh", stages_ns=spent, done_ns=sum(spent.values()))


def test_a_growing_age_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch)
    found = []
    for k in range(10):
        stage.step.newest = result(k, capture_ms=20 * k)
        found += stage.look()
    assert found == ["growing_age"]
    assert "results of branch 'seg' are 145 ms old, 140 ms older than 7 looks ago" in stage.last
    assert "most of it is capture (140 ms): the source stamps frames earlier than they can be read" in stage.last
    for k in range(10, 30):
        stage.step.newest = result(k, capture_ms=10 * (k % 3))
        found += stage.look()
    assert found == ["growing_age", "recovered"]


def test_an_age_that_stays_high_or_grows_little_is_not_growing(monkeypatch: pytest.MonkeyPatch) -> None:
    for ages in ([500.0] * 30, [float(k) for k in range(30)], [90.0 * (k % 5) for k in range(30)]):
        stage = Stage(monkeypatch)
        for k, age in enumerate(ages):
            stage.step.newest = result(k, age)
            assert stage.look() == []
    stage = Stage(monkeypatch)
    stage.step.newest = result(0, 500.0)  # one result seen at many looks is one
    assert [stage.look() for _ in range(20)] == [[]] * 20


def test_memory_is_told_at_each_step_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(monkeypatch, memory_mb=50.0)
    found = []
    for megabytes in (100, 149, 151, 160, 190, 202, 120):
        stage.bytes = megabytes * 2**20
        found.append(stage.look())
    assert found == [[], [], ["growing_memory"], [], [], ["growing_memory"], []]
    assert "has grown by 102 MiB to 202 MiB" in stage.last
    assert "results held: seg 3 of 8; waiting: disk 2" in stage.last
    assert (resident_bytes() or 0) > 2**20


def test_limits_out_of_range_are_refused() -> None:
    for name in ("silent_s", "stuck_s", "age_ms", "memory_mb", "every_ms"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ConfigError, match=name):
                Watchdogs(**{name: value})
    assert Watchdogs(silent_s=None, stuck_s=None, age_ms=None, memory_mb=None).silent_s is None


def test_a_running_stream_reports_silence_and_a_stuck_sink(make_branch: MakeBranch) -> None:
    told: list[StreamEvent] = []
    found, gate = threading.Semaphore(0), threading.Event()

    def listen(event: StreamEvent) -> None:
        told.append(event)
        found.release()

    pipeline = Pipeline(
        {"seg": make_branch(FakeRunner())},
        sinks={"disk": CallbackSink(lambda _: gate.wait(20))},  # type: ignore[arg-type, return-value]
        warm_up_runs=0,
        freeze_gc=False,
        watchdogs=Watchdogs(silent_s=0.05, stuck_s=0.05, every_ms=5),
        on_event=listen,
    )
    pipeline.start(PushSource(name="probe"))
    assert found.acquire(timeout=20)
    pipeline.push(np.zeros((8, 8), np.uint8))
    until = time.monotonic() + 20
    while not any(event.kind == "stuck" for event in told) and time.monotonic() < until:
        found.acquire(timeout=1)
    gate.set()
    report = pipeline.drain()
    assert told[0].message.startswith("connected but no frame for 0.")
    stuck = next(event.message for event in told if event.kind == "stuck")
    assert stuck.startswith("sink disk has been inside write of frame 0 for 0.")
    assert report.event_counts["recovered"] >= 1
    assert any("x silent_source; the last: connected but" in warning for warning in report.warnings)


def test_a_healthy_stream_has_no_events(make_branch: MakeBranch) -> None:
    images = np.zeros((50, 8, 8), np.uint8)
    report = Pipeline({"seg": make_branch(FakeRunner())}, warm_up_runs=0, freeze_gc=False).run(ArraySource(images))
    assert (report.events, report.event_counts, report.warnings) == ((), {}, ())
